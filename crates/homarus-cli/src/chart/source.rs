//! A chart's files: those in this program, or those of a folder.

use std::collections::BTreeMap;

use rust_embed::RustEmbed;
use serde_json::Value as Json;

use super::error::ChartError;
use super::values::{self, Values};
use super::yaml;

/// Everything under `charts/`.
#[derive(RustEmbed)]
#[folder = "../../charts"]
struct Embedded;

/// A chart of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// The custom resources.
    Crds,
    /// The controllers.
    ControlPlane,
    /// The CNI plugin.
    Cni,
}

impl Name {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Crds, Self::ControlPlane, Self::Cni];

    /// The name in `Chart.yaml`, and of the folder.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crds => "homarus-crds",
            Self::ControlPlane => "homarus-control-plane",
            Self::Cni => "homarus-cni",
        }
    }
}

/// A chart, read.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Its name.
    pub name: String,
    /// What `Chart.yaml` says.
    pub metadata: Values,
    /// What `values.yaml` says.
    pub values: Values,
    /// What values have to be like.
    pub(super) schema: Option<Json>,
    /// By path under the chart's folder: everything that is a template.
    pub(super) templates: BTreeMap<String, String>,
    /// Everything else.
    pub(super) files: BTreeMap<String, String>,
}

impl Chart {
    /// A chart of this program.
    pub fn embedded(name: Name) -> Result<Self, ChartError> {
        let folder = format!("{}/", name.as_str());
        let files = Embedded::iter().filter_map(|path| {
            let file = Embedded::get(&path)?;
            let path = path.strip_prefix(&folder)?.to_owned();
            Some((path, String::from_utf8_lossy(&file.data).into_owned()))
        });
        Self::new(files)
    }

    /// A chart of files, by their paths under its folder.
    pub fn new(files: impl IntoIterator<Item = (String, String)>) -> Result<Self, ChartError> {
        let mut files: BTreeMap<String, String> = files.into_iter().collect();
        let about = files.remove("Chart.yaml").ok_or_else(|| broken("?", "Chart.yaml is missing"))?;
        let metadata = values::file("Chart.yaml", &about)?;
        let name = metadata.get("name").and_then(Json::as_str).ok_or_else(|| broken("?", "Chart.yaml has no name"))?.to_owned();
        if files.keys().any(|path| path.starts_with("charts/")) || metadata.contains_key("dependencies") {
            return Err(broken(&name, "charts in charts aren't supported"));
        }
        let values = match files.remove("values.yaml") {
            Some(text) => values::file(&format!("{name}/values.yaml"), &text)?,
            None => Values::new(),
        };
        let schema = match files.remove("values.schema.json") {
            Some(text) => {
                Some(serde_json::from_str(&text).map_err(|error| broken(&name, &format!("values.schema.json: {error}")))?)
            }
            None => None,
        };
        let (templates, files) = files.into_iter().partition(|(path, _)| path.starts_with("templates/"));
        Ok(Self { name, metadata, values, schema, templates, files })
    }

    /// Values of a file that the chart ships, such as `values-ha.yaml`.
    pub fn preset(&self, file: &str) -> Result<Values, ChartError> {
        let text = self.files.get(file).ok_or_else(|| broken(&self.name, &format!("{file} is missing")))?;
        values::file(&format!("{}/{file}", self.name), text)
    }

    /// A text of `Chart.yaml`.
    pub fn about(&self, key: &str) -> &str {
        self.metadata.get(key).and_then(Json::as_str).unwrap_or_default()
    }

    /// The values to render with, if the chart's schema takes them.
    pub fn accept(&self, user: Values) -> Result<Values, ChartError> {
        let values = Json::Object(values::complete(user, &self.values));
        let wrong = match &self.schema {
            Some(schema) => super::schema::check(&values, schema).map_err(|what| broken(&self.name, &what))?,
            None => Vec::new(),
        };
        match values {
            Json::Object(values) if wrong.is_empty() => Ok(values),
            _ => Err(ChartError::Schema { chart: self.name.clone(), wrong }),
        }
    }
}

/// The documents of a text, for whoever reads what charts were rendered into.
pub fn objects(text: &str) -> Result<Vec<Json>, String> {
    Ok(yaml::documents(text)?.into_iter().filter(|object| !object.is_null()).collect())
}

pub(super) fn broken(chart: &str, what: &str) -> ChartError {
    ChartError::Chart { chart: chart.to_owned(), what: what.to_owned() }
}
