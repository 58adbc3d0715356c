//! Manifests of the control plane, with the names that running systems refer to (control-plane §1).
//!
//! What `homarus up` and end-to-end tests apply. Everything that is secret or differs between installations is in
//! [`Options`]; the same options give the same objects. Deliberately absent: what only an installation as a product needs
//! (charts, upgrades, high availability), and controllers that don't exist yet.

mod deployments;
mod rbac;
mod sidecar;

use crate::injection::{InjectError, values::Values};
use serde_json::{Value, json};

/// What differs between installations.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespace of the control plane.
    pub namespace: String,
    /// The image of the controllers: its entry point is `homarus`.
    pub controller_image: String,
    /// The image of the proxy and of redirection, without version.
    pub proxy_image: String,
    /// The version of the proxy's image.
    pub version: String,
    /// When to pull images.
    pub image_pull_policy: String,
    /// The trust anchors, PEM.
    pub trust_anchors: String,
    /// The issuer of the workloads' certificates.
    pub issuer: KeyPair,
    /// The certificate of the injector's webhook for [`Options::injector_name`], self-signed.
    pub injector: KeyPair,
    /// Log level of the controllers.
    pub log_level: String,
    /// More of the mesh's values, in the shape of the chart's; they win.
    pub values: Value,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug, Default)]
pub struct KeyPair {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

/// Why there are no manifests. The fault of whoever wrote the values.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The values have the wrong shape.
    #[error("the values of the mesh can't be read: {0}")]
    Values(#[from] serde_json::Error),
    /// No proxy can be made with them.
    #[error(transparent)]
    Inject(#[from] InjectError),
    /// They can't be written down.
    #[error("the values of the mesh can't be written as YAML: {0}")]
    Yaml(#[from] serde_yaml_ng::Error),
    /// A sidecar didn't fit into a Deployment of ours.
    #[error("the proxy of {0} could not be added; this is a bug")]
    Sidecar(&'static str),
}

impl Options {
    /// Options of the namespace `linkerd`; certificates have to be given.
    pub fn new(trust_anchors: String, issuer: KeyPair, injector: KeyPair) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self {
            namespace: "linkerd".into(),
            controller_image: format!("homarus:{version}"),
            proxy_image: "cr.l5d.io/linkerd/proxy".into(),
            version: version.into(),
            image_pull_policy: "IfNotPresent".into(),
            trust_anchors,
            issuer,
            injector,
            log_level: "info".into(),
            values: json!({}),
        }
    }

    /// The name that the injector's certificate has to be for.
    pub fn injector_name(namespace: &str) -> String {
        format!("linkerd-proxy-injector.{namespace}.svc")
    }

    /// The document in ConfigMap `linkerd-config`.
    fn document(&self) -> Value {
        let mut document = json!({
            "clusterDomain": "cluster.local",
            "identityTrustDomain": "cluster.local",
            "clusterNetworks": "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8",
            "linkerdVersion": self.version,
            "imagePullPolicy": self.image_pull_policy,
            "identityTrustAnchorsPEM": self.trust_anchors,
            "identity": {
                "serviceAccountTokenProjection": true,
                "issuer": { "scheme": "linkerd.io/tls", "clockSkewAllowance": "20s", "issuanceLifetime": "24h0m0s" },
            },
            "proxy": {
                "image": { "name": self.proxy_image, "version": self.version, "pullPolicy": self.image_pull_policy },
                "defaultInboundPolicy": "all-unauthenticated",
                "opaquePorts": "25,587,3306,4444,5432,6379,9300,11211",
                "nativeSidecar": true,
            },
            "proxyInit": { "kubeAPIServerPorts": "443,6443" },
            "policyController": { "probeNetworks": ["0.0.0.0/0", "::/0"] },
            "disableIPv6": true,
        });
        merge(&mut document, &self.values);
        document
    }
}

/// Lays one document over another: maps are merged, everything else is replaced.
fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// Everything of the control plane but the custom resources ([`crate::crds`]), in an order in which it can be applied.
pub fn control_plane(options: &Options) -> Result<Vec<Value>, ManifestError> {
    let document = options.document();
    let values: Values = serde_json::from_value(document.clone())?;
    let mut objects = vec![namespace(options)];
    objects.extend(rbac::objects(&options.namespace));
    objects.extend(configuration(options, &document)?);
    objects.extend(services(options));
    objects.extend(deployments::all(options, &document, &values)?);
    objects.push(injector_webhook(options));
    Ok(objects)
}

/// Metadata with the labels that everything of the control plane has.
fn meta(options: &Options, name: &str, component: &str) -> Value {
    json!({
        "name": name,
        "namespace": options.namespace,
        "labels": {
            "linkerd.io/control-plane-component": component,
            "linkerd.io/control-plane-ns": options.namespace,
        },
        "annotations": { "linkerd.io/created-by": format!("homarus/{}", options.version) },
    })
}

fn namespace(options: &Options) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": options.namespace,
            "annotations": { "linkerd.io/inject": "disabled" },
            "labels": {
                "linkerd.io/is-control-plane": "true",
                "config.linkerd.io/admission-webhooks": "disabled",
                "linkerd.io/control-plane-ns": options.namespace,
                "pod-security.kubernetes.io/enforce": "privileged",
            },
        },
    })
}

fn configuration(options: &Options, document: &Value) -> Result<Vec<Value>, ManifestError> {
    let config_map = |name: &str, component: &str, key: &str, text: &str| {
        let metadata = meta(options, name, component);
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { key: text } })
    };
    let secret = |name: &str, component: &str, kind: &str, data: Value| {
        let metadata = meta(options, name, component);
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "stringData": data })
    };
    let (issuer, injector) = (&options.issuer, &options.injector);
    Ok(vec![
        config_map("linkerd-config", "controller", "values", &serde_yaml_ng::to_string(document)?),
        config_map("linkerd-identity-trust-roots", "identity", "ca-bundle.crt", &options.trust_anchors),
        secret("linkerd-identity-issuer", "identity", "Opaque", json!({ "crt.pem": issuer.certificate, "key.pem": issuer.key })),
        secret(
            "linkerd-proxy-injector-k8s-tls",
            "proxy-injector",
            "kubernetes.io/tls",
            json!({ "tls.crt": injector.certificate, "tls.key": injector.key }),
        ),
    ])
}

/// A Service: name, component, whether it is headless, port, its name, and its target.
type ServiceRow = (&'static str, &'static str, bool, u16, &'static str, &'static str);

const SERVICES: [ServiceRow; 6] = [
    ("linkerd-identity", "identity", false, 8080, "grpc", "8080"),
    ("linkerd-identity-headless", "identity", true, 8080, "grpc", "8080"),
    ("linkerd-dst", "destination", false, 8086, "grpc", "8086"),
    ("linkerd-dst-headless", "destination", true, 8086, "grpc", "8086"),
    ("linkerd-policy", "destination", true, 8090, "grpc", "8090"),
    ("linkerd-proxy-injector", "proxy-injector", false, 443, "proxy-injector", "proxy-injector"),
];

fn services(options: &Options) -> Vec<Value> {
    let service = |(name, component, headless, port, port_name, target): ServiceRow| {
        let target = target.parse::<u16>().map_or_else(|_| json!(target), |number| json!(number));
        let mut service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta(options, name, component),
            "spec": {
                "type": "ClusterIP",
                "selector": { "linkerd.io/control-plane-component": component },
                "ports": [{ "name": port_name, "port": port, "targetPort": target }],
            },
        });
        if headless {
            service["spec"]["clusterIP"] = "None".into();
        }
        if component == "proxy-injector" {
            service["metadata"]["annotations"]["config.linkerd.io/opaque-ports"] = "443".into();
        }
        service
    };
    SERVICES.map(service).into()
}

fn injector_webhook(options: &Options) -> Value {
    use base64::Engine;
    let bundle = base64::engine::general_purpose::STANDARD.encode(&options.injector.certificate);
    let mut metadata = meta(options, "linkerd-proxy-injector-webhook-config", "proxy-injector");
    if let Some(fields) = metadata.as_object_mut() {
        fields.remove("namespace");
    }
    let not_in = |key: &str, values: &[&str]| json!({ "key": key, "operator": "NotIn", "values": values });
    let absent = |key: &str| json!({ "key": key, "operator": "DoesNotExist" });
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": metadata,
        "webhooks": [{
            "name": "linkerd-proxy-injector.linkerd.io",
            "namespaceSelector": { "matchExpressions": [
                not_in("config.linkerd.io/admission-webhooks", &["disabled"]),
                not_in("kubernetes.io/metadata.name", &["kube-system", "cert-manager"]),
            ] },
            "objectSelector": { "matchExpressions": [
                absent("linkerd.io/control-plane-component"),
                absent("linkerd.io/cni-resource"),
            ] },
            "clientConfig": {
                "service": { "name": "linkerd-proxy-injector", "namespace": options.namespace, "path": "/" },
                "caBundle": bundle,
            },
            "failurePolicy": "Ignore",
            "admissionReviewVersions": ["v1", "v1beta1"],
            "rules": [{
                "operations": ["CREATE"],
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "resources": ["pods", "services"],
                "scope": "Namespaced",
            }],
            "sideEffects": "None",
            "timeoutSeconds": 10,
        }],
    })
}

#[cfg(test)]
mod tests;
