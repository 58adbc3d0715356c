//! Rows into tables and JSON.

use serde::Serialize;

use crate::failure::Failure;
use crate::metrics::Quantile;
use crate::resources::Kind;
use crate::table::{Align, Table};

use super::query::{Format, Query};
use super::rows::Row;

/// All rows as text: a table for each kind, or one JSON array.
pub(super) fn render(rows: &[Row], query: &Query, format: Format) -> Result<String, Failure> {
    if format == Format::Json {
        let rows: Vec<_> = rows.iter().map(JsonRow::of).collect();
        let text = serde_json::to_string_pretty(&rows).map_err(Failure::new)?;
        return Ok(format!("{text}\n"));
    }
    let mut kinds: Vec<_> = rows.iter().map(|row| row.kind).collect();
    kinds.dedup();
    let several = query.targets.iter().any(|target| target.kind != query.targets[0].kind);
    let tables = kinds.into_iter().map(|kind| {
        let rows = rows.iter().filter(|row| row.kind == kind);
        table(rows, kind, query.all_namespaces && kind != Kind::Namespace, several, format == Format::Wide).render()
    });
    Ok(tables.collect::<Vec<_>>().join("\n"))
}

fn table<'a>(rows: impl Iterator<Item = &'a Row>, kind: Kind, namespaces: bool, prefixed: bool, wide: bool) -> Table {
    let mut columns: Vec<(&str, Align)> = Vec::new();
    if namespaces {
        columns.push(("NAMESPACE", Align::Left));
    }
    columns.push(("NAME", if namespaces { Align::Right } else { Align::Left }));
    if kind == Kind::Pod {
        columns.push(("STATUS", Align::Right));
    }
    let figures = ["MESHED", "SUCCESS", "RPS", "LATENCY_P50", "LATENCY_P95", "LATENCY_P99", "TCP_CONN"];
    columns.extend(figures.map(|name| (name, Align::Right)));
    if wide {
        columns.extend(["READ_BYTES/SEC", "WRITE_BYTES/SEC"].map(|name| (name, Align::Right)));
    }
    let mut table = Table::new(columns);
    for row in rows {
        let mut cells = Vec::new();
        if namespaces {
            cells.push(row.namespace.clone());
        }
        cells.push(if prefixed { format!("{}/{}", kind.short(), row.name) } else { row.name.clone() });
        if kind == Kind::Pod {
            cells.push(row.status.clone().unwrap_or_else(|| NOTHING.to_owned()));
        }
        cells.push(row.meshed.map_or_else(|| NOTHING.to_owned(), |(meshed, all)| format!("{meshed}/{all}")));
        cells.extend(figures_of(row, wide));
        table.row(cells);
    }
    table
}

const NOTHING: &str = "-";

fn figures_of(row: &Row, wide: bool) -> Vec<String> {
    let traffic = &row.traffic;
    let latency =
        |quantile| traffic.latency.quantile(quantile).map_or_else(|| NOTHING.to_owned(), |ms| format!("{}ms", ms.round()));
    let mut cells = match traffic.success_rate() {
        Some(rate) => vec![
            format!("{:.2}%", rate * 100.0),
            format!("{:.1}rps", row.rate(traffic.responses())),
            latency(Quantile::P50),
            latency(Quantile::P95),
            latency(Quantile::P99),
        ],
        None => vec![NOTHING.to_owned(); 5],
    };
    let carried =
        traffic.success_rate().is_some() || traffic.open_connections > 0.0 || traffic.read_bytes + traffic.write_bytes > 0.0;
    let if_carried = |text: String| if carried { text } else { NOTHING.to_owned() };
    cells.push(if_carried(format!("{:.0}", traffic.open_connections)));
    if wide {
        cells.extend([traffic.read_bytes, traffic.write_bytes].map(|bytes| if_carried(format!("{:.1}B/s", row.rate(bytes)))));
    }
    cells
}

/// One row for programs; what isn't known is null.
#[derive(Serialize)]
struct JsonRow<'a> {
    namespace: &'a str,
    kind: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    meshed: Option<String>,
    success: Option<f64>,
    rps: Option<f64>,
    latency_ms_p50: Option<f64>,
    latency_ms_p95: Option<f64>,
    latency_ms_p99: Option<f64>,
    tcp_open_connections: f64,
    tcp_read_bytes_rate: f64,
    tcp_write_bytes_rate: f64,
}

impl<'a> JsonRow<'a> {
    fn of(row: &'a Row) -> Self {
        let traffic = &row.traffic;
        let latency = |quantile| traffic.latency.quantile(quantile).map(f64::round);
        Self {
            namespace: &row.namespace,
            kind: row.kind.name(),
            name: &row.name,
            meshed: row.meshed.map(|(meshed, all)| format!("{meshed}/{all}")),
            success: traffic.success_rate(),
            rps: traffic.success_rate().map(|_| row.rate(traffic.responses())),
            latency_ms_p50: latency(Quantile::P50),
            latency_ms_p95: latency(Quantile::P95),
            latency_ms_p99: latency(Quantile::P99),
            tcp_open_connections: traffic.open_connections,
            tcp_read_bytes_rate: row.rate(traffic.read_bytes),
            tcp_write_bytes_rate: row.rate(traffic.write_bytes),
        }
    }
}
