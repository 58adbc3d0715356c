#![allow(clippy::unwrap_used)]
use super::*;
use homarus_model::inbound::{DefaultPolicy, Protocol};
use std::{collections::BTreeMap, ffi::OsString, os::unix::ffi::OsStringExt};

/// What an injected proxy has at least.
const REQUIRED: [(&str, &str); 10] = [
    ("DESTINATION_SVC_ADDR", "linkerd-dst-headless.linkerd.svc.cluster.local.:8086"),
    ("DESTINATION_SVC_NAME", "linkerd-destination.linkerd.serviceaccount.identity.linkerd.cluster.local"),
    ("POLICY_SVC_ADDR", "linkerd-policy.linkerd.svc.cluster.local.:8090"),
    ("POLICY_SVC_NAME", "linkerd-destination.linkerd.serviceaccount.identity.linkerd.cluster.local"),
    ("POLICY_WORKLOAD", "{\"ns\":\"shop\",\"pod\":\"web-0\"}\n"),
    ("IDENTITY_DIR", "/var/run/linkerd/identity/end-entity"),
    ("IDENTITY_TRUST_ANCHORS", "-----BEGIN CERTIFICATE-----"),
    ("IDENTITY_TOKEN_FILE", "/var/run/secrets/tokens/linkerd-identity-token"),
    ("IDENTITY_LOCAL_NAME", "web.shop.serviceaccount.identity.linkerd.cluster.local"),
    ("IDENTITY_SVC_ADDR", "localhost.:8080"),
];

fn parse(changes: &[(&str, &str)]) -> Result<Config, InvalidConfig> {
    parse_without("", changes)
}

fn parse_without(without: &str, changes: &[(&str, &str)]) -> Result<Config, InvalidConfig> {
    let mut all: BTreeMap<&str, &str> = REQUIRED.into_iter().filter(|(name, _)| *name != without).collect();
    all.extend(changes.iter().copied());
    Config::parse(all.into_iter().map(|(k, v)| (format!("{}{k}", vars::PREFIX).into(), v.into())).collect())
}

/// The names of the variables that are told to be wrong.
fn wrong(result: Result<Config, InvalidConfig>) -> Vec<String> {
    let errors = result.err().map(|e| e.0).unwrap_or_default();
    errors.iter().map(|e| e.name.strip_prefix(vars::PREFIX).unwrap().to_owned()).collect()
}

#[test]
fn defaults_are_those_of_the_reference() {
    let config = parse(&[]).unwrap();
    assert_eq!(config.inbound.listen.to_string(), "0.0.0.0:4143");
    assert_eq!(config.outbound.listen.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:4140"]);
    assert_eq!(config.process.admin_addr.to_string(), "127.0.0.1:4191");
    let (inbound, outbound) = (&config.inbound.direction, &config.outbound.direction);
    assert_eq!((inbound.connect_timeout, outbound.connect_timeout), (Duration::from_millis(300), Duration::from_secs(1)));
    assert_eq!((inbound.connect_backoff.max, outbound.connect_backoff.max), (Duration::from_secs(10), Duration::from_secs(60)));
    assert_eq!((inbound.failfast, outbound.failfast), (Duration::from_secs(1), Duration::from_secs(3)));
    assert_eq!((inbound.discovery_idle, outbound.discovery_idle), (Duration::from_secs(90), Duration::from_secs(5)));
    assert_eq!((inbound.detect_timeout, inbound.max_in_flight), (Duration::from_secs(10), 100_000));
    assert_eq!(inbound.http2_server.windows, (65_535, 1_048_576));
    assert_eq!(config.process.shutdown_grace, Duration::from_secs(120));
    assert!(config.outbound.informational_headers && !config.process.shutdown_endpoint);
    assert_eq!(*config.discovery.profile_suffixes, ["svc.cluster.local"]);
    assert_eq!(config.discovery.stream_limits, StreamLimits::default());
    assert_eq!((config.identity.min_refresh, config.identity.max_refresh), (Duration::from_secs(10), Duration::from_secs(86_400)));
    assert!(config.unused.is_empty(), "{:?}", config.unused);
}

#[test]
fn what_is_required_is_named() {
    for (name, _) in REQUIRED {
        let want = if name == "IDENTITY_LOCAL_NAME" { "IDENTITY_LOCAL_NAME" } else { name };
        assert_eq!(wrong(parse_without(name, &[])), [want]);
    }
    let none = Config::parse(Vars::default()).unwrap_err();
    assert!(none.0.len() >= 7, "all are told at once: {none}");
    assert!(none.to_string().starts_with("Invalid configuration: LINKERD2_PROXY_"), "{none}");
}

#[test]
fn every_wrong_value_is_named_with_its_value() {
    for (name, value) in [
        ("INBOUND_LISTEN_ADDR", "4143"),
        ("OUTBOUND_LISTEN_ADDRS", "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"),
        ("OUTBOUND_LISTEN_ADDRS", ""),
        ("INBOUND_CONNECT_TIMEOUT", "1.5s"),
        ("OUTBOUND_CONNECT_TIMEOUT", "10"),
        ("SHUTDOWN_ENDPOINT_ENABLED", "yes"),
        ("INBOUND_IPS", "10.0.0.0/8"),
        ("INBOUND_IPS", "10.0.0.1, 10.0.0.2"),
        ("INBOUND_PORTS", "9-8"),
        ("DESTINATION_PROFILE_NETWORKS", "10.0.0.1"),
        ("DESTINATION_PROFILE_SUFFIXES", "a b"),
        ("DESTINATION_SVC_ADDR", "linkerd-dst"),
        ("POLICY_SVC_NAME", "spiffe://root/x"),
        ("INBOUND_DEFAULT_POLICY", "everyone"),
        ("INBOUND_DEFAULT_POLICY", "cluster-authenticated"),
        ("INBOUND_DEFAULT_POLICY", "audit"),
        ("INBOUND_POLICY_INITIAL_TIMEOUT", "soon"),
        ("OUTBOUND_CONNECT_EXP_BACKOFF_MIN", "1s"),
        ("OUTBOUND_CONNECT_EXP_BACKOFF_JITTER", "101"),
        ("IDENTITY_DISABLED", "1"),
        ("IDENTITY_SPIRE_SOCKET", "unix:/x"),
        ("IDENTITY_LOCAL_NAME", "a b"),
        ("OUTBOUND_SERVER_HTTP2_MAX_FRAME_SIZE", "-1"),
    ] {
        let error = parse(&[(name, value)]).expect_err(name);
        assert_eq!(error.0.len(), 1, "{error}");
        assert_eq!(error.0[0].to_string().split("=").next().unwrap(), format!("{}{name}", vars::PREFIX));
        assert_eq!(error.0[0].value.as_deref(), Some(value));
    }
}

#[test]
fn text_that_is_not_utf8_is_an_error() {
    let mut all: Vec<(OsString, OsString)> =
        REQUIRED.iter().map(|(k, v)| (format!("{}{k}", vars::PREFIX).into(), (*v).into())).collect();
    all.push((format!("{}INBOUND_IPS", vars::PREFIX).into(), OsString::from_vec(vec![0xff])));
    assert_eq!(wrong(Config::parse(all.into_iter().collect())), ["INBOUND_IPS"]);
}

#[test]
fn addresses_of_the_control_plane() {
    let config = parse(&[]).unwrap();
    assert_eq!(config.identity.issuer.tls, None, "localhost. is spoken to in the clear");
    assert!(config.discovery.policy.tls.is_some());
    assert_eq!(config.discovery.policy.label(), "linkerd-policy.linkerd.svc.cluster.local:8090");
    for (addr, loopback) in
        [("127.0.0.2:1", true), ("[::1]:1", true), ("localhost.:1", true), ("localhost:1", false), ("10.0.0.1:1", false)]
    {
        let result = parse(&[("IDENTITY_SVC_ADDR", addr)]);
        assert_eq!(wrong(result).is_empty(), loopback, "{addr}: without a name only the machine itself is spoken to");
    }
}

#[test]
fn stream_limits_do_not_decrease_and_spare_the_machine_itself() {
    let limits = |initial, idle, life| {
        parse(&[
            ("CONTROL_STREAM_INITIAL_TIMEOUT", initial),
            ("CONTROL_STREAM_IDLE_TIMEOUT", idle),
            ("CONTROL_STREAM_LIFETIME", life),
        ])
    };
    let config = limits("3s", "5m", "1h").unwrap();
    assert_eq!(config.discovery.stream_limits.toward(&config.discovery.policy).idle, Some(Duration::from_secs(300)));
    assert_eq!(config.discovery.stream_limits.toward(&config.identity.issuer), StreamLimits::default());
    assert_eq!(limits("", "", "1h").unwrap().discovery.stream_limits.initial, None);
    assert!(limits("5m", "3s", "1h").is_err());
    assert!(limits("2h", "", "1h").is_err());
}

#[test]
fn back_off_is_given_as_a_pair() {
    let config = parse(&[("OUTBOUND_CONNECT_EXP_BACKOFF_MIN", "1s"), ("OUTBOUND_CONNECT_EXP_BACKOFF_MAX", "5s")]).unwrap();
    let backoff = config.outbound.direction.connect_backoff;
    assert_eq!(backoff.jitter, 0.0);
    let delays: Vec<_> = [0, 1, 2, 3, 60].map(|n| backoff.delay(n, 1.0).as_secs()).into();
    assert_eq!(delays, [1, 2, 4, 5, 5]);
    let jittery = Backoff { jitter: 0.5, ..backoff };
    assert_eq!(jittery.delay(0, 1.0), Duration::from_millis(1_500));
    let bad = |min, max| parse(&[("INBOUND_CONNECT_EXP_BACKOFF_MIN", min), ("INBOUND_CONNECT_EXP_BACKOFF_MAX", max)]).is_err();
    assert!(bad("2s", "1s") && bad("0", "0") && !bad("0", "1s"));
}

#[test]
fn policies_of_ports_without_an_answer() {
    let config = parse(&[
        ("INBOUND_DEFAULT_POLICY", "cluster-authenticated"),
        ("POLICY_CLUSTER_NETWORKS", "10.0.0.0/8, fd00::/8"),
        ("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", "25,3306"),
    ]);
    let policy = config.unwrap().inbound.policy;
    assert_eq!(policy.default, DefaultPolicy::Allow { authenticated: true, cluster: true });
    assert_eq!(policy.initial(25).protocol, Protocol::Opaque);
    assert!(matches!(policy.initial(80).protocol, Protocol::Detect { .. }));
    assert_eq!(policy.initial(80).authorizations[0].networks.len(), 2);
    assert_eq!(parse(&[]).unwrap().warnings[0].name, "LINKERD2_PROXY_INBOUND_DEFAULT_POLICY");
}

#[test]
fn cores_become_workers() {
    let workers = |changes: &[(&str, &str)], available| parse(changes).unwrap().process.cores.workers(available);
    assert_eq!(workers(&[], 8), 1);
    assert_eq!(workers(&[("CORES", "2")], 8), 2);
    assert_eq!(workers(&[("CORES", "2"), ("CORES_MIN", "3")], 8), 3);
    assert_eq!(workers(&[("CORES_MAX", "4")], 2), 2);
    assert_eq!(workers(&[("CORES_MAX_RATIO", "0.5")], 8), 4);
    assert_eq!(workers(&[("CORES_MAX_RATIO", "0.1")], 2), 1);
    let config = parse(&[("CORES", "many"), ("CORES_MAX_RATIO", "2"), ("ACCESS_LOG", "xml")]).unwrap();
    assert_eq!(config.process.cores.workers(8), 1);
    let warned: Vec<_> = config.warnings.iter().map(|w| &w.name[vars::PREFIX.len()..]).collect();
    assert_eq!(&warned[..3], ["ACCESS_LOG", "CORES", "CORES_MAX_RATIO"]);
}

#[test]
fn identity_has_one_name_or_two() {
    let named = |changes: &[(&str, &str)]| parse_without("IDENTITY_LOCAL_NAME", changes);
    let spiffe = named(&[("IDENTITY_SERVER_ID", "spiffe://root/web"), ("IDENTITY_SERVER_NAME", "web.shop")]).unwrap().identity;
    assert_eq!((spiffe.name.as_str(), spiffe.server_name.as_str()), ("spiffe://root/web", "web.shop"));
    assert!(named(&[("IDENTITY_SERVER_ID", "web.shop"), ("IDENTITY_SERVER_NAME", "web.shop")]).is_ok());
    assert_eq!(wrong(named(&[("IDENTITY_SERVER_ID", "web.a"), ("IDENTITY_SERVER_NAME", "web.b")])), ["IDENTITY_SERVER_ID"]);
    assert_eq!(wrong(named(&[("IDENTITY_SERVER_ID", "web.a")])), ["IDENTITY_LOCAL_NAME"]);
}

#[test]
fn anchors_from_a_file_win() {
    let config = parse_without("IDENTITY_TRUST_ANCHORS", &[("IDENTITY_TRUST_ANCHORS_FILE", "/anchors.pem")]).unwrap();
    assert_eq!(config.identity.trust_anchors, TrustAnchorsSource::File("/anchors.pem".into()));
}

#[test]
fn a_token_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let identity = parse(&[("IDENTITY_TOKEN_FILE", file.to_str().unwrap())]).unwrap().identity;
    assert!(identity.check_token().is_err());
    std::fs::write(&file, "").unwrap();
    assert!(identity.check_token().unwrap_err().reason.contains("empty"));
    std::fs::write(&file, "t").unwrap();
    assert!(identity.check_token().is_ok());
}

#[test]
fn what_nobody_reads_is_listed() {
    let config = parse(&[("INBOUND_CONECT_TIMEOUT", "1s"), ("TAP_SVC_NAME", "tap.linkerd-viz")]).unwrap();
    assert_eq!(config.unused, ["LINKERD2_PROXY_INBOUND_CONECT_TIMEOUT", "LINKERD2_PROXY_TAP_SVC_NAME"]);
}

#[test]
fn suffixes_and_listeners() {
    assert_eq!(vars::suffixes("Svc.Cluster.Local., ,example").unwrap(), ["svc.cluster.local", "example"]);
    assert_eq!(vars::suffixes(".").unwrap(), [""]);
    assert_eq!(listen_addrs("127.0.0.1:4140,[::1]:4140").unwrap().len(), 2);
    assert!(ips("").unwrap().is_empty());
}

/// Names of variables that are read, with a value that each takes.
const SOME: [(&str, &str); 12] = [
    ("INBOUND_LISTEN_ADDR", "[::]:4143"),
    ("OUTBOUND_LISTEN_ADDRS", "127.0.0.1:4140,[::1]:4140"),
    ("OUTBOUND_CONNECT_TIMEOUT", "1s"),
    ("SHUTDOWN_ENDPOINT_ENABLED", "true"),
    ("INBOUND_IPS", "10.0.0.1,fd00::1"),
    ("INBOUND_PORTS", "1,2-3"),
    ("DESTINATION_PROFILE_NETWORKS", "10.0.0.0/8"),
    ("DESTINATION_PROFILE_SUFFIXES", "svc.cluster.local."),
    ("DESTINATION_SVC_ADDR", "localhost.:1"),
    ("INBOUND_DEFAULT_POLICY", "deny"),
    ("OUTBOUND_CONNECT_EXP_BACKOFF_JITTER", "0.5"),
    ("IDENTITY_LOCAL_NAME", "a.b"),
];

proptest::proptest! {
    #[test]
    fn hostile_values_are_named_and_change_nothing_else(
        at in 0..SOME.len(), flip in 0usize..20, to in proptest::prelude::any::<char>(), garbage in ".{0,40}", mutate in proptest::prelude::any::<bool>(),
    ) {
        let (name, good) = SOME[at];
        let mut value: Vec<char> = if mutate { good.chars().collect() } else { garbage.chars().collect() };
        if let Some(c) = value.get_mut(flip) {
            *c = to;
        }
        let value: String = value.into_iter().collect();
        let told = wrong(parse(&[(name, &value)]));
        proptest::prop_assert_eq!(&told, &wrong(parse(&[(name, &value)])), "stable");
        // A variable may be what makes another one wrong (a name that is only needed elsewhere), but only that one.
        let related = |other: &str| other == name || (name.ends_with("_ADDR") && other == name.replace("_ADDR", "_NAME"));
        proptest::prop_assert!(told.iter().all(|other| related(other)), "{}={:?}: {:?}", name, value, told);
    }

    #[test]
    fn single_values_are_parsed_or_refused(text in proptest::prop_oneof![".{0,60}", "[0-9a-f:.,/ smhd-]{0,40}", "(([0-9]{1,5}-?){1,2},){0,200}"]) {
        proptest::prop_assert!(listen_addrs(&text).is_ok_and(|a| (1..=2).contains(&a.len())) || listen_addrs(&text).is_err());
        proptest::prop_assert!(vars::jitter(&text).is_ok_and(|j| (0.0..=100.0).contains(&j)) || vars::jitter(&text).is_err());
        if let Ok(found) = ips(&text) {
            let written = found.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            proptest::prop_assert_eq!(ips(&written).unwrap(), found);
        }
        if let Ok(found) = vars::suffixes(&text) {
            proptest::prop_assert!(found.iter().all(|s| !s.ends_with('.') && s.to_ascii_lowercase() == *s));
        }
        if let Ok(Some(found)) = time_or_none(&text) {
            proptest::prop_assert_eq!(time(&text).unwrap(), found);
            if found < Duration::from_secs(1 << 40) {
                proptest::prop_assert_eq!(time(&format!("{}ms", found.as_millis())).unwrap(), found);
            }
        }
        proptest::prop_assert_eq!(boolean(&text).is_ok(), text == "true" || text == "false");
        let _ = vars::dns_identity(&text);
    }
}
