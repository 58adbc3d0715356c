#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::collection::btree_map;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const BRIDGE: &str = r#"{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}"#;
const SINGLE: &str = r#"{"cniVersion": "0.4.0", "name": "one", "type": "ptp", "mtu": 1400}"#;

struct Node {
    _folders: TempDir,
    host: Host,
}

impl Node {
    fn with(configs: &[(&str, &str)]) -> Self {
        let folders = TempDir::new().unwrap();
        let host = Host {
            net_dir: folders.path().join("net.d"),
            bin_dir: folders.path().join("bin"),
            kubeconfig: "ZZZ-linkerd-cni-kubeconfig".into(),
        };
        fs::create_dir(&host.net_dir).unwrap();
        fs::create_dir(&host.bin_dir).unwrap();
        for (name, text) in configs {
            fs::write(host.net_dir.join(name), text).unwrap();
        }
        Self { _folders: folders, host }
    }

    fn install(&self) -> Placed {
        let program = self.host.bin_dir.join("../program");
        fs::write(&program, "program").unwrap();
        self.host.place_program(&program).unwrap();
        self.host.place_kubeconfig("{}").unwrap();
        self.host.place_entry(&entry()).unwrap()
    }

    fn files(&self) -> BTreeMap<String, String> {
        let entries = fs::read_dir(&self.host.net_dir).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())).collect()
    }

    fn read(&self, name: &str) -> String {
        self.files().remove(name).unwrap_or_else(|| panic!("{name} is missing: {:?}", self.files()))
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.host.net_dir.join(name), text).unwrap();
    }
}

fn entry() -> Box<RawValue> {
    RawValue::from_string(r#"{"type": "linkerd-cni"}"#.to_owned()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// Whatever lies in the folder.
    #[test]
    fn what_was_there_is_there_again(
        configs in btree_map(
            "[0-9]{1,2}-[a-c]\\.(conf|conflist|json|conflist\\.bak)",
            prop_oneof![Just(BRIDGE), Just(SINGLE), Just("{\"plugins\": ["), Just("{}")],
            0..5,
        ),
    ) {
        let texts: Vec<(&str, &str)> = configs.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        let node = Node::with(&texts);
        let placed = node.install();
        let broken = configs.iter().filter(|(name, text)| !name.ends_with(".bak") && [ "{}", "{\"plugins\": [" ].contains(text));
        prop_assert_eq!(placed.faults.len(), broken.count());
        prop_assert_eq!(node.host.place_entry(&entry()).unwrap().written, 0, "twice is once");
        prop_assert!(node.host.restore().is_empty());
        let after = node.files();
        prop_assert_eq!(after.keys().collect::<Vec<_>>(), configs.keys().collect::<Vec<_>>());
        for (name, text) in &configs {
            prop_assert!(after[name] == *text || conflist::same(&after[name], text), "{}: {}", name, after[name]);
        }
        prop_assert!(!node.host.program().exists());
    }
}

#[test]
fn a_node_is_ready_when_its_first_configuration_ends_with_ours() {
    let node = Node::with(&[]);
    assert!(node.host.is_ready().unwrap_err().contains("linkerd-cni"));
    node.install();
    assert!(node.host.is_ready().unwrap_err().contains("no network configuration"));
    node.write("10-bridge.conflist", BRIDGE);
    assert!(node.host.is_ready().unwrap_err().contains("doesn't end with"));
    node.install();
    assert_eq!(node.host.is_ready(), Ok(()));
    node.write("05-other.conflist", BRIDGE);
    assert!(node.host.is_ready().is_err(), "a new one comes first");
}

#[test]
fn rights_stay_and_the_token_is_for_root() {
    let node = Node::with(&[("10-a.conflist", BRIDGE), ("20-b.conf", SINGLE)]);
    let mode = |name: &str| fs::metadata(node.host.net_dir.join(name)).unwrap().permissions().mode() & 0o777;
    fs::set_permissions(node.host.net_dir.join("10-a.conflist"), fs::Permissions::from_mode(0o600)).unwrap();
    node.install();
    assert_eq!(mode("10-a.conflist"), 0o600);
    assert_eq!(mode("20-b.conflist"), 0o644);
    assert_eq!(mode("ZZZ-linkerd-cni-kubeconfig"), 0o600);
    assert_eq!(fs::metadata(node.host.program()).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn a_single_plugin_that_was_rewritten_meanwhile_is_not_brought_back() {
    let node = Node::with(&[("10-a.conf", SINGLE)]);
    node.install();
    assert!(conflist::has_entry(&node.read("10-a.conflist")));
    node.write("10-a.conflist", BRIDGE);
    node.install();
    assert!(node.host.restore().is_empty());
    assert_eq!(node.files().keys().collect::<Vec<_>>(), ["10-a.conflist"]);
    assert!(conflist::same(&node.read("10-a.conflist"), BRIDGE));
}

#[test]
fn a_list_of_the_same_name_is_nobodys_victim() {
    let node = Node::with(&[("10-a.conf", SINGLE), ("10-a.conflist", BRIDGE)]);
    node.install();
    assert!(node.read("10-a.conflist").contains("portmap"));
    assert!(node.read("10-a.conf.conflist").contains("ptp"));
}

#[test]
fn what_a_crash_left_is_no_obstacle() {
    let node = Node::with(&[("10-a.conf", SINGLE), ("10-a.conflist.install", "half")]);
    let Edit::Convert(list) = conflist::with_entry(SINGLE, &entry()).unwrap() else { panic!("a list now") };
    node.write("10-a.conflist", &list);
    node.install();
    assert_eq!(node.files().len(), 3, "list, kept and kubeconfig: {:?}", node.files());
    assert!(node.host.restore().is_empty());
    assert_eq!(node.files().keys().collect::<Vec<_>>(), ["10-a.conf"]);
}
