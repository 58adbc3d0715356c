//! Views: what one proxy is told, computed from the index.

pub mod endpoints;
pub mod inbound;
pub mod outbound;
pub mod profile;
#[cfg(test)]
mod tests;

use super::{Absence, Index, Topic};
use std::{fmt, hash::Hash};

/// The name of a view, and how to compute it.
pub trait Key: Clone + Eq + Hash + fmt::Debug + Send + 'static {
    /// What it names.
    type View: PartialEq + fmt::Debug + Send + Sync + 'static;

    /// Computes it.
    fn view(&self, index: &Index) -> Result<Self::View, Absence>;

    /// What it depends on; the same for as long as the key exists.
    fn topics(&self) -> Vec<Topic>;
}
