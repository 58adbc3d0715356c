#![allow(clippy::unwrap_used)]
//! Objects as people write them, good and bad.

use super::*;
use homarus_model::{
    facts::*,
    inbound::DefaultPolicy,
    route::{HostMatch, PathMatch, Pattern},
};

fn try_read(kind: Kind, yaml: &str) -> Result<Readable, Defect> {
    let mut object: Value = serde_yaml_ng::from_str(yaml).unwrap();
    let mut metadata = object["metadata"].take();
    metadata["namespace"] = "shop".into();
    metadata["name"] = "it".into();
    let meta: Meta = serde_json::from_value(metadata).unwrap();
    read(kind, Object { meta: &meta, body: &object })
}

/// What an object says, if nothing in it is odd.
fn fact(kind: Kind, yaml: &str) -> Fact {
    let Readable { fact, defects } = try_read(kind, yaml).unwrap();
    assert_eq!(defects, []);
    fact
}

/// The field that is blamed for an object that can't be read.
fn blamed(kind: Kind, yaml: &str) -> String {
    try_read(kind, yaml).unwrap_err().field
}

/// The fields that are blamed for parts that were replaced by what is safe.
fn odd(kind: Kind, yaml: &str) -> (Fact, Vec<String>) {
    let Readable { fact, defects } = try_read(kind, yaml).unwrap();
    (fact, defects.into_iter().map(|defect| defect.field).collect())
}

pub(super) const POD: &str = r#"
metadata:
  labels: { app: web, linkerd.io/control-plane-ns: linkerd }
  annotations: { config.linkerd.io/opaque-ports: "metrics,9000-9001", config.linkerd.io/skip-inbound-ports: "22" }
  ownerReferences: [{ apiVersion: apps/v1, kind: ReplicaSet, name: web-abc, uid: u, controller: true }]
spec:
  serviceAccountName: web
  nodeName: node
  initContainers:
  - name: linkerd-proxy
    image: x
    env:
    - { name: LINKERD2_PROXY_INBOUND_LISTEN_ADDR, value: "0.0.0.0:4143" }
    - { name: LINKERD2_PROXY_ADMIN_LISTEN_ADDR, value: "[::]:4191" }
    - { name: LINKERD2_PROXY_CONTROL_LISTEN_ADDR, value: "0.0.0.0:4190" }
    - { name: _pod_name, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
  containers:
  - name: app
    image: x
    ports:
    - { name: http, containerPort: 8080, hostPort: 80 }
    - { name: metrics, containerPort: 9990, protocol: TCP }
    - { name: dns, containerPort: 53, protocol: UDP }
    livenessProbe: { httpGet: { path: "/live?x=y", port: http } }
    readinessProbe: { httpGet: { port: 8080 } }
    startupProbe: { exec: { command: ["true"] } }
status: { phase: Running, podIP: 10.1.0.1, podIPs: [{ ip: 10.1.0.1 }, { ip: "fd00::1" }], hostIP: 10.9.0.1 }
"#;

fn pod(yaml: &str) -> Pod {
    match fact(Kind::Pod, yaml) {
        Fact::Pod(pod) => pod,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pods() {
    let pod_fact = pod(POD);
    assert_eq!(pod_fact.ips.len(), 2);
    assert_eq!(pod_fact.proxy, Some(ProxyPorts { inbound: 4143, admin: 4191, control: 4190 }));
    assert_eq!(pod_fact.owner.as_ref().map(|o| &*o.kind), Some("replicaset"));
    assert_eq!(pod_fact.ports.iter().map(|p| p.port).collect::<Vec<_>>(), [8080, 9990]);
    assert_eq!(pod_fact.ports[0].host_port, Some(80));
    assert_eq!(pod_fact.probes[&8080].iter().collect::<Vec<_>>(), ["/", "/live"]);
    assert_eq!(pod_fact.settings.opaque.as_ref().unwrap().to_string(), "9000,9001,9990");
    assert!(pod_fact.skipped.contains(22) && pod_fact.is_meshed_by("linkerd") && !pod_fact.is_meshed_by("other"));
    let host = pod(&POD.replace("nodeName: node", "nodeName: node\n  hostNetwork: true"));
    assert!(host.ips.is_empty());
    let unreadable = pod(&POD.replace("0.0.0.0:4143", "$(PORT)"));
    assert_eq!(unreadable.proxy, None);
    let bare = pod("{ metadata: {}, spec: { containers: [] } }");
    assert_eq!((bare.phase, bare.control_plane_ns, bare.settings.opaque), (Phase::Pending, None, None));
}

#[test]
fn a_proxy_is_told_from_its_pod_when_only_it_is_left() {
    let found = |phase: &str, policy: &str, proxy_in: &str, a: &str, exits: &[Option<i64>]| {
        let names = ["a", "b"];
        let statuses: Vec<String> = names
            .iter()
            .zip(exits)
            .map(|(name, exit)| match exit {
                Some(code) => format!("{{ name: {name}, state: {{ terminated: {{ exitCode: {code} }} }} }}"),
                None => format!("{{ name: {name}, state: {{ running: {{}} }} }}"),
            })
            .collect();
        let (init, ordinary) =
            if proxy_in == "initContainers" { ("{ name: linkerd-proxy }", "") } else { ("", "{ name: linkerd-proxy }, ") };
        let yaml = format!(
            "{{ metadata: {{}}, spec: {{ restartPolicy: {policy}, initContainers: [{init}], containers: [{ordinary}{{ name: a{a} }}, {{ name: b }}] }},
               status: {{ phase: {phase}, containerStatuses: [{}, {{ name: linkerd-proxy, state: {{ running: {{}} }} }}] }} }}",
            statuses.join(", ")
        );
        pod(&yaml).phase
    };
    let done =
        |policy: &str, proxy_in: &str, exits: &[Option<i64>]| found("Running", policy, proxy_in, "", exits) == Phase::ProxyOnly;
    let (ok, failed) = (Some(0), Some(1));
    assert!(done("Never", "containers", &[ok, failed]));
    assert!(done("OnFailure", "containers", &[ok, ok]));
    assert!(!done("OnFailure", "containers", &[ok, failed]), "it is started again");
    assert!(!done("Never", "containers", &[ok, None]), "one still runs");
    assert!(!done("Always", "containers", &[ok, ok]), "all are started again");
    assert!(!done("Never", "initContainers", &[ok, ok]), "the kubelet ends native sidecars");
    for (phase, expected) in [("Failed", Phase::Done), ("Succeeded", Phase::Done), ("Pending", Phase::Pending)] {
        assert_eq!(
            found(phase, "Never", "containers", "", &[ok, ok]),
            expected,
            "its proxy has ended as well, or nothing has begun"
        );
    }
    for rule in [", restartPolicy: Always", ", restartPolicyRules: [{ action: Restart }]"] {
        assert_eq!(found("Running", "Never", "containers", rule, &[ok, ok]), Phase::Running, "a rule of its own{rule}");
    }
}

#[test]
fn odd_annotations_are_named_and_the_rest_holds() {
    let yaml = POD.replace("metrics,9000-9001", "metrics,9-8,9000");
    let (fact, fields) = odd(Kind::Pod, &yaml);
    let Fact::Pod(pod) = fact else { panic!() };
    assert_eq!(pod.settings.opaque.unwrap().to_string(), "9000,9990");
    assert_eq!(fields, ["metadata.annotations[config.linkerd.io/opaque-ports]"]);
    let yaml = POD.replace("annotations: {", "annotations: { config.linkerd.io/default-inbound-policy: everyone,");
    let (fact, fields) = odd(Kind::Pod, &yaml);
    let Fact::Pod(pod) = fact else { panic!() };
    assert_eq!(pod.settings.default_policy, None);
    assert_eq!(fields.len(), 1);
    assert_eq!(
        blamed(Kind::Pod, "{ metadata: {}, spec: { containers: [{ ports: [{ containerPort: 99999 }] }] } }"),
        "spec.containers[0].ports[0].containerPort"
    );
}

#[test]
fn services_and_slices() {
    let yaml = r#"
metadata: { annotations: { config.linkerd.io/opaque-ports: "db,8000" } }
spec:
  clusterIP: 10.2.0.1
  clusterIPs: [10.2.0.1]
  internalTrafficPolicy: Local
  selector: { app: web }
  ipFamilies: [IPv4]
  ports:
  - { port: 80, name: http, targetPort: web, appProtocol: kubernetes.io/h2c }
  - { port: 5555, name: db }
  - { port: 53, name: dns, protocol: UDP }
"#;
    let Fact::Service(service) = fact(Kind::Service, yaml) else { panic!() };
    assert_eq!((service.kind, service.internal_traffic_local, service.families), (ServiceKind::ClusterIp, true, (true, false)));
    assert_eq!(service.ports.iter().map(|p| &p.target).collect::<Vec<_>>(), [&PortRef::Name("web".into()), &PortRef::Number(5555)]);
    assert_eq!(service.opaque.unwrap().to_string(), "5555,8000");
    let kind = |spec: &str| match fact(Kind::Service, &format!("{{ metadata: {{}}, spec: {spec} }}")) {
        Fact::Service(service) => service.kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(kind("{ clusterIP: None }"), ServiceKind::Headless);
    assert_eq!(kind("{ type: ExternalName, externalName: example.org }"), ServiceKind::ExternalName);

    let yaml = r#"
metadata: { labels: { kubernetes.io/service-name: web } }
addressType: IPv4
ports: [{ name: "", port: 8080, protocol: TCP }, { port: 9090 }]
endpoints:
- { addresses: [10.1.0.1], conditions: { ready: true }, zone: a, hints: { forZones: [{ name: a }] }, targetRef: { kind: Pod, name: p } }
- { addresses: [10.1.0.2], conditions: {} }
- { addresses: [10.1.0.3], conditions: { ready: false }, targetRef: { kind: Node, name: n } }
"#;
    let Fact::EndpointSlice(slice) = fact(Kind::EndpointSlice, yaml) else { panic!() };
    assert_eq!(slice.service.as_deref(), Some("web"));
    assert_eq!(slice.ports, [("".into(), 8080), ("".into(), 9090)]);
    let targets: Vec<_> = slice.endpoints.iter().map(|e| (e.ready, e.target.clone())).collect();
    let pod = SliceTarget::Pod(Id::new("shop", "p"));
    assert_eq!(targets, [(true, pod), (true, SliceTarget::Unnamed), (false, SliceTarget::Other)]);
    let nothing = fact(Kind::EndpointSlice, "{ metadata: {}, ports: null, endpoints: null }");
    assert!(matches!(nothing, Fact::EndpointSlice(slice) if slice.ports.is_empty() && slice.endpoints.is_empty()));
}

#[test]
fn servers() {
    let server = |spec: &str| format!("{{ metadata: {{ creationTimestamp: '2026-01-01T00:00:00Z' }}, spec: {spec} }}");
    let yaml = server("{ podSelector: { matchLabels: { app: web } }, port: http, proxyProtocol: gRPC, accessPolicy: audit }");
    let Fact::Server(read) = fact(Kind::Server, &yaml) else { panic!() };
    assert_eq!((read.protocol, read.access), (ServerProtocol::Grpc, DefaultPolicy::Audit));
    assert_eq!((&read.port, read.age), (&PortRef::Name("http".into()), Age::Since(1_767_225_600)));
    let Fact::Server(read) = fact(Kind::Server, &server("{ externalWorkloadSelector: {}, port: '80' }")) else { panic!() };
    assert_eq!((read.port, read.access), (PortRef::Number(80), DefaultPolicy::Deny));
    // What can't be read denies.
    let (read, fields) = odd(Kind::Server, &server("{ podSelector: {}, port: 80, proxyProtocol: http, accessPolicy: all }"));
    assert!(matches!(read, Fact::Server(s) if s.access == DefaultPolicy::Deny && s.protocol == ServerProtocol::Unknown));
    assert_eq!(fields, ["spec.proxyProtocol", "spec.accessPolicy"]);
    for (spec, field) in [
        ("{ port: 80 }", "spec"),
        ("{ podSelector: {}, externalWorkloadSelector: {}, port: 80 }", "spec"),
        ("{ podSelector: {}, port: 0 }", "spec.port"),
        ("{ podSelector: {}, port: 65536 }", "spec.port"),
        ("{ podSelector: { matchExpressions: [{ key: a, operator: Is }] }, port: 80 }", "spec.podSelector.matchExpressions"),
    ] {
        assert_eq!(blamed(Kind::Server, &server(spec)), field, "{spec}");
    }
    let defect = try_read(Kind::Server, &server("{ podSelector: {}, port: 0 }")).unwrap_err();
    assert_eq!(defect.to_string(), "spec.port: no port; give a number from 1 to 65535 or a name");
}

#[test]
fn who_may_ask() {
    let spec = |spec: &str| format!("{{ metadata: {{}}, spec: {spec} }}");
    let yaml = spec(
        "{ server: { name: web }, client: { networks: [{ cidr: 10.0.0.0/8, except: [10.1.0.1] }], \
         meshTLS: { identities: ['*', '*.example.org', a.b], serviceAccounts: [{ name: x }] } } }",
    );
    let Fact::ServerAuthorization(grant) = fact(Kind::ServerAuthorization, &yaml) else { panic!() };
    assert_eq!(grant.networks[0].except.len(), 1);
    let Proof::Identities(patterns) = grant.proof else { panic!() };
    assert_eq!(patterns[0], IdentityPattern::Any);
    assert_eq!(patterns[1], IdentityPattern::Suffix("example.org".into()));
    assert_eq!(patterns[3], IdentityPattern::ServiceAccount(Id::new("shop", "x")));
    for (client, field) in [
        ("{}", "spec.client"),
        ("{ meshTLS: {} }", "spec.client.meshTLS"),
        ("{ unauthenticated: true, networks: [{ cidr: ten }] }", "spec.client.networks"),
        ("{ meshTLS: { identities: ['a b'] } }", "spec.client.meshTLS"),
    ] {
        let yaml = spec(&format!("{{ server: {{ name: web }}, client: {client} }}"));
        assert_eq!(blamed(Kind::ServerAuthorization, &yaml), field, "{client}");
    }
    let refs = |refs: &str| spec(&format!("{{ targetRef: {{ group: policy.linkerd.io, kind: Server, name: web }}, {refs} }}"));
    let tls = "{ group: policy.linkerd.io, kind: MeshTLSAuthentication, name: a, namespace: auth }";
    let yaml = refs(&format!("requiredAuthenticationRefs: [{tls}]"));
    let Fact::AuthorizationPolicy(policy) = fact(Kind::AuthorizationPolicy, &yaml) else { panic!() };
    assert_eq!(policy.clients, Some(IdentitySource::MeshTls(Id::new("auth", "a"))));
    assert_eq!((policy.target, policy.networks), (Target::Server("web".into()), None));
    let field = "spec.requiredAuthenticationRefs";
    let account = "{ kind: ServiceAccount, name: x }";
    for bad in [format!("[{tls}, {tls}]"), format!("[{tls}, {account}]"), "[{ kind: Secret, name: x }]".into()] {
        assert_eq!(blamed(Kind::AuthorizationPolicy, &refs(&format!("requiredAuthenticationRefs: {bad}"))), field, "{bad}");
    }
    let target = |target: &str| spec(&format!("{{ targetRef: {target}, requiredAuthenticationRefs: [] }}"));
    assert_eq!(blamed(Kind::AuthorizationPolicy, &target("{ kind: Namespace, name: other }")), "spec.targetRef.name");
    assert_eq!(blamed(Kind::AuthorizationPolicy, &target("{ kind: Pod, name: x }")), "spec.targetRef");
    let route = target("{ group: gateway.networking.k8s.io, kind: GRPCRoute, name: r }");
    let Fact::AuthorizationPolicy(policy) = fact(Kind::AuthorizationPolicy, &route) else { panic!() };
    assert_eq!(policy.target, Target::Route(RouteGroup::Gateway, RouteKind::Grpc, "r".into()));
    assert_eq!(blamed(Kind::MeshTlsAuthentication, &spec("{}")), "spec");
    assert_eq!(blamed(Kind::MeshTlsAuthentication, &spec("{ identityRefs: [{ kind: ServiceAccount }] }")), "spec.identityRefs[0]");
    assert_eq!(blamed(Kind::NetworkAuthentication, &spec("{ networks: [] }")), "spec.networks");
}

pub(super) const ROUTE: &str = r#"
metadata: { creationTimestamp: "2026-01-01T00:00:00Z" }
spec:
  parentRefs:
  - { group: core, kind: Service, name: web, namespace: else, port: 80 }
  - { kind: Gateway, name: gw }
  hostnames: ["*.example.org"]
  rules:
  - matches:
    - { path: { type: Exact, value: /a }, method: GET, headers: [{ name: X-A, value: b }], queryParams: [{ name: q, type: RegularExpression, value: "[0-9]+" }] }
    filters:
    - { type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: a, value: b }], remove: [c] } }
    backendRefs:
    - { name: api, port: 8080, weight: 2 }
    - { name: odd, kind: Bucket, group: x.io }
    - { name: filtered, port: 1, filters: [{ type: URLRewrite, urlRewrite: {} }] }
status:
  parents:
  - parentRef: { group: core, kind: Service, name: web, port: 80 }
    controllerName: linkerd.io/policy-controller
    conditions: [{ type: Accepted, status: "True" }]
  - parentRef: { group: core, kind: Service, name: other }
    controllerName: other.io/x
    conditions: [{ type: Accepted, status: "False" }]
"#;

#[test]
fn http_routes() {
    let kind = RouteKind::Http(RouteGroup::Gateway);
    let Fact::Route(route) = fact(Kind::Route(kind), ROUTE) else { panic!() };
    assert_eq!(route.parents.len(), 1);
    assert_eq!((route.parents[0].kind, route.parents[0].id.to_string()), (ParentKind::Service, "else/web".into()));
    assert_eq!(route.accepted.len(), 1);
    assert!(route.accepted[0].ours);
    assert_eq!(route.hosts, [HostMatch::Suffix("example.org".into())]);
    let Rules::Http(rules) = &route.rules else { panic!() };
    let matched = &rules[0].matches[0];
    assert_eq!(matched.path, Some(PathMatch::Exact("/a".into())));
    assert!(matches!(&matched.query[0].value, Pattern::Regex(regex) if regex.source() == "[0-9]+"));
    assert_eq!(rules[0].backends.iter().map(BackendRef::weight).collect::<Vec<_>>(), [2, 1, 1]);
    assert!(matches!(&rules[0].backends[1], BackendRef::Unsupported { kind, .. } if &**kind == "Bucket"));
    assert!(matches!(&rules[0].backends[2], BackendRef::Service { filters: Err(why), .. } if why.contains("URLRewrite")));
}

#[test]
fn routes_that_can_not_be_read() {
    let kind = Kind::Route(RouteKind::Http(RouteGroup::Policy));
    for (from, to, field) in [
        ("value: /a", "value: a", "spec.rules[0].matches"),
        ("type: Exact", "type: Glob", "spec.rules[0].matches"),
        ("[0-9]+", "[0-9", "spec.rules[0].matches"),
        ("name: X-A", "name: 'X A'", "spec.rules[0].matches"),
        ("method: GET", "method: 'G T'", "spec.rules[0].matches"),
        ("type: RequestHeaderModifier", "type: RequestMirror", "spec.rules[0].filters"),
        ("weight: 2", "weight: -2", "spec.rules[0].backendRefs[0].weight"),
    ] {
        assert_eq!(blamed(kind, &ROUTE.replace(from, to)), field, "{to}");
    }
}

#[test]
fn grpc_routes() {
    let route = |method: &str| format!("{{ metadata: {{}}, spec: {{ rules: [{{ matches: [{{ method: {method} }}] }}, {{}}] }} }}");
    let kind = Kind::Route(RouteKind::Grpc);
    let Fact::Route(read) = fact(kind, &route("{ service: a.B, method: C }")) else { panic!() };
    let Rules::Grpc(rules) = &read.rules else { panic!() };
    assert_eq!((rules.len(), rules[0].matches[0].service.as_deref()), (2, Some("a.B")));
    assert!(rules[1].matches.is_empty());
    assert_eq!(blamed(kind, &route("{ type: RegularExpression, service: x }")), "spec.rules[0].matches");
    assert!(matches!(fact(kind, "metadata: {}"), Fact::Route(r) if r.rules == Rules::Grpc(Vec::new())));
}

#[test]
fn external_workloads() {
    let yaml = r#"
metadata: { labels: { topology.kubernetes.io/zone: a } }
spec:
  meshTLS: { identity: "spiffe://root/vm", serverName: vm.example }
  workloadIPs: [{ ip: 192.0.2.1 }]
  ports: [{ port: 8080, name: http }]
status: { conditions: [{ type: Ready, status: "True" }] }
"#;
    let Fact::ExternalWorkload(vm) = fact(Kind::ExternalWorkload, yaml) else { panic!() };
    assert!(vm.ready && vm.zone.as_deref() == Some("a") && vm.ips.len() == 1);
    assert_eq!(blamed(Kind::ExternalWorkload, &yaml.replace("spiffe://root/vm", "spiffe://")), "spec.meshTLS.identity");
    // As v1alpha1 spells it: another field.
    assert_eq!(blamed(Kind::ExternalWorkload, &yaml.replace("meshTLS", "meshTls")), "spec");
}
