//! Objects of the cluster into facts.
//!
//! Read leniently: only what the mesh needs is looked at, unknown fields are nothing to it, and a part that has a safe
//! meaning when it can't be read gets that meaning, with a [`Defect`] that says so. What has none makes the whole object
//! unreadable: it never becomes a fact. Doubt denies: what can't be read never grants anything.

mod core;
#[cfg(test)]
mod hostile;
mod policy;
mod routes;
#[cfg(test)]
mod tests;
mod workload;

pub use workload::{CONTROL_PLANE_NS, PROXY_CONTAINER};

use homarus_model::facts::{Age, Fact, Id, Kind, Labels, Owner, Selector};
use homarus_model::facts::{Expression, Operator};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// An object as the API server gives it.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    /// Its metadata.
    pub meta: &'a Meta,
    /// Its other fields.
    pub body: &'a Value,
}

/// What the mesh needs of an object's metadata.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Namespace; empty if it has none.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// When it was created.
    pub creation_timestamp: Option<String>,
    /// When it was told to go.
    pub deletion_timestamp: Option<String>,
    /// What it belongs to.
    pub owner_references: Vec<OwnerRef>,
}

/// What an object belongs to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct OwnerRef {
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: Arc<str>,
}

impl Meta {
    /// The object's name.
    pub fn id(&self) -> Id {
        Id { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    fn age(&self) -> Age {
        let created = self.creation_timestamp.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        created.map_or(Age::Unknown, |time| Age::Since(time.as_second()))
    }

    /// The owner, if there is exactly one.
    fn owner(&self) -> Option<Owner> {
        match &self.owner_references[..] {
            [owner] => Some(Owner { kind: owner.kind.to_ascii_lowercase().into(), name: owner.name.clone() }),
            _ => None,
        }
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }
}

/// Something in an object that can't be read. The fault of whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Defect {
    /// Where in the object.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: &'static str,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.field, self.problem, self.remedy)
    }
}

impl Defect {
    fn new(field: impl Into<String>, problem: impl fmt::Display, remedy: &'static str) -> Self {
        Self { field: field.into(), problem: problem.to_string(), remedy }
    }
}

/// A fact, and what was left out of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Readable {
    /// The fact.
    pub fact: Fact,
    /// Parts that can't be read and were replaced by what is safe.
    pub defects: Vec<Defect>,
}

impl From<Fact> for Readable {
    fn from(fact: Fact) -> Self {
        Self { fact, defects: Vec::new() }
    }
}

/// What an object says.
pub fn read(kind: Kind, object: Object<'_>) -> Result<Readable, Defect> {
    match kind {
        Kind::Node => Ok(core::node(object).into()),
        Kind::Owner(kind) => Ok(core::owner(kind, object).into()),
        Kind::Pod => workload::pod(object),
        Kind::ExternalWorkload => workload::external(object),
        Kind::Service => core::service(object),
        Kind::EndpointSlice => core::endpoint_slice(object),
        Kind::ServiceProfile => Ok(Fact::ServiceProfile(object.meta.id()).into()),
        Kind::Server => policy::server(object),
        Kind::ServerAuthorization => policy::server_authorization(object),
        Kind::AuthorizationPolicy => policy::authorization_policy(object),
        Kind::MeshTlsAuthentication => policy::mesh_tls(object),
        Kind::NetworkAuthentication => policy::network(object),
        Kind::Route(kind) => routes::route(kind, object),
    }
}

const SEE_SCHEMA: &str = "write it as the schema of this kind says (kubectl explain)";

/// Deserializes a body, naming the field that can't be read.
fn body<T: DeserializeOwned>(object: Object<'_>) -> Result<T, Defect> {
    serde_path_to_error::deserialize(object.body).map_err(|error| {
        let field = error.path().to_string();
        Defect::new(field, error.into_inner(), SEE_SCHEMA)
    })
}

/// Deserializes what may be null or absent.
fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// `LabelSelector`, as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LabelSelector {
    #[serde(deserialize_with = "or_default")]
    match_labels: Labels,
    #[serde(deserialize_with = "or_default")]
    match_expressions: Vec<MatchExpression>,
}

#[derive(Clone, Debug, Deserialize)]
struct MatchExpression {
    key: Arc<str>,
    operator: String,
    #[serde(default, deserialize_with = "or_default")]
    values: Vec<Arc<str>>,
}

impl LabelSelector {
    fn read(self, field: &str) -> Result<Selector, Defect> {
        let expressions = self.match_expressions.into_iter().map(|e| {
            let operator = match &*e.operator {
                "In" => Operator::In(e.values),
                "NotIn" => Operator::NotIn(e.values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    let problem = format!("unknown operator {other:?}");
                    let field = format!("{field}.matchExpressions");
                    return Err(Defect::new(field, problem, "use In, NotIn, Exists or DoesNotExist"));
                }
            };
            Ok(Expression { key: e.key, operator })
        });
        Ok(Selector { labels: self.match_labels, expressions: expressions.collect::<Result<_, _>>()? })
    }
}

/// A condition of a status.
#[derive(Clone, Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    status: String,
}

impl Condition {
    fn holds(&self, kind: &str) -> bool {
        self.kind == kind && self.status == "True"
    }
}

/// A number or a name.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum IntOrString {
    Int(i64),
    String(Arc<str>),
}

impl IntOrString {
    fn port(&self) -> Option<homarus_model::facts::PortRef> {
        use homarus_model::facts::PortRef;
        match self {
            Self::Int(number) => u16::try_from(*number).ok().filter(|n| *n != 0).map(PortRef::Number),
            Self::String(text) => match text.parse::<u16>() {
                Ok(0) => None,
                Ok(number) => Some(PortRef::Number(number)),
                Err(_) => (!text.is_empty()).then(|| PortRef::Name(text.clone())),
            },
        }
    }
}
