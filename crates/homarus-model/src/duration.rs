//! Durations as the mesh's configuration writes them.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// Not a whole number with a unit.
    #[error("expected a whole number and a unit (ms, s, m, h, d), like 300ms or 10s")]
    Syntax,
    /// A number other than 0 without a unit.
    #[error("the unit is missing: write ms, s, m, h or d after the number")]
    Unit,
    /// Larger than can be counted.
    #[error("the duration is too large")]
    TooLarge,
}

/// Parses `<n>(ms|s|m|h|d)`, with white space around; a bare `0` needs no unit. No fractions, no compounds.
///
/// The grammar of the proxy's environment (proxy-wire §2) and of the policy controller's annotations.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(InvalidDuration::Syntax);
    }
    let n: u64 = number.parse().map_err(|_| InvalidDuration::TooLarge)?;
    let millis = match unit {
        "" if n == 0 => 1,
        "" => return Err(InvalidDuration::Unit),
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(InvalidDuration::Syntax),
    };
    n.checked_mul(millis).map(Duration::from_millis).ok_or(InvalidDuration::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_grammar() {
        for (text, ms) in [("0", 0), ("5ms", 5), (" 10s ", 10_000), ("2m", 120_000), ("1h", 3_600_000), ("365d", 31_536_000_000)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", "s", "10", "1.5s", "1m30s", "-1s", "10 s", "1ns", "999999999999999999999s", "18446744073709551615d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
