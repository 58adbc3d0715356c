//! A chart into manifests, in Helm's order.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::LazyLock;

use serde_json::Value as Json;

use super::ast::Templates;
use super::error::ChartError;
use super::source::{Chart, broken};
use super::value::{Dict, Methods, Object, Value};
use super::values::Values;
use super::{eval, functions, parse, yaml};

/// The kinds that others need, first. What isn't named comes last, by name.
const INSTALL_ORDER: [&str; 36] = [
    "PriorityClass",
    "Namespace",
    "NetworkPolicy",
    "ResourceQuota",
    "LimitRange",
    "PodSecurityPolicy",
    "PodDisruptionBudget",
    "ServiceAccount",
    "Secret",
    "SecretList",
    "ConfigMap",
    "StorageClass",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleList",
    "ClusterRoleBinding",
    "ClusterRoleBindingList",
    "Role",
    "RoleList",
    "RoleBinding",
    "RoleBindingList",
    "Service",
    "DaemonSet",
    "Pod",
    "ReplicationController",
    "ReplicaSet",
    "Deployment",
    "HorizontalPodAutoscaler",
    "StatefulSet",
    "Job",
    "CronJob",
    "IngressClass",
    "Ingress",
    "APIService",
];

/// Where one manifest ends and the next begins, by Helm's expression.
static SEPARATOR: LazyLock<regex::Regex> =
    LazyLock::new(|| regex::Regex::new(r"(?:\A|[\t\n\x0c\r ]*\n)---[\t\n\x0c\r ]*").expect("a constant expression"));

/// What a chart is installed as.
#[derive(Clone, Debug)]
pub struct Release {
    /// The release's name.
    pub name: String,
    /// Where it goes.
    pub namespace: String,
    /// Who renders: `Helm` or `CLI`.
    pub service: String,
    /// Whether it takes the place of an earlier one.
    pub upgrades: bool,
}

/// What the cluster is.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// Its version: `v1.34.0`.
    pub version: String,
    /// Its APIs: `apps/v1`.
    pub apis: Vec<String>,
}

impl Default for Capabilities {
    /// The version that we are tested with, and no API beyond what every cluster has.
    fn default() -> Self {
        Self { version: "v1.34.0".to_owned(), apis: vec!["v1".to_owned(), "apps/v1".to_owned(), "batch/v1".to_owned()] }
    }
}

/// One manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The template, as Helm names it.
    pub file: String,
    /// The text, without the separator.
    pub text: String,
    /// What the text says.
    pub object: Json,
}

impl Manifest {
    fn kind(&self) -> &str {
        self.object["kind"].as_str().unwrap_or_default()
    }

    fn is_hook(&self) -> bool {
        !self.object["metadata"]["annotations"]["helm.sh/hook"].is_null()
    }
}

/// Renders a chart with values that it has accepted.
pub fn render(chart: &Chart, values: &Values, release: &Release, capabilities: &Capabilities) -> Result<Vec<Manifest>, ChartError> {
    compatible(chart, capabilities)?;
    let name = |path: &String| format!("{}/{path}", chart.name);
    let mut order: Vec<(String, &String)> = chart.templates.iter().map(|(path, text)| (name(path), text)).collect();
    // Deep paths first, so that what a file near the root defines takes their place.
    order.sort_by(|(a, _), (b, _)| (b.matches('/').count(), b).cmp(&(a.matches('/').count(), a)));
    let mut templates = Templates::default();
    for (name, text) in &order {
        parse::file(name, text, &mut templates)?;
    }
    let root = root(chart, values, release, capabilities);
    let mut rendered = BTreeMap::new();
    for (name, _) in order.iter().filter(|(name, _)| !base(name).starts_with('_')) {
        root.insert("Template", template(chart, name));
        let text = eval::render(&templates, name, &Value::Dict(root.clone()))?;
        rendered.insert(name.clone(), text.replace("<no value>", ""));
    }
    rendered.retain(|name, _| base(name) != "NOTES.txt");
    sorted(rendered)
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn compatible(chart: &Chart, capabilities: &Capabilities) -> Result<(), ChartError> {
    let wanted = chart.about("kubeVersion");
    let met = wanted.is_empty() || functions::satisfies(wanted, &capabilities.version).unwrap_or(false);
    match met {
        true => Ok(()),
        false => Err(broken(&chart.name, &format!("requires Kubernetes {wanted}, which {} is not", capabilities.version))),
    }
}

/// What `.` is in a file.
fn root(chart: &Chart, values: &Values, release: &Release, capabilities: &Capabilities) -> Dict {
    let release = [
        ("Name", Value::text(&release.name)),
        ("Namespace", Value::text(&release.namespace)),
        ("Service", Value::text(&release.service)),
        ("IsUpgrade", Value::Bool(release.upgrades)),
        ("IsInstall", Value::Bool(!release.upgrades)),
        ("Revision", Value::Int(1)),
    ];
    let fields = [
        ("Chart", about(chart)),
        ("Files", object("engine.files", [], Methods::Files(chart.files.clone()))),
        ("Release", Value::dict(release.map(|(key, value)| (key.to_owned(), value)))),
        ("Capabilities", cluster(capabilities)),
        ("Values", Value::from_json(&Json::Object(values.clone()))),
        ("Subcharts", Value::dict([])),
    ];
    fields.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
}

fn template(chart: &Chart, name: &str) -> Value {
    let path = format!("{}/templates", chart.name);
    Value::dict([("Name".to_owned(), Value::text(name)), ("BasePath".to_owned(), Value::text(path))])
}

fn object<const N: usize>(name: &'static str, fields: [(&'static str, Value); N], methods: Methods) -> Value {
    Value::Object(Rc::new(Object { name, fields: fields.into_iter().collect(), methods }))
}

/// `.Chart`: what `Chart.yaml` says, by Go's names.
fn about(chart: &Chart) -> Value {
    let text = |key: &str| Value::text(chart.about(key));
    let list = |key: &str| chart.metadata.get(key).map_or_else(|| Value::list(Vec::new()), Value::from_json);
    let fields = [
        ("Name", text("name")),
        ("Version", text("version")),
        ("AppVersion", text("appVersion")),
        ("APIVersion", text("apiVersion")),
        ("KubeVersion", text("kubeVersion")),
        ("Description", text("description")),
        ("Home", text("home")),
        ("Icon", text("icon")),
        ("Type", text("type")),
        ("Keywords", list("keywords")),
        ("Sources", list("sources")),
        ("Annotations", chart.metadata.get("annotations").map_or_else(|| Value::dict([]), Value::from_json)),
        ("IsRoot", Value::Bool(true)),
    ];
    object("chart.Metadata", fields, Methods::None)
}

fn cluster(capabilities: &Capabilities) -> Value {
    let mut numbers = capabilities.version.trim_start_matches('v').split('.').map(Value::text);
    let mut number = || numbers.next().unwrap_or_else(|| Value::text(""));
    let version = Value::text(&capabilities.version);
    let kube = [("Version", version.clone()), ("GitVersion", version), ("Major", number()), ("Minor", number())];
    let fields = [
        ("KubeVersion", object("chartutil.KubeVersion", kube, Methods::None)),
        ("APIVersions", object("chartutil.VersionSet", [], Methods::ApiVersions(capabilities.apis.clone()))),
    ];
    object("*chartutil.Capabilities", fields, Methods::None)
}

/// Files into manifests, in the order of their kinds, hooks behind all others.
fn sorted(files: BTreeMap<String, String>) -> Result<Vec<Manifest>, ChartError> {
    let mut manifests = Vec::new();
    for (file, text) in files {
        for text in SEPARATOR.split(text.trim()).filter(|text| !text.is_empty()) {
            let text = text.trim().to_owned();
            let object = yaml::first(&text).map_err(|what| ChartError::Manifest { file: file.clone(), what })?;
            manifests.push(Manifest { file: file.clone(), text, object });
        }
    }
    manifests.sort_by(|a, b| (a.is_hook(), rank(a.kind())).cmp(&(b.is_hook(), rank(b.kind()))));
    Ok(manifests)
}

fn rank(kind: &str) -> (usize, &str) {
    match INSTALL_ORDER.iter().position(|known| *known == kind) {
        Some(place) => (place, ""),
        None => (INSTALL_ORDER.len(), kind),
    }
}

/// Manifests as one text, as `helm template` prints it.
pub fn print(manifests: &[Manifest]) -> String {
    manifests.iter().map(|manifest| format!("---\n# Source: {}\n{}\n", manifest.file, manifest.text)).collect()
}
