//! Pods, and what their proxies counted, into rows.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::metrics::{Delta, Direction, Traffic};
use crate::resources::{Kind, Target};
use crate::workloads::{Member, Workloads};

use super::query::{Query, Side, goes_to};

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) namespace: String,
    pub(super) kind: Kind,
    pub(super) name: String,
    /// Of pods only.
    pub(super) status: Option<String>,
    /// Pods in the mesh, and all of them; of Services nothing.
    pub(super) meshed: Option<(usize, usize)>,
    pub(super) traffic: Traffic,
    pub(super) elapsed: Duration,
}

impl Row {
    /// Something a second.
    pub(super) fn rate(&self, amount: f64) -> f64 {
        amount / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

type RowKey = (Kind, String, String);

/// Rows in the order in which they are shown: by kind, namespace and name.
pub(super) fn rows<'d>(
    query: &Query,
    of_rows: &Workloads,
    clients: &Workloads,
    services: &[(String, String)],
    elapsed: Duration,
    delta: impl Fn(&str, &str) -> Option<Delta<'d>>,
) -> Vec<Row> {
    let mut rows: BTreeMap<RowKey, Row> = BTreeMap::new();
    for target in &query.targets {
        if target.kind == Kind::Service {
            let meant = services.iter().filter(|(_, name)| target.includes(Kind::Service, name));
            rows.extend(meant.map(|(namespace, name)| row(Kind::Service, namespace, name, elapsed)));
        }
        for member in &of_rows.0 {
            for name in member.parts(target.kind).filter(|name| target.includes(target.kind, name)) {
                let (key, fresh) = row(target.kind, &member.namespace, name, elapsed);
                rows.entry(key).or_insert(fresh).count(member);
            }
        }
    }
    for target in &query.targets {
        match at_clients(query, target) {
            true => add_from_clients(&mut rows, target, clients_of(query, clients), &delta),
            false => add_from_rows(&mut rows, query, target, of_rows, &delta),
        }
    }
    rows.into_values().filter(|row| query.unmeshed || row.meshed.is_none_or(|(meshed, _)| meshed > 0)).collect()
}

fn row(kind: Kind, namespace: &str, name: &str, elapsed: Duration) -> (RowKey, Row) {
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    let meshed = (kind != Kind::Service).then_some((0, 0));
    let row =
        Row { namespace: namespace.clone(), kind, name: name.clone(), status: None, meshed, traffic: Traffic::default(), elapsed };
    ((kind, namespace, name), row)
}

impl Row {
    fn count(&mut self, member: &Member) {
        if let Some((meshed, all)) = &mut self.meshed {
            *all += 1;
            *meshed += usize::from(member.meshed);
        }
        if self.kind == Kind::Pod {
            self.status = Some(member.phase.clone());
        }
    }
}

/// Whether a kind is measured at its clients.
fn at_clients(query: &Query, target: &Target) -> bool {
    matches!(query.side, Side::From { .. }) || (target.kind == Kind::Service && query.side == Side::Servers)
}

fn clients_of<'a>(query: &'a Query, clients: &'a Workloads) -> impl Iterator<Item = &'a Member> {
    clients.0.iter().filter(move |member| match &query.side {
        Side::From { target, .. } => member.is_part_of(target.kind, target.name.as_deref()),
        _ => true,
    })
}

/// What clients counted, told apart by where it went.
fn add_from_clients<'a, 'd>(
    rows: &mut BTreeMap<RowKey, Row>,
    target: &Target,
    clients: impl Iterator<Item = &'a Member>,
    delta: &impl Fn(&str, &str) -> Option<Delta<'d>>,
) {
    let label = target.kind.client_label();
    for client in clients {
        let Some(delta) = delta(&client.namespace, &client.name) else { continue };
        let tallies = delta.tally(Direction::Outbound, |labels| {
            let name = labels.of(&label)?;
            Some((target.kind, labels.of("dst_namespace")?.to_owned(), name.to_owned()))
        });
        for (key, traffic) in tallies {
            if let Some(row) = rows.get_mut(&key).filter(|row| target.includes(row.kind, &row.name)) {
                row.traffic.merge(&traffic);
            }
        }
    }
}

/// What the rows' own proxies counted.
fn add_from_rows<'d>(
    rows: &mut BTreeMap<RowKey, Row>,
    query: &Query,
    target: &Target,
    of_rows: &Workloads,
    delta: &impl Fn(&str, &str) -> Option<Delta<'d>>,
) {
    for member in &of_rows.0 {
        let names: Vec<_> = member.parts(target.kind).filter(|name| target.includes(target.kind, name)).collect();
        if names.is_empty() {
            continue;
        }
        let Some(delta) = delta(&member.namespace, &member.name) else { continue };
        let traffic = match &query.side {
            Side::To { target, namespace } => {
                delta.tally(Direction::Outbound, |labels| goes_to(labels, target, namespace).then_some(()))
            }
            Side::Servers | Side::From { .. } => delta.tally(Direction::Inbound, |_| Some(())),
        };
        let Some(traffic) = traffic.get(&()) else { continue };
        for name in names {
            if let Some(row) = rows.get_mut(&(target.kind, member.namespace.clone(), name.to_owned())) {
                row.traffic.merge(traffic);
            }
        }
    }
}
