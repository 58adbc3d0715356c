#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const OURS: &str = r#"{"name": "linkerd-cni", "type": "linkerd-cni", "linkerd": {"incoming-proxy-port": 4143}}"#;

fn ours() -> Box<RawValue> {
    RawValue::from_string(OURS.to_owned()).unwrap()
}

fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn plugins(text: &str) -> Vec<Value> {
    read(text)["plugins"].as_array().unwrap().clone()
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Such as reading and writing them again doesn't change: it is this test that reads them, not what is tested.
        any::<i32>().prop_map(|number| Value::from(f64::from(number) / 8.0)),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec(("[a-z]{1,6}", inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Any plugin, among them some that others once took ours for.
fn plugin() -> impl Strategy<Value = Value> {
    (prop_oneof!["[a-z]{1,8}", Just("linkerd-cni-2".to_owned())], vec(("[a-z]{1,6}", value()), 0..4)).prop_map(|(kind, members)| {
        let mut plugin: serde_json::Map<String, Value> = members.into_iter().collect();
        plugin.insert("type".to_owned(), kind.into());
        Value::Object(plugin)
    })
}

/// Any list, and which of its places hold an old entry of ours.
fn list() -> impl Strategy<Value = Value> {
    (vec((plugin(), any::<bool>()), 0..5), vec(("[a-z]{1,6}", value()), 0..4)).prop_map(|(plugins, members)| {
        let old = json!({ "type": PLUGIN, "log_level": "debug" });
        let chain = plugins.into_iter().flat_map(|(plugin, ours)| std::iter::once(plugin).chain(ours.then(|| old.clone())));
        let mut list: serde_json::Map<String, Value> = members.into_iter().collect();
        list.insert("plugins".to_owned(), chain.collect());
        Value::Object(list)
    })
}

fn others(list: &Value) -> Vec<Value> {
    let all = list["plugins"].as_array().unwrap();
    all.iter().filter(|plugin| plugin["type"] != PLUGIN).cloned().collect()
}

fn text_of(edit: Edit, before: &str) -> String {
    match edit {
        Edit::None => before.to_owned(),
        Edit::Rewrite(text) | Edit::Convert(text) => text,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ours_is_there_once_and_last_and_the_others_are_as_they_were(list in list()) {
        let text = list.to_string();
        let with = text_of(with_entry(&text, &ours()).unwrap(), &text);
        let mut expected = others(&list);
        expected.push(read(OURS));
        prop_assert_eq!(plugins(&with), expected);
        prop_assert!(has_entry(&with));
        let mut rest = read(&with);
        rest["plugins"] = list["plugins"].clone();
        prop_assert_eq!(&rest, &list, "members beside the plugins");
        prop_assert_eq!(with_entry(&with, &ours()).unwrap(), Edit::None, "twice is once");
    }

    #[test]
    fn taken_away_it_was_never_there(list in list()) {
        let text = list.to_string();
        let with = text_of(with_entry(&text, &ours()).unwrap(), &text);
        let without = text_of(without_entry(&with).unwrap(), &with);
        let mut expected = list.clone();
        expected["plugins"] = others(&list).into();
        prop_assert_eq!(read(&without), expected);
        prop_assert!(!has_entry(&without));
        prop_assert_eq!(without_entry(&without).unwrap(), Edit::None);
    }

    #[test]
    fn a_single_plugin_becomes_a_list_of_its_name_and_version(
        plugin in plugin(),
        name in proptest::option::of("[a-z]{1,6}"),
        version in proptest::option::of("[01]\\.[0-9]\\.[0-9]"),
    ) {
        let mut config = plugin.clone();
        let fields = config.as_object_mut().unwrap();
        let mut only = plugin.clone();
        for (key, value) in [("name", &name), ("cniVersion", &version)] {
            only.as_object_mut().unwrap().remove(key);
            fields.remove(key);
            if let Some(value) = value {
                fields.insert(key.to_owned(), value.clone().into());
            }
        }
        let text = config.to_string();
        let Edit::Convert(list) = with_entry(&text, &ours()).unwrap() else { panic!("a list now") };
        prop_assert_eq!(plugins(&list), vec![only, read(OURS)]);
        prop_assert_eq!(read(&list)["name"].clone(), Value::from(name.as_deref().unwrap_or("k8s-pod-network")));
        prop_assert_eq!(read(&list)["cniVersion"].clone(), Value::from(version.as_deref().unwrap_or("0.3.1")));
        let without = text_of(without_entry(&list).unwrap(), &list);
        prop_assert!(same(&without, &list_of_one(&text).unwrap()));
    }

    #[test]
    fn garbage_is_refused_or_a_configuration(text in "\\PC{0,40}|[\\[\\]{}:,\"a-z0-9]{0,40}") {
        if let Ok(Edit::Rewrite(text) | Edit::Convert(text)) = with_entry(&text, &ours()) {
            prop_assert!(has_entry(&text));
        }
        let _ = without_entry(&text);
    }
}

#[test]
fn texts_of_others_stay_to_the_byte() {
    let odd = r#"{"type":"bridge",  "mtu": 1.50e3, "name": "\u0061", "a": 1, "a": 2, "big": 123456789012345678901234567890}"#;
    let text = format!(r#"{{"zzz": 1e2, "plugins": [{odd}], "aaa": null}}"#);
    let Edit::Rewrite(with) = with_entry(&text, &ours()).unwrap() else { panic!("ours was missing") };
    assert!(with.contains(odd), "{with}");
    assert!(with.find("zzz").unwrap() < with.find("aaa").unwrap(), "{with}");
    assert!(with.contains("1e2"), "{with}");
}

#[test]
fn an_entry_that_is_not_the_last_moves_to_the_end() {
    let text = format!(r#"{{"plugins": [{OURS}, {{"type": "portmap"}}]}}"#);
    assert!(!has_entry(&text));
    let Edit::Rewrite(with) = with_entry(&text, &ours()).unwrap() else { panic!("it wasn't last") };
    assert_eq!(plugins(&with).len(), 2);
    assert!(has_entry(&with));
}

#[test]
fn what_is_no_configuration_says_why() {
    let why = |text: &str| with_entry(text, &ours()).unwrap_err().to_string();
    assert!(why("{\"plugins\": [").contains("isn't a JSON object"));
    assert!(why("{}").contains("neither"));
    assert!(why(r#"{"plugins": 3}"#).contains("isn't a list"));
    assert!(why(r#"{"plugins": ["bridge"]}"#).contains("isn't a list of objects"));
}
