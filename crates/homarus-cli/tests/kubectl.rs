//! A user's day with kubectl against `homarus up`: apply, get -w, describe, logs -f, scale, rollout, port-forward, exec, cp,
//! attach, delete. With every kubectl that is here: the one in PATH (Debian's speaks SPDY alone), and the one that the real
//! cluster is built with (which tunnels it through WebSockets).
//!
//! Needs root, the programs that pods run beside `homarus`, nginx, and a kubectl: `xtask/os-packages test` installs one.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(100);

/// A web server that says which pod it is, and something that talks to its log.
const MANIFEST: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data:
  nginx.conf: |
    pid /tmp/nginx.pid;
    error_log stderr;
    events {}
    http {
      access_log /dev/stdout;
      client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
      uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
      server { listen 8080; location / { return 200 "hello from $hostname\n"; } location /large { root /tmp; } }
    }
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
        - name: web
          image: none
          command: [/usr/sbin/nginx, -c, /etc/web/nginx.conf, -g, "daemon off;"]
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
          volumeMounts: [{name: config, mountPath: /etc/web}]
        - name: talk
          image: none
          command: [sh, -c, 'n=0; while :; do echo "line $n"; n=$((n+1)); sleep 0.2; done']
      volumes: [{name: config, configMap: {name: web}}]
"#;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_homarus"))
}

/// Every kubectl that is here.
fn kubectls() -> BTreeSet<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cache = std::env::var_os("HOMARUS_CLUSTER_CACHE").map(PathBuf::from).or_else(|| {
        let user = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        Some(user.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?.join("homarus-cluster"))
    });
    let folders = std::env::split_paths(&path).chain(cache.map(|cache| cache.join("bin")));
    folders.filter_map(|folder| folder.join("kubectl").canonicalize().ok()).collect()
}

/// A mesh for all kubectls.
struct Mesh {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Mesh {
    fn up() -> Mesh {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(program());
        command.args(["up", "--ephemeral", "--state-dir"]).arg(folder.path().join("state"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mesh = Mesh { child, folder };
        until("the mesh is up", || {
            let status = Command::new(program()).args(["status", "--state-dir"]).arg(mesh.state()).output().unwrap();
            status.status.success().then_some(())
        });
        mesh
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }
}

fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    homarus_testkit::poll_every(LOOK, PATIENCE, what, look)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A kubectl with a namespace of its own.
struct Kubectl<'a> {
    program: &'a Path,
    mesh: &'a Mesh,
    namespace: String,
}

/// A kubectl that goes on, and what it says.
struct Going {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Going {
    /// The first line that is as wanted.
    fn line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        let mut all = Vec::new();
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(line) if wanted(&line) => return line,
                Ok(line) => all.push(line),
                Err(error) => panic!("{what}: {error} after {all:#?}"),
            }
        }
    }
}

impl Kubectl<'_> {
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(self.program);
        let home = self.mesh.folder.path();
        command.env("KUBECONFIG", self.mesh.state().join("kubeconfig")).env("HOME", home).current_dir(home);
        command.args(["-n", &self.namespace]).args(line.split_whitespace());
        command
    }

    fn output(&self, command: &mut Command, input: &str) -> Output {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // A program that doesn't read it isn't waited for.
        std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        child.wait_with_output().unwrap()
    }

    /// What it says, when it succeeds.
    fn says(&self, line: &str) -> String {
        self.says_to(line, "")
    }

    fn says_to(&self, line: &str, input: &str) -> String {
        self.says_all(line, &[], input)
    }

    /// The same with arguments that have spaces in them.
    fn says_all(&self, line: &str, more: &[&str], input: &str) -> String {
        let output = self.output(self.command(line).args(more), input);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "kubectl {line} {more:?}: {}\n{out}{err}", output.status);
        out
    }

    fn goes_on(&self, line: &str) -> Going {
        let mut child = self.command(line).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (said, lines) = mpsc::channel();
        let out: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in out {
            let said = said.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = said.send(line);
                }
            });
        }
        Going { child, lines }
    }

    fn pods(&self) -> BTreeSet<String> {
        let names = self.says("get pods -l app=web --field-selector=status.phase=Running -o name");
        names.lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_users_day_with_every_kubectl_that_is_here() {
    assert!(rustix::process::geteuid().is_root(), "this test makes network namespaces: run it as root");
    let kubectls = kubectls();
    assert!(!kubectls.is_empty(), "there is no kubectl: run xtask/os-packages test");
    let mesh = Mesh::up();
    for (number, program) in kubectls.iter().enumerate() {
        let kubectl = Kubectl { program, mesh: &mesh, namespace: format!("day{number}") };
        let namespace = kubectl.namespace.clone();
        println!("{}: {}", program.display(), kubectl.says("version --client").replace('\n', " "));
        let begun = Instant::now();
        kubectl.says(&format!("create namespace {namespace}"));
        kubectl.says(&format!("annotate namespace {namespace} linkerd.io/inject=disabled"));
        arrive(&kubectl);
        describe(&kubectl);
        logs(&kubectl);
        scale_and_roll(&kubectl);
        forward(&kubectl);
        run_inside(&kubectl);
        copy(&kubectl);
        leave(&kubectl);
        println!("{}: {:?}", program.display(), begun.elapsed());
    }
}

/// apply, get -w, rollout status.
fn arrive(kubectl: &Kubectl<'_>) {
    let watching = kubectl.goes_on("get pods -w");
    let applied = kubectl.says_to("apply -f -", MANIFEST);
    for created in ["configmap/web created", "service/web created", "deployment.apps/web created"] {
        assert!(applied.contains(created), "{applied}");
    }
    let again = kubectl.says_to("apply -f -", MANIFEST);
    assert!(again.contains("deployment.apps/web unchanged"), "{again}");
    let rolled = kubectl.says("rollout status deploy/web --timeout=60s");
    assert!(rolled.contains("deployment \"web\" successfully rolled out"), "{rolled}");
    watching.line("get -w shows the pod coming", |line| line.starts_with("web-") && line.contains("0/2"));
    watching
        .line("get -w shows the pod running", |line| line.starts_with("web-") && line.contains("2/2") && line.contains("Running"));
    let wide = kubectl.says("get deploy,svc,pods -o wide");
    assert!(wide.contains("deployment.apps/web") && wide.contains("1/1") && wide.contains("app=web"), "{wide}");
    let explained = kubectl.says_to("diff -f -", MANIFEST);
    assert_eq!(explained, "", "nothing differs from what was applied");
}

fn describe(kubectl: &Kubectl<'_>) {
    let check = |line: &str, parts: &[&str]| {
        let said = kubectl.says(line);
        for part in parts {
            assert!(said.contains(part), "{line} lacks {part:?}:\n{said}");
        }
    };
    check("describe deploy web", &["Replicas:", "1 available", "ScalingReplicaSet", "Scaled up replica set web-"]);
    check("describe pods -l app=web", &["Status:", "Running", "Started container web", "ConfigMap", "Readiness:"]);
    check("describe svc web", &["Selector:", "app=web", "TargetPort:", "http/TCP"]);
    check("describe configmap web", &["nginx.conf", "hello from"]);
    check("describe node", &["Allocatable:", "Ready", "Non-terminated Pods:"]);
}

fn logs(kubectl: &Kubectl<'_>) {
    let following = kubectl.goes_on("logs -f deploy/web -c talk");
    for n in [0, 5, 8] {
        following.line("logs -f goes on", |line| line == format!("line {n}"));
    }
    let tail = kubectl.says("logs deploy/web -c talk --tail=2 --timestamps");
    assert_eq!(tail.lines().count(), 2, "{tail}");
    assert!(tail.lines().all(|line| line.contains("Z line ")), "{tail}");
}

fn scale_and_roll(kubectl: &Kubectl<'_>) {
    let scaled = kubectl.says("scale deploy/web --replicas=3");
    assert!(scaled.contains("deployment.apps/web scaled"), "{scaled}");
    kubectl.says("rollout status deploy/web --timeout=60s");
    let before = kubectl.pods();
    assert_eq!(before.len(), 3, "{before:?}");
    let restarted = kubectl.says("rollout restart deploy/web");
    assert!(restarted.contains("deployment.apps/web restarted"), "{restarted}");
    let status = kubectl.says("rollout status deploy/web --timeout=80s");
    assert!(status.contains("successfully rolled out"), "{status}");
    let history = kubectl.says("rollout history deploy/web");
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    until("the old pods go", || kubectl.pods().is_disjoint(&before).then_some(()));
    kubectl.says("scale deploy/web --replicas=1");
    until("pods beyond the number go", || (kubectl.pods().len() == 1).then_some(()));
}

fn get(port: &str, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// port-forward: to a Service, many connections at once, much data; and to a port where nobody listens.
fn forward(kubectl: &Kubectl<'_>) {
    const LARGE: usize = 8 << 20;
    let local = |line: &str| line.strip_prefix("Forwarding from 127.0.0.1:")?.split(' ').next().map(str::to_owned);
    kubectl.says_all("exec deploy/web -c web --", &["sh", "-c", &format!("head -c {LARGE} /dev/zero > /tmp/large")], "");
    let forwarding = kubectl.goes_on("port-forward svc/web :80");
    let port = local(&forwarding.line("port-forward begins", |line| local(line).is_some())).unwrap();
    let answer = text(&get(&port, "/").unwrap());
    assert!(answer.contains("200 OK") && answer.contains("hello from web-"), "{answer}");
    let many: Vec<_> = (0..20)
        .map(|n| {
            let port = port.clone();
            std::thread::spawn(move || get(&port, if n % 5 == 0 { "/large" } else { "/" }).unwrap())
        })
        .collect();
    for (n, answer) in many.into_iter().enumerate() {
        let answer = answer.join().unwrap();
        let long_enough = if n % 5 == 0 { answer.len() > LARGE } else { text(&answer).contains("hello from") };
        assert!(long_enough, "connection {n}: {} bytes", answer.len());
    }
    drop(forwarding);
    assert!(get(&port, "/").is_err(), "nobody listens any more");

    let forwarding = kubectl.goes_on("port-forward deploy/web :81");
    let port = local(&forwarding.line("port-forward begins", |line| local(line).is_some())).unwrap();
    let _ = get(&port, "/");
    let said = forwarding.line("what went wrong is said", |line| line.contains("error forwarding port 81"));
    assert!(said.contains("refused"), "{said}");
}

/// exec with exit codes, input and a terminal; attach.
fn run_inside(kubectl: &Kubectl<'_>) {
    let exec = |more: &[&str], input: &str| kubectl.output(kubectl.command("exec -i deploy/web -c web --").args(more), input);
    let ended = exec(&["sh", "-c", "echo out; echo err >&2; exit 3"], "");
    assert_eq!((text(&ended.stdout).as_str(), ended.status.code()), ("out\n", Some(3)), "{ended:?}");
    let stderr = text(&ended.stderr);
    assert!(stderr.contains("err\n") && stderr.contains("command terminated with exit code 3"), "{stderr}");
    let counted = exec(&["wc", "-c"], &"x".repeat(3 << 20));
    assert_eq!(text(&counted.stdout).trim(), (3 << 20).to_string(), "{counted:?}");
    let missing = exec(&["/no/such/program"], "");
    assert!(!missing.status.success() && text(&missing.stderr).contains("no such file"), "{missing:?}");
    let wrong = kubectl.output(&mut kubectl.command("exec deploy/web -c nonsense -- true"), "");
    assert!(text(&wrong.stderr).contains("nonsense"), "{wrong:?}");

    // `script` gives kubectl the terminal that it asks for.
    let line = kubectl.program.display().to_string();
    let line =
        format!("{line} -n {} exec -it deploy/web -c web -- sh -c 'tty; stty size; test -t 0 && echo yes'", kubectl.namespace);
    let mut script = Command::new("script");
    script.args(["-qec", &format!("stty rows 33 cols 99; {line}"), "/dev/null"]);
    script.env("KUBECONFIG", kubectl.mesh.state().join("kubeconfig")).env("HOME", kubectl.mesh.folder.path());
    let said = text(&kubectl.output(&mut script, "").stdout);
    assert!(said.contains("/dev/pts/0") && said.contains("yes"), "{said}");

    let attached = kubectl.goes_on("attach deploy/web -c talk");
    attached.line("attach hears what is said", |line| line.starts_with("line "));
}

/// cp, which is tar over exec.
fn copy(kubectl: &Kubectl<'_>) {
    let pod = kubectl.pods().pop_first().unwrap().replace("pod/", "");
    let content: String = (0..100_000).map(|n| format!("{n}\n")).collect();
    std::fs::write(kubectl.mesh.folder.path().join("there"), &content).unwrap();
    kubectl.says(&format!("cp there {pod}:/tmp/inside -c web"));
    kubectl.says(&format!("cp {pod}:/tmp/inside back -c web"));
    assert_eq!(std::fs::read_to_string(kubectl.mesh.folder.path().join("back")).unwrap(), content);
}

fn leave(kubectl: &Kubectl<'_>) {
    let deleted = kubectl.says_to("delete -f -", MANIFEST);
    assert!(deleted.contains("deployment.apps \"web\" deleted"), "{deleted}");
    until("the pods go with their deployment", || kubectl.says("get pods -o name").is_empty().then_some(()));
    let gone = kubectl.output(&mut kubectl.command("get deploy web"), "");
    assert!(text(&gone.stderr).contains("NotFound"), "{gone:?}");
    kubectl.says(&format!("delete namespace {}", kubectl.namespace));
}
