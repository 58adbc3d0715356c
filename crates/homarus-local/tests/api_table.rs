//! One table of requests, and what Kubernetes 1.34 answers to them.
//!
//! The embedded API answers it always, and is compared with the answers recorded in `api_table/answers.json`. With
//! `KUBECONFIG_ORACLE=path` the same requests go to that real cluster in the same run, both are compared, and with
//! `RECORD=1` its answers are recorded anew.
#![allow(clippy::unwrap_used)]

#[path = "api_table/normal.rs"]
mod normal;
#[path = "api_table/play.rs"]
mod play;
#[path = "api_table/requests.rs"]
mod requests;
#[path = "api_table/webhook.rs"]
mod webhook;
#[path = "api_table/workloads.rs"]
mod workloads;

use std::collections::BTreeMap;

use homarus_local::api::{Api, Config};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use play::Player;

const ANSWERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api_table/answers.json");

/// Requests whose answer depends on what a cluster has forgotten.
const NEEDS_AGE: &[&str] = &["a watch that has expired"];

async fn config(kubeconfig: Kubeconfig) -> kube::Config {
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
}

async fn embedded() -> (Api, BTreeMap<String, Value>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = Api::open(Config::ephemeral(vec![listener.local_addr().unwrap()])).unwrap();
    tokio::spawn(api.clone().serve(listener));
    let config = config(serde_json::from_str(&api.kubeconfig()).unwrap()).await;
    let answers = Player::new(config).await.play(&requests::table()).await;
    (api, answers)
}

fn compare(expected: &BTreeMap<String, Value>, found: &BTreeMap<String, Value>) {
    let mut differing = 0;
    for request in requests::table() {
        let (wanted, has) = (&expected[request.name], &found[request.name]);
        if wanted != has {
            differing += 1;
            println!("--- {}\n{}", request.name, normal::difference(wanted, has));
        }
    }
    assert_eq!(differing, 0, "of {} requests so many are answered otherwise", found.len());
    assert_eq!(expected.len(), found.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_api_answers_as_kubernetes_does() {
    let (_api, ours) = embedded().await;
    assert!(ours.len() >= 60, "{} requests are too few", ours.len());
    let Ok(oracle) = std::env::var("KUBECONFIG_ORACLE") else {
        let recorded = serde_json::from_str(&std::fs::read_to_string(ANSWERS).unwrap()).unwrap();
        return compare(&recorded, &ours);
    };
    let config = config(Kubeconfig::read_from(oracle).unwrap()).await;
    let mut real = Player::new(config).await.play(&requests::table()).await;
    if std::env::var("RECORD").is_ok() {
        std::fs::write(ANSWERS, serde_json::to_string_pretty(&real).unwrap() + "\n").unwrap();
    }
    // A cluster that is minutes old has forgotten nothing: there the answer of an older one stands.
    let recorded: BTreeMap<String, Value> = serde_json::from_str(&std::fs::read_to_string(ANSWERS).unwrap()).unwrap();
    for name in NEEDS_AGE {
        real.insert((*name).into(), recorded[*name].clone());
    }
    compare(&real, &ours);
}
