//! Names of policy objects.

use super::error::{At, DecodeError, Required, invalid};
use crate::api::meta::{self, metadata::Kind};
use homarus_model::{Meta, meta::Resource};
use std::collections::HashMap;

pub(super) fn meta(message: Option<meta::Metadata>) -> Result<Meta, DecodeError> {
    match message.and_then(|m| m.kind).required()? {
        Kind::Default(name) => Ok(Meta::default_named(name)),
        Kind::Resource(r) => Ok(Meta::Resource(Resource {
            group: r.group.into(),
            kind: r.kind.into(),
            namespace: r.namespace.into(),
            name: r.name.into(),
            section: r.section.into(),
            port: port_or_none(r.port).at("resource.port")?,
        })),
    }
}

/// A name as labels tell it: `group`, `kind`, `name`, or in the oldest form just `name`, maybe as `default:name`.
pub(super) fn meta_of_labels(labels: HashMap<String, String>, kind: &str) -> Result<Meta, DecodeError> {
    let label = |key: &str| labels.get(key).map(String::as_str);
    let name = label("name").filter(|n| !n.is_empty()).required().at("labels.name")?;
    if label("kind") == Some("default") {
        return Ok(Meta::default_named(name));
    }
    if let (None, Some(name)) = (label("kind"), name.strip_prefix("default:")) {
        return Ok(Meta::default_named(name));
    }
    Ok(Meta::Resource(Resource {
        group: label("group").unwrap_or("policy.linkerd.io").into(),
        kind: label("kind").unwrap_or(kind).into(),
        namespace: label("namespace").unwrap_or_default().into(),
        name: name.into(),
        section: "".into(),
        port: None,
    }))
}

/// A port number where 0 means none.
pub(super) fn port_or_none(port: u32) -> Result<Option<u16>, DecodeError> {
    let port = u16::try_from(port).map_err(|_| invalid(format_args!("{port} is not a port")))?;
    Ok((port != 0).then_some(port))
}

pub(super) fn duration(message: prost_types::Duration) -> Result<std::time::Duration, DecodeError> {
    message.try_into().map_err(|_| invalid("not a positive duration"))
}
