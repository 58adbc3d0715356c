#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, Node, Pod, PodCondition, PodIP, PodSpec, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::super::cluster::time;
use super::desired::{groups, looks_the_same};
use super::plan::{MOST_ENDPOINTS, plan};
use super::{HEADLESS, MANAGED_BY, SERVICE_NAME, selects_pods};

fn service(ports: Vec<ServicePort>) -> Service {
    let spec = ServiceSpec {
        selector: Some([("app".to_owned(), "web".to_owned())].into()),
        cluster_ip: Some("10.0.0.1".into()),
        ip_families: Some(vec!["IPv4".into()]),
        ports: Some(ports),
        ..Default::default()
    };
    let mut service = Service { spec: Some(spec), ..Default::default() };
    service.metadata.name = Some("web".into());
    service.metadata.namespace = Some("ns".into());
    service.metadata.uid = Some("s".into());
    service.metadata.labels = Some([("team".to_owned(), "a".to_owned())].into());
    service
}

fn port(target: IntOrString) -> ServicePort {
    ServicePort {
        name: Some("http".into()),
        port: 80,
        target_port: Some(target),
        protocol: Some("TCP".into()),
        ..Default::default()
    }
}

fn pod(number: usize) -> Pod {
    let named = ContainerPort { name: Some("web".into()), container_port: 8080, ..Default::default() };
    let container = Container { name: "app".into(), ports: Some(vec![named]), ..Default::default() };
    let spec = PodSpec { containers: vec![container], node_name: Some("one".into()), ..Default::default() };
    let mut pod = Pod { spec: Some(spec), ..Default::default() };
    pod.metadata.name = Some(format!("web-{number}"));
    pod.metadata.namespace = Some("ns".into());
    pod.metadata.uid = Some(format!("uid-{number}"));
    pod.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
    let status = pod.status.get_or_insert_default();
    status.phase = Some("Running".into());
    let ip = format!("10.1.{}.{}", number / 250, number % 250 + 1);
    status.pod_ips = Some(vec![PodIP { ip }, PodIP { ip: format!("fd00:0:0:0:0:0:0:{:x}", number + 1) }]);
    status.conditions = Some(vec![PodCondition { type_: "Ready".into(), status: "True".into(), ..Default::default() }]);
    pod
}

fn node() -> Node {
    let mut node = Node::default();
    node.metadata.name = Some("one".into());
    node.metadata.labels = Some([("topology.kubernetes.io/zone".to_owned(), "z1".to_owned())].into());
    node
}

/// Slices of one Service, as they are after each change.
struct World {
    service: Service,
    pods: Vec<Pod>,
    slices: BTreeMap<String, EndpointSlice>,
    made: usize,
}

impl World {
    fn new(service: Service, pods: Vec<Pod>) -> World {
        World { service, pods, slices: BTreeMap::new(), made: 0 }
    }

    /// Does what is planned; returns how many slices were created, replaced, deleted.
    fn step(&mut self) -> (usize, usize, usize) {
        let pods: Vec<_> = self.pods.iter().cloned().map(Arc::new).collect();
        let wanted = groups(&self.service, pods.iter(), &[Arc::new(node())]);
        let changes = plan(&self.service, self.slices.values().cloned().map(Arc::new).collect(), wanted);
        let counts = (changes.create.len(), changes.replace.len(), changes.delete.len());
        for slice in changes.delete {
            self.slices.remove(&slice.name_any()).unwrap();
        }
        for slice in changes.replace {
            self.slices.insert(slice.name_any(), slice).unwrap();
        }
        for mut slice in changes.create {
            self.made += 1;
            let name = format!("{}{}", slice.metadata.generate_name.take().unwrap(), self.made);
            slice.metadata.name = Some(name.clone());
            assert!(self.slices.insert(name, slice).is_none());
        }
        counts
    }

    fn only(&self) -> &EndpointSlice {
        assert_eq!(self.slices.len(), 1);
        self.slices.values().next().unwrap()
    }

    fn sizes(&self) -> Vec<usize> {
        self.slices.values().map(|slice| slice.endpoints.len()).collect()
    }
}

#[test]
fn a_slice_says_all_that_is_known_of_a_pod() {
    let mut world = World::new(service(vec![port(IntOrString::String("web".into()))]), vec![pod(0)]);
    assert_eq!(world.step(), (1, 0, 0));
    let slice = world.only();
    assert_eq!(slice.address_type, "IPv4");
    let labels: BTreeMap<_, _> = slice.labels().iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(labels, [("team", "a"), (SERVICE_NAME, "web"), (MANAGED_BY, "endpointslice-controller.k8s.io")].into());
    let owner = &slice.owner_references()[0];
    assert_eq!((owner.kind.as_str(), owner.uid.as_str(), owner.controller), ("Service", "s", Some(true)));
    let port = &slice.ports.as_ref().unwrap()[0];
    assert_eq!((port.name.as_deref(), port.port, port.protocol.as_deref()), (Some("http"), Some(8080), Some("TCP")));
    let endpoint = &slice.endpoints[0];
    assert_eq!(endpoint.addresses, ["10.1.0.1"]);
    assert_eq!((endpoint.node_name.as_deref(), endpoint.zone.as_deref()), (Some("one"), Some("z1")));
    let target = endpoint.target_ref.as_ref().unwrap();
    assert_eq!(
        (target.kind.as_deref(), target.name.as_deref(), target.uid.as_deref()),
        (Some("Pod"), Some("web-0"), Some("uid-0"))
    );
    assert_eq!(endpoint.hostname, None);
    assert_eq!(world.step(), (0, 0, 0), "a second look changes nothing");
}

#[test]
fn conditions_follow_the_pod() {
    let unready = |pod: &mut Pod| pod.status.as_mut().unwrap().conditions = None;
    let ending = |pod: &mut Pod| pod.metadata.deletion_timestamp = Some(time(Timestamp::UNIX_EPOCH));
    type Edit<'e> = &'e dyn Fn(&mut Pod);
    let none: Edit<'_> = &|_| {};
    let both: Edit<'_> = &|pod| {
        unready(pod);
        ending(pod);
    };
    for (edit, publish, expected) in [
        (none, false, (true, true, false)),
        (&unready as Edit<'_>, false, (false, false, false)),
        (&ending as Edit<'_>, false, (false, true, true)),
        (both, false, (false, false, true)),
        (&unready as Edit<'_>, true, (true, false, false)),
        (both, true, (true, false, true)),
    ] {
        let mut world = World::new(service(vec![port(IntOrString::Int(8080))]), vec![pod(0)]);
        world.service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(publish);
        world.step();
        edit(&mut world.pods[0]);
        world.step();
        let conditions = world.only().endpoints[0].conditions.clone().unwrap();
        let conditions = (conditions.ready.unwrap(), conditions.serving.unwrap(), conditions.terminating.unwrap());
        assert_eq!(conditions, expected);
    }
}

#[test]
fn pods_without_address_or_at_their_end_are_no_endpoints() {
    let mut nowhere = pod(0);
    nowhere.status.as_mut().unwrap().pod_ips = None;
    let mut over = pod(1);
    over.status.as_mut().unwrap().phase = Some("Succeeded".into());
    let mut lost = pod(2);
    lost.spec.as_mut().unwrap().node_name = Some("gone".into());
    let mut world = World::new(service(vec![port(IntOrString::Int(8080))]), vec![nowhere, over, lost]);
    world.step();
    assert!(world.only().endpoints.is_empty() && world.only().ports.as_ref().unwrap().is_empty());
    world.service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    world.step();
    assert_eq!(world.only().endpoints[0].target_ref.as_ref().unwrap().name.as_deref(), Some("web-2"));
}

#[test]
fn a_service_without_endpoints_keeps_one_slice() {
    let mut world = World::new(service(vec![port(IntOrString::Int(8080))]), vec![]);
    assert_eq!(world.step(), (1, 0, 0));
    assert_eq!(world.step(), (0, 0, 0));
    world.pods = vec![pod(0)];
    assert_eq!(world.step(), (0, 1, 0), "the placeholder is used");
    world.pods.clear();
    assert_eq!(world.step(), (0, 1, 0), "and becomes one again");
    assert_eq!(world.sizes(), [0]);
    assert_eq!(world.step(), (0, 0, 0));
}

#[test]
fn named_ports_that_differ_make_slices_of_their_own() {
    let mut other = pod(1);
    other.spec.as_mut().unwrap().containers[0].ports.as_mut().unwrap()[0].container_port = 9090;
    let mut sidecar = pod(2);
    let spec = sidecar.spec.as_mut().unwrap();
    let mut beside = spec.containers[0].clone();
    spec.containers[0].ports = None;
    beside.restart_policy = Some("Always".into());
    beside.ports.as_mut().unwrap()[0].container_port = 7070;
    spec.init_containers = Some(vec![beside]);
    let mut without = pod(3);
    without.spec.as_mut().unwrap().containers[0].ports = None;
    let pods = vec![pod(0), other, sidecar, without];
    let mut world = World::new(service(vec![port(IntOrString::String("web".into()))]), pods);
    world.step();
    let mut ports: Vec<_> =
        world.slices.values().map(|slice| slice.ports.as_ref().unwrap().first().and_then(|port| port.port)).collect();
    ports.sort();
    assert_eq!(ports, [None, Some(7070), Some(8080), Some(9090)]);
    assert_eq!(world.step(), (0, 0, 0));
}

#[test]
fn slices_hold_a_hundred_and_few_of_them_change() {
    let pods = (0..250).map(pod).collect();
    let mut world = World::new(service(vec![port(IntOrString::Int(8080))]), pods);
    assert_eq!(world.step(), (3, 0, 0));
    let mut sizes = world.sizes();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, MOST_ENDPOINTS, MOST_ENDPOINTS]);
    world.pods.push(pod(300));
    assert_eq!(world.step(), (0, 1, 0), "into the one with room");
    world.pods.remove(0);
    assert_eq!(world.step(), (0, 1, 0), "only the slice that had it");
    world.pods[10].status.as_mut().unwrap().conditions = None;
    assert_eq!(world.step(), (0, 1, 0));
    world.pods.clear();
    assert_eq!(world.step(), (0, 1, 2));
    assert_eq!(world.sizes(), [0]);
}

#[test]
fn a_headless_service_names_its_pods() {
    let mut named = pod(0);
    named.spec.as_mut().unwrap().hostname = Some("web-0".into());
    named.spec.as_mut().unwrap().subdomain = Some("web".into());
    let mut elsewhere = pod(1);
    elsewhere.spec.as_mut().unwrap().hostname = Some("web-1".into());
    elsewhere.spec.as_mut().unwrap().subdomain = Some("other".into());
    let mut world = World::new(service(vec![]), vec![named, elsewhere]);
    world.service.spec.as_mut().unwrap().cluster_ip = Some("None".into());
    world.step();
    let slice = world.only();
    assert_eq!(slice.labels().get(HEADLESS).map(String::as_str), Some(""));
    let names: Vec<_> = slice.endpoints.iter().map(|endpoint| endpoint.hostname.as_deref()).collect();
    assert_eq!(names, [Some("web-0"), None]);
}

#[test]
fn each_family_has_its_slices() {
    let mut world = World::new(service(vec![port(IntOrString::Int(8080))]), vec![pod(0)]);
    world.service.spec.as_mut().unwrap().ip_families = Some(vec!["IPv4".into(), "IPv6".into()]);
    assert_eq!(world.step(), (2, 0, 0));
    let addresses: Vec<_> =
        world.slices.values().map(|slice| (slice.address_type.as_str(), slice.endpoints[0].addresses[0].as_str())).collect();
    assert_eq!(addresses, [("IPv4", "10.1.0.1"), ("IPv6", "fd00::1")]);
    world.service.spec.as_mut().unwrap().ip_families = Some(vec!["IPv4".into()]);
    assert_eq!(world.step(), (0, 0, 1));
}

#[test]
fn labels_follow_the_service_and_slices_of_a_namesake_go() {
    let mut world = World::new(service(vec![port(IntOrString::Int(8080))]), vec![pod(0)]);
    world.step();
    world.service.labels_mut().insert("team".into(), "b".into());
    assert_eq!(world.step(), (0, 1, 0));
    assert_eq!(world.only().labels()["team"], "b");
    world.service.metadata.uid = Some("another".into());
    assert_eq!(world.step(), (1, 0, 1));
    world.service.metadata.uid = Some("a third".into());
    world.service.metadata.deletion_timestamp = Some(time(Timestamp::UNIX_EPOCH));
    assert_eq!(world.step(), (0, 0, 1), "one that ends gets nothing new");
}

#[test]
fn only_services_with_a_selector_are_ours() {
    let mut service = service(vec![]);
    assert!(selects_pods(&service));
    service.spec.as_mut().unwrap().type_ = Some("ExternalName".into());
    assert!(!selects_pods(&service));
    service.spec.as_mut().unwrap().type_ = None;
    service.spec.as_mut().unwrap().selector = Some(BTreeMap::new());
    assert!(!selects_pods(&service));
}

#[test]
fn changes_that_endpoints_do_not_show_wake_nobody() {
    let before = pod(0);
    let mut after = pod(0);
    after.annotations_mut().insert("note".into(), "x".into());
    assert!(looks_the_same(&before, &after));
    after.status.as_mut().unwrap().conditions = None;
    assert!(!looks_the_same(&before, &after));
    let mut ending = pod(0);
    ending.metadata.deletion_timestamp = Some(time(Timestamp::UNIX_EPOCH));
    assert!(!looks_the_same(&before, &ending));
    let mut relabeled = pod(0);
    relabeled.labels_mut().clear();
    assert!(!looks_the_same(&before, &relabeled));
}
