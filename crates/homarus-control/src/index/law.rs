//! The law of the index: after any order of changes, every view is that of the final facts; and whoever looks again only
//! at what depends on the topics that were named sees every view change.
#![allow(clippy::unwrap_used)]

use super::{
    Dirty, Index, Settings,
    scenario::{self, id},
    views::{
        Key,
        endpoints::{EndpointsKey, Place},
        inbound::InboundKey,
        outbound::{OutboundKey, OutboundTarget},
        profile::{ProfileKey, ProfileTarget},
    },
};
use homarus_model::{facts::*, inbound::DefaultPolicy, network::Network, ports::PortSet};
use proptest::prelude::*;
use std::{collections::HashMap, sync::Arc};

const NAMES: [&str; 4] = ["a/x", "a/y", "b/x", "b/y"];
const ADDRESSES: [&str; 5] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "fd00::1"];

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(NAMES.to_vec())
}

fn addr() -> impl Strategy<Value = &'static str> {
    prop::sample::select(ADDRESSES.to_vec())
}

fn app() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["red", "blue"])
}

fn pod() -> impl Strategy<Value = Fact> {
    (name(), app(), addr(), any::<[bool; 6]>()).prop_map(
        |(name, app, addr, [meshed, running, opaque, owned, host, terminating])| {
            let pod = scenario::pod(name, app, addr);
            let pod = if meshed { pod } else { scenario::plain(pod) };
            Fact::Pod(Pod {
                phase: if running { Phase::Running } else { Phase::Pending },
                terminating,
                owner: owned.then(|| Owner { kind: "replicaset".into(), name: "x".into() }),
                settings: InboundSettings {
                    opaque: opaque.then(|| PortSet::from_iter([8080])),
                    default_policy: opaque.then_some(DefaultPolicy::Audit),
                    ..InboundSettings::default()
                },
                host_ips: vec![scenario::ip("10.9.0.1")],
                ports: vec![Port { name: "http".into(), port: 8080, host_port: host.then_some(9000) }],
                ..pod
            })
        },
    )
}

fn service() -> impl Strategy<Value = Fact> {
    (name(), addr(), any::<[bool; 3]>()).prop_map(|(name, addr, [opaque, local, other_port])| {
        let mut service = scenario::service(name, addr);
        service.opaque = opaque.then(|| PortSet::from_iter([80]));
        service.internal_traffic_local = local;
        if other_port {
            service.ports[0].port = 81;
        }
        Fact::Service(service)
    })
}

fn slice() -> impl Strategy<Value = Fact> {
    (name(), name(), addr(), any::<[bool; 2]>(), prop::option::of(name())).prop_map(
        |(slice, pod, addr, [ready, external], service)| {
            let held = scenario::pod(pod, "red", addr);
            let mut fact = scenario::slice(service.unwrap_or("a/none"), &[&held]);
            fact.id = id(slice);
            fact.endpoints[0].ready = ready;
            fact.endpoints[0].hostname = Some("h".into());
            if external {
                fact.endpoints[0].target = SliceTarget::External(id(pod));
            }
            Fact::EndpointSlice(fact)
        },
    )
}

fn server() -> impl Strategy<Value = Fact> {
    (name(), app(), any::<[bool; 4]>()).prop_map(|(name, app, [opaque, named, open, external])| {
        let mut server = scenario::server(name, app);
        server.protocol = if opaque { ServerProtocol::Opaque } else { ServerProtocol::Http1 };
        server.port = if named { PortRef::Name("http".into()) } else { PortRef::Number(8080) };
        server.access = if open { DefaultPolicy::Audit } else { DefaultPolicy::Deny };
        if external {
            server.workloads = Workloads::External(Selector::of_labels([("app", app)]));
        }
        Fact::Server(server)
    })
}

fn grants() -> impl Strategy<Value = Fact> {
    let target = prop_oneof![
        Just(Target::Namespace),
        Just(Target::Server("x".into())),
        Just(Target::Route(RouteGroup::Gateway, RouteKind::Http(RouteGroup::Gateway), "x".into())),
    ];
    let policy = (name(), target, prop::option::of(name()), prop::option::of(name())).prop_map(|(name, target, tls, network)| {
        let clients = tls.map(|tls| IdentitySource::MeshTls(id(tls)));
        Fact::AuthorizationPolicy(AuthorizationPolicy { id: id(name), target, clients, networks: network.map(id) })
    });
    let grant = (name(), any::<bool>()).prop_map(|(name, tls)| {
        let servers = ServerSelection::Name("x".into());
        let proof = if tls { Proof::Tls } else { Proof::Unauthenticated };
        Fact::ServerAuthorization(ServerAuthorization { id: id(name), servers, networks: Vec::new(), proof })
    });
    let tls = (name(), any::<bool>()).prop_map(|(name, any)| {
        let pattern = if any { IdentityPattern::Any } else { IdentityPattern::ServiceAccount(id("a/web")) };
        Fact::MeshTlsAuthentication(MeshTlsAuthentication { id: id(name), identities: vec![pattern] })
    });
    let network = (name(), any::<bool>()).prop_map(|(name, wide)| {
        let net: ipnet::IpNet = if wide { "0.0.0.0/0" } else { "10.0.0.0/8" }.parse().unwrap();
        Fact::NetworkAuthentication(NetworkAuthentication { id: id(name), networks: vec![Network::from(net)] })
    });
    prop_oneof![policy, grant, tls, network]
}

fn route() -> impl Strategy<Value = Fact> {
    let kind = prop_oneof![Just(ParentKind::Server), Just(ParentKind::Service)];
    (name(), kind, name(), any::<[bool; 3]>(), 0i64..3).prop_map(|(name, kind, parent, [accepted, backend, grpc], age)| {
        let backends = backend.then(|| scenario::backend("y", 80, 1)).into_iter().collect();
        let mut route = scenario::http_route(name, kind, parent, "/a", backends);
        route.age = Age::Since(age);
        if !accepted {
            route.accepted.clear();
        }
        if grpc {
            route.kind = RouteKind::Grpc;
            route.rules = Rules::Grpc(vec![RouteRule { matches: Vec::new(), filters: Vec::new(), backends: Vec::new() }]);
        }
        Fact::Route(route)
    })
}

fn others() -> impl Strategy<Value = Fact> {
    let owner = (name(), any::<bool>()).prop_map(|(name, owned)| {
        let owner = owned.then(|| Owner { kind: "deployment".into(), name: "web".into() });
        Fact::Owner(OwnerObject { kind: OwnerKind::ReplicaSet, id: id(name), owner })
    });
    let external =
        (name(), app(), addr()).prop_map(|(name, app, addr)| Fact::ExternalWorkload(scenario::external(name, app, addr)));
    let profile = name().prop_map(|name| {
        let Id { namespace, name } = id(name);
        Fact::ServiceProfile(Id::new(namespace.clone(), format!("{name}.{namespace}.svc.cluster.local")))
    });
    prop_oneof![owner, external, profile]
}

fn fact() -> impl Strategy<Value = Fact> {
    prop_oneof![4 => pod(), 3 => service(), 4 => slice(), 2 => server(), 3 => grants(), 3 => route(), 2 => others()]
}

/// Facts that come, and some that go again.
fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = (fact(), any::<u8>()).prop_map(|(fact, go)| match go {
        0..64 => Change::Delete(fact.kind(), fact.id().clone()),
        _ => Change::Apply(Arc::new(fact)),
    });
    prop::collection::vec(change, 1..60)
}

/// What somebody could ask, with what is answered.
struct Asked<K: Key> {
    keys: Vec<K>,
    answers: HashMap<K, String>,
}

impl<K: Key> Asked<K> {
    fn new(keys: Vec<K>) -> Self {
        Self { keys, answers: HashMap::new() }
    }

    fn look(&mut self, index: &Index) {
        self.answers = self.keys.iter().map(|key| (key.clone(), answer(key, index))).collect();
    }

    /// As a hub does: only at what depends on what was named.
    fn look_again(&mut self, index: &Index, dirty: &Dirty) {
        for key in self.keys.iter().filter(|key| key.topics().iter().any(|topic| dirty.contains(topic))) {
            self.answers.insert(key.clone(), answer(key, index));
        }
    }

    fn agrees(&self, index: &Index) {
        for key in &self.keys {
            assert_eq!(self.answers[key], answer(key, index), "{key:?}");
        }
    }
}

fn answer<K: Key>(key: &K, index: &Index) -> String {
    format!("{:?}", key.view(index))
}

fn endpoints() -> Vec<EndpointsKey> {
    let place = |node: Option<&str>| Place { zone: None, node: node.map(Into::into) };
    let keys = NAMES.into_iter().flat_map(|name| [80, 81].map(|port| (name, port)));
    let keys = keys.flat_map(|(name, port)| [None, Some("node")].map(|node| (name, port, node)));
    keys.map(|(name, port, node)| EndpointsKey { service: id(name), port, hostname: None, place: place(node) }).collect()
}

fn profiles() -> Vec<ProfileKey> {
    let addrs = ADDRESSES.into_iter().chain(["10.9.0.1"]).flat_map(|addr| [80, 8080, 9000].map(|port| (scenario::ip(addr), port)));
    let addrs = addrs.map(|addr| ProfileTarget::Addr(addr.into()));
    let names = NAMES
        .into_iter()
        .flat_map(|name| [ProfileTarget::Service(id(name), 80), ProfileTarget::Instance("h".into(), id(name), 8080)]);
    let targets = addrs.chain(names);
    targets.flat_map(|target| ["a", "c"].map(|ns| ProfileKey { target: target.clone(), client: ns.into() })).collect()
}

fn inbound() -> Vec<InboundKey> {
    let workloads = NAMES.into_iter().flat_map(|name| {
        let Id { namespace, name } = id(name);
        ["pod", "external_workload"].map(|kind| format!("{{\"ns\":\"{namespace}\",\"{kind}\":\"{name}\"}}"))
    });
    let keys = workloads.flat_map(|workload| [8080, 9090].map(|port| (workload.clone(), port)));
    keys.map(|(workload, port)| InboundKey { workload: workload.parse().unwrap(), port }).collect()
}

fn outbound() -> Vec<OutboundKey> {
    let addrs = ADDRESSES.into_iter().map(|addr| OutboundTarget::Addr((scenario::ip(addr), 80).into()));
    let targets = addrs.chain(NAMES.into_iter().map(|name| OutboundTarget::Service(id(name), 80)));
    targets.flat_map(|target| ["a", "b", "c"].map(|ns| OutboundKey { target: target.clone(), client: ns.into() })).collect()
}

fn holds<K: Key>(keys: Vec<K>, changes: &[Change]) {
    let mut index = Index::new(Settings::default());
    let mut asked = Asked::new(keys);
    asked.look(&index);
    let mut last: HashMap<(Kind, Id), Arc<Fact>> = HashMap::new();
    for change in changes {
        let mut dirty = Dirty::new();
        index.apply(change.clone(), &mut dirty);
        asked.look_again(&index, &dirty);
        match change {
            Change::Apply(fact) => drop(last.insert((fact.kind(), fact.id().clone()), fact.clone())),
            Change::Delete(kind, id) => drop(last.remove(&(*kind, id.clone()))),
        }
    }
    let mut rebuilt = Index::new(Settings::default());
    for fact in last.into_values() {
        rebuilt.apply(Change::Apply(fact), &mut Dirty::new());
    }
    asked.agrees(&rebuilt);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn endpoints_are_those_of_the_final_facts(changes in changes()) {
        holds(endpoints(), &changes);
    }

    #[test]
    fn profiles_are_those_of_the_final_facts(changes in changes()) {
        holds(profiles(), &changes);
    }

    #[test]
    fn inbound_policies_are_those_of_the_final_facts(changes in changes()) {
        holds(inbound(), &changes);
    }

    #[test]
    fn outbound_policies_are_those_of_the_final_facts(changes in changes()) {
        holds(outbound(), &changes);
    }
}
