//! All checks, in the order in which they run and are written.

use futures::future::BoxFuture;

use super::facts::{Answer, Facts};
use super::{
    bypass, cni, control_plane, data_plane, extensions, high_availability as ha, identity, kubernetes, setup, versions, webhooks,
};

/// What is to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Before anything is installed.
    Pre { cni: bool },
    /// After the CRDs are.
    Crds,
    /// After everything is.
    ControlPlane,
    /// And workloads are in the mesh.
    Proxy,
}

/// What it means that a check fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Class {
    /// Nothing after it has a meaning.
    pub(super) fatal: bool,
    /// It is only to be looked at.
    pub(super) warning: bool,
    /// It may pass yet.
    pub(super) retried: bool,
}

const PLAIN: Class = Class { fatal: false, warning: false, retried: false };
const FATAL: Class = Class { fatal: true, ..PLAIN };
const WARNING: Class = Class { warning: true, ..PLAIN };
const FATAL_RETRIED: Class = Class { retried: true, ..FATAL };
const WARNING_RETRIED: Class = Class { retried: true, ..WARNING };

type Ask = for<'a> fn(&'a Facts) -> BoxFuture<'a, Answer>;

/// A question.
pub(super) struct Check {
    pub(super) description: &'static str,
    pub(super) anchor: &'static str,
    pub(super) class: Class,
    pub(super) ask: Ask,
}

/// Questions about one thing.
pub(super) struct Category {
    pub(super) name: &'static str,
    pub(super) checks: Vec<Check>,
}

macro_rules! category {
    ($name:literal { $($description:literal, $anchor:literal, $class:expr => $ask:expr;)* }) => {
        Category {
            name: $name,
            checks: vec![$(Check {
                description: $description,
                anchor: $anchor,
                class: $class,
                ask: |facts| Box::pin($ask(facts)),
            }),*],
        }
    };
}

/// The checks of a mode.
pub(super) fn categories(mode: Mode) -> Vec<Category> {
    let mut categories = vec![kubernetes_api(), kubernetes_version(), gateway_api()];
    let proxy = mode == Mode::Proxy;
    match mode {
        Mode::Pre { cni } => {
            categories.push(pre_setup());
            categories.extend(cni.then(cni_plugin));
            categories.push(program_version());
        }
        Mode::Crds => categories.extend([crds(), program_version()]),
        Mode::ControlPlane | Mode::Proxy => {
            categories.extend([existence(), config(), cni_plugin(), certificates(), webhook_certificates()]);
            categories.extend(proxy.then(data_plane_identity));
            categories.push(program_version());
            categories.extend((!proxy).then(control_plane_version));
            categories.push(control_plane_proxies());
            categories.extend(proxy.then(data_plane_proxies));
            categories.extend([unguarded(), high_availability()]);
            categories.extend((!proxy).then(extension_namespaces));
        }
    }
    categories
}

fn kubernetes_api() -> Category {
    category!("kubernetes-api" {
        "can initialize the client", "k8s-api", FATAL => kubernetes::initialize;
        "can query the Kubernetes API", "k8s-api", FATAL => kubernetes::query;
    })
}

fn kubernetes_version() -> Category {
    category!("kubernetes-version" {
        "is running the minimum Kubernetes API version", "k8s-version", PLAIN => kubernetes::version;
    })
}

fn gateway_api() -> Category {
    category!("gateway-api-crd" {
        "Gateway API CRDs are installed", "gateway-api-crd", FATAL => kubernetes::gateway_api;
    })
}

fn pre_setup() -> Category {
    category!("pre-kubernetes-setup" {
        "control plane namespace does not already exist", "pre-ns", PLAIN => setup::namespace_is_free;
        "can create non-namespaced resources", "pre-k8s-cluster-k8s", PLAIN => setup::can_create_cluster_wide;
        "can create ServiceAccounts", "pre-k8s", PLAIN => |facts| setup::can_create(facts, "", "serviceaccounts");
        "can create Services", "pre-k8s", PLAIN => |facts| setup::can_create(facts, "", "services");
        "can create Deployments", "pre-k8s", PLAIN => |facts| setup::can_create(facts, "apps", "deployments");
        "can create CronJobs", "pre-k8s", PLAIN => |facts| setup::can_create(facts, "batch", "cronjobs");
        "can create ConfigMaps", "pre-k8s", PLAIN => |facts| setup::can_create(facts, "", "configmaps");
        "can create Secrets", "pre-k8s", PLAIN => |facts| setup::can_create(facts, "", "secrets");
        "can read Secrets", "pre-k8s", PLAIN => setup::can_read_secrets;
        "can read extension-apiserver-authentication configmap", "pre-k8s", PLAIN => setup::can_read_authentication;
        "no clock skew detected", "pre-k8s-clock-skew", WARNING => setup::clock_skew;
    })
}

fn crds() -> Category {
    category!("linkerd-crd" {
        "control plane CustomResourceDefinitions exist", "l5d-existence-crd", FATAL_RETRIED => control_plane::crds;
    })
}

fn existence() -> Category {
    category!("linkerd-existence" {
        "'linkerd-config' config map exists", "l5d-existence-linkerd-config", FATAL => control_plane::config_map;
        "heartbeat ServiceAccount exist", "l5d-existence-sa", FATAL => control_plane::heartbeat_account;
        "control plane replica sets are ready", "l5d-existence-replicasets", FATAL_RETRIED => control_plane::replica_sets;
        "no unschedulable pods", "l5d-existence-unschedulable-pods", WARNING_RETRIED => control_plane::unschedulable;
        "control plane pods are ready", "l5d-api-control-ready", FATAL_RETRIED => control_plane::pods_ready;
        "cluster networks contains all node podCIDRs", "l5d-cluster-networks-cidr", PLAIN => control_plane::networks_of_nodes;
        "cluster networks contains all pods", "l5d-cluster-networks-pods", PLAIN => control_plane::networks_of_pods;
        "cluster networks contains all services", "l5d-cluster-networks-pods", PLAIN => control_plane::networks_of_services;
    })
}

fn config() -> Category {
    category!("linkerd-config" {
        "control plane Namespace exists", "l5d-existence-ns", FATAL => control_plane::namespace;
        "control plane ClusterRoles exist", "l5d-existence-cr", FATAL => control_plane::cluster_roles;
        "control plane ClusterRoleBindings exist", "l5d-existence-crb", FATAL => control_plane::cluster_role_bindings;
        "control plane ServiceAccounts exist", "l5d-existence-sa", FATAL => control_plane::service_accounts;
        "control plane CustomResourceDefinitions exist", "l5d-existence-crd", FATAL => control_plane::crds;
        "control plane MutatingWebhookConfigurations exist", "l5d-existence-mwc", FATAL => control_plane::mutating_webhooks;
        "control plane ValidatingWebhookConfigurations exist", "l5d-existence-vwc", FATAL => control_plane::validating_webhooks;
        "proxy-init container runs as root user if docker container runtime is used", "l5d-proxy-init-run-as-root", PLAIN
            => control_plane::init_as_root;
    })
}

fn cni_plugin() -> Category {
    category!("linkerd-cni-plugin" {
        "cni plugin ConfigMap exists", "cni-plugin-cm-exists", FATAL => cni::config_map;
        "cni plugin ClusterRole exists", "cni-plugin-cr-exists", FATAL => cni::cluster_role;
        "cni plugin ClusterRoleBinding exists", "cni-plugin-crb-exists", FATAL => cni::cluster_role_binding;
        "cni plugin ServiceAccount exists", "cni-plugin-sa-exists", FATAL => cni::service_account;
        "cni plugin DaemonSet exists", "cni-plugin-ds-exists", FATAL => cni::daemon_set;
        "cni plugin pod is running on all nodes", "cni-plugin-ready", FATAL_RETRIED => cni::on_all_nodes;
        "no node waits for the cni plugin", "homarus-cni-nodes", WARNING => cni::guarded_nodes;
    })
}

fn program_version() -> Category {
    category!("linkerd-version" {
        "can determine the latest version", "l5d-version-latest", WARNING => versions::latest_is_known;
        "cli is up-to-date", "l5d-version-cli", WARNING => versions::of_cli;
    })
}

fn certificates() -> Category {
    category!("linkerd-identity" {
        "certificate config is valid", "l5d-identity-cert-config-valid", FATAL => identity::config;
        "trust anchors are using supported crypto algorithm", "l5d-identity-trustAnchors-use-supported-crypto", FATAL
            => identity::anchors_crypto;
        "trust anchors are within their validity period", "l5d-identity-trustAnchors-are-time-valid", FATAL
            => identity::anchors_valid;
        "trust anchors are valid for at least 60 days", "l5d-identity-trustAnchors-not-expiring-soon", WARNING
            => identity::anchors_lasting;
        "issuer cert is using supported crypto algorithm", "l5d-identity-issuer-cert-uses-supported-crypto", FATAL
            => identity::issuer_crypto;
        "issuer cert is within its validity period", "l5d-identity-issuer-cert-is-time-valid", FATAL => identity::issuer_valid;
        "issuer cert is valid for at least 60 days", "l5d-identity-issuer-cert-not-expiring-soon", WARNING
            => identity::issuer_lasting;
        "issuer cert is issued by the trust anchor", "l5d-identity-issuer-cert-issued-by-trust-anchor", PLAIN
            => identity::issuer_chains;
        "no rotation of the roots waits for restarts", "homarus-identity-rotation", WARNING => identity::rotation;
    })
}

fn webhook_certificates() -> Category {
    category!("linkerd-webhooks-and-apisvc-tls" {
        "proxy-injector webhook has valid cert", "l5d-proxy-injector-webhook-cert-valid", FATAL
            => |facts| webhooks::valid(facts, webhooks::INJECTOR);
        "proxy-injector cert is valid for at least 60 days", "l5d-proxy-injector-webhook-cert-not-expiring-soon", WARNING
            => |facts| webhooks::lasting(facts, webhooks::INJECTOR);
        "sp-validator webhook has valid cert", "l5d-sp-validator-webhook-cert-valid", FATAL
            => |facts| webhooks::valid(facts, webhooks::SP_VALIDATOR);
        "sp-validator cert is valid for at least 60 days", "l5d-sp-validator-webhook-cert-not-expiring-soon", WARNING
            => |facts| webhooks::lasting(facts, webhooks::SP_VALIDATOR);
        "policy-validator webhook has valid cert", "l5d-policy-validator-webhook-cert-valid", FATAL
            => |facts| webhooks::valid(facts, webhooks::POLICY_VALIDATOR);
        "policy-validator cert is valid for at least 60 days", "l5d-policy-validator-webhook-cert-not-expiring-soon", WARNING
            => |facts| webhooks::lasting(facts, webhooks::POLICY_VALIDATOR);
    })
}

fn data_plane_identity() -> Category {
    category!("linkerd-identity-data-plane" {
        "data plane proxies certificate match CA", "l5d-identity-data-plane-proxies-certs-match-ca", WARNING
            => identity::data_plane_anchors;
    })
}

fn control_plane_version() -> Category {
    category!("control-plane-version" {
        "can retrieve the control plane version", "l5d-version-control", FATAL_RETRIED => versions::control_plane_is_known;
        "control plane is up-to-date", "l5d-version-control", WARNING => versions::of_control_plane;
        "control plane and cli versions match", "l5d-version-control", WARNING => versions::control_plane_matches;
    })
}

fn control_plane_proxies() -> Category {
    category!("linkerd-control-plane-proxy" {
        "control plane proxies are healthy", "l5d-cp-proxy-healthy", FATAL_RETRIED => control_plane::proxies_healthy;
        "control plane proxies are up-to-date", "l5d-cp-proxy-version", WARNING => versions::control_plane_proxies;
        "control plane proxies and cli versions match", "l5d-cp-proxy-cli-version", WARNING
            => versions::control_plane_proxies_match;
    })
}

fn data_plane_proxies() -> Category {
    category!("linkerd-data-plane" {
        "data plane namespace exists", "l5d-data-plane-exists", FATAL => data_plane::namespace;
        "data plane proxies are ready", "l5d-data-plane-ready", FATAL_RETRIED => data_plane::ready;
        "data plane is up-to-date", "l5d-data-plane-version", WARNING => versions::data_plane;
        "data plane and cli versions match", "l5d-data-plane-cli-version", WARNING => versions::data_plane_matches;
        "data plane pod labels are configured correctly", "l5d-data-plane-pod-labels", WARNING => data_plane::pod_labels;
        "data plane service labels are configured correctly", "l5d-data-plane-services-labels", WARNING
            => data_plane::service_labels;
        "data plane service annotations are configured correctly", "l5d-data-plane-services-annotations", WARNING
            => data_plane::service_annotations;
        "opaque ports are properly annotated", "linkerd-opaque-ports-definition", WARNING => data_plane::opaque_ports;
    })
}

/// Ours alone: what Linkerd doesn't look for.
fn unguarded() -> Category {
    category!("homarus-data-plane" {
        "pods that ask for a proxy have one", "homarus-uninjected-pods", WARNING => bypass::uninjected;
        "no address of a meshed pod bypasses its proxy", "homarus-ipv6-bypass", WARNING => bypass::ipv6;
    })
}

fn high_availability() -> Category {
    category!("linkerd-ha-checks" {
        "multiple replicas of control plane pods", "l5d-control-plane-replicas", WARNING_RETRIED => ha::replicas;
        "control plane pods are on several nodes", "homarus-ha-nodes", WARNING => ha::spread;
        "pods wait for the proxy injector", "homarus-ha-webhook", WARNING => ha::fails_closed;
    })
}

fn extension_namespaces() -> Category {
    category!("linkerd-extension-checks" {
        "namespace configuration for extensions", "l5d-extension-namespaces", WARNING => extensions::namespaces;
    })
}
