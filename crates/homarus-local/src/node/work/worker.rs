//! One pod's worker: it asks the machine what to do, has it done, and tells the machine what came of it.
//!
//! All that takes time runs in tasks that answer with an [`Input`]; the worker itself never waits for a container, a
//! disk or the API. Answers carry the generation of the place they belong to: those of a place that went are void.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::ask::{self, Asked, Question};
use super::logs::PodLogs;
use super::place::{self, Place};
use super::publish::Publisher;
use super::start::{self, Live, Run, StartFailure};
use super::volumes::Sources;
use super::{Context, container_at};
use crate::node::pod::machine::{Act, Machine, Told};
use crate::node::pod::plan::{Plan, Role, seconds};
use crate::node::pod::probe::ProbeKind;
use crate::node::pod::status::{self, Facts};
use crate::node::sandbox::Sandbox;

/// Answers that may wait; tasks wait with theirs beyond.
const INBOX_MAX: usize = 256;
/// A hook without a limit of its own.
const HOOK_MAX: Duration = Duration::from_secs(600);
/// When the node shuts down, containers have this long at most.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Input {
    /// The object changed.
    Pod(Arc<Pod>),
    /// The object is gone without having waited.
    Vanished,
    /// The node shuts down.
    Shutdown,
    /// Something happened in a place.
    Happened(u64, Happened),
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Happened {
    Made(Result<Box<Place>, (&'static str, String)>),
    Removed,
    Lost,
    Started(usize, Live),
    NotStarted(usize, StartFailure),
    Ended { slot: usize, code: i32, signal: Option<i32>, message: Option<String> },
    PostStarted(usize, Result<(), String>),
    PreStopped(usize, Result<(), String>),
    Probed(usize, ProbeKind, Result<(), String>),
}

/// What others may know of a pod that runs here.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub(crate) sandbox: Option<Arc<Sandbox>>,
    /// The number of each container's current run.
    pub(crate) runs: HashMap<String, u32>,
    /// The containers that run.
    pub(crate) live: HashMap<String, Live>,
}

/// How to reach a worker. When the last one is dropped, the pod is taken down.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) inbox: mpsc::Sender<Input>,
    pub(crate) logs: Arc<PodLogs>,
    pub(crate) view: watch::Receiver<View>,
}

struct Worker {
    context: Arc<Context>,
    pod: Arc<Pod>,
    machine: Machine,
    epoch: Instant,
    start: Timestamp,
    generation: u64,
    place: Option<Place>,
    live: HashMap<usize, Live>,
    published: PodStatus,
    publisher: Publisher,
    logs: Arc<PodLogs>,
    view: watch::Sender<View>,
    answers: mpsc::Sender<Input>,
    /// Its object is gone or the node is going: nothing is written any more.
    silent: bool,
}

/// Starts the worker of a pod; the receiver resolves when it is done.
pub(crate) fn spawn(context: Arc<Context>, pod: Arc<Pod>) -> (Handle, tokio::task::JoinHandle<()>) {
    let (answers, inbox) = mpsc::channel(INBOX_MAX);
    let (view_tx, view) = watch::channel(View::default());
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let logs = Arc::new(PodLogs::new(context.config.state.join("logs").join(uid)));
    let handle = Handle { inbox: answers.clone(), logs: logs.clone(), view };
    let mut machine = Machine::new(Plan::of(&pod));
    let before = pod.status.clone().unwrap_or_default();
    machine.resume(&before);
    let start = before.start_time.as_ref().map_or_else(Timestamp::now, |t| t.0);
    let worker = Worker {
        publisher: Publisher::start(context.client.clone(), pod.clone()),
        machine,
        epoch: Instant::now(),
        start,
        generation: 0,
        place: None,
        live: HashMap::new(),
        published: before,
        logs,
        view: view_tx,
        answers,
        silent: false,
        context,
        pod,
    };
    (handle, tokio::spawn(worker.live(inbox)))
}

impl Worker {
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    async fn live(mut self, mut inbox: mpsc::Receiver<Input>) {
        let mut contents = self.context.objects.contents();
        let first = Input::Pod(self.pod.clone());
        self.take(first);
        loop {
            let step = self.machine.poll(self.now());
            for act in step.acts {
                if act == Act::Finish {
                    return self.finish().await;
                }
                self.perform(act);
            }
            self.publish();
            let wake = step.wake.map(|at| self.epoch + at);
            let renewal = self.renewal();
            tokio::select! {
                input = inbox.recv() => match input {
                    Some(input) => self.take(input),
                    None => return,
                },
                () = until(wake) => {}
                () = until(renewal) => self.refresh(),
                changed = contents.changed() => if changed.is_ok() { self.refresh() },
            }
        }
    }

    async fn finish(self) {
        if !self.silent {
            self.publisher.finish(&self.pod).await;
        }
        self.logs.remove();
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Pod(pod) => {
                if let Some(grace) = deletion_grace(&pod) {
                    self.machine.delete(grace, self.now());
                }
                let told =
                    self.pod.metadata.labels != pod.metadata.labels || self.pod.metadata.annotations != pod.metadata.annotations;
                self.pod = pod;
                if told {
                    self.refresh();
                }
            }
            Input::Vanished => {
                self.silent = true;
                self.machine.delete(Duration::ZERO, self.now());
            }
            Input::Shutdown => {
                self.silent = true;
                let grace = self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
                let grace = grace.map_or(SHUTDOWN_GRACE, seconds).min(SHUTDOWN_GRACE);
                self.machine.delete(grace, self.now());
            }
            Input::Happened(generation, happened) if generation == self.generation => {
                self.happened(happened);
            }
            Input::Happened(..) => {}
        }
    }

    fn happened(&mut self, happened: Happened) {
        let (now, wall) = (self.now(), Timestamp::now());
        match happened {
            Happened::Made(Ok(place)) => {
                let sandbox = place.sandbox.clone();
                self.view.send_modify(|view| view.sandbox = Some(sandbox.clone()));
                self.answer_when(async move {
                    sandbox.gone().await;
                    Happened::Lost
                });
                self.place = Some(*place);
                self.machine.sandbox_created();
                if limited(&self.pod) {
                    let message = "this node doesn't enforce resources.limits: containers may take what the machine has";
                    self.say(false, "LimitsNotEnforced", None, message.into());
                }
            }
            Happened::Made(Err((reason, message))) => {
                self.machine.sandbox_failed(now);
                self.tell(Told { warning: true, reason, message, slot: None });
            }
            Happened::Removed => {
                self.machine.sandbox_removed();
            }
            Happened::Lost => {
                self.machine.sandbox_lost(wall, now);
                self.leave_place();
            }
            Happened::Started(slot, live) => {
                let id = format!("{:016x}{:016x}", rand::random::<u64>(), rand::random::<u64>());
                let name = container_at(&self.pod, slot).map(|c| c.name.clone()).unwrap_or_default();
                self.view.send_modify(|view| drop(view.live.insert(name.clone(), live.clone())));
                self.live.insert(slot, live);
                self.machine.started(slot, id, wall, now);
                self.say(false, "Created", Some(slot), format!("Created container: {name}"));
                self.say(false, "Started", Some(slot), format!("Started container {name}"));
            }
            Happened::NotStarted(slot, failure) => self.not_started(slot, failure),
            Happened::Ended { slot, code, signal, message } => {
                self.live.remove(&slot);
                if let Some(container) = container_at(&self.pod, slot) {
                    self.view.send_modify(|view| drop(view.live.remove(&container.name)));
                }
                self.machine.ended(slot, code, signal, message, wall, now);
            }
            Happened::PostStarted(slot, answer) => {
                if let Some(told) = self.machine.post_started(slot, answer.err(), now) {
                    self.tell(told);
                }
            }
            Happened::PreStopped(slot, answer) => {
                self.machine.pre_stopped(slot);
                if let Err(error) = answer {
                    self.say(true, "FailedPreStopHook", Some(slot), format!("PreStopHook failed: {error}"));
                }
            }
            Happened::Probed(slot, kind, answer) => {
                if let Some(told) = self.machine.probed(slot, kind, answer) {
                    self.tell(told);
                }
            }
        }
    }

    fn not_started(&mut self, slot: usize, failure: StartFailure) {
        let (now, wall) = (self.now(), Timestamp::now());
        match failure {
            StartFailure::HeldUp { reason, message } => {
                self.say(true, "Failed", Some(slot), format!("Error: {message}"));
                self.machine.held_up(slot, reason, message, now);
            }
            StartFailure::Broken(message) => {
                self.say(true, "Failed", Some(slot), format!("Error: {message}"));
                self.machine.not_started(slot, message, wall, now);
            }
            // The place tells of its end itself.
            StartFailure::Gone => {}
        }
    }

    fn perform(&mut self, act: Act) {
        match act {
            Act::CreateSandbox => {
                self.generation += 1;
                let (context, pod) = (self.context.clone(), self.pod.clone());
                self.answer_when(async move { Happened::Made(place::make(&context, &pod).await.map(Box::new)) });
            }
            Act::Start { slot } => self.start(slot),
            Act::PostStart { slot } => {
                self.ask_hook(slot, true, HOOK_MAX, Happened::PostStarted);
            }
            Act::PreStop { slot, within } => {
                self.ask_hook(slot, false, within.min(HOOK_MAX), Happened::PreStopped);
            }
            Act::Probe { slot, kind } => self.probe(slot, kind),
            Act::Term { slot } => self.signal(slot, SIGTERM),
            Act::Kill { slot } => self.signal(slot, SIGKILL),
            Act::RemoveSandbox => {
                let place = self.leave_place();
                self.answer_when(async move {
                    if let Some(place) = place {
                        place.sandbox.destroy().await;
                        let gone = tokio::task::spawn_blocking(move || drop(place));
                        let _ = gone.await;
                    }
                    Happened::Removed
                });
            }
            Act::Finish => {}
            Act::Tell(told) => self.tell(told),
        }
    }

    /// What is still under way in it is void from now on.
    fn leave_place(&mut self) -> Option<Place> {
        self.generation += 1;
        self.live.clear();
        self.view.send_modify(|view| {
            view.sandbox = None;
            view.live.clear();
        });
        self.place.take()
    }

    /// Runs a task whose answer belongs to the current place.
    fn answer_when(&self, work: impl Future<Output = Happened> + Send + 'static) {
        let (answers, generation) = (self.answers.clone(), self.generation);
        tokio::spawn(async move {
            let happened = work.await;
            let _ = answers.send(Input::Happened(generation, happened)).await;
        });
    }

    fn address(&self) -> Option<Ipv4Addr> {
        let place = self.place.as_ref()?;
        let attached = place.attachment.as_ref().map(|a| a.address);
        Some(attached.unwrap_or_else(|| self.context.network.machine()))
    }

    fn start(&mut self, slot: usize) {
        let Some(place) = &self.place else { return };
        let number = self.machine.containers[slot].restarts;
        let Some(container) = container_at(&self.pod, slot).cloned() else { return };
        self.view.send_modify(|view| {
            view.runs.insert(container.name.clone(), number);
        });
        let (context, pod, logs) = (self.context.clone(), self.pod.clone(), self.logs.clone());
        let (sandbox, address) = (place.sandbox.clone(), self.address());
        let (answers, generation) = (self.answers.clone(), self.generation);
        tokio::spawn(async move {
            let tell = |happened| answers.send(Input::Happened(generation, happened));
            let run = Run { pod: &pod, container: &container, number, address };
            match start::start(&context, &sandbox, &logs, &run).await {
                Err(failure) => drop(tell(Happened::NotStarted(slot, failure)).await),
                Ok((live, exited)) => {
                    let _ = tell(Happened::Started(slot, live)).await;
                    // Without an answer the whole place went, which tells of itself.
                    let Ok(exited) = exited.await else { return };
                    let (code, signal) = (exited.code, exited.signal);
                    let message = start::last_words(&sandbox.root(), &logs, &container, number, code).await;
                    let _ = tell(Happened::Ended { slot, code, signal, message }).await;
                }
            }
        });
    }

    fn asked(&self, slot: usize) -> Option<Asked> {
        let (place, live) = (self.place.as_ref()?, self.live.get(&slot)?);
        Some(Asked {
            network: self.context.network.clone(),
            sandbox: place.sandbox.clone(),
            process: live.process,
            order: live.order.clone(),
        })
    }

    fn ask(
        &self,
        slot: usize,
        question: Result<Question, String>,
        within: Duration,
        answer: impl FnOnce(Result<(), String>) -> Happened + Send + 'static,
    ) {
        let asked = self.asked(slot);
        self.answer_when(async move {
            let question = match question {
                Ok(question) => question,
                Err(error) => return answer(Err(error)),
            };
            match asked {
                Some(asked) => answer(ask::ask(&asked, &question, within).await),
                None => answer(Err("the container does not run".into())),
            }
        });
    }

    fn ask_hook(&self, slot: usize, post_start: bool, within: Duration, answer: fn(usize, Result<(), String>) -> Happened) {
        let Some(container) = container_at(&self.pod, slot) else { return };
        let lifecycle = container.lifecycle.clone().unwrap_or_default();
        let hook = if post_start { lifecycle.post_start } else { lifecycle.pre_stop };
        let pod = IpAddr::V4(self.address().unwrap_or(Ipv4Addr::LOCALHOST));
        let question = ask::of_hook(&hook.unwrap_or_default(), container, pod);
        self.ask(slot, question, within, move |result| answer(slot, result));
    }

    fn probe(&self, slot: usize, kind: ProbeKind) {
        let Some(container) = container_at(&self.pod, slot) else { return };
        let probe = match kind {
            ProbeKind::Startup => &container.startup_probe,
            ProbeKind::Liveness => &container.liveness_probe,
            ProbeKind::Readiness => &container.readiness_probe,
        };
        let probe = probe.clone().unwrap_or_default();
        let within = Duration::from_secs(probe.timeout_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(1).max(1));
        let pod = IpAddr::V4(self.address().unwrap_or(Ipv4Addr::LOCALHOST));
        let question = ask::of_probe(&probe, container, pod);
        self.ask(slot, question, within, move |result| Happened::Probed(slot, kind, result));
    }

    fn signal(&self, slot: usize, signal: i32) {
        let (Some(place), Some(live)) = (&self.place, self.live.get(&slot)) else { return };
        let (sandbox, process) = (place.sandbox.clone(), live.process);
        tokio::spawn(async move {
            // A process that is gone has ended, which is what the signal was for.
            let _ = sandbox.signal(process, signal).await;
        });
    }

    /// Brings volumes up to date in the background.
    fn refresh(&self) {
        let Some(place) = &self.place else { return };
        let (context, pod, address) = (self.context.clone(), self.pod.clone(), self.address());
        let (sandbox, volumes) = (place.sandbox.clone(), place.volumes.clone());
        tokio::spawn(async move {
            let around = context.around(address);
            let sources = Sources {
                client: &context.client,
                objects: &context.objects,
                pod: &pod,
                around: &around,
                state: &context.config.state,
            };
            let filled = volumes.lock().await.fill(sources, &sandbox.root()).await;
            if let Err(error) = filled {
                tracing::debug!(pod = ?pod.metadata.name, %error, "a volume was not brought up to date");
            }
        });
    }

    /// When to renew a token. A renewal under way has the lock, and is followed by a look at the result.
    fn renewal(&self) -> Option<Instant> {
        const LEAST: Duration = Duration::from_secs(1);
        let volumes = self.place.as_ref()?.volumes.try_lock().ok();
        let at = volumes.map_or_else(|| Some(Timestamp::now()), |v| v.renew_at())?;
        let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
        Some(Instant::now() + left.max(LEAST))
    }

    fn publish(&mut self) {
        if self.silent {
            return;
        }
        let own = |kind: &str| status::OWN.contains(&kind);
        let seen = self.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let others = seen.filter(|c| !own(&c.type_)).cloned();
        let written = self.published.conditions.iter().flatten();
        let before = PodStatus {
            conditions: Some(written.filter(|c| own(&c.type_)).cloned().chain(others).collect()),
            qos_class: self.pod.status.as_ref().and_then(|s| s.qos_class.clone()),
            ..PodStatus::default()
        };
        let facts = Facts {
            pod: &self.pod,
            before: &before,
            host_ip: self.context.network.gateway().to_string(),
            pod_ip: self.address().map(|ip| ip.to_string()).or_else(|| self.last_address()),
            start: self.start,
            now: Timestamp::now(),
        };
        let status = status::of(&self.machine, &facts);
        if status != self.published {
            self.published = status.clone();
            self.publisher.publish(status);
        }
    }

    /// A pod that is over keeps the address it had in its status.
    fn last_address(&self) -> Option<String> {
        let over = self.machine.outcome().is_some() || self.machine.deleting();
        self.published.pod_ip.clone().filter(|_| over)
    }

    fn tell(&self, told: Told) {
        self.say(told.warning, told.reason, told.slot, told.message);
    }

    fn say(&self, warning: bool, reason: &'static str, slot: Option<usize>, message: String) {
        let about = slot.map(|slot| {
            let plan = &self.machine.containers[slot].plan;
            (plan.name.as_str(), plan.role != Role::Main)
        });
        self.context.events.say(&self.pod, about, warning, reason, message);
    }
}

/// Whether any container would have its memory or CPU limited elsewhere.
fn limited(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let mut containers = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let of = |c: &Container| c.resources.as_ref().and_then(|r| r.limits.as_ref()).is_some_and(|limits| !limits.is_empty());
    containers.any(of)
}

fn deletion_grace(pod: &Pod) -> Option<Duration> {
    pod.metadata.deletion_timestamp.as_ref()?;
    let grace = pod.metadata.deletion_grace_period_seconds;
    Some(grace.map_or(SHUTDOWN_GRACE, seconds))
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
