//! `stat`: success, rate and latency of workloads, from two looks at the metrics of their proxies.
//!
//! - `query`: what is asked, and which labels of which proxies answer it;
//! - `rows`: pods and what their proxies counted, into rows (pure);
//! - `table`: rows into tables and JSON (pure).

mod query;
mod rows;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;

use crate::cluster::Cluster;
use crate::command_line::Stat;
use crate::failure::{Exit, Failure, Outcome};
use crate::resources::Kind;
use crate::sampler::Sampler;
use crate::terminal;
use crate::workloads::{self, Workloads};

use query::{Format, Query};
use rows::Row;

/// Measures and prints.
pub async fn run(cluster: &Cluster, args: &Stat) -> Outcome {
    let (query, format) = Query::read(args, &cluster.default_namespace)?;
    let mut sampler = Sampler::new(&cluster.client, 1);
    let spinner = terminal::spinner(&format!("measuring for {}", duration_text(query.window)));
    let pods = Pods::list(cluster, &query).await?;
    sampler.sample(pods.proxies(&query)).await;
    tokio::time::sleep(query.window).await;
    let pods = Pods::list(cluster, &query).await?;
    let failures = sampler.sample(pods.proxies(&query)).await;
    let elapsed = sampler.elapsed().unwrap_or(query.window);
    spinner.finish_and_clear();

    for failure in &failures {
        eprintln!("{} {failure}", terminal::warning());
    }
    let rows = pods.rows(&query, &sampler, elapsed);
    if rows.is_empty() && format != Format::Json {
        eprintln!("No traffic found.");
        return Ok(Exit::Ok);
    }
    terminal::print(&table::render(&rows, &query, format)?)?;
    Ok(Exit::Ok)
}

/// How many rounds a table that is refreshed looks back: long enough for rates to be steady.
const ROUNDS: usize = 10;

/// Refreshes a table of deployments until it fails; each refresh goes to `show`.
pub async fn follow(cluster: &Cluster, namespace: &str, interval: Duration, mut show: impl FnMut(&str)) -> Result<(), Failure> {
    let query = Query::deployments(namespace, interval);
    let mut sampler = Sampler::new(&cluster.client, ROUNDS);
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let pods = Pods::list(cluster, &query).await?;
        sampler.sample(pods.proxies(&query)).await;
        if let Some(elapsed) = sampler.elapsed() {
            let rows = pods.rows(&query, &sampler, elapsed);
            show(&table::render(&rows, &query, Format::Table)?);
        }
    }
}

/// The pods of rows, those whose proxies are asked, and the Services.
struct Pods {
    of_rows: Workloads,
    /// Only if others than those of the rows.
    clients: Option<Workloads>,
    services: Vec<(String, String)>,
}

impl Pods {
    async fn list(cluster: &Cluster, query: &Query) -> Result<Self, Failure> {
        let (client, selector) = (&cluster.client, query.selector.as_deref());
        let of_rows = Workloads::list(client, query.namespace.as_deref(), selector).await?;
        let clients = match query.clients_namespace() {
            Some(namespace) => Some(Workloads::list(client, namespace, None).await?),
            None => None,
        };
        let mut services = Vec::new();
        if query.targets.iter().any(|target| target.kind == Kind::Service) {
            let listed = workloads::list::<Service>(client, query.namespace.as_deref(), selector).await?;
            services.extend(listed.iter().map(|service| (service.namespace().unwrap_or_default(), service.name_any())));
        }
        Ok(Self { of_rows, clients, services })
    }

    /// Whose proxies have the answer.
    fn proxies<'a>(&'a self, query: &'a Query) -> impl Iterator<Item = &'a workloads::Member> {
        let rows = self.of_rows.0.iter().filter(|member| query.counts_at(member));
        rows.chain(self.clients.iter().flat_map(|clients| &clients.0).filter(|member| query.counts_at_client(member)))
    }

    fn rows(&self, query: &Query, sampler: &Sampler, elapsed: Duration) -> Vec<Row> {
        let clients = self.clients.as_ref().unwrap_or(&self.of_rows);
        let lookup = |namespace: &str, name: &str| sampler.delta(namespace, name);
        rows::rows(query, &self.of_rows, clients, &self.services, elapsed, lookup)
    }
}

fn duration_text(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}
