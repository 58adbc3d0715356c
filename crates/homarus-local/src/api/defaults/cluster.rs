//! What a fresh cluster contains: namespaces, roles, the Service of the API itself.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::metadata::uid;
use crate::api::authz::bootstrap;
use crate::api::schema::kinds::split_version;
use crate::api::store::Name;
use crate::api::store::shared::Write;
use crate::api::{Core, collect, now_text};

/// Where CA and default service account come from in every namespace.
pub const ROOT_CERTIFICATE: &str = "kube-root-ca.crt";

/// Creates what is missing; what users changed stays.
pub fn ensure(core: &Arc<Core>, endpoint: SocketAddr) {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let labels = json!({"kubernetes.io/metadata.name": name});
        put_new(
            core,
            json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
            }),
        );
        collect::furnish(core, name);
    }
    bootstrap::objects().into_iter().for_each(|object| put_new(core, object));
    own_service(core, endpoint);
}

/// The Service `kubernetes` and its endpoint, which may be another one after each start.
fn own_service(core: &Core, endpoint: SocketAddr) {
    let address = core.config.service_cidr.hosts().next().map(|a| a.to_string()).unwrap_or_default();
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    put_new(
        core,
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
            "spec": {
                "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "sessionAffinity": "None",
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": endpoint.port()}],
            },
            "status": {"loadBalancer": {}},
        }),
    );
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "endpoints": [{"addresses": [endpoint.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": endpoint.port(), "protocol": "TCP"}],
    });
    let bucket: Arc<str> = "discovery.k8s.io/endpointslices".into();
    let name = Name::of(&slice);
    if core
        .store
        .find(&bucket, &name)
        .is_none_or(|old| old.value["endpoints"] != slice["endpoints"] || old.value["ports"] != slice["ports"])
    {
        let _ = core.store.write::<()>(&bucket, &name, |_, old| Ok(Write::Put(born(slice, old.map(|o| &o.value)))));
    }
}

/// Gives an object of our own its uid and birthday, or those of its predecessor.
fn born(mut object: Value, old: Option<&Value>) -> Value {
    let kept = |field: &str, new: String| old.map_or_else(|| new.into(), |o| o["metadata"][field].clone());
    object["metadata"]["uid"] = kept("uid", uid());
    object["metadata"]["creationTimestamp"] = kept("creationTimestamp", now_text());
    object
}

/// Stores an object of our own unless there is one.
pub fn put_new(core: &Core, object: Value) {
    let (group, version) = split_version(object["apiVersion"].as_str().unwrap_or_default());
    let kinds = core.store.kinds();
    let kind = object["kind"].as_str().unwrap_or_default();
    let Some(kind) = kinds.in_version(group, version).find(|k| k.kind == kind) else { return };
    let name = Name::of(&object);
    let _ = core
        .store
        .write::<()>(&kind.bucket, &name, |_, old| Ok(if old.is_some() { Write::Keep } else { Write::Put(born(object, None)) }));
}
