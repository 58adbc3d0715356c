//! Views, by scenario.
#![allow(clippy::unwrap_used)]

use crate::index::{Absence, Settings, scenario::*};
use homarus_model::{
    endpoint::{Endpoint, ProtocolHint},
    facts::*,
    inbound::{DefaultPolicy, Protocol as Inbound},
    network::Network,
    outbound::{Dispatcher, Distribution, Protocol as Outbound, Refusal, RoutePolicy},
    ports::PortSet,
    route::{Filter, HttpRoute, InjectedFailure, RequestHead, find},
};
use std::{collections::BTreeSet, sync::Arc};

const IDENTITY: &str = "default.shop.serviceaccount.identity.linkerd.cluster.local";

fn shop() -> World {
    let (one, two) = (pod("shop/web-1", "web", "10.1.0.1"), pod("shop/web-2", "web", "10.1.0.2"));
    let slice = slice("shop/web", &[&one, &two]);
    World::new().with(service("shop/web", "10.2.0.1")).with(slice).with(one).with(two)
}

fn first(world: &World, service: &str) -> Arc<Endpoint> {
    world.endpoints(service).endpoints.into_values().next().unwrap()
}

mod endpoints {
    use super::*;

    #[test]
    fn a_meshed_pod_is_known_by_identity_hint_and_labels() {
        let endpoint = first(&shop(), "shop/web");
        let tls = endpoint.tls.as_ref().unwrap();
        assert_eq!((tls.id.as_str(), tls.server_name.as_str()), (IDENTITY, IDENTITY));
        assert_eq!(endpoint.hint, ProtocolHint::Http2);
        assert_eq!(endpoint.tagged_transport_port, Some(4143));
        let labels: Vec<_> = endpoint.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let expected = ["control_plane_ns=linkerd", "pod=web-1", "serviceaccount=default", "zone=", "zone_locality=unknown"];
        assert_eq!(labels, expected);
        let set = shop().endpoints("shop/web");
        assert_eq!(set.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(), ["namespace=shop", "service=web"]);
    }

    #[test]
    fn a_plain_pod_is_only_an_address() {
        let web = plain(pod("shop/web-1", "web", "10.1.0.1"));
        let world = World::new().with(service("shop/web", "10.2.0.1")).with(slice("shop/web", &[&web])).with(web);
        let endpoint = first(&world, "shop/web");
        assert_eq!((endpoint.tls.as_ref(), endpoint.hint, endpoint.tagged_transport_port), (None, ProtocolHint::Unknown, None));
        assert!(!endpoint.labels.contains_key("control_plane_ns"));
    }

    #[test]
    fn the_proxy_of_another_control_plane_has_no_identity_of_ours() {
        let web = Pod { control_plane_ns: Some("other".into()), ..pod("shop/web-1", "web", "10.1.0.1") };
        let world = shop().with(web);
        let endpoint = first(&world, "shop/web");
        assert!(endpoint.tls.is_none());
        assert_eq!(endpoint.hint, ProtocolHint::Http2);
    }

    #[test]
    fn a_skipped_port_is_plain_and_an_unreadable_proxy_no_endpoint() {
        let web = pod("shop/web-1", "web", "10.1.0.1");
        let skipped = Pod { skipped: PortSet::from_iter([8080]), ..web.clone() };
        let endpoint = first(&shop().with(skipped), "shop/web");
        assert_eq!((endpoint.tls.as_ref(), endpoint.hint), (None, ProtocolHint::Unknown));
        let world = shop().with(Pod { proxy: None, ..web });
        assert_eq!(world.addresses("shop/web"), ["10.1.0.2:8080"]);
    }

    #[test]
    fn opaque_by_annotation_default_list_or_server() {
        let hint = |world: World| first(&world, "shop/web").hint;
        assert_eq!(hint(shop()), ProtocolHint::Http2);
        let annotated = |opaque: &[u16]| {
            let mut web = pod("shop/web-1", "web", "10.1.0.1");
            web.settings.opaque = Some(opaque.iter().copied().collect());
            web
        };
        assert_eq!(hint(shop().with(annotated(&[8080]))), ProtocolHint::Opaque);
        let default = || Settings { default_opaque_ports: PortSet::from_iter([8080]), ..Settings::default() };
        let rebuilt = |fact: Option<Pod>| {
            let web = fact.unwrap_or_else(|| pod("shop/web-1", "web", "10.1.0.1"));
            let slice = slice("shop/web", &[&web]);
            World::with_settings(default()).with(service("shop/web", "10.2.0.1")).with(slice).with(web)
        };
        assert_eq!(hint(rebuilt(None)), ProtocolHint::Opaque);
        // An empty list is a list.
        assert_eq!(hint(rebuilt(Some(annotated(&[])))), ProtocolHint::Http2);
        let by_server = |app: &str, protocol| Server { protocol, ..server("shop/web", app) };
        assert_eq!(hint(shop().with(by_server("web", ServerProtocol::Opaque))), ProtocolHint::Opaque);
        assert_eq!(hint(shop().with(by_server("web", ServerProtocol::Http1))), ProtocolHint::Http2);
        assert_eq!(hint(shop().with(by_server("api", ServerProtocol::Opaque))), ProtocolHint::Http2);
        let mut back = shop().with(by_server("web", ServerProtocol::Opaque));
        back.delete(Kind::Server, "shop/web");
        assert_eq!(hint(back), ProtocolHint::Http2);
    }

    #[test]
    fn the_transport_header_is_for_opaque_ports_unless_it_is_for_all() {
        let settings = Settings { transport_header: false, ..Settings::default() };
        let mut web = pod("shop/web-1", "web", "10.1.0.1");
        let world = |web: &Pod| {
            let slice = slice("shop/web", &[web]);
            World::with_settings(settings.clone()).with(service("shop/web", "10.2.0.1")).with(slice).with(web.clone())
        };
        assert_eq!(first(&world(&web), "shop/web").tagged_transport_port, None);
        web.settings.opaque = Some(PortSet::from_iter([8080]));
        assert_eq!(first(&world(&web), "shop/web").tagged_transport_port, Some(4143));
    }

    #[test]
    fn a_port_is_found_by_its_name_and_else_taken_as_it_is() {
        let world = shop();
        let addresses = |port| {
            let set = world.endpoints_from("shop/web", port, "node").unwrap();
            set.endpoints.into_keys().map(|a| a.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(addresses(80), ["10.1.0.1:8080", "10.1.0.2:8080"]);
        assert_eq!(addresses(9090), ["10.1.0.1:9090", "10.1.0.2:9090"]);
        let mut unnamed = slice("shop/web", &[&pod("shop/web-1", "web", "10.1.0.1")]);
        unnamed.ports = vec![("other".into(), 8080)];
        assert!(shop().with(unnamed).addresses("shop/web").is_empty());
    }

    #[test]
    fn only_ready_known_endpoints_count() {
        let (one, two) = (pod("shop/web-1", "web", "10.1.0.1"), pod("shop/web-2", "web", "10.1.0.2"));
        let mut slice = slice("shop/web", &[&one, &two]);
        slice.endpoints[0].ready = false;
        assert_eq!(shop().with(slice).addresses("shop/web"), ["10.1.0.2:8080"]);
        let mut world = shop();
        world.delete(Kind::Pod, "shop/web-2");
        assert_eq!(world.addresses("shop/web"), ["10.1.0.1:8080"]);
        world.delete(Kind::EndpointSlice, "shop/web-1");
        assert!(world.addresses("shop/web").is_empty());
        world.delete(Kind::Service, "shop/web");
        assert!(matches!(world.endpoints_from("shop/web", 80, ""), Err(Absence::NotFound(_))));
        let named = Service { kind: ServiceKind::ExternalName, ..service("shop/ext", "10.2.0.9") };
        assert!(matches!(world.with(named).endpoints_from("shop/ext", 80, ""), Err(Absence::Invalid(_))));
    }

    fn zoned() -> World {
        let (one, two) = (pod("shop/web-1", "web", "10.1.0.1"), pod("shop/web-2", "web", "10.1.0.2"));
        let mut slice = slice("shop/web", &[&one, &two]);
        for (endpoint, zone) in slice.endpoints.iter_mut().zip(["east", "west"]) {
            endpoint.zone = Some(zone.into());
            endpoint.for_zones = Some(vec![zone.into()]);
        }
        let node = |name: &str, zone: &str| Node { id: id(name), zone: Some(zone.into()) };
        let nodes = World::new().with(node("e", "east")).with(node("w", "west")).with(node("n", "north"));
        nodes.with(service("shop/web", "10.2.0.1")).with(slice).with(one).with(two)
    }

    #[test]
    fn hints_keep_clients_in_their_zone_unless_nobody_is_left() {
        let world = zoned();
        let from = |world: &World, node| {
            let set = world.endpoints_from("shop/web", 80, node).unwrap();
            set.endpoints.values().map(|e| format!("{} {}", e.addr.ip(), e.labels["zone_locality"])).collect::<Vec<_>>()
        };
        assert_eq!(from(&world, "e"), ["10.1.0.1 local"]);
        assert_eq!(from(&world, "w"), ["10.1.0.2 local"]);
        assert_eq!(from(&world, "n"), ["10.1.0.1 remote", "10.1.0.2 remote"]);
        assert_eq!(from(&world, "unknown"), ["10.1.0.1 unknown", "10.1.0.2 unknown"]);
        // One without a hint: hints don't count.
        let (one, two) = (pod("shop/web-1", "web", "10.1.0.1"), pod("shop/web-2", "web", "10.1.0.2"));
        let mut mixed = slice("shop/web", &[&one, &two]);
        mixed.endpoints[0].for_zones = Some(vec!["east".into()]);
        assert_eq!(from(&zoned().with(mixed), "e").len(), 2);
    }

    #[test]
    fn local_traffic_stays_on_the_node() {
        let local = Service { internal_traffic_local: true, ..service("shop/web", "10.2.0.1") };
        let elsewhere = Pod { node: "far".into(), ..pod("shop/web-2", "web", "10.1.0.2") };
        let world = zoned().with(local).with(elsewhere);
        let near = world.endpoints_from("shop/web", 80, "node").unwrap();
        assert_eq!(near.endpoints.len(), 1);
        assert!(world.endpoints_from("shop/web", 80, "none").unwrap().endpoints.is_empty());
    }

    #[test]
    fn one_address_family_for_each_pod() {
        let mut six = pod("shop/web-1", "web", "10.1.0.1");
        six.ips.push(ip("fd00::1"));
        let addresses = |ipv6| {
            let settings = Settings { ipv6, ..Settings::default() };
            let slice = slice("shop/web", &[&six]);
            let world = World::with_settings(settings).with(service("shop/web", "10.2.0.1")).with(slice).with(six.clone());
            world.addresses("shop/web")
        };
        assert_eq!(addresses(true), ["[fd00::1]:8080"]);
        assert_eq!(addresses(false), ["10.1.0.1:8080"]);
    }

    #[test]
    fn owners_are_named_one_level_up() {
        let owned = |kind: &str| Pod {
            owner: Some(Owner { kind: kind.into(), name: "web-abc".into() }),
            ..pod("shop/web-1", "web", "10.1.0.1")
        };
        let above = |kind, owner: &str| OwnerObject {
            kind,
            id: id("shop/web-abc"),
            owner: Some(Owner { kind: owner.into(), name: "web".into() }),
        };
        let label = |world: World, name: &str| first(&world, "shop/web").labels.get(name).cloned().unwrap_or_default();
        assert_eq!(label(shop().with(owned("replicaset")).with(above(OwnerKind::ReplicaSet, "deployment")), "deployment"), "web");
        assert_eq!(label(shop().with(owned("replicaset")).with(above(OwnerKind::ReplicaSet, "rollout")), "replicaset"), "web-abc");
        assert_eq!(label(shop().with(owned("replicaset")), "replicaset"), "web-abc");
        assert_eq!(label(shop().with(owned("statefulset")), "statefulset"), "web-abc");
        assert_eq!(label(shop().with(owned("job")), "k8s_job"), "web-abc");
    }

    #[test]
    fn external_workloads_and_gateways() {
        let mut external_slice = slice("shop/web", &[]);
        let endpoint = |target, addr: &str| SliceEndpoint {
            addresses: vec![ip(addr)],
            ready: true,
            hostname: None,
            zone: None,
            for_zones: None,
            target,
        };
        external_slice.endpoints.push(endpoint(SliceTarget::External(id("shop/vm")), "10.3.0.1"));
        let external = external("shop/vm", "web", "10.3.0.1");
        let world = World::new().with(service("shop/web", "10.2.0.1")).with(external_slice).with(external);
        let vm = first(&world, "shop/web");
        assert_eq!(vm.tls.as_ref().unwrap().id.as_str(), "spiffe://root/external");
        assert_eq!((vm.hint, vm.tagged_transport_port), (ProtocolHint::Http2, Some(4143)));
        assert_eq!(vm.labels["external_workload"], "vm");

        let mut mirror = slice("shop/web", &[]);
        mirror.endpoints.push(endpoint(SliceTarget::Unnamed, "192.0.2.1"));
        mirror.gateway = Some("gateway.example".parse().unwrap());
        mirror.remote_name = Some("web.shop.svc.east.local".into());
        mirror.target_cluster = Some("east".into());
        let world = World::new().with(service("shop/web", "10.2.0.1")).with(mirror);
        let gateway = first(&world, "shop/web");
        assert_eq!(gateway.tls.as_ref().unwrap().id.as_str(), "gateway.example");
        assert_eq!(gateway.authority_override.as_ref().unwrap().to_string(), "web.shop.svc.east.local:80");
        let labels = world.endpoints("shop/web").labels;
        assert_eq!((&*labels["target_cluster"], &*labels["target_service_namespace"]), ("east", "shop"));
    }

    #[test]
    fn changes_are_what_is_different() {
        let before = shop().endpoints("shop/web");
        let opaque = Server { protocol: ServerProtocol::Opaque, ..server("shop/web", "web") };
        let (changed, gone) = shop().with(opaque).endpoints("shop/web").changes_since(&before);
        assert_eq!((changed.len(), gone.len()), (2, 0));
        let (changed, gone) = before.changes_since(&before);
        assert_eq!((changed.len(), gone.len()), (0, 0));
        let mut world = shop();
        world.delete(Kind::Pod, "shop/web-1");
        let (changed, gone) = world.endpoints("shop/web").changes_since(&before);
        assert_eq!((changed.len(), gone.iter().map(ToString::to_string).collect::<Vec<_>>()), (0, vec!["10.1.0.1:8080".into()]));
    }
}

mod profile {
    use super::*;

    #[test]
    fn a_cluster_address_is_its_service() {
        let profile = shop().profile("10.2.0.1:80").unwrap();
        assert_eq!(profile.fqn.as_deref(), Some("web.shop.svc.cluster.local"));
        assert_eq!(profile.parent.unwrap().to_string(), "Service.shop.web:80");
        assert!(profile.endpoint.is_none() && !profile.opaque_protocol);
        assert_eq!(shop().profile("10.2.0.1:81").unwrap(), Default::default());
        let opaque = Service { opaque: Some(PortSet::from_iter([80])), ..service("shop/web", "10.2.0.1") };
        assert!(shop().with(opaque).profile("10.2.0.1:80").unwrap().opaque_protocol);
        let shared = shop().with(service("shop/other", "10.2.0.1"));
        assert!(matches!(shared.profile("10.2.0.1:80"), Err(Absence::Ambiguous(_))));
    }

    #[test]
    fn a_pods_address_is_the_pod() {
        let profile = shop().profile("10.1.0.1:8080").unwrap();
        let endpoint = profile.endpoint.unwrap();
        assert_eq!(endpoint.tls.unwrap().id.as_str(), IDENTITY);
        assert_eq!(endpoint.labels["namespace"], "shop");
        assert!(!endpoint.labels.contains_key("zone_locality"));
        let pending = Pod { phase: Phase::Pending, ..pod("shop/web-1", "web", "10.1.0.1") };
        assert_eq!(shop().with(pending).profile("10.1.0.1:8080").unwrap().endpoint.unwrap().tls, None);
        let twin = pod("shop/twin", "web", "10.1.0.1");
        assert!(matches!(shop().with(twin.clone()).profile("10.1.0.1:8080"), Err(Absence::Ambiguous(_))));
        for phase in [Phase::ProxyOnly, Phase::Done] {
            let ended = Pod { phase, ..twin.clone() };
            assert!(shop().with(ended).profile("10.1.0.1:8080").unwrap().endpoint.unwrap().tls.is_some(), "{phase:?}");
        }
    }

    #[test]
    fn a_host_port_leads_to_the_pod() {
        let mut web = pod("shop/web-1", "web", "10.1.0.1");
        web.host_ips = vec![ip("10.9.0.1")];
        web.ports[0].host_port = Some(9000);
        let world = shop().with(web);
        let endpoint = world.profile("10.9.0.1:9000").unwrap().endpoint.unwrap();
        assert_eq!(endpoint.addr.to_string(), "10.1.0.1:8080");
        assert!(world.profile("10.9.0.1:9001").unwrap().endpoint.unwrap().tls.is_none());
    }

    #[test]
    fn an_unknown_address_is_itself() {
        let profile = shop().profile("192.0.2.1:443").unwrap();
        assert_eq!(profile.endpoint.unwrap(), Endpoint::plain("192.0.2.1:443".parse().unwrap()));
        assert!(!profile.opaque_protocol);
        assert!(shop().profile("192.0.2.1:3306").unwrap().opaque_protocol);
        let vm = shop().with(external("shop/vm", "web", "192.0.2.1")).profile("192.0.2.1:8080").unwrap();
        assert_eq!(vm.endpoint.unwrap().tls.unwrap().id.as_str(), "spiffe://root/external");
    }
}

mod inbound {
    use super::*;

    const WEB: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";

    #[test]
    fn without_a_server_the_default_applies() {
        let policy = shop().inbound("shop/web-1", 8080).unwrap();
        assert_eq!(policy.server.name(), "all-unauthenticated");
        assert!(matches!(policy.protocol, Inbound::Detect { .. }));
        let mut web = pod("shop/web-1", "web", "10.1.0.1");
        web.settings.default_policy = Some(DefaultPolicy::Deny);
        web.settings.opaque = Some(PortSet::from_iter([8080]));
        let policy = shop().with(web.clone()).inbound("shop/web-1", 8080).unwrap();
        assert_eq!((policy.server.name(), policy.authorizations.len()), ("deny", 0));
        assert_eq!(policy.protocol, Inbound::Opaque);
        web.settings.default_policy = None;
        web.settings.require_identity = PortSet::from_iter([8080]);
        let world = shop().with(web);
        assert_eq!(world.inbound("shop/web-1", 8080).unwrap().server.name(), "all-authenticated");
        assert_eq!(world.inbound("shop/web-1", 8081).unwrap().server.name(), "all-unauthenticated");
        assert!(matches!(world.inbound("shop/none", 80), Err(Absence::NotFound(_))));
    }

    #[test]
    fn only_a_proxy_that_is_left_is_told_to_end() {
        let asks = |phase| shop().with(Pod { phase, ..pod("shop/web-1", "web", "10.1.0.1") }).inbound("shop/web-1", 8080);
        assert!(matches!(asks(Phase::ProxyOnly), Err(Absence::Over(_))));
        // Evicted, and made anew under the same name: who asks is the new one, of which we may not know yet.
        assert!(asks(Phase::Done).is_ok());
    }

    #[test]
    fn a_server_is_selected_by_label_and_port_and_the_oldest_wins() {
        let named = |world: &World, port| world.inbound("shop/web-1", port).unwrap().server.name().to_owned();
        let old = Server { age: Age::Since(1), ..server("shop/b", "web") };
        let new = Server { age: Age::Since(2), ..server("shop/a", "web") };
        let world = shop().with(new).with(old).with(server("shop/other", "api")).with(server("else/c", "web"));
        assert_eq!(named(&world, 8080), "b");
        assert_eq!(named(&world, 9090), "all-unauthenticated");
        let by_name = Server { port: PortRef::Name("http".into()), ..server("shop/web", "web") };
        assert_eq!(named(&shop().with(by_name), 8080), "web");
        let undated = Server { age: Age::Unknown, ..server("shop/a", "web") };
        let dated = Server { age: Age::Since(9), ..server("shop/b", "web") };
        assert_eq!(named(&shop().with(undated).with(dated), 8080), "b");
    }

    #[test]
    fn a_server_alone_denies_and_its_default_may_allow() {
        let world = shop().with(server("shop/web", "web"));
        assert!(world.grants("shop/web-1", "10.0.0.1", Some(WEB)).is_empty());
        let open = Server { access: DefaultPolicy::Allow { authenticated: true, cluster: true }, ..server("shop/web", "web") };
        let world = shop().with(open);
        assert_eq!(world.grants("shop/web-1", "10.0.0.1", Some(WEB)), ["cluster-authenticated"]);
        assert!(world.grants("shop/web-1", "192.0.2.1", Some(WEB)).is_empty());
        assert!(world.grants("shop/web-1", "10.0.0.1", None).is_empty());
    }

    #[test]
    fn policies_grant_by_identity_and_network() {
        let to_server = || Target::Server("web".into());
        let tls = |identities| MeshTlsAuthentication { id: id("auth/tls"), identities };
        let account = IdentityPattern::ServiceAccount(id("shop/web"));
        let network = NetworkAuthentication {
            id: id("shop/net"),
            networks: vec![Network { net: "10.0.0.0/8".parse().unwrap(), except: vec!["10.9.0.0/16".parse().unwrap()] }],
        };
        let both = AuthorizationPolicy {
            clients: Some(IdentitySource::MeshTls(id("auth/tls"))),
            networks: Some(id("shop/net")),
            ..policy("shop/both", to_server())
        };
        let world = shop().with(server("shop/web", "web")).with(both).with(network.clone());
        // What it asks for doesn't exist: it grants nothing.
        assert!(world.grants("shop/web-1", "10.0.0.1", Some(WEB)).is_empty());
        let world = world.with(tls(vec![account]));
        assert_eq!(world.grants("shop/web-1", "10.0.0.1", Some(WEB)), ["both"]);
        assert!(world.grants("shop/web-1", "10.9.0.1", Some(WEB)).is_empty());
        assert!(world.grants("shop/web-1", "10.0.0.1", Some(IDENTITY)).is_empty());
        assert!(world.grants("shop/web-1", "10.0.0.1", None).is_empty());
        let world = world.with(tls(vec![IdentityPattern::Namespace("shop".into())]));
        assert_eq!(world.grants("shop/web-1", "10.0.0.1", Some(IDENTITY)), ["both"]);
        let world = world.with(tls(vec![IdentityPattern::Suffix("example.org".into())]));
        assert_eq!(world.grants("shop/web-1", "10.0.0.1", Some("a.example.org")), ["both"]);
        assert!(world.grants("shop/web-1", "10.0.0.1", Some(WEB)).is_empty());
        let anyone = shop().with(server("shop/web", "web")).with(policy("shop/ns", Target::Namespace));
        assert_eq!(anyone.grants("shop/web-1", "192.0.2.1", None), ["ns"]);
        let other = shop().with(server("shop/web", "web")).with(policy("shop/x", Target::Server("x".into())));
        assert!(other.grants("shop/web-1", "192.0.2.1", None).is_empty());
    }

    #[test]
    fn server_authorizations_grant_by_name_or_label() {
        let grant = |servers, proof| ServerAuthorization { id: id("shop/saz"), servers, networks: Vec::new(), proof };
        let world = || shop().with(Server { labels: labels("tier=front"), ..server("shop/web", "web") });
        let by_name = grant(ServerSelection::Name("web".into()), Proof::Unauthenticated);
        assert_eq!(world().with(by_name.clone()).grants("shop/web-1", "10.0.0.1", None), ["saz"]);
        // Without networks, the cluster's.
        assert!(world().with(by_name).grants("shop/web-1", "192.0.2.1", None).is_empty());
        let selector = |value| ServerSelection::Selector(Selector::of_labels([("tier", value)]));
        let front = grant(selector("front"), Proof::Identities(vec![IdentityPattern::Any]));
        assert_eq!(world().with(front.clone()).grants("shop/web-1", "10.0.0.1", Some(WEB)), ["saz"]);
        assert!(world().with(front).grants("shop/web-1", "10.0.0.1", None).is_empty());
        let back = grant(selector("back"), Proof::Unauthenticated);
        assert!(world().with(back).grants("shop/web-1", "10.0.0.1", None).is_empty());
    }

    fn route_names(policy: &homarus_model::inbound::ServerPolicy) -> Vec<&str> {
        let (Inbound::Detect { routes, .. } | Inbound::Http1(routes) | Inbound::Http2(routes)) = &policy.protocol else {
            panic!("{:?}", policy.protocol)
        };
        routes.iter().map(|route| route.rules[0].policy.meta.name()).collect()
    }

    #[test]
    fn probes_pass_until_routes_are_attached() {
        let settings = Settings { probe_networks: vec!["10.0.0.0/8".parse().unwrap()], ..Settings::default() };
        let mut web = pod("shop/web-1", "web", "10.1.0.1");
        web.probes.insert(8080, BTreeSet::from(["/live".to_owned(), "/ready".to_owned()]));
        let world = World::with_settings(settings).with(web).with(server("shop/web", "web"));
        let policy = world.inbound("shop/web-1", 8080).unwrap();
        assert_eq!(route_names(&policy), ["default", "probe"]);
        assert_eq!(route_names(&world.inbound("shop/web-1", 9090).unwrap()), ["default"]);
        let route = http_route("shop/route", ParentKind::Server, "shop/web", "/", Vec::new());
        assert_eq!(route_names(&world.with(route).inbound("shop/web-1", 8080).unwrap()), ["route"]);
    }

    #[test]
    fn routes_are_in_force_where_they_are_accepted_and_can_be_honoured() {
        let world = || shop().with(server("shop/web", "web"));
        let route = || http_route("shop/route", ParentKind::Server, "shop/web", "/", Vec::new());
        let names = |route: Route| route_names(&world().with(route).inbound("shop/web-1", 8080).unwrap()).join(",");
        assert_eq!(names(route()), "route");
        let edited = |edit: fn(&mut Route)| {
            let mut route = route();
            edit(&mut route);
            route
        };
        assert_eq!(names(edited(|r| r.accepted.clear())), "default");
        assert_eq!(names(edited(|r| r.accepted[0].ours = false)), "default");
        assert_eq!(names(edited(|r| r.parents[0].port = Some(8080))), "default");
        assert_eq!(names(edited(|r| r.parents[0].section = Some("x".into()))), "default");
        let elsewhere = |r: &mut Route| {
            r.parents.push(Parent { kind: ParentKind::Server, id: id("else/web"), port: None, section: None });
        };
        assert_eq!(names(edited(elsewhere)), "default");
        let older = Route { age: Age::Since(-1), ..http_route("shop/z", ParentKind::Server, "shop/web", "/", Vec::new()) };
        let both = world().with(route()).with(older);
        assert_eq!(route_names(&both.inbound("shop/web-1", 8080).unwrap()), ["z", "route"]);
    }

    #[test]
    fn policies_on_a_route_stay_on_the_route() {
        let kind = RouteKind::Http(RouteGroup::Gateway);
        let on_route = policy("shop/p", Target::Route(RouteGroup::Gateway, kind, "route".into()));
        let route = http_route("shop/route", ParentKind::Server, "shop/web", "/", Vec::new());
        let world = shop().with(server("shop/web", "web")).with(route).with(on_route);
        let policy = world.inbound("shop/web-1", 8080).unwrap();
        assert!(policy.authorizations.is_empty());
        let Inbound::Detect { routes, .. } = &policy.protocol else { panic!() };
        assert_eq!(routes[0].rules[0].policy.authorizations[0].meta.name(), "p");
    }
}

mod outbound {
    use super::*;

    fn http(world: &World, client: &str) -> Arc<[HttpRoute<RoutePolicy>]> {
        match world.outbound("10.2.0.1:80", client).unwrap().protocol {
            Outbound::Detect { http1, .. } | Outbound::Http1(http1) | Outbound::Http2(http1) => http1,
            other => panic!("{other:?}"),
        }
    }

    fn backends(world: &World, client: &str, path: &str) -> Vec<(String, Option<String>)> {
        let routes = http(world, client);
        let headers = http::HeaderMap::new();
        let head = RequestHead { method: &http::Method::GET, host: None, path, query: None, headers: &headers };
        let policy = find(&routes, &head).unwrap();
        let one = |b: &&homarus_model::outbound::RouteBackend| {
            let failure = b.filters.iter().find_map(|f| match f {
                Filter::Fail(InjectedFailure::Http { message, .. }) => Some(message.to_string()),
                _ => None,
            });
            let path = match &b.backend.dispatcher {
                Dispatcher::Balance { path, .. } => path.to_string(),
                Dispatcher::Forward(to) => to.addr.to_string(),
                Dispatcher::Fail => "fail".into(),
            };
            (path, failure)
        };
        policy.distribution.backends().iter().map(one).collect()
    }

    const OWN: &str = "web.shop.svc.cluster.local:80";

    #[test]
    fn a_service_balances_over_itself() {
        let policy = shop().outbound("10.2.0.1:80", "client").unwrap();
        assert_eq!(policy.parent.to_string(), "Service.shop.web:80");
        assert_eq!(backends(&shop(), "client", "/x"), [(OWN.into(), None)]);
        let opaque = policy.opaque().unwrap();
        assert_eq!((opaque.meta.name(), opaque.refuse.clone()), ("opaq", None));
    }

    #[test]
    fn addresses_that_are_no_service() {
        let refused = shop().outbound("10.2.0.1:81", "client").unwrap();
        let opaque = refused.opaque().unwrap();
        assert_eq!((opaque.meta.name(), opaque.refuse.clone()), ("undefined-port", Some(Refusal::Forbidden)));
        assert_eq!(opaque.distribution, Distribution::Empty);
        assert!(matches!(shop().outbound("10.1.0.1:8080", "client"), Err(Absence::NotFound(_))));
        let egress = shop().outbound("192.0.2.1:443", "client").unwrap();
        assert_eq!(egress.parent.name(), "egress-fallback");
    }

    #[test]
    fn ports_say_what_they_speak() {
        let speaks = |app: Option<&str>, opaque: bool| {
            let mut web = service("shop/web", "10.2.0.1");
            web.ports[0].app_protocol = app.map(Into::into);
            web.opaque = opaque.then(|| PortSet::from_iter([80]));
            match shop().with(web).outbound("10.2.0.1:80", "client").unwrap().protocol {
                Outbound::Detect { .. } => "detect",
                Outbound::Http1(_) => "http1",
                Outbound::Http2(_) => "http2",
                Outbound::Grpc(_) => "grpc",
                Outbound::Opaque(_) => "opaque",
            }
        };
        assert_eq!(speaks(None, false), "detect");
        assert_eq!(speaks(None, true), "opaque");
        assert_eq!(speaks(Some("HTTP"), true), "http1");
        assert_eq!(speaks(Some("kubernetes.io/h2c"), false), "http2");
        assert_eq!(speaks(Some("linkerd.io/opaque"), false), "opaque");
        assert_eq!(speaks(Some("kubernetes.io/ws"), false), "opaque");
    }

    #[test]
    fn producer_routes_are_for_all_and_consumer_routes_for_their_namespace() {
        let other = || service("shop/other", "10.2.0.2");
        let to_other = |name: &str| {
            let BackendRef::Service { name: backend, port, weight, filters, .. } = backend("other", 80, 1) else { panic!() };
            let namespace = Some("shop".into());
            let there = BackendRef::Service { namespace, name: backend, port, weight, filters };
            http_route(name, ParentKind::Service, "shop/web", "/", vec![there])
        };
        let other_path = "other.shop.svc.cluster.local:80".to_owned();
        let producer = shop().with(other()).with(to_other("shop/r"));
        assert_eq!(backends(&producer, "client", "/"), [(other_path.clone(), None)]);
        let consumer = shop().with(other()).with(to_other("client/r"));
        assert_eq!(backends(&consumer, "client", "/"), [(other_path, None)]);
        assert_eq!(backends(&consumer, "stranger", "/"), [(OWN.into(), None)]);
    }

    #[test]
    fn routes_for_one_port_and_unaccepted_ones() {
        let route = |port: Option<u16>, accepted: Option<u16>| {
            let mut route = http_route("shop/r", ParentKind::Service, "shop/web", "/", vec![backend("other", 80, 1)]);
            route.parents[0].port = port;
            route.accepted[0].port = accepted;
            route
        };
        let routed =
            |route: Route| backends(&shop().with(service("shop/other", "10.2.0.2")).with(route), "client", "/")[0].0 != OWN;
        assert!(routed(route(None, None)));
        assert!(routed(route(Some(80), Some(80))));
        assert!(!routed(route(Some(81), Some(81))));
        assert!(!routed(route(Some(80), None)));
        let mut unaccepted = route(None, None);
        unaccepted.accepted.clear();
        assert!(!routed(unaccepted));
    }

    #[test]
    fn backends_that_can_not_be_used_say_why() {
        let with = |backends_of_route: Vec<BackendRef>| {
            let world = shop().with(http_route("shop/r", ParentKind::Service, "shop/web", "/", backends_of_route));
            backends(&world, "client", "/")
        };
        let fails = |message: &str| vec![("fail".to_owned(), Some(message.to_owned()))];
        assert_eq!(with(vec![backend("none", 80, 1)]), fails("Service not found none"));
        let portless = BackendRef::Service { namespace: None, name: "web".into(), port: None, weight: 1, filters: Ok(vec![]) };
        assert_eq!(with(vec![portless]), fails("missing port for backend Service web"));
        let filtered = BackendRef::Service {
            namespace: None,
            name: "web".into(),
            port: Some(80),
            weight: 1,
            filters: Err("filter URLRewrite is not supported".into()),
        };
        assert_eq!(with(vec![filtered]), fails("unsupported backend filter: filter URLRewrite is not supported"));
        let odd = BackendRef::Unsupported { group: "x.io".into(), kind: "Bucket".into(), weight: 1 };
        assert_eq!(with(vec![odd]), fails("unsupported backend type x.io Bucket"));
        assert_eq!(with(vec![backend("web", 80, 0)])[0].0, "fail");
        let mixed = with(vec![backend("web", 80, 1), backend("none", 80, 0)]);
        assert_eq!(mixed[0], (OWN.into(), None));
    }

    #[test]
    fn a_backend_that_appears_is_used() {
        let mut world = shop().with(http_route("shop/r", ParentKind::Service, "shop/web", "/", vec![backend("late", 80, 1)]));
        assert_eq!(backends(&world, "client", "/")[0].0, "fail");
        world.tell(service("shop/late", "10.2.0.3"));
        assert_eq!(backends(&world, "client", "/")[0].0, "late.shop.svc.cluster.local:80");
    }

    #[test]
    fn grpc_routes_come_before_http_routes() {
        let mut grpc = http_route("shop/g", ParentKind::Service, "shop/web", "/", Vec::new());
        grpc.kind = RouteKind::Grpc;
        grpc.rules = Rules::Grpc(vec![RouteRule { matches: Vec::new(), filters: Vec::new(), backends: Vec::new() }]);
        let route = http_route("shop/r", ParentKind::Service, "shop/web", "/", Vec::new());
        let world = shop().with(route).with(grpc);
        assert!(matches!(world.outbound("10.2.0.1:80", "client").unwrap().protocol, Outbound::Grpc(routes) if routes.len() == 1));
    }
}
