//! OpenAPI v3 documents, made from the schema table: enough for `kubectl explain`, `apply` and `create`.

use http::{HeaderValue, Request, Response, header};
use serde_json::{Map, Value, json};

use super::respond::{self, Body};
use crate::api::schema::kinds::{Kind, Kinds};
use crate::api::schema::{Scalar, Shape, Strategy, Struct, Topology, named};

/// Which documents there are.
pub fn index(kinds: &Kinds) -> Value {
    let mut paths = Map::new();
    for (group, versions) in kinds.groups() {
        for version in versions {
            let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let url = format!("/openapi/v3/{path}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// The document of one group and version.
pub fn document(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for kind in kinds.in_version(group, version) {
        let name = match &kind.custom {
            Some(custom) => custom_schema(&kind, &custom.schema, &mut schemas),
            None => builtin_schema(&kind, &mut schemas),
        };
        for (path, item) in operations(&kind, &name) {
            paths.insert(path, item);
        }
    }
    if paths.is_empty() {
        return None;
    }
    let info = json!({"title": "Homarus", "version": "v1.34"});
    Some(json!({"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}))
}

/// A type's name in OpenAPI documents.
fn full_name(short: &str) -> String {
    match short.split('.').next() {
        Some("meta") => format!("io.k8s.apimachinery.pkg.apis.{short}"),
        Some("apiextensions") => format!("io.k8s.apiextensions-apiserver.pkg.apis.{short}"),
        _ => format!("io.k8s.api.{short}"),
    }
}

fn of_kind(kind: &Kind) -> Value {
    json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}])
}

fn builtin_schema(kind: &Kind, schemas: &mut Map<String, Value>) -> String {
    let Shape::Named(short) = kind.shape else { return String::new() };
    collect(short, schemas);
    let name = full_name(short);
    if let Some(schema) = schemas.get_mut(&name) {
        schema["x-kubernetes-group-version-kind"] = of_kind(kind);
        schema["properties"]["apiVersion"] = json!({"type": "string"});
        schema["properties"]["kind"] = json!({"type": "string"});
    }
    name
}

fn collect(short: &str, schemas: &mut Map<String, Value>) {
    let name = full_name(short);
    if schemas.contains_key(&name) {
        return;
    }
    schemas.insert(name.clone(), json!({}));
    let schema = record(&named(short), schemas);
    schemas.insert(name, schema);
}

fn record(ty: &Struct, schemas: &mut Map<String, Value>) -> Value {
    let mut properties = Map::new();
    for (name, field) in &ty.fields {
        let mut schema = shape(&field.shape, schemas);
        if let Some(default) = &field.default {
            schema["default"] = default.clone();
        }
        if let (Shape::List(list), true) = (&field.shape, schema.is_object()) {
            if let Strategy::MergeBy(key) = &list.strategy {
                schema["x-kubernetes-patch-merge-key"] = json!(key);
                schema["x-kubernetes-patch-strategy"] = json!(if field.retain_keys { "merge,retainKeys" } else { "merge" });
            } else if list.strategy == Strategy::Unite {
                schema["x-kubernetes-patch-strategy"] = json!("merge");
            }
        } else if field.retain_keys {
            schema["x-kubernetes-patch-strategy"] = json!("retainKeys");
        }
        properties.insert(name.clone(), schema);
    }
    let required: Vec<&String> = ty.fields.iter().filter(|(_, f)| f.required).map(|(name, _)| name).collect();
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if ty.atomic {
        schema["x-kubernetes-map-type"] = json!("atomic");
    }
    schema
}

fn shape(of: &Shape, schemas: &mut Map<String, Value>) -> Value {
    match of {
        Shape::Any => json!({"x-kubernetes-preserve-unknown-fields": true}),
        Shape::Named(short) => {
            collect(short, schemas);
            json!({"allOf": [{"$ref": format!("#/components/schemas/{}", full_name(short))}]})
        }
        Shape::Struct(ty) => record(ty, schemas),
        Shape::Map { value, atomic } => {
            let mut schema = json!({"type": "object", "additionalProperties": shape(value, schemas)});
            if *atomic {
                schema["x-kubernetes-map-type"] = json!("atomic");
            }
            schema
        }
        Shape::List(list) => {
            let mut schema = json!({"type": "array", "items": shape(&list.item, schemas)});
            schema["x-kubernetes-list-type"] = json!(match &list.topology {
                Topology::Atomic => "atomic",
                Topology::Set => "set",
                Topology::Map(keys) => {
                    schema["x-kubernetes-list-map-keys"] = json!(keys);
                    "map"
                }
            });
            schema
        }
        Shape::Scalar(scalar) => match scalar {
            Scalar::String => json!({"type": "string"}),
            Scalar::Bytes => json!({"type": "string", "format": "byte"}),
            Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
            Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
            Scalar::Number => json!({"type": "number", "format": "double"}),
            Scalar::Bool => json!({"type": "boolean"}),
            Scalar::Time | Scalar::MicroTime => json!({"type": "string", "format": "date-time"}),
            Scalar::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            Scalar::IntOrString => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        },
    }
}

/// A custom schema under the name a real API server gives it: the group reversed.
fn custom_schema(kind: &Kind, schema: &Value, schemas: &mut Map<String, Value>) -> String {
    let reversed: Vec<&str> = kind.group.rsplit('.').collect();
    let name = format!("{}.{}.{}", reversed.join("."), kind.version, kind.kind);
    collect("meta.v1.ObjectMeta", schemas);
    let mut schema = if schema.is_object() { schema.clone() } else { json!({"type": "object"}) };
    schema["x-kubernetes-group-version-kind"] = of_kind(kind);
    schema["properties"]["metadata"] =
        json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}]});
    schemas.insert(name.clone(), schema);
    name
}

/// The paths of a kind, with what kubectl looks for: PATCH's content types, `fieldValidation`, `dryRun`.
fn operations(kind: &Kind, schema: &str) -> Vec<(String, Value)> {
    let base =
        if kind.group.is_empty() { format!("/api/{}", kind.version) } else { format!("/apis/{}/{}", kind.group, kind.version) };
    let within = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
    let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
    let writing = json!([parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation")]);
    let reference = json!({"schema": {"$ref": format!("#/components/schemas/{schema}")}});
    let answers = json!({"200": {"description": "OK", "content": {"application/json": reference}}});
    let operation = |action: &str, body: Value| {
        let mut operation = json!({"parameters": writing, "responses": answers, "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk});
        if !body.is_null() {
            operation["requestBody"] = json!({"content": body});
        }
        operation
    };
    let json_body = json!({"application/json": reference});
    let mut patches =
        json!({"application/json-patch+json": {}, "application/merge-patch+json": {}, "application/apply-patch+yaml": {}});
    if kind.custom.is_none() {
        patches["application/strategic-merge-patch+json"] = json!({});
    }
    let many = format!("{base}{within}/{}", kind.plural);
    if kind.review {
        return vec![(many, json!({"post": operation("post", json_body)}))];
    }
    let one = json!({
        "get": operation("get", Value::Null), "put": operation("put", json_body.clone()),
        "patch": operation("patch", patches), "delete": operation("delete", Value::Null),
    });
    vec![
        (format!("{many}/{{name}}"), one),
        (many, json!({"get": operation("list", Value::Null), "post": operation("post", json_body)})),
    ]
}

/// OpenAPI v2, which old kubectls insist on, in protobuf. Only who is asked about dry runs looks into it (`diff`,
/// `--dry-run=server`): the PATCH operation of each kind says that it has the parameter. Without definitions they skip
/// their own validation, which is the server's anyway.
pub fn old(kinds: &Kinds, head: &Request<()>) -> Response<Body> {
    let accept = head.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !accept.contains("proto-openapi") {
        return respond::json(
            200,
            &json!({"swagger": "2.0", "info": {"title": "Homarus", "version": "v1.34"}, "paths": {}, "definitions": {}}),
        );
    }
    let mut response = respond::text(old_document(kinds));
    let form = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(form));
    response
}

/// `openapi.v2.Document`; numbers of fields as in gnostic's `OpenAPIv2.proto`.
fn old_document(kinds: &Kinds) -> Vec<u8> {
    let in_query = |name: &str| message(8, &message(1, &message(2, &message(3, &[text(2, "query"), text(4, name)].concat()))));
    let dry_run = in_query("dryRun");
    let items = kinds.all().filter(|kind| !kind.review).map(|kind| {
        let what = of_kind(kind)[0].to_string();
        let extension = [text(1, "x-kubernetes-group-version-kind"), message(2, &text(2, &what))].concat();
        let operation = [dry_run.clone(), message(13, &extension)].concat();
        message(2, &[text(1, &format!("/{}/{}", kind.api_version(), kind.plural)), message(2, &message(8, &operation))].concat())
    });
    let paths = items.collect::<Vec<_>>().concat();
    let info = [text(1, "Homarus"), text(2, "v1.34")].concat();
    [text(1, "2.0"), message(2, &info), message(8, &paths)].concat()
}

/// A field of protobuf that has a length.
fn message(field: u8, content: &[u8]) -> Vec<u8> {
    const WITH_LENGTH: u8 = 2;
    let mut bytes = vec![field << 3 | WITH_LENGTH];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(content);
    bytes
}

fn text(field: u8, content: &str) -> Vec<u8> {
    message(field, content.as_bytes())
}
