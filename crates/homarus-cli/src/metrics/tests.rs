#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

const BEFORE: &str = r#"
response_total{direction="inbound",status_code="200",classification="success"} 100
response_total{direction="inbound",status_code="500",classification="failure"} 10
response_latency_ms_bucket{direction="inbound",status_code="200",le="1"} 50
response_latency_ms_bucket{direction="inbound",status_code="200",le="2"} 110
response_latency_ms_bucket{direction="inbound",status_code="200",le="+Inf"} 110
tcp_open_connections{direction="inbound",peer="src"} 7
tcp_open_connections{direction="inbound",peer="dst"} 9
tcp_read_bytes_total{direction="inbound",peer="src"} 1000
"#;

const AFTER: &str = r#"
response_total{direction="inbound",status_code="200",classification="success"} 109
response_total{direction="inbound",status_code="500",classification="failure"} 2
response_total{direction="inbound",status_code="503",classification="failure"} 1
response_total{direction="outbound",dst_deployment="voting",status_code="200",classification="success"} 4
response_latency_ms_bucket{direction="inbound",status_code="200",le="1"} 50
response_latency_ms_bucket{direction="inbound",status_code="200",le="2"} 122
response_latency_ms_bucket{direction="inbound",status_code="200",le="+Inf"} 122
tcp_open_connections{direction="inbound",peer="src"} 3
tcp_open_connections{direction="inbound",peer="dst"} 9
tcp_read_bytes_total{direction="inbound",peer="src"} 1500
"#;

fn tally(direction: Direction) -> Option<Traffic> {
    let (before, after) = (Page::read(BEFORE, 4191), Page::read(AFTER, 4191));
    after.since(&before).tally(direction, |_| Some(())).remove(&())
}

#[test]
fn what_happened_between_two_pages() {
    let traffic = tally(Direction::Inbound).unwrap();
    assert_eq!(traffic.success, 9.0);
    assert_eq!(traffic.failure, 3.0, "2 after a restart, 1 of a new series");
    assert_eq!(traffic.success_rate(), Some(0.75));
    assert_eq!(traffic.latency.quantile(Quantile::P50), Some(1.5));
    assert_eq!(traffic.open_connections, 3.0, "what is open now, at the client's end");
    assert_eq!(traffic.read_bytes, 500.0);
}

#[test]
fn directions_and_keys_are_told_apart() {
    assert_eq!(tally(Direction::Outbound).unwrap().success, 4.0);
    let (before, after) = (Page::read(BEFORE, 4191), Page::read(AFTER, 4191));
    let by_target = after.since(&before).tally(Direction::Outbound, |labels| labels.of("dst_deployment").map(str::to_owned));
    assert_eq!(by_target.keys().collect::<Vec<_>>(), ["voting"]);
    let none = after.since(&before).tally(Direction::Inbound, |labels| labels.of("dst_deployment").map(str::to_owned));
    assert!(none.is_empty());
}

#[test]
fn nothing_happened() {
    let page = Page::read(AFTER, 4191);
    let traffic = page.since(&page).tally(Direction::Inbound, |_| Some(())).remove(&()).unwrap();
    assert_eq!((traffic.success_rate(), traffic.responses()), (None, 0.0));
    assert_eq!(traffic.latency.quantile(Quantile::P50), None);
}

#[test]
fn who_looks_is_no_traffic() {
    let line = |port: u16| format!("response_total{{direction=\"inbound\",target_port=\"{port}\",classification=\"success\"}} 5\n");
    let (empty, page) = (Page::default(), Page::read(&(line(4191) + &line(8080)), 4191));
    let traffic = page.since(&empty).tally(Direction::Inbound, |_| Some(())).remove(&()).unwrap();
    assert_eq!(traffic.success, 5.0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A proxy that lies: figures may be odd, but there are no more of them than it told.
    #[test]
    fn whatever_a_proxy_counts(lines in proptest::collection::vec((0..FAMILIES.len(), "[0-9.+Inf]{0,4}", any::<f64>()), 0..12)) {
        let line = |(family, le, value): &(usize, String, f64)| {
            format!("{}{{direction=\"inbound\",peer=\"src\",le=\"{le}\"}} {value}\n", FAMILIES[*family])
        };
        let page = Page::read(&lines.iter().map(line).collect::<String>(), 4191);
        let traffic = page.since(&Page::default()).tally(Direction::Inbound, |_| Some(()));
        for traffic in traffic.values() {
            for quantile in [Quantile::P50, Quantile::P95, Quantile::P99] {
                let _ = traffic.latency.quantile(quantile);
            }
            let mut twice = traffic.clone();
            twice.merge(traffic);
            let _ = twice.success_rate();
        }
    }
}
