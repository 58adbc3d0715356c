//! The values that a chart is rendered with: its own, files, flags, in Helm's order and with Helm's rules.
//!
//! Mappings are merged, everything else is replaced; a null removes the key from the chart's values.

use serde_json::{Map, Value as Json};

use super::error::ChartError;
use super::set::{self, Kind};
use super::yaml;

/// A mapping of values.
pub type Values = Map<String, Json>;

/// What a user says about values, in the order in which it counts.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Files with their names, later ones over earlier ones.
    pub files: Vec<(String, String)>,
    /// `--set-json`.
    pub set_json: Vec<String>,
    /// `--set`.
    pub set: Vec<String>,
    /// `--set-string`.
    pub set_string: Vec<String>,
    /// `--set-file`.
    pub set_file: Vec<String>,
}

impl Overrides {
    /// All of it over what is there already. `read` reads the files of `--set-file`.
    pub fn apply(&self, base: Values, read: &dyn Fn(&str) -> Result<String, String>) -> Result<Values, ChartError> {
        let mut values = base;
        for (name, text) in &self.files {
            values = over(values, file(name, text)?);
        }
        let flags: [(&'static str, &Vec<String>, Kind<'_>); 4] = [
            ("set-json", &self.set_json, Kind::Json),
            ("set", &self.set, Kind::Typed),
            ("set-string", &self.set_string, Kind::Text),
            ("set-file", &self.set_file, Kind::File(read)),
        ];
        for (flag, texts, kind) in flags {
            for text in texts {
                let wrong = |what| ChartError::Set { flag, text: text.clone(), what };
                set::apply(text, &kind, &mut values).map_err(wrong)?;
            }
        }
        Ok(values)
    }
}

/// The values of a file.
pub fn file(name: &str, text: &str) -> Result<Values, ChartError> {
    let wrong = |what: String| ChartError::Values { from: name.to_owned(), what };
    match yaml::first(text).map_err(wrong)? {
        Json::Object(values) => match yaml::as_helm_reads(Json::Object(values)) {
            Json::Object(values) => Ok(values),
            _ => Ok(Values::new()),
        },
        Json::Null => Ok(Values::new()),
        _ => Err(wrong("not a mapping of values".to_owned())),
    }
}

/// Values over others: nulls stay, to remove what a chart has.
pub fn over(below: Values, above: Values) -> Values {
    let mut merged = below;
    for (key, value) in above {
        let value = match (merged.remove(&key), value) {
            (Some(Json::Object(below)), Json::Object(above)) => Json::Object(over(below, above)),
            (_, value) => value,
        };
        merged.insert(key, value);
    }
    merged
}

/// What a chart is rendered with: a user's values, completed by the chart's.
pub fn complete(user: Values, chart: &Values) -> Values {
    let mut values = user;
    for (key, default) in chart {
        match values.get_mut(key) {
            None => {
                values.insert(key.clone(), default.clone());
            }
            Some(Json::Null) => {
                values.remove(key);
            }
            Some(Json::Object(inner)) => {
                if let Json::Object(defaults) = default {
                    *inner = complete(std::mem::take(inner), defaults);
                }
            }
            Some(_) => {}
        }
    }
    values
}
