#![allow(clippy::unwrap_used)]
//! Scenarios of a cluster: pods, what their proxies counted, and the table that comes of it.

use std::collections::HashMap;
use std::time::Duration;

use clap::Parser;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::query::Query;
use super::{rows, table};
use crate::command_line::{Cli, Command};
use crate::metrics::Page;
use crate::workloads::Workloads;

/// A cluster with a namespace `emojivoto` and another.
#[derive(Default)]
struct Scenario {
    pods: Vec<Pod>,
    sets: Vec<ReplicaSet>,
    services: Vec<(String, String)>,
    pages: HashMap<(String, String), Page>,
}

impl Scenario {
    /// A deployment's pod; with a proxy if there is a page.
    fn pod(mut self, namespace: &str, deployment: &str, page: Option<&str>) -> Self {
        let set = format!("{deployment}-7d9");
        let name = format!("{set}-abc{}", self.pods.len());
        let owner = |kind: &str, name: &str| json!([{ "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": true }]);
        let set_object =
            json!({ "metadata": { "namespace": namespace, "name": set, "ownerReferences": owner("Deployment", deployment) } });
        self.sets.push(serde_json::from_value(set_object).unwrap());
        let mut pod = json!({
            "metadata": { "namespace": namespace, "name": name, "labels": {}, "ownerReferences": owner("ReplicaSet", &set) },
            "spec": { "containers": [{ "name": deployment }] },
            "status": { "phase": "Running" },
        });
        if let Some(page) = page {
            pod["metadata"]["labels"]["linkerd.io/control-plane-ns"] = "linkerd".into();
            pod["spec"]["initContainers"] =
                json!([{ "name": "linkerd-proxy", "ports": [{ "name": "linkerd-admin", "containerPort": 4191 }] }]);
            self.pages.insert((namespace.into(), name), Page::read(page, 4191));
        }
        self.pods.push(serde_json::from_value(pod).unwrap());
        self
    }

    fn service(mut self, namespace: &str, name: &str) -> Self {
        self.services.push((namespace.into(), name.into()));
        self
    }

    /// The output of a command line, ten seconds after nothing was counted.
    fn answer(&self, line: &str) -> Result<String, String> {
        let cli = Cli::try_parse_from(format!("homarus stat {line}").split_whitespace()).unwrap();
        let Some(Command::Stat(args)) = cli.command else { unreachable!("stat") };
        let (query, format) = Query::read(&args, "emojivoto").map_err(|failure| failure.to_string())?;
        let here = |pods: &[Pod], namespace: Option<&str>| {
            let pods = pods.iter().filter(|pod| namespace.is_none_or(|ns| pod.metadata.namespace.as_deref() == Some(ns)));
            Workloads::of(pods.cloned().collect(), &self.sets, &[])
        };
        let of_rows = here(&self.pods, query.namespace.as_deref());
        let clients = query.clients_namespace().map_or_else(|| of_rows.clone(), |namespace| here(&self.pods, namespace));
        let empty = Page::default();
        let delta = |namespace: &str, name: &str| Some(self.pages.get(&(namespace.into(), name.into()))?.since(&empty));
        let rows = rows::rows(&query, &of_rows, &clients, &self.services, Duration::from_secs(10), delta);
        table::render(&rows, &query, format).map_err(|failure| failure.to_string())
    }

    fn check(&self, line: &str, wanted: &[&str]) {
        let answer = self.answer(line).unwrap();
        assert_eq!(answer.lines().collect::<Vec<_>>(), wanted, "{line}");
    }
}

const WEB: &str = r#"
response_total{direction="inbound",status_code="200",classification="success"} 15
response_total{direction="inbound",status_code="500",classification="failure"} 5
response_latency_ms_bucket{direction="inbound",le="1"} 0
response_latency_ms_bucket{direction="inbound",le="2"} 20
response_latency_ms_bucket{direction="inbound",le="+Inf"} 20
tcp_open_connections{direction="inbound",peer="src"} 3
tcp_read_bytes_total{direction="inbound",peer="src"} 1000
tcp_write_bytes_total{direction="inbound",peer="src"} 20
response_total{direction="outbound",dst_deployment="voting",dst_namespace="emojivoto",dst_service="voting-svc",classification="success"} 8
response_total{direction="outbound",dst_deployment="voting",dst_namespace="other",dst_service="voting-svc",classification="failure"} 7
response_total{direction="outbound",dst_deployment="emoji",dst_namespace="emojivoto",dst_service="emoji-svc",classification="success"} 4
"#;

fn emojivoto() -> Scenario {
    Scenario::default()
        .pod("emojivoto", "web", Some(WEB))
        .pod("emojivoto", "web", Some(WEB))
        .pod("emojivoto", "voting", Some(""))
        .pod("emojivoto", "plain", None)
        .pod("other", "voting", Some(""))
        .service("emojivoto", "voting-svc")
        .service("emojivoto", "emoji-svc")
}

#[test]
fn deployments_at_their_own_proxies() {
    emojivoto().check(
        "deploy",
        &[
            "NAME     MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN",
            "voting      1/1         -        -             -             -             -          -",
            "web         2/2    75.00%   4.0rps           2ms           2ms           2ms          6",
        ],
    );
}

#[test]
fn unmeshed_ones_are_shown_when_asked_for() {
    emojivoto().check(
        "deploy/plain --unmeshed",
        &[
            "NAME    MESHED   SUCCESS   RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN",
            "plain      0/1         -     -             -             -             -          -",
        ],
    );
    emojivoto().check("deploy/plain", &[]);
}

#[test]
fn pods_have_a_status_and_namespaces_add_up() {
    let answer = emojivoto().answer("po -o wide").unwrap();
    let first: Vec<_> = answer.lines().map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(first[0], "NAME STATUS MESHED");
    assert_eq!(first[1], "voting-7d9-abc2 Running 1/1");
    assert!(answer.contains("100.0B/s"), "{answer}");
    emojivoto().check(
        "ns",
        &[
            "NAME        MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN",
            "emojivoto      3/4    75.00%   4.0rps           2ms           2ms           2ms          6",
            "other          1/1         -        -             -             -             -          -",
        ],
    );
}

#[test]
fn services_at_the_proxies_of_their_clients() {
    emojivoto().check(
        "svc",
        &[
            "NAME         MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN",
            "emoji-svc         -   100.00%   0.8rps             -             -             -          0",
            "voting-svc        -   100.00%   1.6rps             -             -             -          0",
        ],
    );
}

#[test]
fn one_direction_only() {
    let to = emojivoto().answer("deploy/web --to deploy/voting").unwrap();
    assert!(to.lines().nth(1).unwrap().starts_with("web       2/2   100.00%   1.6rps"), "{to}");
    let elsewhere = emojivoto().answer("deploy/web --to deploy/voting --to-namespace other").unwrap();
    assert!(elsewhere.contains("  0.00%   1.4rps"), "{elsewhere}");
    let from = emojivoto().answer("deploy --from deploy/web").unwrap();
    let voting = from.lines().find(|line| line.starts_with("voting")).unwrap();
    assert!(voting.contains("100.00%   1.6rps"), "{from}");
    assert!(from.contains("plain"), "clients may call what isn't meshed: {from}");
}

#[test]
fn several_kinds_and_all_namespaces() {
    let answer = emojivoto().answer("deploy/web po/voting-7d9-abc2").unwrap();
    assert!(answer.contains("\ndeploy/web "), "{answer}");
    assert!(answer.contains("\n\nNAME                  STATUS"), "{answer}");
    assert!(answer.contains("\npo/voting-7d9-abc2"), "{answer}");
    let all = emojivoto().answer("deploy -A").unwrap();
    let cells = |line: usize| all.lines().nth(line).unwrap().split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    assert_eq!((cells(0).as_str(), cells(3).as_str()), ("NAMESPACE NAME MESHED", "other voting 1/1"), "{all}");
}

#[test]
fn programs_get_numbers_and_nulls() {
    let answer = emojivoto().answer("deploy -o json").unwrap();
    let rows: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(rows[1]["name"], "web");
    assert_eq!((&rows[1]["success"], &rows[1]["rps"]), (&json!(0.75), &json!(4.0)));
    assert_eq!((&rows[1]["latency_ms_p99"], &rows[1]["tcp_open_connections"]), (&json!(2.0), &json!(6.0)));
    assert_eq!((&rows[0]["success"], &rows[0]["latency_ms_p50"]), (&json!(null), &json!(null)));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let check = |line: &str, wanted: &str| {
        let refused = emojivoto().answer(line).unwrap_err();
        assert!(refused.starts_with(wanted), "{line}: {refused}");
    };
    check("deploy --to a --from b", "--to and --from flags are mutually exclusive");
    check("deploy -A -n x", "--all-namespaces and --namespace flags are mutually exclusive");
    check("deploy/web -A", "stats for a resource cannot be retrieved by name across all namespaces");
    check("ns -n x", "--namespace flag is incompatible with namespace resource type");
    check("deploy -t 10ms", "metrics time window needs to be at least 1s");
    check("deploy -o xml", "invalid output type 'xml'");
    check("svc --to deploy/x", "a Service sends nothing");
}
