//! Whatever people and peers write: every parser refuses or understands it, and what it understood can be said again.

use crate::{
    Authority, DnsName, Identity, duration,
    inbound::DefaultPolicy,
    network,
    ports::{self, PortSet},
    route::WholeRegex,
    workload::{Context, Workload, WorkloadKind},
};
use proptest::prelude::*;

/// Text of any kind, and text that is nearly right.
fn text() -> impl Strategy<Value = String> {
    let nearly = prop::sample::select(vec![
        "web.shop.svc.cluster.local:80",
        "[fd00::1]:443",
        "10.0.0.1:8080",
        "spiffe://example.org/ns/a",
        "25,587,4000-4010",
        "10.0.0.0/8,fd00::/8",
        "1h30m0.5s",
        "300ms",
        "{\"ns\":\"shop\",\"pod\":\"web-1\"}",
        "shop:web-1",
        "all-authenticated",
    ]);
    let broken = (nearly, any::<prop::sample::Index>(), "\\PC{0,3}|[0-9.:/,-]{0,3}").prop_map(|(good, at, with)| {
        let at = at.index(good.len() + 1);
        format!("{}{with}{}", &good[..at], &good[at..])
    });
    let long = ("[0-9a-z.:,/{}\"-]{1,4}", 1..3_000usize).prop_map(|(part, times)| part.repeat(times));
    prop_oneof![3 => "\\PC{0,40}", 5 => broken, 1 => long]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn names_are_refused_or_can_be_said_again(text in text()) {
        if let Ok(name) = text.parse::<DnsName>() {
            prop_assert!(name.as_str().len() <= 253);
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }
        if let Ok(authority) = Authority::parse(&text, 80) {
            prop_assert_ne!(authority.port, 0);
            prop_assert_eq!(Authority::parse(&authority.to_string(), 1), Ok(authority));
        }
        if let Ok(identity) = text.parse::<Identity>() {
            prop_assert!(identity.as_str().len() <= 2048);
            prop_assert_eq!(identity.to_string().parse(), Ok(identity));
        }
    }

    #[test]
    fn workloads_have_a_namespace_and_a_name(text in text()) {
        if let Ok(Workload { namespace, kind: WorkloadKind::Pod(name) | WorkloadKind::External(name) }) = text.parse() {
            prop_assert!(!namespace.is_empty() && !name.is_empty());
        }
        let _ = Context::parse(&text);
    }

    #[test]
    fn ports_and_networks_stay_within_their_bounds(text in text()) {
        if let Ok(ports) = PortSet::parse(&text) {
            prop_assert!(!ports.contains(0));
            prop_assert_eq!(PortSet::parse(&ports.to_string()), Ok(ports));
        }
        if let Some(range) = ports::parse_range(&text) {
            prop_assert!(*range.start() > 0 && range.start() <= range.end());
        }
        if let Ok(networks) = network::parse_list(&text) {
            prop_assert!(networks.len() <= text.len());
        }
    }

    #[test]
    fn durations_fit_into_what_counts_them(text in text(), number: u64, unit in "ns|us|ms|s|m|h|d|") {
        for text in [text, format!("{number}{unit}")] {
            if let Ok(duration) = duration::parse_go(&text) {
                prop_assert!(duration.as_nanos() <= i64::MAX.unsigned_abs().into());
            }
            if let Ok(duration) = duration::parse(&text) {
                prop_assert!(u64::try_from(duration.as_millis()).is_ok());
            }
        }
    }

    #[test]
    fn words_and_expressions(text in text()) {
        if let Ok(policy) = text.parse::<DefaultPolicy>() {
            prop_assert_eq!(policy.as_str(), text.as_str());
        }
        let _ = WholeRegex::new(&text).is_ok();
    }
}
