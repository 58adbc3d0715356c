//! Exceptions, each with its reason. Take rows away; think twice before adding one.

use super::Finding;

/// One exception.
pub struct Allowance<'a> {
    /// A file; for a function, the file, a space and its name.
    pub place: &'a str,
    /// How many lines it may have, where lines are counted.
    pub lines: usize,
    /// Why it is better so.
    pub reason: &'a str,
}

/// Functions that are longer than the rest may be.
pub const LONG_FUNCTIONS: &[Allowance<'_>] = &[];

/// Files that are longer than the rest may be.
pub const LONG_FILES: &[Allowance<'_>] = &[];

/// Files of the proxy, other than `net.rs`, that read a clock.
pub const CLOCKS: &[Allowance<'_>] = &[];

/// The bound for a place: its allowance, or what holds for all.
pub fn excess(allowed: &[Allowance<'_>], place: &str, otherwise: usize) -> usize {
    allowed.iter().find(|row| row.place == place).map_or(otherwise, |row| row.lines)
}

/// Rows that nothing needs, or that give no reason.
pub fn unused(allowed: &[Allowance<'_>], needed: impl Fn(&Allowance<'_>) -> bool) -> Vec<Finding> {
    let stale = allowed.iter().filter(|row| !needed(row) || row.reason.is_empty());
    stale
        .map(|row| Finding::new("xtask/src/tidy/allowances.rs", format!("{} no longer needs its row: drop it", row.place)))
        .collect()
}
