//! YAML and JSON documents, in and out.

use serde::Deserialize;
use serde_json::Value;

use crate::command_line::Manifests;
use crate::failure::Failure;

/// The documents of a text; empty ones are left out.
pub(crate) fn read(text: &str) -> Result<Vec<Value>, Failure> {
    let mut documents = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value =
            Value::deserialize(document).map_err(|error| Failure::new(format!("Error transforming resources:\n{error}")))?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}

/// Documents as text, each YAML document followed by `---`.
pub(crate) fn write(documents: &[Value], format: Manifests) -> Result<String, Failure> {
    let mut text = String::new();
    for document in documents {
        match format {
            Manifests::Yaml => {
                text.push_str(&serde_yaml_ng::to_string(document).map_err(Failure::new)?);
                text.push_str("---\n");
            }
            Manifests::Json => {
                text.push_str(&serde_json::to_string_pretty(document).map_err(Failure::new)?);
                text.push('\n');
            }
        }
    }
    Ok(text)
}
