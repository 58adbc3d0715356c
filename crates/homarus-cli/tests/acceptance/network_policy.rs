//! `charts/network-policy.yaml` against what a meshed pod of a namespace that denies egress really connects to. Nothing enforces
//! policies on these clusters; so the pod's own table of connections is read, and each is held against the rules, by the labels that
//! the other end really has. Every rule must be needed, too.

use crate::cluster::{Shell, cluster, eventually};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    networking::v1::{NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyPeer, NetworkPolicyPort},
};
use k8s_openapi::apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

const POLICY: &str = include_str!("../../../../charts/network-policy.yaml");
/// As the kernel's table calls a connection that is established.
const ESTABLISHED: &str = "01";
const LISTENING: &str = "0A";

#[test]
fn what_a_meshed_pod_connects_to_is_what_the_policy_for_its_namespace_permits() {
    if !cluster().real {
        // There, names are told by the node and not by a pod, and the API knows no such policies.
        return;
    }
    let policy: NetworkPolicy = serde_yaml_ng::from_str(POLICY).unwrap();
    let shell = fenced();
    let pods: Api<Pod> = cluster().api("fenced");
    let labels = cluster().ask(pods.get("fenced")).unwrap().labels().clone();
    let spec = policy.spec.as_ref().unwrap();
    assert!(spec.pod_selector.as_ref().is_some_and(|selector| matches(selector, &labels)), "it is about meshed pods: {labels:?}");
    cluster().wait_for_deployment("apps", "web");
    shell.wait_for_status("http://web.apps", "200");

    let egress = spec.egress.as_ref().unwrap();
    // The proxy keeps these for as long as it runs, but for a certificate that is renewed on a connection of its own.
    let mut used = BTreeSet::new();
    eventually("connections by each rule but that of names", || {
        shell.status("http://web.apps");
        // Anew each time: other scenarios make pods and end them.
        let world = World::look();
        for to in connections(&shell) {
            let rules: Vec<usize> = (0..egress.len()).filter(|rule| world.permits(&egress[*rule], to, "TCP")).collect();
            assert!(!rules.is_empty(), "{to} ({:?}) is permitted by no rule", world.pods.get(&to.ip()));
            used.extend(rules);
        }
        (used.len() == egress.len() - 1).then_some(())
    });
    let world = World::look();
    // Names are asked for by datagrams; where they are sent to is what the Service stands for.
    let names: Vec<usize> =
        (0..egress.len()).filter(|rule| world.dns.iter().all(|to| world.permits(&egress[*rule], *to, "UDP"))).collect();
    assert!(names.len() == 1 && !used.contains(&names[0]), "{names:?} {used:?}");

    refuses_what_it_should(&world, egress);
}

/// The same judge says no: to another port, to pods of another kind, to who isn't meshed.
fn refuses_what_it_should(world: &World, egress: &[NetworkPolicyEgressRule]) {
    let permitted = |to: SocketAddr| egress.iter().any(|rule| world.permits(rule, to, "TCP"));
    let of = |component: &str| {
        let wanted = ("linkerd.io/control-plane-component".to_owned(), component.to_owned());
        let found = world.pods.iter().find(|(_, (_, labels))| labels.get(&wanted.0) == Some(&wanted.1));
        *found.expect("the control plane runs").0
    };
    assert!(permitted(SocketAddr::new(of("destination"), 8086)) && permitted(SocketAddr::new(of("identity"), 8080)));
    assert!(!permitted(SocketAddr::new(of("destination"), 9996)), "its admin port");
    assert!(!permitted(SocketAddr::new(of("proxy-injector"), 8080)), "the identity controller's port of another");
    let plain: IpAddr = cluster().pod_address("clients", "plain").parse().unwrap();
    assert!(world.pods.contains_key(&plain) && !permitted(SocketAddr::new(plain, 4143)), "an unmeshed pod");
    assert!(!permitted("192.0.2.1:4143".parse().unwrap()), "somebody outside");
}

/// A meshed client in a namespace of its own, with the policy.
fn fenced() -> Shell {
    let container = json!({
        "name": "shell", "image": "localhost/test-programs:local",
        "command": ["socat", "TCP-LISTEN:9000,bind=127.0.0.1,fork,reuseaddr", "EXEC:sh"],
    });
    let mut policy: serde_json::Value = serde_yaml_ng::from_str(POLICY).unwrap();
    policy["metadata"]["namespace"] = "fenced".into();
    cluster().apply_all(&[
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "fenced", "annotations": { "linkerd.io/inject": "enabled" } } }),
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "fenced", "namespace": "fenced" },
            "spec": { "terminationGracePeriodSeconds": 0, "containers": [container] },
        }),
    ]);
    cluster().apply_all(&[policy]);
    Shell::of(cluster(), "fenced", "fenced")
}

/// Where the pod has connected to, over its network.
fn connections(shell: &Shell) -> Vec<SocketAddr> {
    let table = shell.run("cat /proc/net/tcp /proc/net/tcp6");
    let rows: Vec<(SocketAddr, SocketAddr, &str)> = table.lines().filter_map(row).collect();
    let listening: BTreeSet<u16> = rows.iter().filter(|(_, _, state)| *state == LISTENING).map(|(own, ..)| own.port()).collect();
    let own: BTreeSet<IpAddr> = rows.iter().map(|(own, ..)| own.ip()).collect();
    let outward = rows.iter().filter(|(own, _, state)| *state == ESTABLISHED && !listening.contains(&own.port()));
    // An application's connection to its proxy carries the address that it dialed; the proxy's own leave the pod.
    let leaves = |to: &SocketAddr| !to.ip().is_loopback() && !own.contains(&to.ip());
    let services: BTreeSet<IpAddr> =
        all::<Service>().iter().filter_map(|each| each.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()).collect();
    outward.map(|(_, to, _)| *to).filter(|to| leaves(to) && !services.contains(&to.ip())).collect()
}

/// Own address, the other's, and the state, of one line.
fn row(line: &str) -> Option<(SocketAddr, SocketAddr, &str)> {
    let mut words = line.split_whitespace().skip(1);
    Some((address(words.next()?)?, address(words.next()?)?, words.next()?))
}

/// `0100007F:1F90`: the address in words of the machine's order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words: Option<Vec<u32>> = (0..ip.len() / 8).map(|at| u32::from_str_radix(&ip[at * 8..at * 8 + 8], 16).ok()).collect();
    let bytes: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

type Labels = BTreeMap<String, String>;

/// Who has which address.
struct World {
    /// Each pod's namespace and labels.
    pods: BTreeMap<IpAddr, (String, Labels)>,
    namespaces: BTreeMap<String, Labels>,
    /// Where names are asked for.
    dns: Vec<SocketAddr>,
}

fn all<K>() -> Vec<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = cluster().everywhere();
    cluster().ask(api.list(&ListParams::default())).unwrap().items
}

impl World {
    fn look() -> Self {
        let ip = |pod: &Pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok();
        let pods: Vec<Pod> = all();
        let of_dns = |pod: &&Pod| {
            pod.namespace().as_deref() == Some("kube-system") && pod.labels().get("k8s-app").is_some_and(|app| app == "kube-dns")
        };
        let dns = pods.iter().filter(of_dns).filter_map(ip).map(|ip| SocketAddr::new(ip, 53)).collect();
        Self {
            dns,
            pods: pods.iter().filter_map(|pod| Some((ip(pod)?, (pod.namespace()?, pod.labels().clone())))).collect(),
            namespaces: all::<Namespace>().iter().map(|each| (each.name_any(), each.labels().clone())).collect(),
        }
    }

    fn permits(&self, rule: &NetworkPolicyEgressRule, to: SocketAddr, protocol: &str) -> bool {
        let port = |port: &NetworkPolicyPort| {
            port.protocol.as_deref() == Some(protocol) && port.port == Some(IntOrString::Int(to.port().into()))
        };
        rule.ports.iter().flatten().any(port) && rule.to.iter().flatten().any(|peer| self.is(peer, to.ip()))
    }

    fn is(&self, peer: &NetworkPolicyPeer, ip: IpAddr) -> bool {
        let Some((namespace, labels)) = self.pods.get(&ip) else { return false };
        assert!(peer.ip_block.is_none() && peer.namespace_selector.is_some(), "rules name pods by labels");
        let namespaced = peer.namespace_selector.as_ref().is_some_and(|selector| matches(selector, &self.namespaces[namespace]));
        namespaced && peer.pod_selector.as_ref().is_none_or(|selector| matches(selector, labels))
    }
}

/// Whether a selector, of the forms that the policy uses, selects these labels.
fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let exists = |key: &str| labels.contains_key(key);
    let expressions = selector.match_expressions.iter().flatten();
    let mut expressions = expressions.inspect(|each| assert_eq!(each.operator, "Exists", "a form that this test doesn't know"));
    selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && expressions.all(|each| exists(&each.key))
}
