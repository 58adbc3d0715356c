//! The columns of each kind.

use serde_json::{Value, json};

use crate::api::schema::kinds::Kind;

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `date`, ...
    pub kind: String,
    /// Where the value is, for custom resources.
    pub path: String,
    /// 1 for wide output.
    pub priority: i64,
    /// What it says.
    pub description: String,
    format: String,
}

impl Column {
    /// As tables describe it.
    pub fn definition(&self) -> Value {
        json!({"name": self.name, "type": self.kind, "format": self.format, "description": self.description,
            "priority": self.priority})
    }
}

/// `Name`, `Ready`, ..., a `+` marks wide output, a `#` whole numbers, a `?` what is true or false.
fn builtin(plural: &str) -> &'static [&'static str] {
    match plural {
        "pods" => &["Name", "Ready", "Status", "Restarts", "Age", "+IP", "+Node", "+Nominated Node", "+Readiness Gates"],
        "services" => &["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "+Selector"],
        "deployments" => &["Name", "Ready", "Up-to-date", "Available", "Age", "+Containers", "+Images", "+Selector"],
        "replicasets" => &["Name", "#Desired", "#Current", "#Ready", "Age", "+Containers", "+Images", "+Selector"],
        "statefulsets" => &["Name", "Ready", "Age", "+Containers", "+Images"],
        "daemonsets" => &[
            "Name",
            "#Desired",
            "#Current",
            "#Ready",
            "#Up-to-date",
            "#Available",
            "Node Selector",
            "Age",
            "+Containers",
            "+Images",
            "+Selector",
        ],
        "controllerrevisions" => &["Name", "Controller", "Revision", "Age"],
        "cronjobs" => {
            &["Name", "Schedule", "Timezone", "?Suspend", "#Active", "Last Schedule", "Age", "+Containers", "+Images", "+Selector"]
        }
        "persistentvolumeclaims" => {
            &["Name", "Status", "Volume", "Capacity", "Access Modes", "StorageClass", "VolumeAttributesClass", "Age", "+VolumeMode"]
        }
        "jobs" => &["Name", "Status", "Completions", "Duration", "Age", "+Containers", "+Images", "+Selector"],
        "nodes" => &[
            "Name",
            "Status",
            "Roles",
            "Age",
            "Version",
            "+Internal-IP",
            "+External-IP",
            "+OS-Image",
            "+Kernel-Version",
            "+Container-Runtime",
        ],
        "namespaces" => &["Name", "Status", "Age"],
        "events" => {
            &["Last Seen", "Type", "Reason", "Object", "+Subobject", "+Source", "Message", "+First Seen", "+#Count", "+Name"]
        }
        "serviceaccounts" => &["Name", "Secrets", "Age"],
        "configmaps" => &["Name", "Data", "Age"],
        "secrets" => &["Name", "Type", "Data", "Age"],
        "endpoints" => &["Name", "Endpoints", "Age"],
        "endpointslices" => &["Name", "AddressType", "Ports", "Endpoints", "Age"],
        "leases" => &["Name", "Holder", "Age"],
        "roles" | "clusterroles" | "customresourcedefinitions" => &["Name", "Created At"],
        "rolebindings" | "clusterrolebindings" => &["Name", "Role", "Age", "+Users", "+Groups", "+ServiceAccounts"],
        "mutatingwebhookconfigurations" | "validatingwebhookconfigurations" => &["Name", "#Webhooks", "Age"],
        _ => &["Name", "Age"],
    }
}

/// The columns of a kind.
pub fn of(kind: &Kind) -> Vec<Column> {
    match &kind.custom {
        None => builtin(&kind.plural).iter().map(|text| parse(text)).collect(),
        Some(custom) => {
            let mut columns = vec![parse("Name")];
            columns.extend(custom.columns.iter().map(|c| Column {
                name: c.name.clone(),
                kind: c.kind.clone(),
                path: c.path.clone(),
                priority: c.priority,
                description: c.description.clone(),
                format: c.format.clone(),
            }));
            if custom.columns.is_empty() {
                let mut age = parse("Age");
                age.kind = "date".into();
                age.path = ".metadata.creationTimestamp".into();
                columns.push(age);
            }
            columns
        }
    }
}

fn parse(text: &str) -> Column {
    let wide = text.starts_with('+');
    let text = text.trim_start_matches('+');
    let integer = text.starts_with('#');
    let boolean = text.starts_with('?');
    let name = text.trim_start_matches(['#', '?']).to_owned();
    let date = name == "Created At";
    let kind = match () {
        () if integer => "integer",
        () if boolean => "boolean",
        () if date => "date",
        () => "string",
    };
    Column {
        format: if name == "Name" && !wide { "name".into() } else { String::new() },
        kind: kind.into(),
        path: if name == "Name" { ".metadata.name".into() } else { String::new() },
        priority: wide.into(),
        description: String::new(),
        name,
    }
}
