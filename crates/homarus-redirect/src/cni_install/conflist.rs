//! Network configurations of a node, as texts: our plugin put at the end of their chain, and taken away.
//!
//! Laws, held by property tests over any configuration: ours is there exactly once, and last; what others wrote keeps its
//! order and every byte of its values; doing it twice changes nothing; taking it away gives what was there before.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// The `type` of our entry, and the name of the program that a runtime looks for.
pub const PLUGIN: &str = "linkerd-cni";
/// What a list is called whose only plugin had no name.
const DEFAULT_NAME: &str = "k8s-pod-network";
/// The version of a list whose only plugin named none: what every runtime understands.
const DEFAULT_VERSION: &str = "0.3.1";

/// Why a file isn't a network configuration. Whoever wrote it may be about to write it again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoConfiguration {
    /// It isn't JSON.
    #[error("it isn't a JSON object: {0}")]
    Json(String),
    /// It has neither `plugins` nor `type`.
    #[error("it has neither \"plugins\" nor a \"type\"")]
    Empty,
    /// What `plugins` is.
    #[error("\"plugins\" isn't a list of objects: {0}")]
    Plugins(String),
}

/// What has to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Nothing: it is as it should be.
    None,
    /// This text, to the same file.
    Rewrite(String),
    /// This text, to a file that ends with `.conflist`: it was a single plugin, and is a list now.
    Convert(String),
}

/// The configuration `text` with `entry`, which is JSON, as the last plugin of its chain.
pub fn with_entry(text: &str, entry: &RawValue) -> Result<Edit, NoConfiguration> {
    let config = Members::read(text)?;
    let Some(plugins) = config.plugins()? else {
        return Ok(Edit::Convert(converted(config, Some(entry))?));
    };
    let others = plugins.iter().filter(|plugin| !is_ours(plugin)).count();
    let last = plugins.last().filter(|plugin| is_ours(plugin));
    if others + 1 == plugins.len() && last.is_some_and(|last| means_the_same(last, entry)) {
        return Ok(Edit::None);
    }
    let mut chain: Vec<&RawValue> = plugins.iter().copied().filter(|plugin| !is_ours(plugin)).collect();
    chain.push(entry);
    Ok(Edit::Rewrite(config.with_plugins(&chain)?))
}

/// The configuration `text` without our plugin.
pub fn without_entry(text: &str) -> Result<Edit, NoConfiguration> {
    let config = Members::read(text)?;
    let plugins = config.plugins()?.unwrap_or_default();
    let chain: Vec<&RawValue> = plugins.iter().copied().filter(|plugin| !is_ours(plugin)).collect();
    match chain.len() == plugins.len() {
        true => Ok(Edit::None),
        false => Ok(Edit::Rewrite(config.with_plugins(&chain)?)),
    }
}

/// The list that a single plugin becomes, without ours: what tells whether anybody changed it since.
pub fn list_of_one(text: &str) -> Result<String, NoConfiguration> {
    converted(Members::read(text)?, None)
}

/// Whether our plugin is the last of the chain.
pub fn has_entry(text: &str) -> bool {
    let config = Members::read(text);
    let plugins = config.as_ref().ok().and_then(|config| config.plugins().ok().flatten());
    plugins.and_then(|plugins| plugins.last().map(|last| is_ours(last))).unwrap_or(false)
}

/// Whether two texts are the same JSON, however they are spaced and ordered.
pub fn same(one: &str, other: &str) -> bool {
    let read = |text: &str| serde_json::from_str::<Value>(text).ok();
    read(one).is_some_and(|one| Some(one) == read(other))
}

fn converted(mut config: Members, entry: Option<&RawValue>) -> Result<String, NoConfiguration> {
    if !config.has("type") {
        return Err(NoConfiguration::Empty);
    }
    // The runtime gives every plugin the name and version of its list.
    let version = config.take("cniVersion").unwrap_or_else(|| raw_text(DEFAULT_VERSION));
    let name = config.take("name").unwrap_or_else(|| raw_text(DEFAULT_NAME));
    let only = raw(&config)?;
    let chain: Vec<&RawValue> = std::iter::once(&*only).chain(entry).collect();
    let list = Members(vec![("cniVersion".into(), version), ("name".into(), name), ("plugins".into(), raw(&chain)?)]);
    list.text()
}

fn is_ours(plugin: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "type")]
        kind: String,
    }
    serde_json::from_str::<Kind>(plugin.get()).is_ok_and(|plugin| plugin.kind == PLUGIN)
}

fn means_the_same(one: &RawValue, other: &RawValue) -> bool {
    same(one.get(), other.get())
}

fn raw(value: &impl Serialize) -> Result<Box<RawValue>, NoConfiguration> {
    serde_json::value::to_raw_value(value).map_err(|error| NoConfiguration::Json(error.to_string()))
}

fn raw_text(text: &str) -> Box<RawValue> {
    // A text is always JSON when quoted.
    RawValue::from_string(Value::from(text).to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// A JSON object whose members keep their order and their text.
#[derive(Debug)]
struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    fn read(text: &str) -> Result<Self, NoConfiguration> {
        serde_json::from_str(text).map_err(|error| NoConfiguration::Json(error.to_string()))
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// The last one counts, as in Go.
    fn plugins(&self) -> Result<Option<Vec<&RawValue>>, NoConfiguration> {
        let Some((_, plugins)) = self.0.iter().rfind(|(key, _)| key == "plugins") else {
            return Ok(None);
        };
        let plugins: Vec<&RawValue> =
            serde_json::from_str(plugins.get()).map_err(|error| NoConfiguration::Plugins(error.to_string()))?;
        match plugins.iter().find(|plugin| !plugin.get().starts_with('{')) {
            Some(odd) => Err(NoConfiguration::Plugins(odd.get().chars().take(40).collect())),
            None => Ok(Some(plugins)),
        }
    }

    fn with_plugins(&self, chain: &[&RawValue]) -> Result<String, NoConfiguration> {
        let place = self.0.iter().rposition(|(key, _)| key == "plugins");
        let mut members: Vec<(String, Box<RawValue>)> = self.0.clone();
        let chain = raw(&chain)?;
        if let Some((_, plugins)) = place.and_then(|place| members.get_mut(place)) {
            *plugins = chain;
        }
        Self(members).text()
    }

    fn take(&mut self, name: &str) -> Option<Box<RawValue>> {
        let taken = self.0.iter().rposition(|(key, _)| key == name).map(|place| self.0.remove(place).1);
        self.0.retain(|(key, _)| key != name);
        taken
    }

    fn text(&self) -> Result<String, NoConfiguration> {
        serde_json::to_string_pretty(self).map(|text| text + "\n").map_err(|error| NoConfiguration::Json(error.to_string()))
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests;
