//! What faults cost the clients of a meshed server: a constant load goes on through a rolling restart of the server, the
//! end of every process of the control plane, and the end of a server: once the application alone, once its proxy too.
//! No request may fail but those that a killed process had and didn't answer: they were sent before it was gone, failed as
//! soon as it was, and are no more than one server of all can have had. How many they are is printed.
//!
//! `HOMARUS_FAULTS_SECONDS` is how long it rests between faults in all, so that the load lasts longer, and `HOMARUS_FAULTS_RPS`
//! the load: `HOMARUS_FAULTS_SECONDS=300 HOMARUS_FAULTS_RPS=1000` is the run that is worth telling. Needs
//! root, and `homarus-proxy`, `homarus-redirect` and this crate's example `steady` beside `homarus`.
#![allow(clippy::unwrap_used)]

#[path = "../mesh/up.rs"]
#[allow(dead_code, reason = "other scenarios need more of it")]
mod up;

mod pods;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::api::{ListParams, LogParams, Patch, PatchParams};
use pods::{Process, micros};
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use up::{Up, docs};

const NAMESPACE: &str = "faults";
const CONTROL_PLANE: &str = "linkerd";
const REPLICAS: usize = 3;
/// How long after the end of a process its clients may take to notice: its sockets are closed, so that is the time of a
/// busy machine.
const NOTICED: Duration = Duration::from_secs(1);
/// How many requests one server may have had if so few are under way that their mean tells nothing.
const FEW: f64 = 5.0;

/// A server that tells its name and knows nothing of the mesh. Asked to end, it first finishes what it has begun, as it
/// does where its image says that its stop signal is SIGQUIT.
const SERVER: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: faults, annotations: {linkerd.io/inject: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: faults}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: faults}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: nginx
        image: nginx
        command: [sh, -c]
        args:
        - |
          cat > /tmp/nginx.conf <<CONF
          daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log /dev/stderr;
          events {}
          http {
            access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f;
            uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
            server { listen 8080; default_type text/plain; location / { return 200 "\$hostname\\n"; } }
          }
          CONF
          trap 'nginx -c /tmp/nginx.conf -s quit' TERM
          nginx -c /tmp/nginx.conf & wait $!; wait $!
        ports: [{containerPort: 8080}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
"#;

/// A setting of this run.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// The client: a meshed pod that asks the server at a constant rate.
fn client(rate: u64) -> Value {
    let program = Path::new(env!("CARGO_BIN_EXE_homarus")).with_file_name("examples").join("steady");
    assert!(program.is_file(), "{} is missing: cargo build -p homarus-cli --examples", program.display());
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "client", "namespace": NAMESPACE},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "steady",
                "image": "steady",
                "command": [program, format!("web.{NAMESPACE}.svc.cluster.local:80"), rate.to_string()],
            }],
        },
    })
}

/// From when to when requests may have been lost with a process, in microseconds since 1970.
struct Killed {
    what: &'static str,
    from: u64,
    to: u64,
}

struct Faults {
    up: Up,
    /// How long the load rests between two faults.
    pause: Duration,
    killed: Vec<Killed>,
    began: Instant,
}

impl Faults {
    /// Tells when something was done, in seconds of the load.
    fn now(&self, what: &str) {
        println!("{:4} s: {what}", self.began.elapsed().as_secs());
    }

    fn pods(&self, namespace: &str, labels: &str) -> Vec<Pod> {
        let api = self.up.api::<Pod>(namespace);
        self.up.ask(api.list(&ListParams::default().labels(labels))).unwrap().items
    }

    fn servers(&self) -> Vec<Pod> {
        let mut pods = self.pods(NAMESPACE, "app=web");
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        pods
    }

    /// How often a pod's containers were started again; none while one isn't ready.
    fn restarts(&self, name: &str) -> Option<i32> {
        let status = self.up.ask(self.up.api::<Pod>(NAMESPACE).get(name)).ok()?.status?;
        let containers = status.container_statuses.filter(|containers| containers.iter().all(|c| c.ready))?;
        Some(containers.iter().chain(status.init_container_statuses.iter().flatten()).map(|c| c.restart_count).sum())
    }

    fn rest(&self) {
        std::thread::sleep(self.pause);
    }

    fn rolling_restart(&self) {
        self.now("the servers are restarted, one by one");
        let api = self.up.api::<Deployment>(NAMESPACE);
        let before: Vec<_> = self.servers().into_iter().map(|pod| pod.metadata.name).collect();
        let restart = json!({"spec": {"template": {"metadata": {"annotations": {"restarted": "once"}}}}});
        self.up.ask(api.patch("web", &PatchParams::default(), &Patch::Merge(restart))).unwrap();
        self.up.wait_for("a rolling restart", || {
            let pods = self.pods(NAMESPACE, "app=web");
            (pods.len() == REPLICAS && pods.iter().all(|pod| !before.contains(&pod.metadata.name))).then_some(())
        });
        self.up.wait_for_deployment(NAMESPACE, "web");
        self.now("they are new");
        self.rest();
    }

    fn kill_the_control_plane(&self) {
        let pods = self.pods(CONTROL_PLANE, "linkerd.io/control-plane-component");
        let processes: Vec<_> = pods.iter().flat_map(Process::of).collect();
        let controllers = processes.iter().filter(|process| process.name == "homarus").count();
        assert!(controllers >= 4, "identity, destination, policy and injector run: {processes:?}");
        self.now("the control plane is killed");
        processes.iter().for_each(Process::kill);
        for process in &processes {
            self.up.wait_for("the end of a process", || process.is_gone().then_some(()));
        }
        self.rest();
        for name in ["linkerd-identity", "linkerd-destination", "linkerd-proxy-injector"] {
            self.up.wait_for_deployment(CONTROL_PLANE, name);
        }
        self.now("the control plane is back");
    }

    /// Kills those processes of a server that are meant.
    fn kill_a_server(&mut self, what: &'static str, restarts: i32, meant: impl Fn(&Process) -> bool) {
        let server = self.servers().swap_remove(0);
        let name = server.metadata.name.clone().unwrap();
        let before = self.up.wait_for("the server to be well", || self.restarts(&name));
        let processes: Vec<_> = Process::of(&server).into_iter().filter(meant).collect();
        assert!(!processes.is_empty(), "{name} has processes");
        self.now(what);
        let from = micros();
        processes.iter().for_each(Process::kill);
        while !processes.iter().all(Process::is_gone) {
            std::thread::sleep(Duration::from_micros(200));
        }
        self.killed.push(Killed { what, from, to: micros() });
        self.up.wait_for("the server to be back", || self.restarts(&name).filter(|now| *now >= before + restarts));
        self.rest();
    }

    /// Ends the load, and reads what became of it: failures, and the summary.
    fn end_load(&self) -> (Vec<Value>, Value) {
        let api = self.up.api::<Pod>(NAMESPACE);
        let pod = self.up.ask(api.get("client")).unwrap();
        let load = Process::of(&pod).into_iter().find(|process| process.name == "steady").expect("the load still runs");
        load.ask_to_end();
        self.up.wait_for("the load to end", || load.is_gone().then_some(()));
        let params = LogParams { container: Some("steady".into()), ..LogParams::default() };
        let mut lines: Vec<Value> = self.up.wait_for("the load's account", || {
            let log = self.up.ask(api.logs("client", &params)).ok()?;
            let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            lines.last().is_some_and(|last| last["requests"].is_u64()).then_some(lines)
        });
        let summary = lines.pop().unwrap();
        (lines, summary)
    }

    /// The killed process that may have had a failed request. (Which server had it, a failure doesn't tell.)
    fn culprit(&self, failure: &Value) -> Option<&Killed> {
        let at = |name: &str| failure[name].as_u64().unwrap();
        self.killed.iter().find(|killed| killed.may_have_had(at("sent"), at("ended")))
    }
}

impl Killed {
    fn may_have_had(&self, sent: u64, ended: u64) -> bool {
        let noticed = self.to + u64::try_from(NOTICED.as_micros()).unwrap();
        sent <= self.to && (self.from..=noticed).contains(&ended)
    }

    /// How many requests it can have had: one server's share of what was under way when it was killed (nearly all take no
    /// longer than the slowest hundredth), and of what was sent until it was gone.
    fn most(&self, rate: u64, p99_ms: f64) -> usize {
        let seconds = p99_ms / 1e3 + (self.to - self.from) as f64 / 1e6;
        (rate as f64 * seconds / REPLICAS as f64).max(FEW).ceil() as usize
    }
}

#[test]
fn few_failures_are_excused() {
    let killed = Killed { what: "a server", from: 10_000_000, to: 10_003_000 };
    for (sent, ended, excused) in [
        (9_999_000, 10_000_500, true),
        (10_002_000, 10_900_000, true),
        (9_000_000, 9_999_999, false),
        (10_003_001, 10_003_500, false),
        (9_999_000, 11_003_001, false),
    ] {
        assert_eq!(killed.may_have_had(sent, ended), excused, "{sent} {ended}");
    }
    assert_eq!((killed.most(300, 2.0), killed.most(3_000, 27.0)), (5, 30));
}

#[test]
fn only_what_a_killed_process_had_is_lost() {
    let (seconds, rate) = (setting("HOMARUS_FAULTS_SECONDS", 16), setting("HOMARUS_FAULTS_RPS", 300));
    let mut faults = Faults { up: Up::start(), pause: Duration::from_secs(seconds) / 8, killed: Vec::new(), began: Instant::now() };
    faults.up.apply(&docs(SERVER));
    faults.up.wait_for_deployment(NAMESPACE, "web");
    faults.up.apply(&[client(rate)]);
    faults.up.wait_for("the load", || faults.restarts("client"));
    faults.began = Instant::now();
    faults.rest();
    faults.rolling_restart();
    faults.kill_the_control_plane();
    faults.rest();
    faults.kill_a_server("an application", 1, |process| process.name != "homarus-proxy");
    faults.kill_a_server("an application and its proxy", 2, |_| true);
    faults.rest();
    let (failures, summary) = faults.end_load();
    println!("{summary:#}");

    let unexcused: Vec<_> = failures.iter().filter(|failure| faults.culprit(failure).is_none()).collect();
    for killed in &faults.killed {
        let lost = failures.iter().filter(|failure| faults.culprit(failure).is_some_and(|k| k.what == killed.what)).count();
        let most = killed.most(rate, summary["p99_ms"].as_f64().unwrap());
        println!("{lost} requests were lost with {}, which took {} µs to end", killed.what, killed.to - killed.from);
        assert!(lost <= most, "{} had at most {most}: {failures:#?}", killed.what);
    }
    let killed: Vec<_> = faults.killed.iter().map(|killed| (killed.what, killed.from, killed.to)).collect();
    assert!(unexcused.is_empty(), "{} of them failed: {unexcused:#?}\nkilled: {killed:?}", unexcused.len());
    let asked = summary["requests"].as_u64().unwrap() as f64 / summary["seconds"].as_f64().unwrap();
    assert!(asked > 0.98 * rate as f64, "{asked} requests a second, not {rate}");
    let servers = summary["servers"].as_object().unwrap();
    assert_eq!(servers.len(), 2 * REPLICAS, "each server, before the rolling restart and after: {servers:?}");
}
