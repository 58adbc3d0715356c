//! What a policy object is called, in labels, logs and errors.

use std::{fmt, sync::Arc};

/// The name of the thing that decided: a Kubernetes object, or a default of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Meta {
    /// A default: no object stands behind it.
    Default {
        /// Its name, like `all-unauthenticated`, `http` or `probe`.
        name: Arc<str>,
    },
    /// An object.
    Resource(Resource),
}

/// A reference to an object of the cluster, or to a part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// API group; `core` for Services.
    pub group: Arc<str>,
    /// Kind, as in the manifest.
    pub kind: Arc<str>,
    /// Namespace; empty where it isn't told.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Section of the object; empty for the whole.
    pub section: Arc<str>,
    /// Port of the object, if one is meant.
    pub port: Option<u16>,
}

impl Meta {
    /// A default of the mesh.
    pub fn default_named(name: impl Into<Arc<str>>) -> Self {
        Self::Default { name: name.into() }
    }

    /// A port of a Service.
    pub fn service(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>, port: u16) -> Self {
        Self::Resource(Resource {
            group: "core".into(),
            kind: "Service".into(),
            namespace: namespace.into(),
            name: name.into(),
            section: "".into(),
            port: Some(port),
        })
    }

    /// API group; empty for defaults.
    pub fn group(&self) -> &str {
        match self {
            Self::Default { .. } => "",
            Self::Resource(r) => &r.group,
        }
    }

    /// Kind; `default` for defaults.
    pub fn kind(&self) -> &str {
        match self {
            Self::Default { .. } => "default",
            Self::Resource(r) => &r.kind,
        }
    }

    /// Name.
    pub fn name(&self) -> &str {
        match self {
            Self::Default { name } => name,
            Self::Resource(r) => &r.name,
        }
    }

    /// Namespace; empty for defaults.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Default { .. } => "",
            Self::Resource(r) => &r.namespace,
        }
    }

    /// Section; empty if the whole object is meant.
    pub fn section(&self) -> &str {
        match self {
            Self::Default { .. } => "",
            Self::Resource(r) => &r.section,
        }
    }

    /// Port, if one is meant.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Default { .. } => None,
            Self::Resource(r) => r.port,
        }
    }
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default { name } => write!(f, "default.{name}"),
            Self::Resource(r) => {
                write!(f, "{}.", r.kind)?;
                if !r.namespace.is_empty() {
                    write!(f, "{}.", r.namespace)?;
                }
                f.write_str(&r.name)?;
                r.port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
        }
    }
}
