//! Objects that no schema has checked: whatever is in them, reading them ends, and what they grant is never more than what
//! they grant as they were meant.
#![allow(clippy::unwrap_used)]

use super::{
    tests::{POD, ROUTE},
    *,
};
use homarus_model::facts::{OwnerKind, RouteGroup, RouteKind};
use homarus_model::inbound::DefaultPolicy;
use proptest::prelude::*;
use serde_json::json;

const SERVICE: &str =
    "{ metadata: {}, spec: { clusterIPs: [10.2.0.1], ports: [{ port: 80, name: http, targetPort: web }], selector: { a: b } } }";
const SLICE: &str = "{ metadata: { labels: { kubernetes.io/service-name: web } }, ports: [{ name: '', port: 1 }], endpoints: \
    [{ addresses: [10.1.0.1], conditions: { ready: true }, zone: a, hints: { forZones: [{ name: a }] }, targetRef: { kind: Pod, name: p } }] }";
const SERVER: &str = "{ metadata: {}, spec: { podSelector: { matchLabels: { a: b }, matchExpressions: [{ key: a, operator: In, values: [b] }] }, \
    port: http, proxyProtocol: gRPC, accessPolicy: deny } }";
const GRANT: &str = "{ metadata: {}, spec: { server: { name: web }, client: { networks: [{ cidr: 10.0.0.0/8, except: [10.1.0.1] }], \
    meshTLS: { identities: ['*.example.org', a.b], serviceAccounts: [{ name: x }] } } } }";
const POLICY: &str = "{ metadata: {}, spec: { targetRef: { group: policy.linkerd.io, kind: Server, name: web }, \
    requiredAuthenticationRefs: [{ group: policy.linkerd.io, kind: MeshTLSAuthentication, name: a, namespace: b }] } }";
const MESH_TLS: &str = "{ metadata: {}, spec: { identities: [a.b], identityRefs: [{ kind: ServiceAccount, name: x }] } }";
const NETWORKS: &str = "{ metadata: {}, spec: { networks: [{ cidr: 10.0.0.0/8, except: [10.1.0.1] }] } }";
const EXTERNAL: &str = "{ metadata: {}, spec: { meshTLS: { identity: a.b, serverName: vm }, workloadIPs: [{ ip: 192.0.2.1 }], \
    ports: [{ port: 1 }] }, status: { conditions: [{ type: Ready, status: 'True' }] } }";

/// A good object of each kind.
fn good() -> Vec<(Kind, &'static str)> {
    vec![
        (Kind::Pod, POD),
        (Kind::Service, SERVICE),
        (Kind::EndpointSlice, SLICE),
        (Kind::Server, SERVER),
        (Kind::ServerAuthorization, GRANT),
        (Kind::AuthorizationPolicy, POLICY),
        (Kind::MeshTlsAuthentication, MESH_TLS),
        (Kind::NetworkAuthentication, NETWORKS),
        (Kind::ExternalWorkload, EXTERNAL),
        (Kind::Route(RouteKind::Http(RouteGroup::Gateway)), ROUTE),
        (Kind::Route(RouteKind::Grpc), ROUTE),
        (Kind::Node, "{ metadata: { labels: { topology.kubernetes.io/zone: a } } }"),
        (Kind::Owner(OwnerKind::Job), "{ metadata: { ownerReferences: [{ kind: CronJob, name: c }] } }"),
    ]
}

/// Every place in an object, as a JSON pointer.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                places(value, &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| places(item, &format!("{at}/{i}"), found)),
        _ => {}
    }
}

/// Anything that JSON can say.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0..70_000).prop_map(Value::from),
        "\\PC{0,12}|[0-9./:*-]{0,12}".prop_map(Value::from),
        (1..5_000usize).prop_map(|length| "a".repeat(length).into()),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-zA-Z]{1,8}", inner, 0..4).prop_map(|fields| json!(fields)),
        ]
    })
}

/// Reads an object with a part of it replaced, or a field taken away.
fn read_with(kind: Kind, yaml: &str, at: prop::sample::Index, by: Option<Value>) -> Option<Result<Readable, Defect>> {
    let mut object: Value = serde_yaml_ng::from_str(yaml).unwrap();
    let mut all = Vec::new();
    places(&object, "", &mut all);
    let place = at.get(&all);
    match (by, place.rsplit_once('/')) {
        (Some(by), _) => *object.pointer_mut(place).unwrap() = by,
        (None, Some((parent, field))) => {
            if let Some(fields) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
                fields.remove(&field.replace("~1", "/").replace("~0", "~"));
            }
        }
        (None, None) => return None,
    }
    // Metadata that can't be read is the API server's fault, and found out earlier.
    let meta: Meta = serde_json::from_value(object.get_mut("metadata").map(Value::take).unwrap_or_default()).ok()?;
    Some(read(kind, Object { meta: &meta, body: &object }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn objects_are_read_or_blamed(which: prop::sample::Index, at: prop::sample::Index, by in proptest::option::of(anything())) {
        let (kind, yaml) = *which.get(&good());
        if let Some(Err(defect)) = read_with(kind, yaml, at, by) {
            prop_assert!(!defect.problem.is_empty() && !defect.remedy.is_empty(), "{:?}", defect);
        }
    }

    #[test]
    fn objects_of_anything(which: prop::sample::Index, body in anything()) {
        let (kind, _) = *which.get(&good());
        let _ = read(kind, Object { meta: &Meta::default(), body: &body });
    }

    /// A Server without its `accessPolicy`, or with one that nobody knows, denies: it never takes the port's default.
    #[test]
    fn a_server_that_can_not_be_read_denies(by in proptest::option::of(anything())) {
        let mut object: Value = serde_yaml_ng::from_str(SERVER).unwrap();
        let known = by.as_ref().and_then(Value::as_str).is_some_and(|text| text.parse::<DefaultPolicy>().is_ok());
        match by {
            Some(by) => object["spec"]["accessPolicy"] = by,
            None => drop(object["spec"].as_object_mut().unwrap().remove("accessPolicy")),
        }
        if let Ok(Readable { fact: Fact::Server(server), .. }) = read(Kind::Server, Object { meta: &Meta::default(), body: &object }) {
            prop_assert!(known || server.access == DefaultPolicy::Deny);
        }
    }
}
