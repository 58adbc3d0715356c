//! The table.

use serde_json::{Value, json};

use crate::workloads;

/// Where all of it happens.
pub const NAMESPACE: &str = "api-table";

/// Who asks.
#[derive(Debug, Clone)]
pub enum Who {
    Admin,
    Nobody,
    Token(&'static str),
}

/// How the answer is read.
#[derive(Debug, Clone, Copy)]
pub enum Read {
    Answer,
    /// So many events of a watch.
    Events(usize),
    /// Asked again until this holds.
    Until(fn(u16, &Value) -> bool),
}

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    pub name: &'static str,
    pub who: Who,
    pub method: &'static str,
    pub path: String,
    pub media: &'static str,
    pub accept: &'static str,
    pub body: Option<Value>,
    pub read: Read,
    /// Only this part of the answer is compared.
    pub pick: Option<&'static str>,
}

fn request(name: &'static str, method: &'static str, path: &str, body: Option<Value>) -> Request {
    let path = match path.split_once(':') {
        // `apps/v1:deployments/x` in the namespace; a path from the root is left alone.
        Some((version, rest)) if !path.starts_with('/') => {
            let root = if version.contains('/') { "apis" } else { "api" };
            format!("/{root}/{version}/namespaces/{NAMESPACE}/{rest}")
        }
        _ => path.to_owned(),
    };
    let (media, accept) = ("application/json", "");
    Request { name, who: Who::Admin, method, path, media, accept, body, read: Read::Answer, pick: None }
}

pub fn get(name: &'static str, path: &str) -> Request {
    request(name, "GET", path, None)
}

pub fn post(name: &'static str, path: &str, body: Value) -> Request {
    request(name, "POST", path, Some(body))
}

fn put(name: &'static str, path: &str, body: Value) -> Request {
    request(name, "PUT", path, Some(body))
}

fn delete(name: &'static str, path: &str, body: Value) -> Request {
    request(name, "DELETE", path, (!body.is_null()).then_some(body))
}

pub fn patch(name: &'static str, kind: &str, path: &str, body: Value) -> Request {
    let media = match kind {
        "json" => "application/json-patch+json",
        "merge" => "application/merge-patch+json",
        "strategic" => "application/strategic-merge-patch+json",
        _ => "application/apply-patch+yaml",
    };
    Request { media, ..request(name, "PATCH", path, Some(body)) }
}

pub fn table_of(name: &'static str, path: &str) -> Request {
    Request { accept: "application/json;as=Table;v=v1;g=meta.k8s.io", ..get(name, path) }
}

fn watch(name: &'static str, path: &str, events: usize) -> Request {
    Request { read: Read::Events(events), ..get(name, path) }
}

fn gone(name: &'static str, path: &str) -> Request {
    Request { read: Read::Until(|code, _| code == 404), ..get(name, path) }
}

impl Request {
    fn by(self, who: Who) -> Request {
        Request { who, ..self }
    }

    pub fn pick(self, pointer: &'static str) -> Request {
        Request { pick: Some(pointer), ..self }
    }
}

fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"app": "d"}}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"app": "d"}},
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [
            {"name": "a", "image": "x.invalid/a:1", "ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "1"}]},
            {"name": "b", "image": "x.invalid/b"},
        ]}},
    }})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "p"}}, "spec": {
        "schedulerName": "nobody",
        "containers": [{"name": "a", "image": "x.invalid/a", "readinessProbe": {"tcpSocket": {"port": 80}}}],
        "volumes": [{"name": "v"}],
    }})
}

/// Everything, in order: later requests build on earlier ones.
pub fn table() -> Vec<Request> {
    [
        namespaces(),
        objects(),
        patches(),
        applies(),
        selectors(),
        tables(),
        watches(),
        workloads(),
        workloads::stateful_sets(),
        workloads::daemon_sets(),
        workloads::cron_jobs(),
        workloads::claims_and_revisions(),
        custom(),
        collection(),
        access(),
        admission(),
        ends(),
    ]
    .concat()
}

fn namespaces() -> Vec<Request> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    vec![
        post("create the namespace", "/api/v1/namespaces", namespace.clone()),
        post("create it twice", "/api/v1/namespaces", namespace),
        post(
            "a namespace with a bad name",
            "/api/v1/namespaces",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "A_b"}}),
        ),
        Request { read: Read::Until(|code, _| code == 200), ..get("its service account", "v1:serviceaccounts/default") },
        Request { read: Read::Until(|code, _| code == 200), ..get("its certificate", "v1:configmaps/kube-root-ca.crt") },
        post("create in a namespace that isn't there", "/api/v1/namespaces/nowhere/configmaps", config_map("a", json!({}))),
    ]
}

fn objects() -> Vec<Request> {
    let labelled = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b", "labels": {"tier": "front", "n": "2"}}, "data": {"k": "v"}});
    vec![
        post("create a config map", "v1:configmaps", config_map("a", json!({"k": "v"}))),
        post("create it again", "v1:configmaps", config_map("a", json!({}))),
        post("create one with labels", "v1:configmaps", labelled),
        post("create one in play", "v1:configmaps?dryRun=All", config_map("play", json!({"k": "v"}))),
        get("the play left nothing", "v1:configmaps/play"),
        get("read it", "v1:configmaps/a"),
        post("generate a name", "v1:configmaps", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "generated-"}})),
        delete("delete the generated one", "v1:configmaps/<generate a name|/metadata/name>", Value::Null),
        post("no name", "v1:configmaps", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}})),
        post("a bad name", "v1:configmaps", config_map("Bad_Name", json!({}))),
        post("another kind", "v1:configmaps", json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}})),
        post("another namespace", "v1:configmaps", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "default"}})),
        post("unknown fields, strictly", "v1:configmaps?fieldValidation=Strict", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "dat": {}})),
        post("a version on create", "v1:configmaps", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "resourceVersion": "1"}})),
        get("what isn't there", "v1:configmaps/nothing"),
        get("a kind that isn't there", "v1:nonsense"),
        get("a group that isn't there", "/apis/nonsense.io/v1/things"),
        put("replace", "v1:configmaps/a", config_map("a", json!({"k": "w"}))),
        put("replace with an old version", "v1:configmaps/a",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "resourceVersion": "<create a config map|/metadata/resourceVersion>"}})),
        put("replace with the present version", "v1:configmaps/a",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "resourceVersion": "<replace|/metadata/resourceVersion>"}, "data": {"k": "x"}})),
        put("replace with another uid", "v1:configmaps/a",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "uid": "00000000-0000-4000-8000-000000000000"}})).pick("/reason"),
        put("replace under another name", "v1:configmaps/a", config_map("other", json!({}))),
        put("replace what isn't there", "v1:services/nothing", json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "nothing"}, "spec": {"ports": [{"port": 1}]}})),
        post("a secret from text", "v1:secrets", json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}})),
        patch("its type stays", "merge", "v1:secrets/s", json!({"type": "other"})),
        delete("delete with another uid", "v1:configmaps/a", json!({"preconditions": {"uid": "00000000-0000-4000-8000-000000000000"}})),
    ]
}

fn patches() -> Vec<Request> {
    vec![
        patch("merge patch", "merge", "v1:configmaps/a", json!({"data": {"m": "1", "k": null}})),
        patch(
            "merge patch with an old version",
            "merge",
            "v1:configmaps/a",
            json!({"metadata": {"resourceVersion": "<create a config map|/metadata/resourceVersion>"}, "data": {"m": "2"}}),
        ),
        patch(
            "json patch",
            "json",
            "v1:configmaps/a",
            json!([{"op": "test", "path": "/data/m", "value": "1"}, {"op": "add", "path": "/data/j", "value": "1"}]),
        ),
        patch("json patch whose test fails", "json", "v1:configmaps/a", json!([{"op": "test", "path": "/data/m", "value": "no"}]))
            .pick("/code"),
        patch("a patch of nothing", "merge", "v1:configmaps/nothing", json!({})),
        Request { media: "text/plain", ..patch("a patch of no kind", "merge", "v1:configmaps/a", json!({})) }.pick("/reason"),
        post("create a deployment", "apps/v1:deployments", deployment()),
        patch(
            "strategic patch of an image",
            "strategic",
            "apps/v1:deployments/d",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "x.invalid/b:2"}]}}}}),
        ),
        patch(
            "strategic patch deletes by key",
            "strategic",
            "apps/v1:deployments/d",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "b", "$patch": "delete"}]}}}}),
        ),
        patch(
            "strategic patch adds a variable",
            "strategic",
            "apps/v1:deployments/d",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "env": [{"name": "B", "value": "2"}]}]}}}}),
        ),
        patch(
            "strategic patch without a key",
            "strategic",
            "apps/v1:deployments/d",
            json!({"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}}),
        )
        .pick("/code"),
        patch(
            "merge patch replaces lists",
            "merge",
            "apps/v1:deployments/d",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "x.invalid/c:1"}]}}}}),
        ),
        patch("the selector stays", "merge", "apps/v1:deployments/d", json!({"spec": {"selector": {"matchLabels": {"app": "e"}}}})),
        patch(
            "a patch that breaks a type",
            "merge",
            "apps/v1:deployments/d?fieldValidation=Strict",
            json!({"spec": {"replicas": "three"}}),
        )
        .pick("/reason"),
        patch(
            "unknown fields in a patch, strictly",
            "merge",
            "apps/v1:deployments/d?fieldValidation=Strict",
            json!({"spec": {"replica": 3}}),
        )
        .pick("/reason"),
        patch(
            "unknown fields in an apply, strictly",
            "apply",
            "v1:configmaps/strict?fieldManager=one&fieldValidation=Strict",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "strict"}, "dat": {}}),
        )
        .pick("/code"),
        patch("status apart", "merge", "apps/v1:deployments/d", json!({"status": {"replicas": 7}})),
    ]
}

fn applies() -> Vec<Request> {
    let map = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": data});
    vec![
        patch("apply creates", "apply", "v1:configmaps/applied?fieldManager=one", map(json!({"a": "1", "b": "1"}))),
        get("owned by its manager", "v1:configmaps/applied").pick("/metadata/managedFields/0/fieldsV1"),
        patch("apply by another agrees", "apply", "v1:configmaps/applied?fieldManager=two", map(json!({"a": "1"}))),
        patch("apply by another conflicts", "apply", "v1:configmaps/applied?fieldManager=two", map(json!({"b": "2"}))),
        patch("apply by force", "apply", "v1:configmaps/applied?fieldManager=two&force=true", map(json!({"b": "2"}))),
        get("a field changes hands", "v1:configmaps/applied").pick("/metadata/managedFields/0/fieldsV1"),
        patch("apply drops its own", "apply", "v1:configmaps/applied?fieldManager=one", map(json!({}))),
        patch("apply without a manager", "apply", "v1:configmaps/applied", map(json!({}))),
        patch(
            "an update takes what it changes",
            "merge",
            "v1:configmaps/applied?fieldManager=three",
            json!({"data": {"b": "3", "c": "3"}}),
        ),
        patch("apply conflicts with an update", "apply", "v1:configmaps/applied?fieldManager=two", map(json!({"b": "2"}))),
        patch(
            "apply of lists by key",
            "apply",
            "apps/v1:deployments/d?fieldManager=one&force=true",
            json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [
                {"name": "c", "image": "x.invalid/c:1", "ports": [{"containerPort": 8080}, {"containerPort": 8080, "protocol": "UDP"}]}]}}}}),
        ),
    ]
}

fn selectors() -> Vec<Request> {
    let names = |name, path: &str| Request {
        accept: "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        ..get(name, path)
    };
    vec![
        names("by label", "v1:configmaps?labelSelector=tier%3Dfront"),
        names("by label in a set", "v1:configmaps?labelSelector=tier+in+%28front%2Cback%29%2Cn%21%3D3"),
        names("by a label that is there", "v1:configmaps?labelSelector=tier"),
        names("by no label", "v1:configmaps?labelSelector=%21nothing%2Ctier"),
        names("by name", "v1:configmaps?fieldSelector=metadata.name%3Da"),
        names("by a field unlike", "v1:configmaps?fieldSelector=metadata.name%21%3Da&labelSelector=tier"),
        get("by a field no one offers", "v1:configmaps?fieldSelector=data.k%3Dv"),
        get("by nonsense", "v1:configmaps?labelSelector=a%3D%28").pick("/reason"),
        get("a page", "v1:configmaps?limit=2"),
        get("the next page", "v1:configmaps?limit=2&continue=<a page|/metadata/continue>"),
        get("a page with a bad token", "v1:configmaps?limit=2&continue=bad").pick("/reason"),
        get("a match without a version", "v1:configmaps?resourceVersionMatch=Exact"),
        get("a version that is none", "v1:configmaps?resourceVersion=abc").pick("/code"),
    ]
}

fn tables() -> Vec<Request> {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": {"app": "p"}, "ports": [{"port": 80}]}});
    vec![
        table_of("config maps as rows", "v1:configmaps?labelSelector=tier"),
        table_of("one config map as a row", "v1:configmaps/b"),
        post("create a service", "v1:services", service),
        table_of("services as rows", "v1:services"),
        post(
            "create a headless service",
            "v1:services",
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "selector": {"a": "b"}}}),
        ),
        post(
            "a service without ports",
            "v1:services",
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "none"}, "spec": {"selector": {"a": "b"}}}),
        ),
        post(
            "a service with nameless ports",
            "v1:services",
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "two"}, "spec": {"ports": [{"port": 1}, {"port": 2}]}}),
        ),
        patch(
            "a service keeps its address",
            "merge",
            "v1:services/web",
            json!({"spec": {"ports": [{"port": 81, "targetPort": "http"}]}}),
        ),
        table_of("secrets as rows without objects", "v1:secrets?includeObject=None"),
        table_of("service accounts as rows", "v1:serviceaccounts"),
    ]
}

fn watches() -> Vec<Request> {
    let names = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    vec![
        watch("watch all there is", "v1:configmaps?watch=true&fieldSelector=metadata.name%3Da", 1),
        Request {
            accept: names,
            ..watch(
                "watch with initial events",
                "v1:configmaps?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=tier",
                2,
            )
        },
        post("something happens", "v1:configmaps", config_map("w", json!({"k": "1"}))),
        patch("more happens", "merge", "v1:configmaps/w", json!({"metadata": {"labels": {"seen": "yes"}}})),
        delete("it ends", "v1:configmaps/w", Value::Null),
        watch(
            "resume",
            "v1:configmaps?watch=true&fieldSelector=metadata.name%3Dw&resourceVersion=<create a service|/metadata/resourceVersion>",
            3,
        ),
        watch(
            "what enters and leaves a selection",
            "v1:configmaps?watch=true&labelSelector=seen&resourceVersion=<something happens|/metadata/resourceVersion>",
            2,
        ),
        watch("a watch that has expired", "v1:configmaps?watch=true&resourceVersion=1", 1),
        get("initial events without a match", "v1:configmaps?watch=true&sendInitialEvents=true"),
        get("a watch match without initial events", "v1:configmaps?watch=true&resourceVersionMatch=NotOlderThan&resourceVersion=1"),
        watch("a watch that times out", "v1:configmaps?watch=true&timeoutSeconds=1&labelSelector=nobody", 1),
        Request {
            accept: "application/json;as=Table;v=v1;g=meta.k8s.io",
            ..watch("watch as rows", "v1:configmaps?watch=true&labelSelector=tier", 1)
        },
    ]
}

fn workloads() -> Vec<Request> {
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"suspend": true, "template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "a", "image": "x.invalid/a:1"}]}}}});
    vec![
        post("create a pod", "v1:pods", pod("p")),
        table_of("pods as rows", "v1:pods"),
        post("a pod without containers", "v1:pods", json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {}})),
        post("a pod of an unknown account", "v1:pods", json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"serviceAccountName": "nobody", "containers": [{"name": "a", "image": "a"}]}})),
        patch("a pod's command stays", "strategic", "v1:pods/p", json!({"spec": {"containers": [{"name": "a", "command": ["x"]}]}})).pick("/details/causes/0/reason"),
        patch("a pod's image may change", "strategic", "v1:pods/p", json!({"spec": {"containers": [{"name": "a", "image": "x.invalid/a:2"}]}})).pick("/spec/containers/0/image"),
        patch("a pod's status", "strategic", "v1:pods/p/status", json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}, "spec": {"nodeName": "no"}})),
        get("pods by phase", "v1:pods?fieldSelector=status.phase%3DPending%2Cspec.nodeName%3D").pick("/items/0/metadata/name"),
        get("the log of a pod without a node", "v1:pods/p/log").pick("/code"),
        get("the log of no container", "v1:pods/p/log?container=zz"),
        get("run something in a pod without a node", "v1:pods/p/exec?command=true&stdout=true"),
        get("run something in no container", "v1:pods/p/exec?command=true&stdout=true&container=zz"),
        get("attach to a pod without a node", "v1:pods/p/attach?stdout=true"),
        get("forward a port of a pod without a node", "v1:pods/p/portforward"),
        get("forward a port of no pod", "v1:pods/zz/portforward"),
        post("a deployment without a selector", "apps/v1:deployments", json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}}})).pick("/details/causes/0"),
        get("a scale", "apps/v1:deployments/d/scale"),
        put("scale", "apps/v1:deployments/d/scale", json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": NAMESPACE}, "spec": {"replicas": 0}})).pick("/spec"),
        patch("scale below nothing", "merge", "apps/v1:deployments/d/scale", json!({"spec": {"replicas": -1}})).pick("/code"),
        post("create a job", "batch/v1:jobs", job),
        post("evict a pod", "v1:pods/p/eviction", json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}})),
        gone("the pod is gone", "v1:pods/p"),
        post("a lease", "coordination.k8s.io/v1:leases", json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"}})),
        post("an event", "v1:events", json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": NAMESPACE}, "reason": "Because", "message": "why", "type": "Normal", "source": {"component": "table"}, "count": 2})),
        get("the event by its new name", "events.k8s.io/v1:events/e"),
        get("events of an object", "v1:events?fieldSelector=involvedObject.name%3Dp%2Creason%3DBecause").pick("/items/0/message"),
        post("an endpoint slice", "discovery.k8s.io/v1:endpointslices", json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "es"}, "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["192.0.2.1"]}]})),
    ]
}

fn custom() -> Vec<Request> {
    let spec = json!({"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 9}, "mode": {"type": "string", "enum": ["soft", "hard"], "default": "soft"},
        "port": {"x-kubernetes-int-or-string": true}, "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "either": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
    }});
    let schema = json!({"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {"spec": spec,
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}});
    let mut old = schema.clone();
    old["openAPIV3Schema"]["properties"]["spec"]["properties"].as_object_mut().unwrap().remove("mode");
    let columns = json!([{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}, {"name": "Mode", "type": "string", "jsonPath": ".spec.mode"}]);
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.table.homarus.io"},
    "spec": {"group": "table.homarus.io", "scope": "Namespaced", "names": {"kind": "Widget", "plural": "widgets", "shortNames": ["wd"]}, "versions": [
        {"name": "v1", "served": true, "storage": true, "schema": schema, "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.replicas"}}, "additionalPrinterColumns": columns},
        {"name": "v1beta1", "served": true, "storage": false, "deprecated": true, "schema": old},
    ]}});
    let widget = |name: &str, spec: Value| json!({"apiVersion": "table.homarus.io/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec});
    let path = "table.homarus.io/v1:widgets";
    vec![
        post("define a kind", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition.clone()).pick("/spec/names"),
        post("define it under a wrong name", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {
            let mut wrong = definition;
            wrong["metadata"]["name"] = json!("wrong");
            wrong
        })
        .pick("/details/causes/0/field"),
        Request { read: Read::Until(|code, _| code == 200), ..get("it is served", path) },
        Request {
            read: Read::Until(|code, _| code != 404),
            ..post("defaults and pruning", path, widget("one", json!({"size": 1, "unknown": 1, "open": {"x": 1}, "port": "http"})))
        },
        get("as the older version", "table.homarus.io/v1beta1:widgets/one"),
        table_of("widgets as rows", path),
        post("too big", path, widget("two", json!({"size": 10}))),
        post("not in the list", path, widget("two", json!({"size": 1, "mode": "wild"}))),
        post("nothing that is required", path, widget("two", json!({}))),
        post("the wrong type", path, widget("two", json!({"size": 1, "name": 5}))),
        post("not the pattern", path, widget("two", json!({"size": 1, "name": "ABC"}))),
        post("too long", path, widget("two", json!({"size": 1, "name": "abcdef"}))),
        post("both of two", path, widget("two", json!({"size": 1, "either": {"a": "x", "b": "y"}}))),
        post("neither of two", path, widget("two", json!({"size": 1, "either": {}}))),
        post(
            "unknown fields of a widget, strictly",
            "table.homarus.io/v1:widgets?fieldValidation=Strict",
            widget("two", json!({"size": 1, "unknown": 1})),
        ),
        patch(
            "merge patch of a widget",
            "merge",
            "table.homarus.io/v1:widgets/one",
            json!({"spec": {"size": 2}, "status": {"replicas": 9}}),
        ),
        patch("strategic patches are not for widgets", "strategic", "table.homarus.io/v1:widgets/one", json!({})).pick("/code"),
        patch(
            "a widget's status",
            "merge",
            "table.homarus.io/v1:widgets/one/status",
            json!({"spec": {"size": 5}, "status": {"replicas": 2}}),
        ),
        get("a widget's scale", "table.homarus.io/v1:widgets/one/scale"),
        patch("apply a widget", "apply", "table.homarus.io/v1:widgets/three?fieldManager=one", widget("three", json!({"size": 3}))),
        get("the widgets' discovery", "/apis/table.homarus.io/v1").pick("/resources"),
    ]
}

fn collection() -> Vec<Request> {
    let owned = |name: &str, owner: &str, block: bool| {
        let mut map = config_map(name, json!({}));
        map["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": format!("<create {owner}|/metadata/uid>"), "blockOwnerDeletion": block}]);
        map
    };
    let held = |name: &str| {
        let mut map = config_map(name, json!({}));
        map["metadata"]["finalizers"] = json!(["table.homarus.io/hold"]);
        map
    };
    vec![
        post("create held", "v1:configmaps", held("held")),
        delete("delete held", "v1:configmaps/held", Value::Null),
        get("held is still there", "v1:configmaps/held"),
        patch(
            "a finalizer can't come now",
            "merge",
            "v1:configmaps/held",
            json!({"metadata": {"finalizers": ["table.homarus.io/hold", "table.homarus.io/more"]}}),
        )
        .pick("/message"),
        patch("let go", "merge", "v1:configmaps/held", json!({"metadata": {"finalizers": null}})),
        gone("held is gone", "v1:configmaps/held"),
        post("create owner", "v1:configmaps", config_map("owner", json!({}))),
        post("create its dependent", "v1:configmaps", owned("dependent", "owner", false)),
        delete("delete owner in the background", "v1:configmaps/owner", json!({"propagationPolicy": "Background"})),
        gone("the dependent follows", "v1:configmaps/dependent"),
        post("create parent", "v1:configmaps", config_map("parent", json!({}))),
        post("create its held child", "v1:configmaps", {
            let mut child = owned("child", "parent", true);
            child["metadata"]["finalizers"] = json!(["table.homarus.io/hold"]);
            child
        }),
        delete("delete parent in the foreground", "v1:configmaps/parent", json!({"propagationPolicy": "Foreground"})),
        Request {
            read: Read::Until(|_, v| !v["metadata"]["deletionTimestamp"].is_null()),
            ..get("the child goes first", "v1:configmaps/child")
        },
        get("the parent waits", "v1:configmaps/parent"),
        patch("let the child go", "merge", "v1:configmaps/child", json!({"metadata": {"finalizers": null}})).pick("/metadata/name"),
        gone("then the parent goes", "v1:configmaps/parent"),
        post("create leaver", "v1:configmaps", config_map("leaver", json!({}))),
        post("create its orphan", "v1:configmaps", owned("orphan", "leaver", true)),
        delete("delete leaver alone", "v1:configmaps/leaver", json!({"propagationPolicy": "Orphan"})),
        gone("the leaver is gone", "v1:configmaps/leaver"),
        Request {
            read: Read::Until(|_, v| v["metadata"]["ownerReferences"].is_null()),
            ..get("the orphan stays", "v1:configmaps/orphan")
        },
        delete("delete in no way", "v1:configmaps/orphan", json!({"propagationPolicy": "Nonsense"})).pick("/code"),
        delete("delete many", "v1:configmaps?labelSelector=tier", Value::Null).pick("/items/0/metadata/name"),
    ]
}

fn access() -> Vec<Request> {
    let me = "<a token|/status/token>";
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "reader"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}, "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": NAMESPACE}]});
    let review = |spec: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec});
    let may = |verb: &str| json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {"namespace": NAMESPACE, "verb": verb, "resource": "configmaps"}}});
    vec![
        post("a token", "v1:serviceaccounts/default/token", json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}})).pick("/spec/expirationSeconds"),
        post("a token for an audience", "v1:serviceaccounts/default/token", json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["identity.l5d.io"]}})),
        post("a token for a minute", "v1:serviceaccounts/default/token", json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 60}})),
        post("a token for a pod that isn't there", "v1:serviceaccounts/default/token", json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "nothing"}}})),
        get("read with a token", "v1:configmaps/a").by(Who::Token(me)),
        post("create a role", "rbac.authorization.k8s.io/v1:roles", role),
        post("bind it", "rbac.authorization.k8s.io/v1:rolebindings", binding),
        Request { read: Read::Until(|code, _| code == 200), ..get("read with a token and a role", "v1:configmaps/a") }.by(Who::Token(me)),
        delete("delete with a token", "v1:configmaps/a", Value::Null).by(Who::Token(me)),
        get("read elsewhere with a token", "/api/v1/namespaces/default/configmaps").by(Who::Token(me)),
        get("read with a token for others", "v1:configmaps/a").by(Who::Token("<a token for an audience|/status/token>")),
        get("read with no token of ours", "v1:configmaps/a").by(Who::Token("nonsense")),
        get("read as nobody", "v1:configmaps/a").by(Who::Nobody),
        get("health as nobody", "/readyz").by(Who::Nobody),
        post("may I read", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", may("get")).by(Who::Token(me)).pick("/status/allowed"),
        post("may I delete", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", may("delete")).by(Who::Token(me)).pick("/status/allowed"),
        post("may another read", "/apis/authorization.k8s.io/v1/subjectaccessreviews", json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": "eve", "resourceAttributes": {"verb": "get", "resource": "pods"}}})).pick("/status/allowed"),
        post("review a token", "/apis/authentication.k8s.io/v1/tokenreviews", review(json!({"token": me}))).pick("/status/user/username"),
        post("review a token for its audience", "/apis/authentication.k8s.io/v1/tokenreviews", review(json!({"token": "<a token for an audience|/status/token>", "audiences": ["identity.l5d.io"]}))).pick("/status/audiences"),
        post("review a token for another audience", "/apis/authentication.k8s.io/v1/tokenreviews", review(json!({"token": me, "audiences": ["identity.l5d.io"]}))).pick("/status/authenticated"),
        post("review nonsense", "/apis/authentication.k8s.io/v1/tokenreviews", review(json!({"token": "nonsense"}))).pick("/status/authenticated"),
        post("who am I", "/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})).by(Who::Token(me)).pick("/status/userInfo/groups"),
    ]
}

fn admission() -> Vec<Request> {
    let hook = |kind: &str, path: &str| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "table"}, "webhooks": [{
            "name": "hook.table.homarus.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": format!("<webhook>{path}"), "caBundle": "<bundle>"},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}, "objectSelector": {"matchLabels": {"hook": "yes"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}],
        }]})
    };
    let hooked = |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"hook": "yes"}}, "data": data});
    let mutating = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    let validating = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    vec![
        post("register a mutating webhook", mutating, hook("MutatingWebhookConfiguration", "/mutate")),
        post("register a validating webhook", validating, hook("ValidatingWebhookConfiguration", "/validate")),
        Request {
            read: Read::Until(|_, v| !v["data"]["seen"].is_null()),
            ..post("a webhook changes", "v1:configmaps?dryRun=All", hooked("h", json!({"a": "b"})))
        },
        post("a changed object is stored", "v1:configmaps", hooked("h", json!({"a": "b"}))),
        Request {
            read: Read::Until(|code, _| code != 201),
            ..post("a webhook refuses", "v1:configmaps?dryRun=All", hooked("i", json!({"bad": "yes"})))
        },
        patch("a webhook refuses a patch", "merge", "v1:configmaps/h", json!({"data": {"bad": "yes"}})),
        post("a webhook isn't asked", "v1:configmaps", config_map("unhooked", json!({"bad": "yes"}))),
        patch(
            "a webhook that can't be reached",
            "json",
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/table",
            json!([{"op": "replace", "path": "/webhooks/0/clientConfig/url", "value": "https://127.0.0.1:1/x"}]),
        )
        .pick("/webhooks/0/failurePolicy"),
        Request {
            read: Read::Until(|code, _| code == 500),
            ..post("refuses when it must", "v1:configmaps?dryRun=All", hooked("k", json!({"a": "b"})))
        }
        .pick("/reason"),
        patch(
            "a webhook that may fail",
            "json",
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/table",
            json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]),
        )
        .pick("/webhooks/0/failurePolicy"),
        Request {
            read: Read::Until(|code, _| code == 201),
            ..post("is ignored when it may", "v1:configmaps?dryRun=All", hooked("k", json!({"a": "b"})))
        }
        .pick("/data/seen"),
    ]
}

fn ends() -> Vec<Request> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}");
    vec![
        delete(
            "delete the definition",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.table.homarus.io",
            Value::Null,
        )
        .pick("/code"),
        gone("its objects are gone", "table.homarus.io/v1:widgets"),
        post(
            "hold the namespace",
            "v1:configmaps",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "last", "finalizers": ["table.homarus.io/hold"]}}),
        )
        .pick("/metadata/name"),
        delete("delete the namespace", &path, Value::Null).pick("/status/phase"),
        post("nothing new in it", "v1:configmaps", config_map("late", json!({}))),
        Request {
            read: Read::Until(|_, v| !v["metadata"]["deletionTimestamp"].is_null()),
            ..get("its last object waits", "v1:configmaps/last")
        }
        .pick("/metadata/finalizers"),
        patch("let the last one go", "merge", "v1:configmaps/last", json!({"metadata": {"finalizers": null}}))
            .pick("/metadata/name"),
        gone("the namespace is gone", &path),
        delete("delete default", "/api/v1/namespaces/default", Value::Null),
    ]
}
