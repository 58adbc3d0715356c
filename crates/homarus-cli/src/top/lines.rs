//! What proxies counted, a line for each client or destination and route (pure).

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;

use crate::failure::Failure;
use crate::metrics::{Delta, Direction, Labels, Quantile, Traffic};
use crate::table::{Align, Table};
use crate::workloads::Member;

/// Who, whom and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    source: String,
    destination: String,
    route: String,
}

/// The lines of some pods, the busiest first.
pub(super) fn lines<'d>(
    members: &[&Member],
    hide_sources: bool,
    delta: impl Fn(&str, &str) -> Option<Delta<'d>>,
) -> Vec<(Key, Traffic)> {
    let mut sums: HashMap<Key, Traffic> = HashMap::new();
    for member in members {
        let Some(delta) = delta(&member.namespace, &member.name) else { continue };
        let inbound = delta.tally(Direction::Inbound, |labels| Some(inbound(member, labels, hide_sources)));
        let outbound = delta.tally(Direction::Outbound, |labels| Some(outbound(member, labels, hide_sources)));
        for (key, traffic) in inbound.into_iter().chain(outbound) {
            sums.entry(key).or_default().merge(&traffic);
        }
    }
    let mut lines: Vec<_> = sums.into_iter().filter(|(_, traffic)| traffic.responses() > 0.0).collect();
    lines.sort_by(|(a, x), (b, y)| y.responses().total_cmp(&x.responses()).then_with(|| a.cmp(b)));
    lines
}

fn inbound(member: &Member, labels: &Labels<'_>, hide_sources: bool) -> Key {
    let source = match labels.of("client_id") {
        _ if hide_sources => "*".to_owned(),
        Some(id) if !id.is_empty() => short_identity(id).to_owned(),
        _ => "(unmeshed)".to_owned(),
    };
    let port = labels.of("target_port").map(|port| format!(":{port}")).unwrap_or_default();
    Key { source, destination: format!("{}{port}", member.name), route: route(labels) }
}

fn outbound(member: &Member, labels: &Labels<'_>, hide_sources: bool) -> Key {
    let source = if hide_sources { "*".to_owned() } else { member.name.clone() };
    let of_pod = labels.of("dst_pod").map(str::to_owned);
    let by_name = || labels.of("authority").or_else(|| labels.of("target_addr")).unwrap_or("?").to_owned();
    Key { source, destination: of_pod.unwrap_or_else(by_name), route: labels.of("authority").unwrap_or("-").to_owned() }
}

fn route(labels: &Labels<'_>) -> String {
    match labels.of("route_name") {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "-".to_owned(),
    }
}

/// `web.emojivoto` of `web.emojivoto.serviceaccount.identity.linkerd.cluster.local`.
fn short_identity(id: &str) -> &str {
    id.split_once(".serviceaccount.").map_or(id, |(account, _)| account)
}

/// A table of the first lines.
pub(super) fn table(lines: &[(Key, Traffic)], elapsed: Duration, rows: usize) -> String {
    let mut columns: Vec<_> = ["SOURCE", "DESTINATION", "ROUTE"].map(|name| (name, Align::Left)).into();
    columns.extend(["COUNT", "RPS", "SUCCESS", "LATENCY_P50", "LATENCY_P95", "LATENCY_P99"].map(|name| (name, Align::Right)));
    let mut table = Table::new(columns);
    for (key, traffic) in lines.iter().take(rows) {
        let latency =
            |quantile| traffic.latency.quantile(quantile).map_or_else(|| "-".to_owned(), |ms| format!("{}ms", ms.round()));
        table.row(vec![
            key.source.clone(),
            key.destination.clone(),
            key.route.clone(),
            format!("{:.0}", traffic.responses()),
            format!("{:.1}", traffic.responses() / elapsed.as_secs_f64().max(f64::EPSILON)),
            format!("{:.2}%", traffic.success_rate().unwrap_or_default() * 100.0),
            latency(Quantile::P50),
            latency(Quantile::P95),
            latency(Quantile::P99),
        ]);
    }
    table.render()
}

/// One JSON array on a line, for programs that read one after the other.
pub(super) fn json(lines: &[(Key, Traffic)], elapsed: Duration, rows: usize) -> Result<String, Failure> {
    let rows = lines.iter().take(rows).map(|(key, traffic)| {
        json!({
            "source": key.source,
            "destination": key.destination,
            "route": key.route,
            "count": traffic.responses(),
            "rps": traffic.responses() / elapsed.as_secs_f64().max(f64::EPSILON),
            "success": traffic.success_rate(),
            "latency_ms_p50": traffic.latency.quantile(Quantile::P50),
            "latency_ms_p95": traffic.latency.quantile(Quantile::P95),
            "latency_ms_p99": traffic.latency.quantile(Quantile::P99),
        })
    });
    let rows = serde_json::to_string(&rows.collect::<Vec<_>>()).map_err(Failure::new)?;
    Ok(format!("{rows}\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::metrics::Page;
    use crate::workloads::Workloads;

    const PAGE: &str = r#"
response_total{direction="inbound",target_port="8080",client_id="vote-bot.emojivoto.serviceaccount.identity.linkerd.cluster.local",route_name="probe",classification="success"} 9
response_total{direction="inbound",target_port="8080",client_id="vote-bot.emojivoto.serviceaccount.identity.linkerd.cluster.local",route_name="probe",classification="failure"} 1
response_total{direction="inbound",target_port="8080",tls="no_identity",route_name="",classification="success"} 2
response_total{direction="outbound",authority="voting-svc:8080",dst_pod="voting-1",classification="success"} 20
response_total{direction="outbound",authority="idle:80",classification="success"} 0
"#;

    fn shown(hide_sources: bool, rows: usize) -> String {
        let pod =
            serde_json::json!({ "metadata": { "name": "web-1", "namespace": "emojivoto" }, "status": { "phase": "Running" } });
        let workloads = Workloads::of(vec![serde_json::from_value(pod).unwrap()], &[], &[]);
        let members: Vec<_> = workloads.0.iter().collect();
        let (empty, page) = (Page::default(), Page::read(PAGE, 4191));
        let lines = lines(&members, hide_sources, |_, _| Some(page.since(&empty)));
        table(&lines, Duration::from_secs(2), rows)
    }

    #[test]
    fn the_busiest_come_first() {
        assert_eq!(
            shown(false, 10),
            "SOURCE               DESTINATION   ROUTE             COUNT    RPS   SUCCESS   LATENCY_P50   LATENCY_P95   LATENCY_P99\n\
             web-1                voting-1      voting-svc:8080      20   10.0   100.00%             -             -             -\n\
             vote-bot.emojivoto   web-1:8080    probe                10    5.0    90.00%             -             -             -\n\
             (unmeshed)           web-1:8080    -                     2    1.0   100.00%             -             -             -\n"
        );
        assert_eq!(shown(false, 1).lines().count(), 2);
        assert!(shown(true, 10).contains("\n*        web-1:8080    probe"), "{}", shown(true, 10));
    }
}
