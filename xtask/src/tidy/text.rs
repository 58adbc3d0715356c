//! Laws on every text file: nothing unfinished, nothing of the machine it was written on, nothing too long to read.

use super::{
    File, Finding,
    allowances::{Allowance, excess, unused},
};

/// Longer files want an argument: a row of the allowances. We aim at 400.
pub const FILE_LINES: usize = 700;

/// Split, so that this file doesn't find itself.
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Folders of a developer's machine.
const MACHINE: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/fa", "rm/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Use", "rs/")];

/// Every law on text.
pub fn check(files: &[File], long: &[Allowance<'_>]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = files.iter().filter(|file| !is_generated(&file.path)).flat_map(lines).collect();
    let length = |file: &File| file.text.lines().count();
    let sources = || files.iter().filter(|file| is_source(&file.path));
    for file in sources().filter(|file| length(file) > excess(long, &file.path, FILE_LINES)) {
        findings.push(Finding::new(&file.path, format!("has {} lines (at most {FILE_LINES}): split it by concept", length(file))));
    }
    findings.extend(unused(long, |row| sources().any(|file| file.path == row.place && length(file) > FILE_LINES)));
    findings
}

fn is_source(path: &str) -> bool {
    [".rs", ".py", ".sh", ".ts"].iter().any(|end| path.ends_with(end))
}

fn is_generated(path: &str) -> bool {
    ["Cargo.lock", "go.sum", "package-lock.json"].iter().any(|end| path.ends_with(end))
}

fn lines(file: &File) -> Vec<Finding> {
    let mut findings = vec![];
    for (number, line) in (1..).zip(file.text.lines()) {
        let place = || format!("{}:{number}", file.path);
        if let Some(word) = UNFINISHED.iter().find(|word| has_word(line, word)) {
            findings.push(Finding::new(place(), format!("{word}: finish it, or file an issue and say what is absent on purpose")));
        }
        if let Some(folder) = MACHINE.iter().find(|folder| has_path(line, folder)) {
            findings.push(Finding::new(place(), format!("names {folder} of one machine")));
        }
        if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") {
            findings.push(Finding::new(place(), "a conflict that nobody resolved"));
        }
    }
    findings
}

/// `word` with no letter, digit or underscore on either side.
fn has_word(line: &str, word: &str) -> bool {
    let inner = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(inner) && !line[at + word.len()..].starts_with(inner))
}

/// `folder` where a path begins, and something below it.
fn has_path(line: &str, folder: &str) -> bool {
    let inner = |c: char| c.is_alphanumeric() || "_-.})*$/".contains(c);
    let below = |c: char| c.is_alphanumeric() || c == '.' || c == '_';
    line.match_indices(folder).any(|(at, _)| !line[..at].ends_with(inner) && line[at + folder.len()..].starts_with(below))
}
