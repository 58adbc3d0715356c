//! The controllers a cluster cannot do without: what turns Deployments into pods and Services into endpoints.
//!
//! They behave as kube-controller-manager and kube-scheduler do for everything that `kubectl` and a mesh read: names,
//! labels, annotations, conditions, counters, events. What they leave out: everything for more than one node.
//!
//! # Life of a change
//! A watch (`watching`) keeps one `Store` per kind; `routes` says which controllers a change concerns
//! and puts the key of the object concerned into their `Queue`; the controller takes the key, looks at the
//! stores, **decides** (a pure function beside it: `plan`) and **acts**.
//!
//! # Invariants
//! - Level-triggered: a decision depends on the state alone, never on the change that led to it. A controller may be
//!   stopped between any two writes, and goes on from there.
//! - One worker per controller, so no two decisions about one object are made at once.
//! - A controller sees its own writes: what the API answers goes into the store at once (see `store`).
//! - Every update is made against the version it was decided on; a conflict is a reason to look again, not an error.

mod claiming;
mod claims;
mod cluster;
mod cronjob;
mod daemonset;
mod deployment;
mod endpoints;
mod job;
mod ownership;
mod pod_gc;
mod pods;
mod queue;
mod replicaset;
mod revisions;
mod routes;
mod scheduler;
mod statefulset;
mod store;
mod watching;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::watch;
use tokio::task::JoinSet;

use cluster::Cluster;

/// How long decisions under way may take once the end is asked for.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What may differ from cluster to cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods that ask for another scheduler are left to it.
    pub scheduler_name: String,
    /// How many pods that have ended are kept for people to look at; the oldest go first.
    pub ended_pods_kept: usize,
    /// How often to look for pods that nobody will clean up.
    pub pod_gc_period: Duration,
    /// How long a node must be gone before its pods are.
    pub node_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            scheduler_name: "default-scheduler".to_owned(),
            ended_pods_kept: 500,
            pod_gc_period: Duration::from_secs(20),
            node_grace: Duration::from_secs(40),
        }
    }
}

/// The running controllers. Dropping this ends them at once, [`stop`](Controllers::stop) politely.
#[derive(Debug)]
pub struct Controllers {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    synced: watch::Receiver<bool>,
}

impl Controllers {
    /// Completes when everything there was at the start has been seen, and the controllers have begun to act.
    pub async fn synced(&mut self) {
        // An error means that the controllers have ended, and there is nothing to wait for.
        let _ = self.synced.wait_for(|synced| *synced).await;
    }

    /// Finishes the decisions under way, then ends; those that an API which doesn't answer holds up are given up.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_LIMIT, all).await.is_err() {
            tracing::warn!(limit = ?STOP_LIMIT, "giving up decisions under way");
        }
    }
}

/// Starts all controllers on the API behind `client`. Must be called within a runtime.
///
/// The API may still be away: the watches try until it is there.
pub fn start(client: kube::Client, config: Config) -> Controllers {
    let (stop, stopped) = watch::channel(false);
    let (synced_tx, synced) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let (cluster, events) = Cluster::new(client);
    let cluster = Arc::new(cluster);

    tasks.spawn(watching::run::<Deployment>(cluster.clone(), stopped.clone()));
    tasks.spawn(watching::run::<ReplicaSet>(cluster.clone(), stopped.clone()));
    tasks.spawn(watching::run::<StatefulSet>(cluster.clone(), stopped.clone()));
    tasks.spawn(watching::run::<DaemonSet>(cluster.clone(), stopped.clone()));
    tasks.spawn(watching::run::<ControllerRevision>(cluster.clone(), stopped.clone()));
    tasks.spawn(watching::run::<CronJob>(cluster.clone(), stopped.clone()));
    tasks.spawn(watching::run::<PersistentVolumeClaim>(cluster.clone(), stopped.clone()));
    tasks.spawn(watching::run::<Pod>(cluster.clone(), stopped.clone()));
    tasks.spawn(watching::run::<Job>(cluster.clone(), stopped.clone()));
    tasks.spawn(watching::run::<Service>(cluster.clone(), stopped.clone()));
    tasks.spawn(watching::run::<EndpointSlice>(cluster.clone(), stopped.clone()));
    tasks.spawn(watching::run::<Node>(cluster.clone(), stopped.clone()));
    tasks.spawn(cluster::post_events(cluster.client.clone(), events, stopped.clone()));

    let gate = worker::Gate { cluster: cluster.clone(), stop: stopped };
    tasks.spawn(gate.clone().run(deployment::Deployments));
    tasks.spawn(gate.clone().run(replicaset::ReplicaSets));
    tasks.spawn(gate.clone().run(statefulset::StatefulSets));
    tasks.spawn(gate.clone().run(daemonset::DaemonSets));
    tasks.spawn(gate.clone().run(job::Jobs));
    tasks.spawn(gate.clone().run(cronjob::CronJobs));
    tasks.spawn(gate.clone().run(claims::Claims));
    tasks.spawn(gate.clone().run(endpoints::Endpoints));
    tasks.spawn(gate.clone().run(scheduler::Scheduler { name: config.scheduler_name.clone() }));
    tasks.spawn(gate.clone().run_every(config.pod_gc_period, pod_gc::PodGc::new(&config)));
    tasks.spawn(async move {
        if gate.opened().await {
            synced_tx.send_replace(true);
        }
    });
    Controllers { stop, tasks, synced }
}
