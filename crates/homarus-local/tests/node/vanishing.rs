//! What is left when a node goes: nothing, however it goes.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::cluster::{Cluster, PATIENCE, container, shell, terminated};

/// The command lines of the machine's processes that are as wanted.
pub fn processes(wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let commands = entries.filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
    commands.map(|c| String::from_utf8_lossy(&c).into_owned()).filter(|c| wanted(c)).collect()
}

fn interfaces() -> String {
    std::fs::read_dir("/sys/class/net").unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned() + " ").collect()
}

fn mounts() -> usize {
    std::fs::read_to_string("/proc/self/mounts").unwrap().lines().count()
}

fn tables() -> String {
    let output = Command::new("nft").args(["list", "tables"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn until(what: &str, wanted: impl Fn() -> bool) {
    let begun = Instant::now();
    while !wanted() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const CHILD: &str = "HOMARUS_TEST_NODE_TO_KILL";

/// In the process that will be killed: a node with two pods.
#[tokio::main]
async fn be_killed(number: String) {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        let command = shell(&format!("setsid sleep {number} & exec sleep {number}"));
        cluster.run(name, json!({"containers": [{"name": "c", "command": command}]})).await;
        cluster.until_ready(name).await;
    }
    println!("up {}", cluster.name);
    std::future::pending::<()>().await;
}

#[test]
fn a_killed_node_leaves_nothing() {
    if let Ok(number) = std::env::var(CHILD) {
        return be_killed(number);
    }
    let number = format!("77{}", std::process::id());
    let before = mounts();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "vanishing::a_killed_node_leaves_nothing", "--nocapture"])
        .env(CHILD, &number)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut names = lines.map_while(Result::ok).filter_map(|l| l.split("up ").nth(1).map(str::to_owned));
    let name = names.next().expect("the node comes up");
    let sleeping = || processes(|c| c.contains(&format!("sleep\x00{number}"))).len();
    assert_eq!(sleeping(), 4);
    assert!(interfaces().contains(&name) && tables().contains(&name), "{} {}", interfaces(), tables());
    assert_eq!(mounts(), before, "pods' mounts are seen outside");

    child.kill().unwrap();
    child.wait().unwrap();
    until("processes are left", || sleeping() == 0);
    until("the interface is left", || !interfaces().contains(&name));
    until("the table is left", || !tables().contains(&name));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_shuts_down_leaves_nothing_but_the_objects() {
    let cluster = Cluster::start().await;
    let name = cluster.name.clone();
    cluster.run("stays", json!({"containers": [{"name": "c", "command": shell("exec sleep 765432")}]})).await;
    cluster.until_ready("stays").await;
    cluster.node.shutdown().await;
    assert!(processes(|c| c.contains("sleep\x00765432")).is_empty());
    assert!(cluster.pods().get("stays").await.is_ok());
    drop(cluster);
    until("the interface is left", || !interfaces().contains(&name));
    until("the table is left", || !tables().contains(&name));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_takes_up_its_pods() {
    let mut cluster = Cluster::start().await;
    let sleeper =
        |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "c", "command": shell("exec sleep 600")}]});
    cluster.run("always", sleeper("Always")).await;
    cluster.run("never", sleeper("Never")).await;
    for name in ["always", "never"] {
        cluster.until_ready(name).await;
    }
    cluster.node.shutdown().await;
    cluster.restart().await;
    cluster.until("always", "restarted", |pod| container(pod, "c").restart_count == 1).await;
    cluster.until_ready("always").await;
    let pod = cluster.until_phase("never", "Failed").await;
    assert_eq!(terminated(&container(&pod, "c")).unwrap().1, "ContainerStatusUnknown");
    cluster.delete("never").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_does_not_take_the_first_ones_network() {
    use homarus_local::node::{Network, NetworkError};
    let cluster = Cluster::start().await;
    let mut config = cluster.network.config().clone();
    assert!(matches!(Network::create(config.clone()), Err(NetworkError::Taken(_))));
    config.interface += "b";
    assert!(matches!(Network::create(config.clone()), Err(NetworkError::Clash(net)) if net == config.pods));
    assert!(!interfaces().contains(&config.interface), "{}", interfaces());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_namespaces_go_begins_anew() {
    let cluster = Cluster::start().await;
    cluster.run("again", json!({"containers": [{"name": "c", "command": shell("exec sleep 654321")}]})).await;
    cluster.until_ready("again").await;
    // Process 1 of the pod is the parent of the container.
    let parent = std::fs::read_dir("/proc").unwrap().flatten().find_map(|e| {
        let command = std::fs::read(e.path().join("cmdline")).ok()?;
        let stat = std::fs::read_to_string(e.path().join("stat")).ok()?;
        let ours = String::from_utf8_lossy(&command).contains("sleep\x00654321");
        ours.then(|| stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse::<i32>().unwrap())
    });
    let pid = rustix::process::Pid::from_raw(parent.unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    cluster.until("again", "restarted", |pod| container(pod, "c").restart_count == 1).await;
    cluster.until_ready("again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_leaves_nothing() {
    let cluster = Cluster::start().await;
    cluster.run("gone", json!({"containers": [{"name": "c", "command": shell("exec sleep 543210")}]})).await;
    cluster.until_ready("gone").await;
    cluster.delete("gone").await;
    until("processes are left", || processes(|c| c.contains("sleep\x00543210")).is_empty());
    let params = kube::api::DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
    cluster.run("force", json!({"containers": [{"name": "c", "command": shell("trap '' TERM; sleep 432109")}]})).await;
    cluster.until_ready("force").await;
    cluster.pods().delete("force", &params).await.unwrap();
    until("processes are left", || processes(|c| c.contains("sleep\x00432109")).is_empty());
}
