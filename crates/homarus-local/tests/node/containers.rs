//! Containers: order, ends, restarts, probes, hooks, rights.

use std::time::{Duration, Instant};

use homarus_local::api::node::LogOptions;
use serde_json::json;

use super::cluster::{Cluster, address, condition, container, phase_of, shell, terminated, waiting, web_server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_containers_sidecars_and_main_ones_come_and_go_in_order() {
    let cluster = Cluster::start().await;
    let say = |what: &str| {
        shell(&format!("echo {what} >> /shared/log; trap 'echo {what}-ends >> /shared/log; exit 0' TERM; sleep 600 & wait"))
    };
    let mount = json!([{"name": "shared", "mountPath": "/shared"}]);
    cluster
        .run(
            "order",
            json!({
                "terminationGracePeriodSeconds": 20,
                "volumes": [{"name": "shared", "hostPath": {"path": scratch("order"), "type": "DirectoryOrCreate"}}],
                "initContainers": [
                    {"name": "one", "command": shell("echo one >> /shared/log"), "volumeMounts": mount},
                    {"name": "side", "restartPolicy": "Always", "command": say("side"), "volumeMounts": mount,
                     "startupProbe": {"exec": {"command": ["grep", "side", "/shared/log"]}, "periodSeconds": 1}},
                    {"name": "two", "command": shell("echo two >> /shared/log"), "volumeMounts": mount},
                ],
                "containers": [{"name": "main", "command": say("main"), "volumeMounts": mount}],
            }),
        )
        .await;
    let pod = cluster.until_ready("order").await;
    assert_eq!(phase_of(&pod), "Running");
    assert_eq!(container(&pod, "side").started, Some(true));
    assert_eq!(terminated(&container(&pod, "two")).unwrap().1, "Completed");
    let log = || std::fs::read_to_string(format!("{}/log", scratch("order"))).unwrap();
    let begun = Instant::now();
    while !log().contains("main") {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.delete("order").await;
    assert_eq!(log().split_whitespace().collect::<Vec<_>>(), ["one", "side", "two", "main", "main-ends", "side-ends"]);
    std::fs::remove_dir_all(scratch("order")).unwrap();
}

/// A folder of the machine for one test.
fn scratch(name: &str) -> String {
    std::env::temp_dir().join(format!("homarus-node-test-{}-{name}", std::process::id())).display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_end_succeed_or_fail_and_say_why() {
    let cluster = Cluster::start().await;
    let never = |command| json!({"restartPolicy": "Never", "containers": [{"name": "c", "command": command}]});
    cluster.run("well", never(shell("echo fine > /dev/termination-log"))).await;
    cluster.run("badly", never(shell("exit 3"))).await;
    let mut spec = never(shell("echo from the log; exit 1"));
    spec["containers"][0]["terminationMessagePolicy"] = "FallbackToLogsOnError".into();
    cluster.run("loud", spec).await;
    cluster.run("nothing", never(json!(["/no/such/program"]))).await;
    cluster.run("killed", never(shell("kill -9 $$$$"))).await;

    let pod = cluster.until_phase("well", "Succeeded").await;
    assert_eq!(terminated(&container(&pod, "c")).unwrap(), (0, "Completed".into(), "fine\n".into()));
    let pod = cluster.until_phase("badly", "Failed").await;
    assert_eq!(terminated(&container(&pod, "c")).unwrap(), (3, "Error".into(), String::new()));
    let pod = cluster.until_phase("loud", "Failed").await;
    assert_eq!(terminated(&container(&pod, "c")).unwrap().2, "from the log\n");
    let pod = cluster.until_phase("nothing", "Failed").await;
    let (code, reason, message) = terminated(&container(&pod, "c")).unwrap();
    assert_eq!((code, reason.as_str()), (128, "StartError"));
    assert!(message.contains("/no/such/program"), "{message}");
    let pod = cluster.until_phase("killed", "Failed").await;
    assert_eq!(terminated(&container(&pod, "c")).unwrap().0, 137);
    cluster.delete("well").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_is_restarted_then_waits_and_its_last_log_is_kept() {
    let cluster = Cluster::start().await;
    cluster.run("crash", json!({"containers": [{"name": "c", "command": shell("echo run; exit 1")}]})).await;
    let pod = cluster
        .until("crash", "backing off", |pod| waiting(&container(pod, "c")).is_some_and(|(reason, _)| reason == "CrashLoopBackOff"))
        .await;
    let status = container(&pod, "c");
    assert_eq!(status.restart_count, 1);
    assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 1);
    let previous = LogOptions { previous: true, ..LogOptions::default() };
    assert_eq!(cluster.log_with("crash", "c", previous).await, "run\n");
    let events = cluster.events("crash").await;
    assert!(events.iter().any(|e| e.starts_with("BackOff: ")), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_program_or_objects_a_pod_waits_and_goes_on_when_they_come() {
    let cluster = Cluster::start().await;
    cluster.run("unknown", json!({"containers": [{"name": "c", "image": "nginx:1.25"}]})).await;
    let env = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "a"}}}]);
    cluster.run("later", json!({"containers": [{"name": "c", "command": shell("echo $A; sleep 600"), "env": env}]})).await;
    let pod =
        cluster.until("unknown", "waiting", |pod| waiting(&container(pod, "c")).is_some_and(|w| w.0 == "ImagePullBackOff")).await;
    assert!(waiting(&container(&pod, "c")).unwrap().1.contains("add a row"));
    let pod = cluster
        .until("later", "waiting", |pod| waiting(&container(pod, "c")).is_some_and(|w| w.0 == "CreateContainerConfigError"))
        .await;
    assert!(waiting(&container(&pod, "c")).unwrap().1.contains("later"));
    cluster.config_map("later", json!({"a": "here"})).await;
    cluster.until_ready("later").await;
    cluster.until_logged("later", "c", "here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_decide_readiness_and_restarts() {
    let cluster = Cluster::start().await;
    let http = |path: &str| json!({"httpGet": {"path": path, "port": "web"}, "periodSeconds": 1, "failureThreshold": 1});
    cluster
        .run(
            "probed",
            json!({"containers": [{
                "name": "c", "command": web_server(), "ports": [{"name": "web", "containerPort": 8080}],
                "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 30},
                "readinessProbe": http("/unready"), "livenessProbe": http("/dead"),
            }, {
                // It breaks the other one's answers, on request.
                "name": "saboteur", "command": shell("sleep 600"),
                "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1},
            }]}),
        )
        .await;
    let pod = cluster.until_ready("probed").await;
    assert_eq!(container(&pod, "c").restart_count, 0);
    let reply = ask(&cluster, &address(&pod)).await;
    assert!(reply.starts_with("probed "), "{reply}");

    touch_in(&pod, "/tmp/unready").await;
    cluster.until("probed", "unready", |pod| condition(pod, "Ready") == "False").await;
    untouch_in(&pod, "/tmp/unready").await;
    cluster.until_ready("probed").await;

    touch_in(&pod, "/tmp/dead").await;
    let pod = cluster.until("probed", "restarted", |pod| container(pod, "c").restart_count == 1).await;
    assert_eq!(container(&pod, "saboteur").restart_count, 0);
    cluster.until_ready("probed").await;
    let events = cluster.events("probed").await;
    assert!(events.iter().any(|e| e.contains("Liveness probe failed: HTTP probe failed with statuscode: 500")), "{events:?}");
}

/// The root of the container that serves, as the machine sees it.
fn root_of(pod: &k8s_openapi::api::core::v1::Pod) -> std::path::PathBuf {
    let name = pod.metadata.name.clone().unwrap();
    let wanted = format!("{name}\n");
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let root = entry.path().join("root");
        let hostname = std::fs::read_to_string(root.join("etc/hostname")).unwrap_or_default();
        if command.starts_with(b"/usr/bin/python3") && hostname == wanted {
            return root;
        }
    }
    panic!("no server of {name} runs");
}

async fn touch_in(pod: &k8s_openapi::api::core::v1::Pod, path: &str) {
    std::fs::write(root_of(pod).join(path.trim_start_matches('/')), "").unwrap();
}

async fn untouch_in(pod: &k8s_openapi::api::core::v1::Pod, path: &str) {
    std::fs::remove_file(root_of(pod).join(path.trim_start_matches('/'))).unwrap();
}

/// Asks a server in a pod, from the machine.
async fn ask(_: &Cluster, address: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect((address, 8080)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_run_and_who_ignores_the_end_is_killed() {
    let cluster = Cluster::start().await;
    let folder = scratch("hooks");
    cluster
        .run(
            "hooks",
            json!({
                "terminationGracePeriodSeconds": 2,
                "volumes": [{"name": "out", "hostPath": {"path": folder, "type": "DirectoryOrCreate"}}],
                "containers": [{
                    "name": "first", "command": shell("trap '' TERM; while :; do sleep 1; done"),
                    "volumeMounts": [{"name": "out", "mountPath": "/out"}],
                    "lifecycle": {
                        "postStart": {"exec": {"command": shell("sleep 1; echo begun >> /out/log")}},
                        "preStop": {"exec": {"command": shell("echo stopping >> /out/log")}},
                    },
                }, {
                    "name": "second", "command": shell("echo second >> /out/log; exec sleep 600"),
                    "volumeMounts": [{"name": "out", "mountPath": "/out"}],
                }],
            }),
        )
        .await;
    cluster.until_ready("hooks").await;
    cluster
        .until("hooks", "logged", |_| std::fs::read_to_string(format!("{folder}/log")).is_ok_and(|l| l.contains("second")))
        .await;
    let begun = Instant::now();
    cluster.delete("hooks").await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2), "it was killed before its grace was over: {took:?}");
    let log = std::fs::read_to_string(format!("{folder}/log")).unwrap();
    assert_eq!(log.split_whitespace().collect::<Vec<_>>(), ["begun", "second", "stopping"]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_are_what_was_asked_for() {
    let cluster = Cluster::start().await;
    let script = "id -u; id -g; grep -E 'CapEff|NoNewPrivs' /proc/self/status; \
                  iptables-nft -t nat -N HOMARUS_TEST && echo may-redirect; touch /x 2>&1; ls / >/dev/null && echo sees";
    let context = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true,
        "runAsUser": 65534, "runAsGroup": 65534,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
    });
    let mut plain = context.clone();
    plain["capabilities"] = json!({"drop": ["ALL"]});
    cluster
        .run(
            "rights",
            json!({
                "restartPolicy": "Never",
                "containers": [
                    {"name": "redirect", "command": shell(script), "securityContext": context},
                    {"name": "plain", "command": shell(script), "securityContext": plain},
                    {"name": "root", "command": shell("id -u; touch /x && echo may-write; touch /proc/sys/x 2>&1; true")},
                ],
            }),
        )
        .await;
    cluster.until_phase("rights", "Succeeded").await;
    let text = cluster.log("rights", "redirect").await;
    for wanted in ["65534\n65534\n", "CapEff:\t0000000000003000", "NoNewPrivs:\t1", "may-redirect", "Read-only file system", "sees"]
    {
        assert!(text.contains(wanted), "{wanted:?} is not in {text}");
    }
    let text = cluster.log("rights", "plain").await;
    assert!(!text.contains("may-redirect") && text.contains("CapEff:\t0000000000000000"), "{text}");
    let text = cluster.log("rights", "root").await;
    assert!(text.starts_with("0\nmay-write\n"), "{text}");
    assert!(!std::path::Path::new("/x").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_followed_cut_and_timed() {
    let cluster = Cluster::start().await;
    cluster
        .run("talk", json!({"restartPolicy": "Never", "containers": [{"name": "c",
            "command": shell("for i in 1 2 3; do echo line $i; done; sleep 0.3; echo err >&2; sleep 1; echo late; printf unfinished")}]}))
        .await;
    cluster.until_logged("talk", "c", "line 3").await;
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let all = cluster.log_with("talk", "c", follow).await;
    assert!(all.starts_with("line 1\nline 2\nline 3\n"), "{all}");
    assert!(all.contains("err\n") && all.ends_with("late\nunfinished"), "{all}");
    let tail = LogOptions { tail_lines: Some(2), timestamps: true, ..LogOptions::default() };
    let text = cluster.log_with("talk", "c", tail).await;
    let (time, rest) = text.split_once(' ').unwrap();
    let time: jiff::Timestamp = time.parse().unwrap();
    assert!(rest.starts_with("late\n"), "{text}");
    let since = LogOptions { since: Some(time), ..LogOptions::default() };
    assert_eq!(cluster.log_with("talk", "c", since).await, "late\nunfinished");
    let limit = LogOptions { limit_bytes: Some(8), ..LogOptions::default() };
    assert_eq!(cluster.log_with("talk", "c", limit).await, "line 1\nl");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_container_leaves_running_ends_with_it() {
    let cluster = Cluster::start().await;
    cluster
        .run(
            "litter",
            json!({"containers": [
                {"name": "c", "command": shell("setsid sleep 987654 & sleep 1; exit 1")},
                {"name": "stays", "command": shell("exec sleep 600")},
            ]}),
        )
        .await;
    cluster.until("litter", "restarted", |pod| container(pod, "c").restart_count >= 1).await;
    cluster
        .until("litter", "clean", |pod| {
            let running = container(pod, "c").state.is_some_and(|s| s.running.is_some());
            let sleepers = super::vanishing::processes(|command| command.contains("sleep\x00987654"));
            sleepers.len() <= usize::from(running)
        })
        .await;
}
