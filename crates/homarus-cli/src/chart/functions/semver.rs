//! Versions and what is asked of them, as charts write it: `>=1.31.0-0, <2.0.0`. Conditions name all three numbers: what fewer
//! mean is a science of its own.

use crate::chart::error::Wrong;

/// A version; what stands after the plus says nothing about order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    numbers: [u64; 3],
    release: Release,
}

/// A version without a suffix is newer than its pre-releases.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Release {
    Before(Vec<Part>),
    Full,
}

/// Numbers stand before words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Word(String),
}

/// Whether a version meets every condition of a constraint.
pub(in crate::chart) fn satisfies(constraint: &str, version: &str) -> Result<bool, Wrong> {
    let found = version_of(version).ok_or_else(|| format!("{version:?} is no version"))?;
    let conditions = constraint.split(',').map(|condition| meets(&found, condition.trim()));
    Ok(conditions.collect::<Result<Vec<_>, _>>()?.into_iter().all(|met| met))
}

/// Longer ones first, so that they are found whole.
const OPERATORS: [&str; 8] = [">=", "<=", "!=", "=", ">", "<", "~", "^"];

fn meets(found: &Version, condition: &str) -> Result<bool, Wrong> {
    let sign = OPERATORS.into_iter().find(|sign| condition.starts_with(sign)).unwrap_or("=");
    let text = condition.strip_prefix(sign).unwrap_or(condition).trim();
    let whole = version_of(text).filter(|_| text.split(['-', '+']).next().is_some_and(|numbers| numbers.split('.').count() == 3));
    let wanted = whole.ok_or_else(|| format!("{condition:?} is no condition on a version of three numbers"))?;
    // A pre-release meets only conditions that name one.
    if found.release != Release::Full && wanted.release == Release::Full {
        return Ok(false);
    }
    let same = |count: usize| found.numbers[..count] == wanted.numbers[..count];
    Ok(match sign {
        ">=" => *found >= wanted,
        "<=" => *found <= wanted,
        "!=" => *found != wanted,
        ">" => *found > wanted,
        "<" => *found < wanted,
        "~" => *found >= wanted && same(2),
        "^" => *found >= wanted && same(1 + wanted.numbers.iter().take(2).take_while(|number| **number == 0).count()),
        _ => *found == wanted,
    })
}

fn version_of(text: &str) -> Option<Version> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let text = text.split_once('+').map_or(text, |(version, _)| version);
    let (numbers, release) = match text.split_once('-') {
        Some((numbers, release)) => (numbers, Release::Before(release.split('.').map(part).collect())),
        None => (text, Release::Full),
    };
    let mut found = [0; 3];
    for (place, number) in numbers.split('.').enumerate() {
        *found.get_mut(place)? = number.parse().ok()?;
    }
    Some(Version { numbers: found, release })
}

fn part(text: &str) -> Part {
    text.parse().map_or_else(|_| Part::Word(text.to_owned()), Part::Number)
}
