//! Why a message could not be read.

use std::fmt;

/// A field of a message that can't be read. It is the control plane's fault; asking again gives the same answer until the
/// object behind it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// Where, from the message's top: `protocol.detect.http_routes[2].metadata`.
    field: String,
    /// What is wrong there.
    problem: Problem,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It isn't there, or of a kind that this version doesn't know.
    #[error("missing, or of a kind unknown to this version")]
    Missing,
    /// A kind that is known but that this version doesn't carry.
    #[error("{0} is not supported by this version")]
    Unsupported(&'static str),
    /// It has a value that means nothing.
    #[error("{0}")]
    Invalid(String),
}

impl DecodeError {
    /// Where, from the message's top.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong there.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl From<Problem> for DecodeError {
    fn from(problem: Problem) -> Self {
        Self { field: String::new(), problem }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl std::error::Error for DecodeError {}

/// A value that isn't what it should be.
pub(super) fn invalid(error: impl fmt::Display) -> DecodeError {
    Problem::Invalid(error.to_string()).into()
}

/// A field that has to be there.
pub(super) trait Required<T> {
    fn required(self) -> Result<T, DecodeError>;
}

impl<T> Required<T> for Option<T> {
    fn required(self) -> Result<T, DecodeError> {
        self.ok_or_else(|| Problem::Missing.into())
    }
}

/// Says where an error is, from the inside out.
pub(super) trait At: Sized {
    /// In this field.
    fn at(self, field: &str) -> Self;

    /// In this item of a repeated field.
    fn at_item(self, field: &str, index: usize) -> Self;
}

impl<T> At for Result<T, DecodeError> {
    fn at(self, field: &str) -> Self {
        self.map_err(|e| e.within(field.into()))
    }

    fn at_item(self, field: &str, index: usize) -> Self {
        self.map_err(|e| e.within(format!("{field}[{index}]")))
    }
}

impl DecodeError {
    fn within(mut self, mut outer: String) -> Self {
        if !self.field.is_empty() {
            outer.push('.');
            outer.push_str(&self.field);
        }
        self.field = outer;
        self
    }
}

/// Parses each item of a repeated field.
pub(super) fn each<P, T, C: FromIterator<T>>(
    field: &str,
    items: Vec<P>,
    mut parse: impl FnMut(P) -> Result<T, DecodeError>,
) -> Result<C, DecodeError> {
    items.into_iter().enumerate().map(|(i, item)| parse(item).at_item(field, i)).collect()
}
