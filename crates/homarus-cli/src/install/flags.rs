//! Flags into values of the control plane's chart.

use homarus_kube::annotations::Quantity;
use serde_json::{Map, Value as Json};

use crate::chart::Values;
use crate::command_line::{ControlFlags, OnceFlags, ProxyFlags};
use crate::failure::Failure;

/// What `--default-inbound-policy` takes.
const POLICIES: [&str; 6] =
    ["all-authenticated", "all-unauthenticated", "cluster-authenticated", "cluster-unauthenticated", "deny", "audit"];
/// What `--controller-log-level` takes.
pub(crate) const LEVELS: [&str; 7] = ["panic", "fatal", "error", "warn", "info", "debug", "trace"];
/// Where images are named.
const IMAGES: [&str; 3] = ["controllerImage", "proxy.image.name", "debugContainer.image.name"];

/// Values that flags stand for; what wasn't said isn't there.
#[derive(Debug, Default)]
pub(crate) struct Flags(Values);

impl Flags {
    /// What was said.
    pub(crate) fn into_values(self) -> Values {
        self.0
    }

    /// Sets a value by its path.
    pub(crate) fn put(&mut self, path: &str, value: Option<impl Into<Json>>) {
        let Some(value) = value else { return };
        let mut keys: Vec<&str> = path.split('.').collect();
        let last = keys.pop().unwrap_or_default();
        let mut here = &mut self.0;
        for key in keys {
            let inner = here.entry(key).or_insert_with(|| Json::Object(Map::new()));
            match inner {
                Json::Object(inner) => here = inner,
                _ => return,
            }
        }
        here.insert(last.to_owned(), value.into());
    }

    pub(crate) fn yes(&mut self, path: &str, said: bool) {
        self.put(path, said.then_some(true));
    }

    /// What can't be changed later.
    pub(super) fn once(&mut self, flags: &OnceFlags) {
        self.put("clusterDomain", flags.cluster_domain.clone());
        self.put("identityTrustDomain", flags.identity_trust_domain.clone());
        self.put("identity.issuer.scheme", flags.identity_external_issuer.then_some("kubernetes.io/tls"));
        self.yes("identity.externalCA", flags.identity_external_ca);
    }

    /// What the control plane is to be like.
    pub(super) fn control(&mut self, flags: &ControlFlags) -> Result<(), Failure> {
        if let Some(level) = &flags.controller_log_level {
            one_of("--controller-log-level", level, &LEVELS)?;
        }
        self.yes("cniEnabled", flags.linkerd_cni_enabled);
        self.put("controllerLogLevel", flags.controller_log_level.clone());
        self.put("controllerReplicas", flags.controller_replicas);
        self.put("controllerUID", flags.controller_uid);
        self.put("controllerGID", flags.controller_gid);
        self.put("enableH2Upgrade", flags.disable_h2_upgrade.then_some(false));
        self.yes("disableHeartBeat", flags.disable_heartbeat);
        self.put("enableEndpointSlices", flags.enable_endpoint_slices);
        self.put("identity.issuer.issuanceLifetime", flags.identity_issuance_lifetime.clone());
        self.put("identity.issuer.clockSkewAllowance", flags.identity_clock_skew_allowance.clone());
        Ok(())
    }

    /// What the proxies are to be like. `defaults` are the chart's, for the names of images.
    pub(super) fn proxy(&mut self, flags: &ProxyFlags, defaults: &Values) -> Result<(), Failure> {
        if let Some(policy) = &flags.default_inbound_policy {
            one_of("--default-inbound-policy", policy, &POLICIES)?;
        }
        for path in IMAGES {
            self.put(path, flags.registry.as_ref().and_then(|registry| moved(defaults, path, registry)));
        }
        self.put("proxy.image.name", flags.proxy_image.clone());
        self.put("proxy.image.version", flags.proxy_version.clone());
        self.put("imagePullPolicy", flags.image_pull_policy.clone());
        self.put("proxy.logLevel", flags.proxy_log_level.clone());
        self.put("proxy.defaultInboundPolicy", flags.default_inbound_policy.clone());
        self.put("proxy.accessLog", flags.access_log.clone());
        self.put("proxy.shutdownGracePeriod", flags.shutdown_grace_period.clone());
        self.put("proxy.opaquePorts", flags.opaque_ports.clone());
        self.put("proxy.requireIdentityOnInboundPorts", flags.require_identity_on_inbound_ports.clone());
        self.yes("proxy.enableExternalProfiles", flags.enable_external_profiles);
        self.put("proxy.nativeSidecar", flags.native_sidecar);
        self.ports(flags)?;
        self.resources(flags)
    }

    fn ports(&mut self, flags: &ProxyFlags) -> Result<(), Failure> {
        for (flag, path, text) in [
            ("--inbound-port", "proxy.ports.inbound", &flags.inbound_port),
            ("--outbound-port", "proxy.ports.outbound", &flags.outbound_port),
            ("--control-port", "proxy.ports.control", &flags.control_port),
            ("--admin-port", "proxy.ports.admin", &flags.admin_port),
            ("--proxy-uid", "proxy.uid", &flags.proxy_uid),
            ("--proxy-gid", "proxy.gid", &flags.proxy_gid),
            ("--wait-before-exit-seconds", "proxy.waitBeforeExitSeconds", &flags.wait_before_exit_seconds),
        ] {
            let number = text
                .as_ref()
                .map(|text| text.parse::<i64>().map_err(|_| Failure::usage(format!("{flag} must be a number (got {text})"))));
            self.put(path, number.transpose()?);
        }
        for (path, ports) in [
            ("proxyInit.ignoreInboundPorts", &flags.skip_inbound_ports),
            ("proxyInit.ignoreOutboundPorts", &flags.skip_outbound_ports),
        ] {
            ports.iter().try_for_each(|ports| valid_ports(ports))?;
            self.put(path, ports.clone());
        }
        Ok(())
    }

    fn resources(&mut self, flags: &ProxyFlags) -> Result<(), Failure> {
        for (path, amount) in [
            ("proxy.resources.cpu.request", &flags.proxy_cpu_request),
            ("proxy.resources.cpu.limit", &flags.proxy_cpu_limit),
            ("proxy.resources.memory.request", &flags.proxy_memory_request),
            ("proxy.resources.memory.limit", &flags.proxy_memory_limit),
        ] {
            self.put(path, amount.clone());
        }
        for (flag, path, amount) in [
            ("--proxy-cpu-request", "proxy.runtime.workers.minimum", &flags.proxy_cpu_request),
            ("--proxy-cpu-limit", "proxy.runtime.workers.maximum", &flags.proxy_cpu_limit),
        ] {
            let whole = amount
                .as_ref()
                .map(|amount| cores(amount).ok_or_else(|| Failure::usage(format!("{flag} is no amount of CPU: {amount}"))));
            self.put(path, whole.transpose()?);
        }
        Ok(())
    }
}

/// Whole cores, rounded up.
fn cores(amount: &str) -> Option<u32> {
    amount.parse::<Quantity>().ok().map(|amount| amount.ceil())
}

/// The image of a path, in another registry.
pub(crate) fn moved(defaults: &Values, path: &str, registry: &str) -> Option<String> {
    let pointer = format!("/{}", path.replace('.', "/"));
    let all = Json::Object(defaults.clone());
    let name = all.pointer(&pointer)?.as_str()?;
    Some(format!("{}/{}", registry.trim_end_matches('/'), name.rsplit('/').next()?))
}

pub(crate) fn one_of(flag: &str, given: &str, allowed: &[&str]) -> Result<(), Failure> {
    match allowed.contains(&given) {
        true => Ok(()),
        false => Err(Failure::new(format!("{flag} must be one of: {} (got {given})", allowed.join(", ")))),
    }
}

/// Ports and ranges of them, with commas between.
pub(crate) fn valid_ports(text: &str) -> Result<(), Failure> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    for part in text.split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let ordered = port(low).zip(port(high)).is_some_and(|(low, high)| low <= high);
        if !ordered {
            return Err(Failure::new(format!("{part:?} is not a valid port nor port-range")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::chart::{Chart, Name};
    use serde_json::json;

    fn values(flags: &ProxyFlags) -> Result<Json, Failure> {
        let defaults = Chart::embedded(Name::ControlPlane).unwrap().values;
        let mut all = Flags::default();
        all.proxy(flags, &defaults)?;
        Ok(Json::Object(all.into_values()))
    }

    #[test]
    fn nothing_said_changes_nothing() {
        let mut flags = Flags::default();
        flags.once(&OnceFlags::default());
        flags.control(&ControlFlags::default()).unwrap();
        assert_eq!(Json::Object(flags.into_values()), json!({}));
        assert_eq!(values(&ProxyFlags::default()).unwrap(), json!({}));
    }

    #[test]
    fn a_registry_moves_every_image() {
        let flags = ProxyFlags { registry: Some("my.registry/mesh".to_owned()), ..ProxyFlags::default() };
        let found = values(&flags).unwrap();
        assert!(found["controllerImage"].as_str().unwrap().starts_with("my.registry/mesh/"), "{found}");
        assert!(found["proxy"]["image"]["name"].as_str().unwrap().starts_with("my.registry/mesh/"), "{found}");
    }

    #[test]
    fn amounts_of_cpu_make_workers() {
        let of = |request: &str| values(&ProxyFlags { proxy_cpu_request: Some(request.to_owned()), ..ProxyFlags::default() });
        assert_eq!(of("500m").unwrap()["proxy"]["runtime"]["workers"]["minimum"], json!(1));
        assert_eq!(of("2.5").unwrap()["proxy"]["runtime"]["workers"]["minimum"], json!(3));
        assert!(of("much").is_err());
    }

    #[test]
    fn what_flags_cannot_mean_is_named() {
        let said = |flags: ProxyFlags| values(&flags).unwrap_err().to_string();
        let ports = |text: &str| ProxyFlags { skip_inbound_ports: Some(text.to_owned()), ..ProxyFlags::default() };
        assert_eq!(said(ports("80,x")), "\"x\" is not a valid port nor port-range");
        assert_eq!(said(ports("90-80")), "\"90-80\" is not a valid port nor port-range");
        assert!(values(&ports("80,100-200")).is_ok());
        let policy = ProxyFlags { default_inbound_policy: Some("none".to_owned()), ..ProxyFlags::default() };
        assert!(said(policy).starts_with("--default-inbound-policy must be one of: all-authenticated"));
        let level = ControlFlags { controller_log_level: Some("loud".to_owned()), ..ControlFlags::default() };
        assert!(Flags::default().control(&level).is_err());
    }
}
