//! What can go wrong with a chart, whose fault it is, and what to try.

use crate::failure::Failure;

/// Where something stands in a chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as Helm names it: `chart/templates/file.yaml`.
    pub file: String,
    /// The line, from one.
    pub line: u32,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Why a chart was not rendered. Nothing of this goes away by trying again.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// The chart itself refuses these values: `fail` and `required`. Its words are meant for whoever wrote the values.
    #[error("{says} ({at})")]
    Refused {
        /// Where the chart says so.
        at: Place,
        /// What it says.
        says: String,
    },
    /// A template can't be read: the chart's fault.
    #[error("{at}: {what}")]
    Syntax {
        /// Where.
        at: Place,
        /// What stands there.
        what: String,
    },
    /// A template can't be carried out with these values.
    #[error("{at}: {what}")]
    Template {
        /// Where.
        at: Place,
        /// What went wrong.
        what: String,
    },
    /// A file of values can't be read.
    #[error("{from}: {what}")]
    Values {
        /// The file.
        from: String,
        /// What is wrong with it.
        what: String,
    },
    /// A `--set` can't be understood.
    #[error("--{flag} {text}: {what}")]
    Set {
        /// Which flag.
        flag: &'static str,
        /// Its text.
        text: String,
        /// What is wrong with it.
        what: String,
    },
    /// Values that the chart's schema rejects, one line each.
    #[error("values don't meet the schema of chart {chart}:\n{}", .wrong.join("\n"))]
    Schema {
        /// The chart.
        chart: String,
        /// What is wrong, each with its path.
        wrong: Vec<String>,
    },
    /// A template rendered into something that isn't YAML.
    #[error("{file}: rendered into invalid YAML: {what}")]
    Manifest {
        /// The template.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// The chart as such is broken.
    #[error("chart {chart}: {what}")]
    Chart {
        /// Its name.
        chart: String,
        /// What is wrong.
        what: String,
    },
}

impl ChartError {
    /// What to try.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "Change the value that it names, in your values file or with --set.",
            Self::Syntax { .. } | Self::Chart { .. } => {
                "The chart is broken: this is an error of ours, or the chart was edited beyond the subset that charts/README.md names."
            }
            Self::Template { .. } => {
                "A value has a type that the chart can't use there: compare yours with the chart's values.yaml."
            }
            Self::Values { .. } => "Values are YAML with a mapping at the top, as in the chart's values.yaml.",
            Self::Set { .. } => {
                "The form is key.of.value=text, with `\\,` for a comma, `list[0]` for items, and `null` to remove a key."
            }
            Self::Schema { .. } => "Correct these keys: the chart's values.yaml shows each with its type.",
            Self::Manifest { .. } => "A value broke the YAML around it: quote it, or mind its line breaks.",
        }
    }
}

impl From<ChartError> for Failure {
    fn from(error: ChartError) -> Self {
        let remedy = error.remedy();
        Self::new(error).remedy(remedy)
    }
}

/// Why a function of templates failed; whoever called it knows where.
#[derive(Debug)]
pub(super) enum Wrong {
    /// `fail` and `required`.
    Refused(String),
    /// Anything else.
    Because(String),
    /// A template that was called by a template; where is known already.
    Placed(ChartError),
}

impl Wrong {
    /// The error with its place.
    pub(super) fn at(self, place: impl FnOnce() -> Place) -> ChartError {
        match self {
            Self::Refused(says) => ChartError::Refused { at: place(), says },
            Self::Because(what) => ChartError::Template { at: place(), what },
            Self::Placed(error) => error,
        }
    }
}

impl From<String> for Wrong {
    fn from(what: String) -> Self {
        Self::Because(what)
    }
}

impl From<&str> for Wrong {
    fn from(what: &str) -> Self {
        Self::Because(what.to_owned())
    }
}
