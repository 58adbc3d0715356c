//! What is let in and what isn't, by the numbers of the reference's own suite (extensions §9.6).
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::webhook::review::Review;

fn asked(group: &str, kind: &str, object: Value) -> Judgement {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u", "namespace": "shop", "operation": "CREATE",
            "kind": { "group": group, "version": "v1", "kind": kind }, "object": object,
        },
    });
    judge(&Review::parse(review.to_string().as_bytes()).unwrap().request)
}

fn of(group: &str, kind: &str, spec: Value) -> Judgement {
    asked(group, kind, json!({ "metadata": { "name": "a", "namespace": "shop" }, "spec": spec }))
}

/// Specs of one kind: let in without a word, and refused with a word that says where.
fn check(group: &str, kind: &str, good: &[Value], bad: &[(Value, &str)]) {
    for spec in good {
        assert_eq!(of(group, kind, spec.clone()), Ok(Vec::new()), "{kind} {spec}");
    }
    for (spec, says) in bad {
        let reason = of(group, kind, spec.clone()).expect_err(&format!("{kind} {spec}"));
        assert!(reason.contains(says), "{kind} {spec}: {reason}");
        assert!(reason.contains("; "), "{kind} {spec}: no remedy in {reason}");
    }
    let empty = asked(group, kind, json!({ "metadata": { "name": "a" } }));
    assert_eq!(empty.is_ok(), group == GATEWAY, "{kind} without spec: {empty:?}");
}

fn reference(group: &str, kind: &str, name: &str) -> Value {
    json!({ "group": group, "kind": kind, "name": name })
}

#[test]
fn authorization_policies() {
    let (mtls, network) = (reference(POLICY, "MeshTLSAuthentication", "a"), reference(POLICY, "NetworkAuthentication", "b"));
    let account = reference("", "ServiceAccount", "c");
    let server = reference(POLICY, "Server", "s");
    let policy = |target: &Value, needs: &[&Value]| json!({ "targetRef": target, "requiredAuthenticationRefs": needs });
    check(
        POLICY,
        "AuthorizationPolicy",
        &[
            policy(&server, &[&mtls, &network]),                     // 83
            policy(&reference("", "Namespace", "shop"), &[&mtls]),   // 84
            policy(&reference(POLICY, "HTTPRoute", "r"), &[&mtls]),  // 86
            policy(&reference(GATEWAY, "GRPCRoute", "r"), &[&mtls]), // 86
            policy(&server, &[&mtls]),                               // 87
            policy(&server, &[&network]),                            // 88
            policy(&server, &[]),                                    // 89
            policy(&server, &[&account, &network]),
        ],
        &[
            (policy(&reference("", "Namespace", "other"), &[&mtls]), "another namespace"), // 85
            (json!({ "targetRef": server }), "requiredAuthenticationRefs"),                // 90
            (policy(&reference("apps", "Deployment", "d"), &[&mtls]), "spec.targetRef"),   // 91
            (policy(&server, &[&mtls, &mtls]), "more than one"),                           // 92
            (policy(&server, &[&network, &network]), "more than one"),                     // 93
            (policy(&server, &[&mtls, &account]), "more than one"),
            (policy(&server, &[&reference("", "Pod", "p")]), "unknown kind"),
        ],
    );
}

#[test]
fn authentications() {
    let refs = |refs: Value| json!({ "identityRefs": refs });
    check(
        POLICY,
        "MeshTLSAuthentication",
        &[
            refs(json!([reference("", "ServiceAccount", "a")])),                       // 118
            refs(json!([reference("", "Namespace", "a")])),                            // 119
            json!({ "identities": ["*", "*.shop", "a.b", "spiffe://example.org/a"] }), // 121
        ],
        &[
            (refs(json!([{ "kind": "Namespace", "name": "a", "namespace": "b" }])), "in no namespace"), // 120
            (json!({}), "names no identity"),                                                           // 122
            (json!({ "identities": [] }), "names no identity"),                                         // 122
            (json!({ "identities": ["a"], "identityRefs": [reference("", "Namespace", "a")] }), "both"), // 123
            (json!({ "identities": ["A"] }), "spec.identities[0]"),
            (refs(json!([reference("", "Pod", "a")])), "unknown kind"),
        ],
    );
    let networks = |networks: Value| json!({ "networks": networks });
    check(
        POLICY,
        "NetworkAuthentication",
        &[
            networks(json!([{ "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] }])), // 124
            networks(json!([{ "cidr": "10.0.0.0/24", "except": ["10.0.0.1"] }])),   // 125
            networks(json!([{ "cidr": "fd00::/8" }, { "cidr": "10.0.0.1" }])),
        ],
        &[
            (networks(json!([{ "cidr": "10.0.0.0/24", "except": ["10.0.0.0/24"] }])), "completely negated"), // 126
            (networks(json!([{ "cidr": "10.0.0.0/24", "except": ["10.0.0.0/8"] }])), "completely negated"),
            (networks(json!([{ "cidr": "10.0.0.0/24", "except": ["10.0.1.0/24"] }])), "is not in"), // 127
            (networks(json!([{ "cidr": "10.0.0.0/24", "except": ["fd00::1"] }])), "is not in"),
            (networks(json!([{ "cidr": "10.0.0.0/33" }])), "is no network"), // 128
            (networks(json!([])), "names no network"),                       // 129
        ],
    );
}

#[test]
fn servers_and_their_authorizations() {
    let server = |more: Value| {
        let mut spec = json!({ "podSelector": { "matchLabels": { "app": "a" } }, "port": 80 });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    check(
        POLICY,
        "Server",
        &[
            server(json!({})),                                                                   // 130
            server(json!({ "port": "http", "proxyProtocol": "gRPC", "accessPolicy": "audit" })), // 131
        ],
        &[
            (server(json!({ "proxyProtocol": "garbanzo" })), "spec.proxyProtocol"), // 132
            (server(json!({ "proxyProtocol": "http/1" })), "spec.proxyProtocol"),
            (server(json!({ "accessPolicy": "foobar" })), "spec.accessPolicy"), // 133
            (server(json!({ "port": 0 })), "spec.port"),
            (server(json!({ "externalWorkloadSelector": {} })), "exactly one"),
        ],
    );
    let grant = |client: Value| json!({ "server": { "name": "a" }, "client": client });
    let tls = json!({ "identities": ["a.b"] });
    let networks = |cidr: &str, except: &str| json!({ "meshTLS": tls, "networks": [{ "cidr": cidr, "except": [except] }] });
    check(
        POLICY,
        "ServerAuthorization",
        &[
            grant(json!({ "meshTLS": { "serviceAccounts": [{ "name": "a" }] }, "networks": [{ "cidr": "10.0.0.0/8" }] })), // 134
            grant(json!({ "unauthenticated": true })),
            grant(json!({ "meshTLS": { "unauthenticatedTLS": true } })),
            grant(networks("10.0.0.0/24", "10.0.0.1")), // 138
        ],
        &[
            (grant(networks("10.0.0.0/24", "10.0.0.0/24")), "completely negated"), // 135
            (grant(json!({ "meshTLS": tls, "unauthenticated": true })), "give one of both"), // 136
            (grant(json!({ "meshTLS": { "identities": ["a"], "unauthenticatedTLS": true } })), "unauthenticatedTLS"), // 137
            (grant(networks("10.0.0.0/24", "10.0.1.0/24")), "is not in"),          // 139
            (grant(networks("10.0.0.0/33", "10.0.0.1")), "is no network"),         // 140
        ],
    );
    for nobody in [json!({}), json!({ "meshTLS": {} })] {
        assert_eq!(of(POLICY, "ServerAuthorization", grant(nobody)).map(|warnings| warnings.len()), Ok(1));
    }
}

#[test]
fn networks_outside_and_limits() {
    check(
        POLICY,
        "EgressNetwork",
        &[
            json!({ "trafficPolicy": "Allow" }), // 94
            json!({ "trafficPolicy": "Deny", "networks": [{ "cidr": "10.0.0.0/8", "except": ["10.0.0.1"] }] }),
        ],
        &[
            (json!({ "trafficPolicy": "Allow", "networks": [] }), "spec.networks"), // 95
            (json!({ "trafficPolicy": "Maybe" }), "spec.trafficPolicy"),
            (json!({ "trafficPolicy": "Deny", "networks": [{ "cidr": "10.0.0.0/8", "except": ["0.0.0.0/0"] }] }), "negated"),
        ],
    );
    let limit = |more: Value| {
        let mut spec = json!({ "targetRef": reference(POLICY, "Server", "s"), "total": { "requestsPerSecond": 10 } });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let over = |rps: u32, client: Value| json!({ "overrides": [{ "requestsPerSecond": rps, "clientRefs": [client] }] });
    let account = reference("", "ServiceAccount", "a");
    check(
        POLICY,
        "HTTPLocalRateLimitPolicy",
        &[limit(json!({ "identity": { "requestsPerSecond": 10 } })), limit(over(5, account.clone()))], // 98
        &[
            (limit(json!({ "targetRef": reference("apps", "Deployment", "d") })), "spec.targetRef"), // 99
            (limit(json!({ "identity": { "requestsPerSecond": 11 } })), "spec.identity"),            // 100
            (limit(over(11, account.clone())), "spec.overrides[0]"),                                 // 101
            (limit(json!({ "total": { "requestsPerSecond": 0 } })), "spec.total"),
            (limit(over(0, account)), "spec.overrides[0]"),
            (limit(over(1, reference("", "Namespace", "n"))), "clientRefs"),
            (limit(json!({ "total": { "requestsPerSecond": -1 } })), "spec.total"),
        ],
    );
}

const EGRESS: &str = "EgressNetwork";

fn route(parent: Value, rule: Value) -> Value {
    json!({ "parentRefs": [parent], "rules": [rule] })
}

fn service() -> Value {
    reference("core", "Service", "s")
}

fn egress(port: Option<u16>) -> Value {
    json!({ "group": POLICY, "kind": EGRESS, "name": "e", "port": port })
}

fn path(kind: &str, value: &str) -> Value {
    json!({ "matches": [{ "path": { "type": kind, "value": value } }] })
}

fn redirect(path: Value) -> Value {
    json!({ "filters": [{ "type": "RequestRedirect", "requestRedirect": { "path": path } }] })
}

#[test]
fn http_routes() {
    let server = reference(POLICY, "Server", "s");
    let relative = redirect(json!({ "type": "ReplaceFullPath", "replaceFullPath": "foo/bar" }));
    let shared_good = [
        route(server.clone(), path("PathPrefix", "/foo")), // 102, 107
        route(egress(Some(80)), json!({})),                // 103
        route(service(), path("RegularExpression", "a+")),
        route(server.clone(), redirect(json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": "/" }))),
    ];
    let headers = |header: Value| json!({ "matches": [{ "headers": [header] }] });
    let shared_bad = [
        (route(egress(None), json!({})), "spec.parentRefs[0].port"), // 104
        (route(server.clone(), path("Exact", "foo")), "doesn't begin with /"), // 105, 114
        (route(server.clone(), relative), "doesn't begin with /"),   // 106, 115
        (route(server.clone(), redirect(json!({ "type": "ReplaceFullPath" }))), "replaces nothing"),
        (route(service(), path("RegularExpression", "(")), "regular expression"),
        (route(service(), headers(json!({ "name": "a b", "value": "x" }))), "matches.headers"),
        (route(service(), headers(json!({ "name": "a", "value": "\n" }))), "matches.headers"),
        (route(service(), headers(json!({ "name": "a", "type": "RegularExpression", "value": "[" }))), "matches.headers"),
    ];
    let timeouts =
        |request: &str, backend: &str| route(service(), json!({ "timeouts": { "request": request, "backendRequest": backend } }));
    let good = [&shared_good[..], &[timeouts("1m30s", "10s"), timeouts("0", "10s")]].concat();
    let mut bad = shared_bad.to_vec();
    bad.extend([(timeouts("-1s", "0"), "timeouts.request"), (timeouts("1s", "2s"), "timeouts.backendRequest")]);
    check(POLICY, "HTTPRoute", &good, &bad);

    let backend = |more: Value| {
        let mut backend = json!({ "name": "b" });
        backend.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        route(service(), json!({ "backendRefs": [backend] }))
    };
    let filter = |filter: Value| route(server.clone(), json!({ "filters": [filter] }));
    let good = [
        &shared_good[..],
        &[
            filter(json!({ "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "m", "port": 1 } } })), // 108
            filter(json!({ "type": "URLRewrite", "urlRewrite": { "hostname": "a" } })),                                // 109
            filter(json!({ "type": "ExtensionRef", "extensionRef": reference("g", "k", "n") })),                       // 110
            backend(json!({ "group": "foo.io", "kind": "Bar" })),                                                      // 111
            backend(json!({ "group": "core", "kind": "Service", "port": 80 })),                                        // 112
            backend(json!({ "port": 80 })),                                                                            // 113
            // Another controller's: not ours to refuse.
            route(reference(GATEWAY, "Gateway", "g"), path("Exact", "foo")),
        ],
    ]
    .concat();
    let mut bad = shared_bad.to_vec();
    bad.extend([
        (backend(json!({ "kind": "Service" })), "backendRefs[0].port"), // 116
        (backend(json!({})), "backendRefs[0].port"),                    // 117
        (backend(json!({ "port": 0 })), "backendRefs[0].port"),
    ]);
    check(GATEWAY, "HTTPRoute", &good, &bad);
}

#[test]
fn other_routes() {
    let method = |kind: &str| json!({ "matches": [{ "method": { "type": kind, "service": "s" } }] });
    check(
        GATEWAY,
        "GRPCRoute",
        &[route(egress(Some(80)), json!({})), route(service(), method("Exact"))], // 96
        &[
            (route(egress(None), json!({})), "spec.parentRefs[0].port"), // 97
            (route(service(), method("RegularExpression")), "matches.method.type"),
            (route(service(), json!({ "backendRefs": [{ "name": "b" }] })), "backendRefs[0].port"),
        ],
    );
    for kind in ["TLSRoute", "TCPRoute"] {
        check(
            GATEWAY,
            kind,
            &[route(egress(Some(443)), json!({})), json!({ "parentRefs": [reference(GATEWAY, "Gateway", "g")] })], // 141, 144
            &[
                (route(egress(None), json!({})), "spec.parentRefs[0].port"), // 142, 145
                (json!({ "parentRefs": [egress(Some(1))], "rules": [{}, {}] }), "there are 2"), // 143, 146
                (json!({ "parentRefs": [egress(Some(1))] }), "there are 0"),
            ],
        );
    }
}

#[test]
fn annotations_count_where_requests_leave() {
    let with = |parent: Value| {
        let metadata = json!({ "name": "a", "namespace": "shop", "annotations": { "retry.linkerd.io/http": "teapot" } });
        asked(GATEWAY, "HTTPRoute", json!({ "metadata": metadata, "spec": route(parent, json!({})) }))
    };
    assert!(with(service()).unwrap_err().contains("retry.linkerd.io/http"));
    assert_eq!(with(reference(POLICY, "Server", "s")), Ok(Vec::new()));
}

#[test]
fn what_is_not_understood() {
    assert!(of("apps", "Deployment", json!({})).unwrap_err().contains("not judged here"));
    // Kinds are found whatever their case.
    assert_eq!(of("POLICY.linkerd.io", "egressnetwork", json!({ "trafficPolicy": "Deny" })), Ok(Vec::new()));
    let warned = of(GATEWAY, "HTTPRoute", json!({ "parentRefs": 1 })).unwrap();
    assert!(warned[0].contains("will ignore it"), "{warned:?}");
    assert!(of(POLICY, "HTTPRoute", json!({ "parentRefs": 1 })).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is posted is answered, and nothing that can't be read gets a grant past the judge.
    #[test]
    fn hostile_specs_are_answered(rule in 0..RULES.len(), field in "[a-zA-Z]{1,12}", text in "\\PC{0,12}", number in any::<i64>()) {
        let (group, kind, _) = RULES[rule];
        for value in [json!(text), json!(number), json!([text]), json!({ &field: number }), Value::Null] {
            for place in ["targetRef", "parentRefs", "rules", "client", "networks", "identities", "port", field.as_str()] {
                let _ = of(group, kind, json!({ place: value }));
                let _ = of(group, kind, route(json!({ "name": "a", place: value }), json!({ place: value })));
            }
        }
    }
}
