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

/// Parses Go's syntax, as charts and annotations write it: `1h30m`, `1.5s`, `24h0m0s`; no negative ones.
pub fn parse_go(text: &str) -> Result<Duration, InvalidDuration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(InvalidDuration::Syntax);
    }
    let mut nanos = 0u128;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(InvalidDuration::Unit)?;
        let (number, tail) = rest.split_at(digits);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len()));
        let part = scaled(number, unit).ok_or(InvalidDuration::Syntax)?;
        nanos = nanos.checked_add(part).ok_or(InvalidDuration::TooLarge)?;
        rest = tail;
    }
    // Go counts in 63 bits of nanoseconds.
    let nanos = i64::try_from(nanos).map_err(|_| InvalidDuration::TooLarge)?;
    Ok(Duration::from_nanos(nanos.unsigned_abs()))
}

/// A decimal number of a unit, in nanoseconds.
fn scaled(number: &str, unit: &str) -> Option<u128> {
    let scale: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() > 19 || fraction.len() > 18 {
        return None;
    }
    let count = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
    let part = count(fraction)? * scale / 10u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(count(whole)? * scale + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_go() {
        for (text, ms) in [("24h0m0s", 86_400_000), ("20s", 20_000), ("1.5s", 1_500), ("300ms", 300), (".5m", 30_000), ("0", 0)] {
            assert_eq!(parse_go(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "s", "1d", "-1s", "1h-1m", ".s", "1.2.3s", "9999999999999999999h", "5x", "5€"] {
            assert!(parse_go(text).is_err(), "{text}");
        }
    }

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
