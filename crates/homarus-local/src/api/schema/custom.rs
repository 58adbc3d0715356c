//! Custom resources: a definition into [`Kind`]s, its structural schemas into [`Shape`]s.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::kinds::{Kind, Scale};
use super::{Field, List, Scalar, Shape, Strategy, Struct, Topology};

/// What a definition says about one version beyond names.
#[derive(Debug, Clone)]
pub struct Custom {
    /// The OpenAPI schema, for validation and defaulting.
    pub schema: Value,
    /// The stored version's schema: its defaults apply when objects are read.
    pub stored_schema: Value,
    /// Which version objects are stored in.
    pub stored_version: String,
    /// Additional printer columns.
    pub columns: Vec<Column>,
    /// Said to everyone who uses a deprecated version.
    pub deprecation: Option<String>,
    /// Further field selectors, as paths.
    pub selectable: Vec<String>,
}

/// A printer column of a custom resource.
#[derive(Debug, Clone)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `date`, ...
    pub kind: String,
    /// Where the value is.
    pub path: String,
    /// Explanation.
    pub description: String,
    /// Zero is always shown.
    pub priority: i64,
    /// OpenAPI format.
    pub format: String,
}

/// The kinds that a CustomResourceDefinition serves; a malformed one serves none.
pub fn kinds(definition: &Value) -> Vec<Kind> {
    let spec = &definition["spec"];
    let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(stored) = versions.iter().find(|v| v["storage"] == true) else { return Vec::new() };
    versions.iter().filter(|v| v["served"] == true).filter_map(|version| kind(spec, version, stored)).collect()
}

fn kind(spec: &Value, version: &Value, stored: &Value) -> Option<Kind> {
    let names = &spec["names"];
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let texts = |v: &Value| v.as_array().into_iter().flatten().filter_map(text).collect::<Vec<_>>();
    let (group, kind, plural) = (text(&spec["group"])?, text(&names["kind"])?, text(&names["plural"])?);
    let schema = version["schema"]["openAPIV3Schema"].clone();
    let subresources = &version["subresources"];
    let scale = subresources["scale"].as_object().and_then(|scale| {
        Some(Scale {
            spec: text(scale.get("specReplicasPath")?)?,
            status: text(scale.get("statusReplicasPath")?)?,
            selector: scale.get("labelSelectorPath").and_then(text),
        })
    });
    Some(Kind {
        bucket: format!("{group}/{plural}").into(),
        version: text(&version["name"])?,
        list_kind: text(&names["listKind"]).unwrap_or_else(|| format!("{kind}List")),
        singular: text(&names["singular"]).unwrap_or_else(|| kind.to_lowercase()),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        status: subresources.get("status").is_some(),
        scale,
        review: false,
        generation: true,
        shape: root_shape(&schema),
        custom: Some(Arc::new(Custom {
            columns: columns(version),
            deprecation: deprecation(version, &group, &kind),
            selectable: version["selectableFields"].as_array().into_iter().flatten().filter_map(|f| text(&f["jsonPath"])).collect(),
            stored_schema: stored["schema"]["openAPIV3Schema"].clone(),
            stored_version: text(&stored["name"])?,
            schema,
        })),
        group,
        kind,
        plural,
    })
}

fn deprecation(version: &Value, group: &str, kind: &str) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    let name = version["name"].as_str().unwrap_or_default();
    let said = version["deprecationWarning"].as_str().map(str::to_owned);
    Some(said.unwrap_or_else(|| format!("{group}/{name} {kind} is deprecated")))
}

fn columns(version: &Value) -> Vec<Column> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let given = version["additionalPrinterColumns"].as_array().into_iter().flatten();
    given
        .map(|c| Column {
            name: text(&c["name"]),
            kind: text(&c["type"]),
            path: text(&c["jsonPath"]),
            description: text(&c["description"]),
            priority: c["priority"].as_i64().unwrap_or(0),
            format: text(&c["format"]),
        })
        .collect()
}

fn root_shape(schema: &Value) -> Shape {
    let mut root = match shape(schema) {
        Shape::Struct(fields) => fields.as_ref().clone(),
        _ => Struct { open: true, ..Struct::default() },
    };
    let field = |shape| Field { shape, required: false, atomic: false, retain_keys: false, number: Vec::new(), default: None };
    root.fields.insert("metadata".into(), field(Shape::Named("meta.v1.ObjectMeta")));
    Shape::Struct(Arc::new(root))
}

/// The shape of a structural schema.
pub fn shape(schema: &Value) -> Shape {
    if schema["x-kubernetes-int-or-string"] == true {
        return Shape::Scalar(Scalar::IntOrString);
    }
    match schema["type"].as_str() {
        Some("object") => object_shape(schema),
        Some("array") => {
            Shape::List(Box::new(List { item: shape(&schema["items"]), topology: topology(schema), strategy: Strategy::Replace }))
        }
        Some("string") => Shape::Scalar(Scalar::String),
        Some("boolean") => Shape::Scalar(Scalar::Bool),
        Some("integer") => Shape::Scalar(Scalar::Int64),
        Some("number") => Shape::Scalar(Scalar::Number),
        _ => Shape::Any,
    }
}

fn topology(schema: &Value) -> Topology {
    match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => Topology::Set,
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            Topology::Map(keys.filter_map(|k| k.as_str().map(str::to_owned)).collect())
        }
        _ => Topology::Atomic,
    }
}

fn object_shape(schema: &Value) -> Shape {
    let atomic = schema["x-kubernetes-map-type"] == "atomic";
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    if schema["x-kubernetes-embedded-resource"] == true && open {
        return Shape::Any;
    }
    if let Some(properties) = schema["properties"].as_object() {
        let required = schema["required"].as_array();
        let fields: BTreeMap<_, _> = properties
            .iter()
            .map(|(name, property)| {
                let field = Field {
                    shape: shape(property),
                    required: required.is_some_and(|r| r.iter().any(|k| k == name)),
                    atomic: false,
                    retain_keys: false,
                    number: Vec::new(),
                    default: property.get("default").cloned(),
                };
                (name.clone(), field)
            })
            .collect();
        return Shape::Struct(Arc::new(Struct { fields, atomic, open }));
    }
    match &schema["additionalProperties"] {
        value @ Value::Object(_) => Shape::Map { value: Box::new(shape(value)), atomic },
        Value::Bool(true) => Shape::Map { value: Box::new(Shape::Any), atomic },
        _ => Shape::Struct(Arc::new(Struct { fields: BTreeMap::new(), atomic, open })),
    }
}
