//! The environment of a container, by the kubelet's rules.
//!
//! `envFrom` first, then `env` in order, each seeing what came before it; then what is known of the namespace's
//! Services, unless it was named already. Pure: the objects referred to are looked up through [`Lookup`].

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, Service};

use super::fields::{self, Surroundings};

/// Where the objects that variables refer to are found.
pub(crate) trait Lookup {
    /// The text entries of a ConfigMap.
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, String>>;
    /// The entries of a Secret.
    fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>>;
}

/// The variables in order. An error names what is missing: creating that helps.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    around: &Surroundings,
    services: BTreeMap<String, String>,
    lookup: &impl Lookup,
) -> Result<Vec<(String, String)>, String> {
    let mut named: Vec<(String, String)> = Vec::new();
    let mut values: HashMap<String, String> = HashMap::new();
    let mut set = |values: &mut HashMap<String, String>, name: &str, value: String| {
        if values.insert(name.to_owned(), value).is_none() {
            named.push((name.to_owned(), String::new()));
        }
    };
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let mut entries = BTreeMap::new();
        if let Some(reference) = &source.config_map_ref {
            match lookup.config_map(&reference.name) {
                Some(map) => entries.extend(map),
                None => absent("configmap", &reference.name, reference.optional)?,
            }
        }
        if let Some(reference) = &source.secret_ref {
            match lookup.secret(&reference.name) {
                Some(map) => entries.extend(map.into_iter().map(|(k, v)| (k, text(&v)))),
                None => absent("secret", &reference.name, reference.optional)?,
            }
        }
        for (key, value) in entries {
            set(&mut values, &format!("{prefix}{key}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => match from(pod, container, around, lookup, source)? {
                Some(value) => value,
                None => continue,
            },
            None => {
                let template = variable.value.as_deref().unwrap_or_default();
                expand(template, |name| values.get(name).or_else(|| services.get(name)).cloned())
            }
        };
        set(&mut values, &variable.name, value);
    }
    let mut result: Vec<(String, String)> = named
        .into_iter()
        .map(|(name, _)| {
            let value = values.get(&name).cloned().unwrap_or_default();
            (name, value)
        })
        .collect();
    result.extend(services.into_iter().filter(|(name, _)| !values.contains_key(name)));
    Ok(result)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn absent(kind: &str, name: &str, optional: Option<bool>) -> Result<(), String> {
    if optional == Some(true) {
        return Ok(());
    }
    Err(format!("{kind} {name:?} not found"))
}

fn from(
    pod: &Pod,
    container: &Container,
    around: &Surroundings,
    lookup: &impl Lookup,
    source: &EnvVarSource,
) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        return fields::field(pod, around, &field.field_path).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        return fields::resource(pod, around, Some(container), selector).map(Some);
    }
    let key_of = |kind: &str, name: &str, key: &str, value: Option<Option<String>>, optional| match value {
        Some(Some(value)) => Ok(Some(value)),
        Some(None) if optional == Some(true) => Ok(None),
        Some(None) => Err(format!("couldn't find key {key} in {kind} {name}")),
        None => absent(kind, name, optional).map(|()| None),
    };
    if let Some(r) = &source.config_map_key_ref {
        let value = lookup.config_map(&r.name).map(|map| map.get(&r.key).cloned());
        return key_of("configmap", &r.name, &r.key, value, r.optional);
    }
    if let Some(r) = &source.secret_key_ref {
        let value = lookup.secret(&r.name).map(|map| map.get(&r.key).map(|v| text(v)));
        return key_of("secret", &r.name, &r.key, value, r.optional);
    }
    Err("a variable whose valueFrom names nothing known".into())
}

/// Replaces `$(NAME)` by what is known of it; `$$` is a dollar; what is unknown stays as it is.
pub(crate) fn expand(template: &str, known: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            result.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|t| t.split_once(')')) {
            match known(name) {
                Some(value) => result.push_str(&value),
                None => result.push_str(&rest[at..at + name.len() + 3]),
            }
            rest = tail;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result.push_str(rest);
    result
}

/// The variables that tell of Services: those of the pod's namespace, and the API's.
pub(crate) fn of_services<'a>(
    namespace: &str,
    links: bool,
    services: impl IntoIterator<Item = &'a Service>,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for service in services {
        let meta = &service.metadata;
        let (Some(name), Some(home)) = (&meta.name, &meta.namespace) else { continue };
        let api = home == "default" && name == "kubernetes";
        if !(api || links && home == namespace) {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        if ip.is_empty() || ip == "None" {
            continue;
        }
        let upper = name.to_uppercase().replace(['-', '.'], "_");
        variables.insert(format!("{upper}_SERVICE_HOST"), ip.to_owned());
        for (at, port) in spec.ports.iter().flatten().enumerate() {
            let number = port.port;
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{ip}:{number}", protocol.to_lowercase());
            if at == 0 {
                variables.insert(format!("{upper}_SERVICE_PORT"), number.to_string());
                variables.insert(format!("{upper}_PORT"), url.clone());
            }
            if let Some(named) = port.name.as_deref().filter(|n| !n.is_empty()) {
                let named = named.to_uppercase().replace('-', "_");
                variables.insert(format!("{upper}_SERVICE_PORT_{named}"), number.to_string());
            }
            let prefix = format!("{upper}_PORT_{number}_{protocol}");
            variables.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            variables.insert(format!("{prefix}_PORT"), number.to_string());
            variables.insert(format!("{prefix}_ADDR"), ip.to_owned());
            variables.insert(prefix, url);
        }
    }
    variables
}
