#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use super::dns::{self, Step};
use super::rules::{Frontend, Ruleset, Transport};
use super::zone::Zone;

fn service(name: &str, ip: &str) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
    }))
    .unwrap()
}

fn slice(service: &str, endpoints: serde_json::Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"name": "x", "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }))
    .unwrap()
}

fn frontend() -> Frontend {
    Frontend { address: Ipv4Addr::new(10, 43, 0, 9), transport: Transport::Tcp, port: 80 }
}

#[test]
fn a_service_leads_to_its_ready_endpoints() {
    let slice = slice(
        "web",
        json!([
            {"addresses": ["10.42.0.11"], "conditions": {"ready": true}},
            {"addresses": ["10.42.0.12"], "conditions": {"ready": false}},
        ]),
    );
    let rules = Ruleset::of([&service("web", "10.43.0.9")], [&slice]);
    let expected = vec![(Ipv4Addr::new(10, 42, 0, 11), 8080)];
    assert_eq!(rules.services.get(&frontend()), Some(&expected));
}

#[test]
fn endpoints_that_end_serve_when_no_other_does() {
    let slice = slice(
        "web",
        json!([{"addresses": ["10.42.0.11"],
                "conditions": {"ready": false, "serving": true, "terminating": true}}]),
    );
    let rules = Ruleset::of([&service("web", "10.43.0.9")], [&slice]);
    assert_eq!(rules.services[&frontend()].len(), 1);
}

#[test]
fn without_endpoints_or_address_there_is_no_rule() {
    let other = slice("other", json!([{"addresses": ["10.42.0.11"]}]));
    assert_eq!(Ruleset::of([&service("web", "10.43.0.9")], [&other]), Ruleset::default());
    let own = slice("web", json!([{"addresses": ["10.42.0.11"]}]));
    assert_eq!(Ruleset::of([&service("web", "None")], [&own]), Ruleset::default());
}

fn zone() -> Zone {
    let endpoints = json!([
        {"addresses": ["10.42.0.21"], "hostname": "db-0", "conditions": {"ready": true}},
        {"addresses": ["10.42.0.22"], "conditions": {"ready": true}},
        {"addresses": ["10.42.0.23"], "conditions": {"ready": false}},
    ]);
    let alias: Service = serde_json::from_value(json!({
        "metadata": {"name": "out", "namespace": "shop"},
        "spec": {"type": "ExternalName", "externalName": "web.shop.svc.cluster.local"}
    }))
    .unwrap();
    let services = [service("web", "10.43.0.9"), service("db", "None"), alias];
    Zone::of("cluster.local", &services, [&slice("db", endpoints)])
}

fn ask(name: &str, kind: RecordType) -> Result<Message, Step> {
    let mut question = Message::query();
    question.metadata.op_code = OpCode::Query;
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    match dns::answer(&zone(), &question.to_vec().unwrap(), true) {
        Step::Reply(bytes) => Ok(Message::from_vec(&bytes).unwrap()),
        other => Err(other),
    }
}

fn addresses(name: &str) -> Vec<String> {
    let reply = ask(name, RecordType::A).unwrap();
    reply
        .answers
        .iter()
        .filter_map(|r| match &r.data {
            RData::A(a) => Some(a.0.to_string()),
            _ => None,
        })
        .collect()
}

#[test]
fn names_of_the_cluster_are_answered() {
    assert_eq!(addresses("web.shop.svc.cluster.local."), ["10.43.0.9"]);
    assert_eq!(addresses("WEB.shop.svc.Cluster.local."), ["10.43.0.9"]);
    assert_eq!(addresses("db.shop.svc.cluster.local."), ["10.42.0.21", "10.42.0.22"]);
    assert_eq!(addresses("db-0.db.shop.svc.cluster.local."), ["10.42.0.21"]);
    assert_eq!(addresses("10-42-0-22.db.shop.svc.cluster.local."), ["10.42.0.22"]);
    assert_eq!(addresses("10-42-0-99.shop.pod.cluster.local."), ["10.42.0.99"]);
    assert_eq!(addresses("out.shop.svc.cluster.local."), ["10.43.0.9"]);
}

#[test]
fn what_is_not_there_is_said_not_to_be() {
    let reply = ask("nobody.shop.svc.cluster.local.", RecordType::A).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    let reply = ask("10-42-0-23.db.shop.svc.cluster.local.", RecordType::A).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    let reply = ask("web.shop.svc.cluster.local.", RecordType::AAAA).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.answers.is_empty());
    let reply = ask("shop.svc.cluster.local.", RecordType::A).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert_eq!(ask("example.org.", RecordType::A), Err(Step::PassOn));
    assert_eq!(ask("notcluster.local.", RecordType::A), Err(Step::PassOn));
}

#[test]
fn ports_with_names_have_service_records() {
    let reply = ask("_http._tcp.db.shop.svc.cluster.local.", RecordType::SRV).unwrap();
    assert_eq!(reply.answers.len(), 2);
    assert_eq!(reply.additionals.len(), 2);
    let reply = ask("_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV).unwrap();
    let RData::SRV(record) = &reply.answers[0].data else { unreachable!("asked for SRV") };
    assert_eq!(record.port, 80);
    assert_eq!(record.target.to_ascii(), "web.shop.svc.cluster.local.");
}

#[test]
fn addresses_have_names() {
    let reply = ask("9.0.43.10.in-addr.arpa.", RecordType::PTR).unwrap();
    assert!(matches!(&reply.answers[0].data, RData::PTR(name) if name.0.to_ascii() == "web.shop.svc.cluster.local."));
    assert_eq!(ask("1.1.1.1.in-addr.arpa.", RecordType::PTR), Err(Step::PassOn));
}

#[test]
fn an_answer_that_does_not_fit_is_cut_and_says_so() {
    let endpoints: Vec<_> = (0..200).map(|n| json!({"addresses": [format!("10.42.1.{n}")]})).collect();
    let slice = slice("db", endpoints.into());
    let zone = Zone::of("cluster.local", &[service("db", "None")], [&slice]);
    let mut question = Message::query();
    let name = Name::from_ascii("db.shop.svc.cluster.local.").unwrap();
    question.add_query(Query::query(name, RecordType::A));
    let bytes = question.to_vec().unwrap();
    let Step::Reply(short) = dns::answer(&zone, &bytes, true) else { unreachable!("the zone has it") };
    assert!(short.len() <= 512);
    assert!(Message::from_vec(&short).unwrap().metadata.truncation);
    let Step::Reply(long) = dns::answer(&zone, &bytes, false) else { unreachable!("the zone has it") };
    let long = Message::from_vec(&long).unwrap();
    assert_eq!(long.answers.len(), 200);
    assert!(!long.metadata.truncation);
}

#[test]
fn garbage_gets_no_answer() {
    assert_eq!(dns::answer(&zone(), b"", true), Step::Silence);
    assert_eq!(dns::answer(&zone(), &[0xff; 40], true), Step::Silence);
}

#[test]
fn resolvers_are_read_leniently() {
    let text = "# c\nsearch a.example b.example\nnameserver 192.0.2.1\nnameserver nonsense\nnameserver ::1\n";
    let (servers, search) = dns::resolvers(text);
    assert_eq!(servers.len(), 2);
    assert_eq!(search, ["a.example", "b.example"]);
}
