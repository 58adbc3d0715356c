//! `diagnostics endpoints`: what the destination controller tells proxies about authorities.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use homarus_wire::api::destination::destination_client::DestinationClient;
use homarus_wire::api::destination::{GetDestination, Update, WeightedAddr, protocol_hint, update::Update as Kind};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;

use crate::command_line::Output;
use crate::failure::{Exit, Failure, Outcome};
use crate::table::Table;
use crate::terminal;

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Found {
    namespace: String,
    ip: String,
    port: u16,
    pod: String,
    service: String,
    weight: u32,
    #[serde(skip_serializing_if = "is_false")]
    http2: bool,
    labels: BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_false(value: &bool) -> bool {
    !value
}

type Endpoints = BTreeMap<SocketAddr, Found>;

/// Collects for a fixed time, as there is no end to what a controller may tell.
pub(super) async fn run(channel: Channel, authorities: &[String], token: &str, wait: Duration, output: Output) -> Outcome {
    let deadline = Instant::now() + wait;
    let spinner = terminal::spinner("collecting endpoints");
    let asked = authorities.iter().map(|authority| collect(channel.clone(), authority, token, deadline));
    let found = futures::future::try_join_all(asked).await;
    spinner.finish_and_clear();
    let mut found: Vec<_> = found?.into_iter().flat_map(Endpoints::into_values).collect();
    found.sort_by(|a, b| (&a.namespace, &a.service, &a.ip, a.port).cmp(&(&b.namespace, &b.service, &b.ip, b.port)));
    found.dedup();
    if output == Output::Json {
        terminal::print(&format!("{}\n", serde_json::to_string_pretty(&found).map_err(Failure::new)?))?;
    } else if found.is_empty() {
        eprintln!("No endpoints found.");
    } else {
        terminal::print(&tables(&found))?;
    }
    Ok(Exit::Ok)
}

async fn collect(channel: Channel, authority: &str, token: &str, deadline: Instant) -> Result<Endpoints, Failure> {
    let path = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let request = GetDestination { scheme: "http:".into(), path, context_token: token.into() };
    let failed = |status: tonic::Status| Failure::new(format!("Destination API error: {}", status.message()));
    let mut endpoints = Endpoints::new();
    let mut client = DestinationClient::new(channel);
    let mut updates = match timeout_at(deadline, client.get(request)).await {
        Ok(answer) => answer.map_err(failed)?.into_inner(),
        Err(_) => return Err(Failure::new("Destination API error: no answer")),
    };
    while let Ok(update) = timeout_at(deadline, updates.message()).await {
        match update.map_err(failed)? {
            Some(update) => apply(&mut endpoints, update),
            None => break,
        }
    }
    Ok(endpoints)
}

fn apply(endpoints: &mut Endpoints, update: Update) {
    match update.update {
        Some(Kind::Add(set)) => {
            for address in &set.addrs {
                endpoints.extend(found(address, &set.metric_labels));
            }
        }
        Some(Kind::Remove(set)) => {
            for address in set.addrs {
                if let Ok(address) = SocketAddr::try_from(address) {
                    endpoints.remove(&address);
                }
            }
        }
        Some(Kind::NoEndpoints(_)) => endpoints.clear(),
        None => {}
    }
}

fn found(address: &WeightedAddr, shared: &std::collections::HashMap<String, String>) -> Option<(SocketAddr, Found)> {
    let socket = SocketAddr::try_from(address.addr?).ok()?;
    let of_endpoint = |name: &str| address.metric_labels.get(name).cloned().unwrap_or_default();
    let of_any = |name: &str| address.metric_labels.get(name).or_else(|| shared.get(name)).cloned().unwrap_or_default();
    let (namespace, service) = (of_any("namespace"), of_any("service"));
    let hint = address.protocol_hint.as_ref().and_then(|hint| hint.protocol.as_ref());
    let ip = match socket.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => ip.to_string(),
    };
    let found = Found {
        ip,
        port: socket.port(),
        pod: of_endpoint("pod"),
        service: if service.is_empty() { String::new() } else { format!("{service}.{namespace}") },
        namespace,
        weight: address.weight,
        http2: matches!(hint, Some(protocol_hint::Protocol::H2(_))),
        labels: address.metric_labels.clone().into_iter().collect(),
    };
    Some((socket, found))
}

/// One table for each namespace, with a blank line between.
fn tables(found: &[Found]) -> String {
    let tables = found.chunk_by(|a, b| a.namespace == b.namespace).map(|of_namespace| {
        let mut table = Table::of_text(&["NAMESPACE", "IP", "PORT", "POD", "SERVICE"]);
        for endpoint in of_namespace {
            let cells = [&endpoint.namespace, &endpoint.ip, &endpoint.port.to_string(), &endpoint.pod, &endpoint.service];
            table.row(cells.map(Clone::clone).into());
        }
        table.render()
    });
    tables.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use homarus_wire::api::destination::{AddrSet, NoEndpoints, WeightedAddrSet};
    use homarus_wire::api::net::TcpAddress;

    fn labels(pairs: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn add(address: &str, pod: &str, namespace: &str) -> Update {
        let addr = Some(TcpAddress::from(address.parse::<SocketAddr>().unwrap()));
        let endpoint = WeightedAddr { addr, weight: 10_000, metric_labels: labels(&[("pod", pod)]), ..Default::default() };
        let metric_labels = labels(&[("service", "web"), ("namespace", namespace)]);
        Update { update: Some(Kind::Add(WeightedAddrSet { addrs: vec![endpoint], metric_labels })) }
    }

    #[test]
    fn updates_add_up_to_tables() {
        let mut endpoints = Endpoints::new();
        apply(&mut endpoints, add("10.0.0.1:8080", "web-1", "a"));
        apply(&mut endpoints, add("10.0.0.2:8080", "web-2", "b"));
        apply(&mut endpoints, add("10.0.0.3:8080", "web-3", "a"));
        let gone = TcpAddress::from("10.0.0.3:8080".parse::<SocketAddr>().unwrap());
        apply(&mut endpoints, Update { update: Some(Kind::Remove(AddrSet { addrs: vec![gone] })) });
        let found: Vec<_> = endpoints.values().cloned().collect();
        assert_eq!(
            tables(&found),
            "NAMESPACE   IP         PORT   POD     SERVICE\n\
             a           10.0.0.1   8080   web-1   web.a\n\
             \n\
             NAMESPACE   IP         PORT   POD     SERVICE\n\
             b           10.0.0.2   8080   web-2   web.b\n"
        );
        apply(&mut endpoints, Update { update: Some(Kind::NoEndpoints(NoEndpoints { exists: true })) });
        assert!(endpoints.is_empty());
    }
}
