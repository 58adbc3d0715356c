//! Whether a workload gets a proxy, and every reason why not.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::workload::{PodSpec, Workload};
use crate::annotations::INJECT;

/// A reason to leave a workload alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skip {
    /// It lives in the node's network.
    HostNetwork,
    /// It has a proxy already, ours or another mesh's.
    SidecarExists,
    /// It has no pods.
    Unsupported,
    /// It has no token to prove itself with.
    NoServiceAccountToken,
    /// `linkerd.io/inject` of the namespace is nonsense.
    InvalidAtNamespace,
    /// `linkerd.io/inject` of the pod is nonsense.
    InvalidAtWorkload,
    /// The pod says no.
    Disabled,
    /// No one says yes.
    NotEnabled,
}

impl Skip {
    /// The reason as metrics, events and tools know it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostNetwork => "host_network_enabled",
            Self::SidecarExists => "sidecar_already_exists",
            Self::Unsupported => "unsupported_resource",
            Self::NoServiceAccountToken => "disabled_automount_service_account_token_account",
            Self::InvalidAtNamespace => "invalid_inject_annotation_at_ns",
            Self::InvalidAtWorkload => "invalid_inject_annotation_at_workload",
            Self::Disabled => "injection_disable_annotation_present",
            Self::NotEnabled => "injection_enable_annotation_absent",
        }
    }

    /// The reason for people.
    pub fn explain(self) -> &'static str {
        match self {
            Self::HostNetwork => "pods do not use host networking",
            Self::SidecarExists => "pods do not have a 3rd party proxy or initContainer already injected",
            Self::Unsupported => "this resource kind is unsupported",
            Self::NoServiceAccountToken => {
                "automountServiceAccountToken must not be set to \"false\", or token projection must be enabled"
            }
            Self::InvalidAtNamespace => "invalid value for annotation \"linkerd.io/inject\" at namespace",
            Self::InvalidAtWorkload => "invalid value for annotation \"linkerd.io/inject\" at workload",
            Self::Disabled => "pods are not annotated to disable injection with \"linkerd.io/inject:disabled\"",
            Self::NotEnabled => "neither the namespace nor the pod have the annotation \"linkerd.io/inject:enabled\"",
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which annotation decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnnotatedAt {
    /// That of the namespace.
    Namespace,
    /// That of the pod.
    Workload,
    /// None that can be read.
    Nowhere,
}

impl AnnotatedAt {
    /// As metrics know it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Workload => "workload",
            Self::Nowhere => "",
        }
    }
}

/// The verdict on a workload: injected if there is no reason not to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which annotation decided.
    pub annotated_at: AnnotatedAt,
    /// Every reason to leave it alone.
    pub skips: Vec<Skip>,
    /// UDP ports, which the mesh doesn't carry. Told to people; never a reason.
    pub has_udp_ports: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    On,
    Off,
    Invalid,
}

fn mode(annotations: &BTreeMap<String, String>) -> Option<Mode> {
    annotations.get(INJECT).filter(|value| !value.is_empty()).map(|value| match value.as_str() {
        "enabled" | "ingress" => Mode::On,
        "disabled" => Mode::Off,
        _ => Mode::Invalid,
    })
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The admission webhook: annotations decide.
    Webhook,
    /// `inject --manual`: whoever asks wants it, only a pod's own `disabled` stops it.
    Cli,
}

/// Decides about a workload; `token_projected`: whether pods get a token for identity of their own.
pub fn decide(workload: &Workload<'_>, namespace: &BTreeMap<String, String>, origin: Origin, token_projected: bool) -> Decision {
    let mut skips = Vec::new();
    let spec = workload.pod_spec();
    match spec {
        None => skips.push(Skip::Unsupported),
        Some(spec) => {
            if spec.value()["hostNetwork"] == Value::Bool(true) {
                skips.push(Skip::HostNetwork);
            }
            if has_proxy(spec) {
                skips.push(Skip::SidecarExists);
            }
            if !token_projected && !has_token(spec) {
                skips.push(Skip::NoServiceAccountToken);
            }
        }
    }
    let pod = workload.annotations();
    let (annotated_at, skip) = match origin {
        Origin::Webhook => by_annotations(mode(namespace), mode(&pod)),
        Origin::Cli => by_annotations(Some(Mode::On), mode(&pod)),
    };
    skips.extend(skip);
    Decision { annotated_at, skips, has_udp_ports: spec.is_some_and(has_udp_ports) }
}

fn by_annotations(namespace: Option<Mode>, pod: Option<Mode>) -> (AnnotatedAt, Option<Skip>) {
    match (namespace, pod) {
        (Some(Mode::Invalid), _) => (AnnotatedAt::Nowhere, Some(Skip::InvalidAtNamespace)),
        (_, Some(Mode::Invalid)) => (AnnotatedAt::Nowhere, Some(Skip::InvalidAtWorkload)),
        (Some(Mode::On), None | Some(Mode::On)) => (AnnotatedAt::Namespace, None),
        (Some(Mode::On), Some(Mode::Off)) => (AnnotatedAt::Workload, Some(Skip::Disabled)),
        (None | Some(Mode::Off), Some(Mode::On)) => (AnnotatedAt::Workload, None),
        (None | Some(Mode::Off), None | Some(Mode::Off)) => (AnnotatedAt::Nowhere, Some(Skip::NotEnabled)),
    }
}

fn has_proxy(spec: PodSpec<'_>) -> bool {
    let named = |container: &Value, names: &[&str], images: &[&str]| {
        let text = |key: &str| container[key].as_str().unwrap_or_default();
        names.contains(&text("name")) || images.iter().any(|image| text("image").starts_with(image))
    };
    let proxies = ["linkerd-proxy", "istio-proxy"];
    let proxy_images = ["cr.l5d.io/linkerd/proxy:", "gcr.io/istio-release/proxyv2:"];
    let inits = ["linkerd-init", "istio-init"];
    let init_images = ["cr.l5d.io/linkerd/proxy-init:", "gcr.io/istio-release/proxy_init:"];
    spec.all_containers().any(|container| named(container, &proxies, &proxy_images))
        || spec.init_containers().any(|container| named(container, &inits, &init_images))
}

fn has_token(spec: PodSpec<'_>) -> bool {
    spec.value()["automountServiceAccountToken"] != Value::Bool(false) && spec.service_account_mount().is_some()
}

fn has_udp_ports(spec: PodSpec<'_>) -> bool {
    spec.containers().flat_map(super::workload::ports).any(|port| port["protocol"] == "UDP")
}
