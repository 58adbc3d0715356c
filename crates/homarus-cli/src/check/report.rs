//! What checks found, and how it is written.

use serde::Serialize;

use crate::terminal;

/// How one check ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub description: String,
    /// Where to read what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How bad it is.
    pub result: Verdict,
    /// What was seen, for whoever wants to know more than that all is well.
    #[serde(skip)]
    pub detail: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Not at all.
    Success,
    /// To be looked at.
    Warning,
    /// The mesh doesn't work as it should.
    Error,
}

/// Checks about one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Category {
    /// About what.
    pub category_name: String,
    /// In the order in which they ran; those that had no meaning here are left out.
    pub checks: Vec<Finding>,
}

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing is wrong; warnings don't count.
    pub success: bool,
    /// In the order in which they ran; empty ones are left out.
    pub categories: Vec<Category>,
}

/// Where hints are: the page that this program has inside as well.
const HINTS: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/docs/checks/README.md#");

impl Finding {
    /// A check that ended well.
    pub fn passed(description: &str) -> Self {
        Self { description: description.to_owned(), hint: None, error: None, result: Verdict::Success, detail: None }
    }

    /// A check that ended well, and what it saw.
    pub fn passed_as(description: &str, detail: &str) -> Self {
        Self { detail: Some(detail.to_owned()), ..Self::passed(description) }
    }

    /// A check that did not.
    pub fn failed(description: &str, anchor: &str, error: &str, warning: bool) -> Self {
        Self {
            description: description.to_owned(),
            hint: Some(format!("{HINTS}{anchor}")),
            error: Some(error.to_owned()),
            result: if warning { Verdict::Warning } else { Verdict::Error },
            detail: None,
        }
    }

    /// The lines of a table, with details if wanted.
    pub fn lines(&self, colour: bool, wide: bool) -> String {
        let symbol = match self.result {
            Verdict::Success => terminal::tick(colour),
            Verdict::Warning => terminal::exclamation(colour),
            Verdict::Error => terminal::cross(colour),
        };
        let mut lines = format!("{symbol} {}\n", self.description);
        if let Some(error) = &self.error {
            lines.extend(error.lines().map(|line| format!("    {line}\n")));
        }
        if let Some(detail) = self.detail.as_ref().filter(|_| wide) {
            lines.extend(detail.lines().map(|line| format!("    {line}\n")));
        }
        if let Some(hint) = &self.hint {
            lines.push_str(&format!("    see {hint} for hints\n"));
        }
        lines
    }
}

/// The head of a category.
pub fn header(category: &str) -> String {
    format!("{category}\n{}\n", "-".repeat(category.chars().count()))
}

/// The last line.
pub fn footer(success: bool, colour: bool) -> String {
    let symbol = if success { terminal::tick(colour) } else { terminal::cross(colour) };
    format!("Status check results are {symbol}\n")
}

impl Report {
    /// As JSON, for programs.
    pub fn json(&self) -> String {
        // Strings and booleans only: this can't fail.
        format!("{}\n", serde_json::to_string_pretty(self).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_as_lines() {
        assert_eq!(Finding::passed("all is well").lines(false, false), "√ all is well\n");
        let failed = Finding::failed("it works", "l5d-x", "it does not:\n* a", false);
        assert_eq!(failed.lines(false, false), format!("× it works\n    it does not:\n    * a\n    see {HINTS}l5d-x for hints\n"));
        let seen = Finding::passed_as("it lives", "until tomorrow");
        assert_eq!(seen.lines(false, true), "√ it lives\n    until tomorrow\n");
        assert_eq!(seen.lines(false, false), "√ it lives\n");
        let warned = Finding::failed("it works", "l5d-x", "hm", true);
        assert!(warned.lines(true, false).starts_with("\x1b[1;33m‼\x1b[0m it works"));
        assert_eq!(header("linkerd-config"), "linkerd-config\n--------------\n");
        assert_eq!(footer(true, false), "Status check results are √\n");
    }

    #[test]
    fn findings_as_json() {
        let checks = vec![Finding::passed("a"), Finding::failed("b", "l5d-b", "no", true)];
        let report = Report { success: true, categories: vec![Category { category_name: "c".into(), checks }] };
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap_or_default();
        assert_eq!(
            json,
            serde_json::json!({ "success": true, "categories": [{ "categoryName": "c", "checks": [
                { "description": "a", "result": "success" },
                { "description": "b", "result": "warning", "error": "no", "hint": format!("{HINTS}l5d-b") },
            ]}]})
        );
    }
}
