//! Measures the destination controller: endpoints change, many subscribers watch.
//!
//! `fanout [SUBSCRIBERS [PODS [CHANGES_A_SECOND [SECONDS [CONNECTIONS]]]]]`, 1000 500 50 10 by default, and a connection
//! for each subscriber. The controller runs in a process of its own (this program with `serve`) and is fed directly, so that
//! what is measured is its pace, index, streams and socket. Each subscriber decodes what it is sent. Printed: how long
//! after a change the last subscriber had it, and the memory of the controller idle, with one subscriber (who brings the view
//! and its messages, which all share), with all of them, and under load.

use anyhow::Context;
use homarus_control::{
    index::Settings,
    serve::{Hub, destination::Destination, grpc, metrics::Calls},
    watch::{self, News},
};
use homarus_daemon::drain;
use homarus_model::facts::*;
use homarus_wire::api::destination::{GetDestination, WeightedAddr, destination_client::DestinationClient, update::Update};
use prometheus_client::registry::Registry;
use std::{
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdin, ChildStdout, Command},
};
use tonic::transport::{Channel, Endpoint};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match args.first().map(String::as_str) {
        Some("serve") => runtime.block_on(serve()),
        _ => {
            let number = |at: usize, default: usize| args.get(at).map_or(Ok(default), |text| text.parse());
            let subscribers = number(0, 1000)?;
            let load = Load { subscribers, pods: number(1, 500)?, rate: number(2, 50)?, seconds: number(3, 10)? };
            runtime.block_on(measure(load, number(4, subscribers)?))
        }
    }
}

fn pod(n: usize, revision: usize) -> Pod {
    let [a, b] = u16::try_from(n).unwrap_or_default().to_be_bytes();
    let labels = [("app", "web".to_owned()), ("pod-template-hash", format!("{revision:010}"))];
    Pod {
        id: Id::new("shop", format!("web-6c9f7d8b5-{n:05}")),
        labels: labels.map(|(k, v)| (k.into(), v.into())).into(),
        service_account: "default".into(),
        node: "node".into(),
        ips: vec![[10, 1, a, b].into()],
        host_ips: Vec::new(),
        phase: Phase::Running,
        terminating: false,
        owner: Some(Owner { kind: "replicaset".into(), name: "web-6c9f7d8b5".into() }),
        ports: vec![Port { name: "http".into(), port: 8080, host_port: None }],
        probes: Default::default(),
        control_plane_ns: Some("linkerd".into()),
        proxy: Some(ProxyPorts { inbound: 4143, admin: 4191, control: 4190 }),
        skipped: Default::default(),
        settings: Default::default(),
    }
}

/// A Service and slices of a hundred endpoints each, as Kubernetes makes them.
fn cluster(pods: usize) -> Vec<Fact> {
    let service = Service {
        id: Id::new("shop", "web"),
        labels: Default::default(),
        kind: ServiceKind::ClusterIp,
        cluster_ips: vec![[10, 2, 0, 1].into()],
        ports: vec![ServicePort { port: 80, name: "http".into(), target: PortRef::Number(8080), app_protocol: None }],
        opaque: None,
        internal_traffic_local: false,
        selector: None,
        families: (true, true),
    };
    let mut facts = vec![Fact::Service(service)];
    let numbers: Vec<_> = (0..pods).collect();
    for (i, part) in numbers.chunks(100).enumerate() {
        let endpoint = |n: &usize| {
            let Pod { id, ips, .. } = pod(*n, 0);
            let target = SliceTarget::Pod(id);
            SliceEndpoint { addresses: ips, ready: true, hostname: None, zone: Some("a".into()), for_zones: None, target }
        };
        facts.push(Fact::EndpointSlice(EndpointSlice {
            id: Id::new("shop", format!("web-{i}")),
            service: Some("web".into()),
            ports: vec![("http".into(), 8080)],
            endpoints: part.iter().map(endpoint).collect(),
            gateway: None,
            remote_name: None,
            target_cluster: None,
        }));
    }
    facts.extend(numbers.into_iter().map(|n| Fact::Pod(pod(n, 0))));
    facts
}

/// The controller: told by lines on its standard input, it changes pods.
async fn serve() -> anyhow::Result<()> {
    let hub = Hub::new(Settings::default());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let (_signal, drain) = drain::channel();
    let calls = Calls::register(&mut Registry::default());
    tokio::spawn(grpc::serve(listener, Arc::new(Destination::new(hub.clone())), calls, drain));
    let (sender, receiver) = watch::news();
    tokio::spawn(watch::take_in(hub, receiver));
    let tell = async |fact| sender.send(News::Change(Change::Apply(Arc::new(fact)))).await;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<usize> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        match words[..] {
            [pods] => {
                for fact in cluster(pods) {
                    tell(fact).await?;
                }
            }
            [number, revision] => tell(Fact::Pod(pod(number, revision))).await?,
            _ => anyhow::bail!("told {line:?}"),
        }
    }
    Ok(())
}

struct Controller {
    child: Child,
    told: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Controller {
    fn start() -> anyhow::Result<Self> {
        let mut program = Command::new(std::env::current_exe()?);
        program.arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = program.spawn()?;
        let told = child.stdin.take().context("no standard input")?;
        let said = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Self { child, told, said })
    }

    async fn tell(&mut self, line: String) -> anyhow::Result<()> {
        Ok(self.told.write_all(format!("{line}\n").as_bytes()).await?)
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id().context("it is gone")?))?)
    }

    fn rss_kib(&self) -> anyhow::Result<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = self.proc("stat")?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
    }
}

/// When each state was told, and who has it.
#[derive(Default)]
struct Seen {
    begun: usize,
    /// For each state: when it was told, and how many have it.
    states: Vec<(Instant, usize)>,
    /// For each state that everybody has: how long that took.
    took: Vec<Duration>,
    messages: usize,
}

type Shared = Arc<Mutex<Seen>>;

fn lock(seen: &Shared) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Load {
    subscribers: usize,
    pods: usize,
    rate: usize,
    seconds: usize,
}

async fn measure(load: Load, connections: usize) -> anyhow::Result<()> {
    let Load { subscribers, pods, rate, seconds } = load;
    let mut controller = Controller::start()?;
    let addr = controller.said.next_line().await?.context("the controller said nothing")?;
    controller.tell(pods.to_string()).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut memory = vec![controller.rss_kib()?];
    let seen = Shared::default();
    let mut channels = Vec::new();
    // The first alone: what only it brings is told apart.
    for (from, begun) in [(0, 1), (1, subscribers)] {
        for n in from..begun {
            if n < connections {
                channels.push(connect(&addr).await?);
            }
            tokio::spawn(subscribe(channels[n % channels.len()].clone(), seen.clone(), subscribers));
        }
        while lock(&seen).begun < begun {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        memory.push(controller.rss_kib()?);
    }
    drop(channels);
    let (began, cpu) = (Instant::now(), controller.cpu_seconds()?);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate)?);
    let mut peak = memory[2];
    for revision in 1..=rate * seconds {
        ticks.tick().await;
        lock(&seen).states.push((Instant::now(), 0));
        controller.tell(format!("{} {revision}", revision % pods)).await?;
        if revision % rate == 0 {
            peak = peak.max(controller.rss_kib()?);
        }
    }
    let busy = (controller.cpu_seconds()? - cpu) / began.elapsed().as_secs_f64() * 100.0;
    tokio::time::sleep(Duration::from_secs(1)).await;
    report(&lock(&seen), rate * seconds);
    let each = memory[2].saturating_sub(memory[1]) as f64 / subscribers.saturating_sub(1).max(1) as f64;
    let all = memory[2].saturating_sub(memory[0]) as f64 / subscribers as f64;
    let mib = [memory[0], memory[1], memory[2], peak].map(|kib| kib as f64 / 1024.0);
    let [idle, first, subscribed, peak] = mib;
    println!("controller memory: {idle:.1} MiB idle, {first:.1} with one subscriber, {subscribed:.1} with all, {peak:.1} at most");
    println!("a subscriber, with its share of the connections: {each:.1} KiB; with what all share, {all:.1} KiB");
    println!("controller CPU: {busy:.0} %");
    Ok(())
}

/// A connection with a proxy's windows: a whole set of endpoints comes at once.
async fn connect(addr: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?.initial_stream_window_size(1 << 20);
    Ok(endpoint.initial_connection_window_size(1 << 20).connect().await?)
}

fn report(seen: &Seen, told: usize) {
    let mut took = seen.took.clone();
    took.sort();
    println!("{} of {told} states reached everybody; {} messages", took.len(), seen.messages);
    if let Some(last) = took.len().checked_sub(1) {
        let at = |percent: usize| took[last * percent / 100];
        println!("until the last subscriber had a change: p50 {:?}, p99 {:?}, max {:?}", at(50), at(99), at(100));
    }
}

/// A state counts as seen when it or a later one came: pods change in the order of the states.
async fn subscribe(channel: Channel, seen: Shared, subscribers: usize) -> anyhow::Result<()> {
    let request = GetDestination {
        path: "web.shop.svc.cluster.local:80".into(),
        context_token: "{\"ns\":\"shop\",\"nodeName\":\"node\"}".into(),
        ..Default::default()
    };
    let mut stream = DestinationClient::new(channel).get(request).await?.into_inner();
    let (mut have, mut first) = (0, true);
    while let Some(update) = stream.message().await? {
        let Some(Update::Add(set)) = update.update else { continue };
        let revision = |addr: &WeightedAddr| addr.metric_labels.get("pod_template_hash")?.parse().ok();
        let newest: usize = set.addrs.iter().filter_map(revision).max().unwrap_or(0);
        let mut seen = lock(&seen);
        seen.messages += 1;
        if std::mem::take(&mut first) {
            seen.begun += 1;
        }
        while have < newest {
            let Some((told, count)) = seen.states.get_mut(have) else { break };
            *count += 1;
            let (told, all) = (*told, *count == subscribers);
            if all {
                seen.took.push(told.elapsed());
            }
            have += 1;
        }
    }
    Ok(())
}
