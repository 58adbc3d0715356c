//! Exceptions, each with its reason. Take rows away; think twice before adding one.

use super::Finding;

const HERE: &str = "xtask/src/tidy/allowances.rs";

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
pub const LONG_FUNCTIONS: &[Allowance<'_>] = &[
    Allowance { place: "crates/homarus-local/tests/api_table/requests.rs patches", lines: 80, reason: "a table of requests" },
    Allowance {
        place: "crates/homarus-proxy/tests/scenarios/process.rs metrics_have_the_names_and_labels_that_dashboards_ask_for",
        lines: 90,
        reason: "a table of names and labels",
    },
];

/// Files that are longer than the rest may be.
pub const LONG_FILES: &[Allowance<'_>] = &[];

/// What a file of the proxy may name though another is its home.
pub struct Pass<'a> {
    /// The file.
    pub file: &'a str,
    /// The end of the path that it names.
    pub name: &'a str,
    /// Why it is better so.
    pub reason: &'a str,
}

/// Crossings of the proxy's seams.
pub const PASSES: &[Pass<'_>] = &[
    Pass { file: "crates/homarus-proxy/src/observe/access.rs", name: "SystemTime::now", reason: "the date of a log line" },
    Pass { file: "crates/homarus-proxy/src/observe/balancer.rs", name: "SystemTime::now", reason: "a metric that is a date" },
    Pass { file: "crates/homarus-proxy/src/observe/process.rs", name: "SystemTime::now", reason: "metrics that are dates" },
    Pass { file: "crates/homarus-proxy/src/secure/certify.rs", name: "SystemTime::now", reason: CERTIFICATES },
    Pass { file: "crates/homarus-proxy/src/secure/handshake.rs", name: "SystemTime::now", reason: CERTIFICATES },
    Pass { file: "crates/homarus-proxy/src/secure/standing.rs", name: "SystemTime::now", reason: CERTIFICATES },
    Pass {
        file: "crates/homarus-proxy/src/observe/process.rs",
        name: "Instant",
        reason: "how long this process has run, in truth",
    },
    Pass {
        file: "crates/homarus-proxy/src/observe/process.rs",
        name: "Instant::now",
        reason: "how long this process has run, in truth",
    },
];

const CERTIFICATES: &str = "certificates begin and end by the wall clock, which no simulation of a network moves";

/// The bound for a place: its allowance, or what holds for all.
pub fn excess(allowed: &[Allowance<'_>], place: &str, otherwise: usize) -> usize {
    allowed.iter().find(|row| row.place == place).map_or(otherwise, |row| row.lines)
}

/// Rows that nothing needs, or that give no reason.
pub fn unused(allowed: &[Allowance<'_>], needed: impl Fn(&Allowance<'_>) -> bool) -> Vec<Finding> {
    let stale = allowed.iter().filter(|row| !needed(row) || row.reason.is_empty());
    stale.map(|row| Finding::new(HERE, format!("{} no longer needs its row: drop it", row.place))).collect()
}

/// Whether a file may name something, by one of the passes.
pub fn passes(allowed: &[Pass<'_>], file: &str, name: &str) -> bool {
    allowed.iter().any(|pass| pass.lets(file, name))
}

/// Passes that nothing needs.
pub fn unused_passes(allowed: &[Pass<'_>], needed: impl Fn(&Pass<'_>) -> bool) -> Vec<Finding> {
    let stale = allowed.iter().filter(|pass| !needed(pass) || pass.reason.is_empty());
    stale.map(|pass| Finding::new(HERE, format!("{} no longer needs its pass for {}: drop it", pass.file, pass.name))).collect()
}

impl Pass<'_> {
    /// Whether it is for this name in this file.
    pub fn lets(&self, file: &str, name: &str) -> bool {
        self.file == file && (name == self.name || name.strip_suffix(self.name).is_some_and(|before| before.ends_with("::")))
    }
}
