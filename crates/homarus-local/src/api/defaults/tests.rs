#![allow(clippy::unwrap_used)]
use super::*;
use crate::api::schema::kinds::Kinds;

fn defaulted(api_version: &str, kind: &str, mut object: Value) -> Value {
    let kind = Kinds::default().of(api_version, kind).unwrap();
    apply(&kind, &mut object);
    let once = object.clone();
    apply(&kind, &mut object);
    assert_eq!(once, object, "defaulting twice is defaulting once");
    object
}

#[test]
fn pods() {
    let pod = defaulted(
        "v1",
        "Pod",
        json!({"spec": {
            "containers": [
                {"name": "a", "image": "r.io:5000/web", "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"port": 80}}},
                {"name": "b", "image": "web:1"},
            ],
            "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "c"}}],
            "serviceAccountName": "web",
        }}),
    );
    let spec = &pod["spec"];
    assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(spec["containers"][1]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(spec["containers"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(
        spec["containers"][0]["readinessProbe"],
        json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3})
    );
    assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
    assert_eq!(spec["volumes"][1]["configMap"]["defaultMode"], 420);
    assert_eq!(spec["serviceAccount"], "web");
    assert_eq!(spec["containers"][1].get("lifecycle"), None);
}

#[test]
fn quality_of_service() {
    let check = |resources: Value, quality: &str| {
        assert_eq!(pod::quality(&json!({"containers": [{"resources": resources}]})), quality);
    };
    check(json!({}), "BestEffort");
    check(json!({"requests": {"cpu": "1"}}), "Burstable");
    check(json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed");
}

#[test]
fn other_kinds() {
    let service = defaulted("v1", "Service", json!({"spec": {"ports": [{"port": 80}]}}));
    assert_eq!(service["spec"]["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
    let secret = defaulted("v1", "Secret", json!({"stringData": {"a": "b"}}));
    assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "Yg=="}}));
    let deployment = defaulted("apps/v1", "Deployment", json!({"spec": {}}));
    assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
    let binding = defaulted(
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        json!({"roleRef": {}, "subjects": [{"kind": "Group"}, {"kind": "ServiceAccount"}]}),
    );
    assert_eq!(
        binding["subjects"],
        json!([{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io"}, {"kind": "ServiceAccount"}])
    );
}
