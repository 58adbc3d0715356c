//! A pod's status as a kubelet writes it, for controllers and people to read.

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::machine::{Container, Ended, Machine, Outcome, State};
use super::plan::{Restart, Role};

/// What the status needs besides the machine's state.
#[derive(Debug, Clone)]
pub(crate) struct Facts<'a> {
    pub(crate) pod: &'a core::Pod,
    /// The status as the API has it: conditions of others and times of transitions are kept.
    pub(crate) before: &'a core::PodStatus,
    pub(crate) host_ip: String,
    pub(crate) pod_ip: Option<String>,
    pub(crate) start: Timestamp,
    pub(crate) now: Timestamp,
}

/// The conditions that the node answers for.
pub(crate) const OWN: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];

/// The whole status.
pub(crate) fn of(machine: &Machine, facts: &Facts<'_>) -> core::PodStatus {
    let phase = phase(machine);
    let (main, init): (Vec<_>, Vec<_>) = machine.containers.iter().partition(|c| c.plan.role == Role::Main);
    let spec = facts.pod.spec.as_ref();
    let describe = |containers: &[&Container], specs: Option<&Vec<core::Container>>| {
        let all = containers.iter().map(|c| {
            let spec = specs.into_iter().flatten().find(|s| s.name == c.plan.name);
            container(c, spec)
        });
        Some(all.collect::<Vec<_>>()).filter(|all| !all.is_empty())
    };
    let expired = machine.outcome() == Some(Outcome::Expired);
    core::PodStatus {
        phase: Some(phase.into()),
        reason: expired.then(|| "DeadlineExceeded".into()),
        message: expired.then(|| "Pod was active on the node longer than the specified deadline".into()),
        conditions: Some(conditions(machine, phase, facts)),
        host_ip: Some(facts.host_ip.clone()),
        host_ips: Some(vec![core::HostIP { ip: facts.host_ip.clone() }]),
        pod_ip: facts.pod_ip.clone(),
        pod_ips: facts.pod_ip.clone().map(|ip| vec![core::PodIP { ip }]),
        start_time: Some(Time(facts.start)),
        container_statuses: describe(&main, spec.map(|s| &s.containers)),
        init_container_statuses: describe(&init, spec.and_then(|s| s.init_containers.as_ref())),
        qos_class: facts.before.qos_class.clone().or_else(|| Some(quality(facts.pod).into())),
        ..core::PodStatus::default()
    }
}

/// The phase, by the kubelet's rules.
pub(crate) fn phase(machine: &Machine) -> &'static str {
    let any_busy = machine.containers.iter().any(|c| matches!(c.state, State::Running(_) | State::Starting));
    match machine.outcome() {
        Some(_) if any_busy => return "Running",
        Some(Outcome::Succeeded) => return "Succeeded",
        Some(Outcome::Failed | Outcome::Expired) => return "Failed",
        None => {}
    }
    let of = |main: bool| machine.containers.iter().filter(move |c| (c.plan.role == Role::Main) == main);
    let ever_ran = |c: &Container| c.last.is_some() || matches!(c.state, State::Running(_) | State::Ended { .. });
    if !of(false).all(Container::passed) && !of(true).any(ever_ran) {
        return "Pending";
    }
    let (mut running, mut waiting, mut stopped, mut failed) = (0, 0, 0, 0);
    for container in of(true) {
        match &container.state {
            State::Running(_) => running += 1,
            State::Ended { ended, .. } => {
                stopped += 1;
                failed += u32::from(ended.code != 0);
            }
            State::Waiting { .. } | State::Starting if container.last.is_some() => stopped += 1,
            State::Waiting { .. } | State::Starting => waiting += 1,
        }
    }
    match (running, waiting, stopped) {
        (_, 1.., 0) => "Pending",
        (0, 0, 1..) if machine.deleting() && machine.restart_policy() == Restart::Always => {
            if failed > 0 {
                "Failed"
            } else {
                "Succeeded"
            }
        }
        _ => "Running",
    }
}

fn conditions(machine: &Machine, phase: &str, facts: &Facts<'_>) -> Vec<core::PodCondition> {
    let over = matches!(phase, "Succeeded" | "Failed");
    let completed = (phase == "Succeeded").then_some(("PodCompleted", String::new()));
    let names = |picked: Vec<&Container>, what: &str| {
        let names: Vec<_> = picked.iter().map(|c| c.plan.name.as_str()).collect();
        (!names.is_empty()).then(|| format!("containers with {what} status: [{}]", names.join(" ")))
    };
    let uninitialized: Vec<_> = machine.containers.iter().filter(|c| c.plan.role != Role::Main && !c.passed()).collect();
    let initialized = if over && completed.is_some() {
        Ok(())
    } else {
        names(uninitialized, "incomplete").map_or(Ok(()), |m| Err(("ContainersNotInitialized", m)))
    };
    let unready: Vec<_> = machine.containers.iter().filter(|c| c.plan.role != Role::Init && !c.ready()).collect();
    let containers_ready = match (over, completed) {
        (_, Some(completed)) => Err(completed),
        (true, None) => Err(("PodFailed", String::new())),
        (false, None) => names(unready, "unready").map_or(Ok(()), |m| Err(("ContainersNotReady", m))),
    };
    let ready = containers_ready.clone().and_then(|()| gates(facts));
    let sandbox = if machine.sandbox_ready() { Ok(()) } else { Err(("", String::new())) };
    let answers = [sandbox, initialized, ready, containers_ready];
    let own = OWN.iter().zip(answers).map(|(kind, answer)| condition(kind, answer, facts));
    let before = facts.before.conditions.iter().flatten();
    let others = before.filter(|c| !OWN.contains(&c.type_.as_str())).cloned();
    own.chain(others).collect()
}

/// Readiness gates are conditions that others answer for.
fn gates(facts: &Facts<'_>) -> Result<(), (&'static str, String)> {
    let spec = facts.pod.spec.as_ref();
    for gate in spec.and_then(|s| s.readiness_gates.as_ref()).into_iter().flatten() {
        let mut conditions = facts.before.conditions.iter().flatten();
        let met = conditions.any(|c| c.type_ == gate.condition_type && c.status == "True");
        if !met {
            let message = format!("corresponding condition of pod readiness gate \"{}\" does not exist.", gate.condition_type);
            return Err(("ReadinessGatesNotReady", message));
        }
    }
    Ok(())
}

fn condition(kind: &str, answer: Result<(), (&'static str, String)>, facts: &Facts<'_>) -> core::PodCondition {
    let status = if answer.is_ok() || is_completed_initialization(kind, &answer) { "True" } else { "False" };
    let mut before = facts.before.conditions.iter().flatten();
    let same = before.find(|c| c.type_ == kind && c.status == status);
    let since = same.and_then(|c| c.last_transition_time.clone());
    let (reason, message) = answer.err().unwrap_or_default();
    core::PodCondition {
        type_: kind.into(),
        status: status.into(),
        last_transition_time: since.or(Some(Time(facts.now))),
        reason: Some(reason.to_owned()).filter(|r| !r.is_empty()),
        message: Some(message).filter(|m| !m.is_empty()),
        ..core::PodCondition::default()
    }
}

fn is_completed_initialization(kind: &str, answer: &Result<(), (&'static str, String)>) -> bool {
    kind == "Initialized" && matches!(answer, Err(("PodCompleted", _)))
}

fn container(container: &Container, spec: Option<&core::Container>) -> core::ContainerStatus {
    let image = spec.and_then(|s| s.image.clone()).unwrap_or_default();
    let id = match &container.state {
        State::Running(running) => Some(running.id.as_str()),
        State::Ended { ended, .. } => Some(ended.id.as_str()),
        _ => container.last.as_ref().map(|l| l.id.as_str()),
    };
    let started = match &container.state {
        State::Running(running) => running.started,
        _ => false,
    };
    core::ContainerStatus {
        name: container.plan.name.clone(),
        image_id: image.clone(),
        image,
        container_id: id.filter(|id| !id.is_empty()).map(full_id),
        ready: container.ready(),
        started: Some(started),
        restart_count: i32::try_from(container.restarts).unwrap_or(i32::MAX),
        state: Some(state(container)),
        last_state: container
            .last
            .as_ref()
            .filter(|l| !is_current(container, l))
            .map(|last| core::ContainerState { terminated: Some(terminated(last)), ..Default::default() }),
        ..core::ContainerStatus::default()
    }
}

fn is_current(container: &Container, last: &Ended) -> bool {
    matches!(&container.state, State::Ended { ended, .. } if ended == last)
}

fn full_id(id: &str) -> String {
    format!("homarus://{id}")
}

fn state(container: &Container) -> core::ContainerState {
    let mut state = core::ContainerState::default();
    match &container.state {
        State::Waiting { reason, message, .. } => {
            state.waiting = Some(core::ContainerStateWaiting { reason: Some((*reason).into()), message: message.clone() });
        }
        State::Starting => {
            state.waiting = Some(core::ContainerStateWaiting { reason: Some("ContainerCreating".into()), message: None });
        }
        State::Running(running) => {
            state.running = Some(core::ContainerStateRunning { started_at: Some(Time(running.since)) });
        }
        State::Ended { ended, .. } => state.terminated = Some(terminated(ended)),
    }
    state
}

fn terminated(ended: &Ended) -> core::ContainerStateTerminated {
    core::ContainerStateTerminated {
        container_id: Some(ended.id.as_str()).filter(|id| !id.is_empty()).map(full_id),
        exit_code: ended.code,
        signal: None,
        reason: Some(ended.reason.clone()),
        message: ended.message.clone(),
        started_at: ended.started.map(Time),
        finished_at: Some(Time(ended.finished)),
    }
}

/// The quality of service class; nothing here acts on it.
fn quality(pod: &core::Pod) -> &'static str {
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let mut any = false;
    let mut all = true;
    for container in containers {
        let resources = container.resources.clone().unwrap_or_default();
        let (limits, requests) = (resources.limits.unwrap_or_default(), resources.requests.unwrap_or_default());
        any |= !limits.is_empty() || !requests.is_empty();
        all &= ["cpu", "memory"].iter().all(|name| {
            let limit = limits.get(*name);
            limit.is_some() && requests.get(*name).is_none_or(|r| Some(r) == limit)
        });
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
