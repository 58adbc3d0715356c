//! Annotations over values: the settings of one pod.

use std::collections::BTreeMap;
use std::time::Duration;

use homarus_model::duration::parse_go;
use serde_json::Value;

use super::values::Values;
use crate::annotations::{self as names, InvalidAnnotation, Quantity, find, items, parse_bool, parse_env_list, split_ports};

/// The settings of one pod, and what could not be read of them.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) values: Values,
    pub(super) debug_sidecar: bool,
    /// Opaque ports as someone wrote them; none if no one did.
    pub(super) opaque_ports: Option<String>,
    /// Attributes of traces that the pod adds.
    pub(super) trace_attributes: BTreeMap<String, String>,
    pub(super) invalid: Vec<InvalidAnnotation>,
}

/// What begins the names of annotations that become attributes of traces.
const TRACE_ATTRIBUTE: &str = "resource.opentelemetry.io/";

struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    invalid: Vec<InvalidAnnotation>,
}

impl<'a> Reader<'a> {
    /// The value of an annotation if it is there; one that can't be read is noted, and as if it weren't there.
    fn read(&mut self, name: &'static str) -> Option<&'a str> {
        let value = self.annotations.get(name)?;
        match find(name).map(|annotation| annotation.check(value)) {
            Some(Err(error)) => {
                self.invalid.push(error);
                None
            }
            _ => Some(value),
        }
    }

    fn text(&mut self, name: &'static str, into: &mut String) {
        if let Some(value) = self.read(name) {
            value.clone_into(into);
        }
    }

    fn parse<T: std::str::FromStr>(&mut self, name: &'static str, into: &mut T) {
        if let Some(value) = self.read(name).and_then(|value| value.parse().ok()) {
            *into = value;
        }
    }

    fn bool(&mut self, name: &'static str, into: &mut bool) {
        if let Some(value) = self.read(name).and_then(parse_bool) {
            *into = value;
        }
    }

    fn enabled(&mut self, name: &'static str, into: &mut bool) {
        if let Some(value) = self.read(name) {
            *into = value == "enabled";
        }
    }

    fn duration(&mut self, name: &'static str, into: &mut String, write: impl Fn(Duration) -> String) {
        if let Some(value) = self.read(name).and_then(|value| parse_go(value).ok()) {
            *into = write(value);
        }
    }

    /// A list of ports without what can't be read of it.
    fn ports(&mut self, name: &'static str, into: &mut String) {
        let Some(list) = self.annotations.get(name) else { return };
        // Noted here; the good ones count nevertheless.
        self.read(name);
        *into = split_ports(list).0.join(",");
    }
}

fn millis(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

/// Applies annotations (the pod's, with those of the namespace that it lacks) to the values of the mesh.
///
/// `namespace`: the namespace's own, as additional variables of both are merged.
pub(super) fn apply(values: &Values, annotations: &BTreeMap<String, String>, namespace: &BTreeMap<String, String>) -> Settings {
    let mut reader = Reader { annotations, invalid: Vec::new() };
    let mut values = values.clone();
    let r = &mut reader;
    images(r, &mut values);
    listeners(r, &mut values);
    logs(r, &mut values);
    timeouts(r, &mut values);
    resources(r, &mut values);
    redirection(r, &mut values);
    lifecycle(r, &mut values);
    let proxy = &mut values.proxy;
    r.ports(names::REQUIRE_IDENTITY_PORTS, &mut proxy.require_identity_on_inbound_ports);
    r.text(names::DEFAULT_INBOUND_POLICY, &mut proxy.default_inbound_policy);
    r.bool(names::EXTERNAL_PROFILES, &mut proxy.enable_external_profiles);
    r.bool(names::GATEWAY, &mut proxy.is_gateway);
    proxy.is_ingress |= annotations.get(names::INJECT).is_some_and(|mode| mode == "ingress");
    for layer in [namespace, annotations] {
        if let Some(env) = layer.get(names::ADDITIONAL_ENV).and_then(|text| parse_env_list(text).ok()) {
            merge_env(&mut proxy.additional_env, env);
        }
    }
    r.read(names::ADDITIONAL_ENV);
    let mut debug_sidecar = false;
    r.bool(names::DEBUG_SIDECAR, &mut debug_sidecar);
    let opaque_ports = annotations.get(names::OPAQUE_PORTS).cloned();
    r.read(names::OPAQUE_PORTS);
    let attributes = annotations.iter().filter_map(|(k, v)| Some((k.strip_prefix(TRACE_ATTRIBUTE)?.to_owned(), v.clone())));
    Settings { values, debug_sidecar, opaque_ports, trace_attributes: attributes.collect(), invalid: reader.invalid }
}

fn images(r: &mut Reader<'_>, values: &mut Values) {
    let (proxy, debug) = (&mut values.proxy.image, &mut values.debug_container.image);
    r.text(names::PROXY_IMAGE, &mut proxy.name);
    r.text(names::PROXY_VERSION, &mut proxy.version);
    r.text(names::IMAGE_PULL_POLICY, &mut proxy.pull_policy);
    r.text(names::DEBUG_IMAGE, &mut debug.name);
    r.text(names::DEBUG_IMAGE_VERSION, &mut debug.version);
    r.text(names::DEBUG_IMAGE_PULL_POLICY, &mut debug.pull_policy);
}

fn listeners(r: &mut Reader<'_>, values: &mut Values) {
    let ports = &mut values.proxy.ports;
    r.parse(names::CONTROL_PORT, &mut ports.control);
    r.parse(names::INBOUND_PORT, &mut ports.inbound);
    r.parse(names::OUTBOUND_PORT, &mut ports.outbound);
    r.parse(names::ADMIN_PORT, &mut ports.admin);
    r.enabled(names::ADMIN_SHUTDOWN, &mut values.proxy.enable_shutdown_endpoint);
}

fn logs(r: &mut Reader<'_>, values: &mut Values) {
    let proxy = &mut values.proxy;
    r.text(names::LOG_LEVEL, &mut proxy.log_level);
    r.text(names::LOG_FORMAT, &mut proxy.log_format);
    // Not checked here: what it should not be is an error of the whole injection, as headers hold secrets.
    if let Some(headers) = r.annotations.get(names::LOG_HTTP_HEADERS) {
        headers.clone_into(&mut proxy.log_http_headers);
    }
    r.text(names::ACCESS_LOG, &mut proxy.access_log);
    r.bool(names::HOSTNAME_LABELS, &mut proxy.metrics.hostname_labels);
}

fn timeouts(r: &mut Reader<'_>, values: &mut Values) {
    let proxy = &mut values.proxy;
    r.duration(names::OUTBOUND_CONNECT_TIMEOUT, &mut proxy.outbound_connect_timeout, millis);
    r.duration(names::INBOUND_CONNECT_TIMEOUT, &mut proxy.inbound_connect_timeout, millis);
    r.duration(names::OUTBOUND_DISCOVERY_CACHE, &mut proxy.outbound_discovery_cache_unused_timeout, seconds);
    r.duration(names::INBOUND_DISCOVERY_CACHE, &mut proxy.inbound_discovery_cache_unused_timeout, seconds);
    r.bool(names::DISABLE_OUTBOUND_DETECT_TIMEOUT, &mut proxy.disable_outbound_protocol_detect_timeout);
    r.bool(names::DISABLE_INBOUND_DETECT_TIMEOUT, &mut proxy.disable_inbound_protocol_detect_timeout);
    r.duration(names::SHUTDOWN_GRACE_PERIOD, &mut proxy.shutdown_grace_period, millis);
}

fn resources(r: &mut Reader<'_>, values: &mut Values) {
    let proxy = &mut values.proxy;
    let cores = |value: &str| value.parse::<Quantity>().map(|cores| cores.ceil().to_string()).ok();
    if let Some(request) = r.read(names::CPU_REQUEST) {
        request.clone_into(&mut proxy.resources.cpu.request);
        proxy.runtime.workers.minimum = cores(request).unwrap_or_default();
    }
    if let Some(limit) = r.read(names::CPU_LIMIT) {
        limit.clone_into(&mut proxy.resources.cpu.limit);
        proxy.runtime.workers.maximum = cores(limit).unwrap_or_default();
    }
    r.text(names::CPU_RATIO_LIMIT, &mut proxy.runtime.workers.maximum_cpu_ratio);
    r.text(names::MEMORY_REQUEST, &mut proxy.resources.memory.request);
    r.text(names::MEMORY_LIMIT, &mut proxy.resources.memory.limit);
    r.text(names::STORAGE_REQUEST, &mut proxy.resources.ephemeral_storage.request);
    r.text(names::STORAGE_LIMIT, &mut proxy.resources.ephemeral_storage.limit);
}

fn redirection(r: &mut Reader<'_>, values: &mut Values) {
    r.parse(names::PROXY_UID, &mut values.proxy.uid);
    r.parse(names::PROXY_GID, &mut values.proxy.gid);
    let init = &mut values.proxy_init;
    r.ports(names::SKIP_INBOUND_PORTS, &mut init.ignore_inbound_ports);
    r.ports(names::SKIP_OUTBOUND_PORTS, &mut init.ignore_outbound_ports);
    if let Some(subnets) = r.read(names::SKIP_SUBNETS) {
        init.skip_subnets = items(subnets).collect::<Vec<_>>().join(",");
    }
    if let Some(timeout) = r.read(names::CLOSE_WAIT_TIMEOUT).and_then(|value| parse_go(value).ok()) {
        init.close_wait_timeout_secs = timeout.as_secs();
    }
}

fn lifecycle(r: &mut Reader<'_>, values: &mut Values) {
    let proxy = &mut values.proxy;
    r.enabled(names::AWAIT, &mut proxy.r#await);
    r.parse(names::WAIT_BEFORE_EXIT, &mut proxy.wait_before_exit_seconds);
    // The first that is there decides, even if it can't be read.
    let native = [names::NATIVE_SIDECAR, names::NATIVE_SIDECAR_BETA, names::NATIVE_SIDECAR_ALPHA];
    if let Some(name) = native.into_iter().find(|name| r.annotations.contains_key(*name)) {
        r.bool(name, &mut proxy.native_sidecar);
    }
}

/// Replaces variables of the same name in place and appends the others.
fn merge_env(env: &mut Vec<Value>, more: Vec<Value>) {
    for variable in more {
        match env.iter_mut().find(|known| known["name"] == variable["name"]) {
            Some(known) => *known = variable,
            None => env.push(variable),
        }
    }
}
