//! Charts rendered as Helm renders them, so that `homarus install` and `helm install` give the same objects from the same files.
//!
//! The way of a chart: `source` (its files, embedded in this program) and `values` (what a user wants, merged and held
//! against the schema) come together in `render`; templates go through `lex`, `parse` and `eval` with `functions`; what
//! comes out is read by `yaml` and sorted by kind.
//!
//! Law: for any values, the text is the one that `helm template` prints, and both accept or both refuse. A property test holds
//! us to it with Helm itself (`tests/chart.rs`). What is written here is the part of Go's `text/template`, sprig, Helm and
//! `sigs.k8s.io/yaml` that our charts use (`charts/README.md`); what is left out is refused when a chart is read, never skipped.
//!
//! Deliberately absent: charts in charts, `lookup` of anything, random and time functions, certificates made by templates.
//! Written by ourselves because no crate knows Helm's values: that a missing key is nil and its field an error, that numbers of
//! YAML are floats, and how `toYaml` folds a line are what charts depend on.

mod ast;
mod error;
mod eval;
mod format;
mod functions;
mod json;
mod lex;
mod number;
mod parse;
mod render;
mod schema;
mod set;
mod source;
#[cfg(test)]
mod tests;
mod value;
mod values;
mod yaml;

pub use error::{ChartError, Place};
pub use render::{Capabilities, Manifest, Release, print, render};
pub use source::{Chart, Name, objects};
pub use values::{Overrides, Values, complete, over};

/// A value as YAML, as Helm's `toYaml` writes it.
pub fn to_yaml(value: &serde_json::Value) -> Result<String, String> {
    yaml::print_json(value)
}
