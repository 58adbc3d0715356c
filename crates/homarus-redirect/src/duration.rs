//! Durations as `linkerd-await` and the network validator read them.

use std::time::Duration;

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration {0:?}: expected 0, or a whole number followed by ms, s, m, h or d, such as 10s")]
pub struct InvalidDuration(String);

/// Reads `0`, or a whole number and one of `ms`, `s`, `m`, `h`, `d`.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let invalid = || InvalidDuration(text.to_string());
    let trimmed = text.trim();
    let unit_at = trimmed.trim_end_matches(|c: char| !c.is_ascii_digit()).len();
    let (digits, unit) = trimmed.split_at(unit_at);
    let magnitude: u64 = digits.parse().map_err(|_| invalid())?;
    let millis_per_unit: u64 = match unit {
        "" if magnitude == 0 => 0,
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(invalid()),
    };
    magnitude.checked_mul(millis_per_unit).map(Duration::from_millis).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_the_reference_reads_and_nothing_else() {
        for (text, millis) in [
            ("0", Some(0)),
            ("0ms", Some(0)),
            ("120s", Some(120_000)),
            ("2m", Some(120_000)),
            (" 2h ", Some(7_200_000)),
            ("2d", Some(172_800_000)),
            ("120", None),
            ("s", None),
            ("", None),
            ("-1s", None),
            ("1.5s", None),
            ("2m30s", None),
            ("10 s", None),
            ("18446744073709551615s", None),
        ] {
            let read = parse_duration(text).ok();
            assert_eq!(read, millis.map(Duration::from_millis), "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_comes_is_refused_or_a_duration(text in "\\PC{0,20}", number: u64, unit in "ms|s|m|h|d|") {
            let _ = parse_duration(&text).is_ok();
            if let Ok(duration) = parse_duration(&format!("{number}{unit}")) {
                prop_assert!(unit == "ms" || u64::try_from(duration.as_millis()).is_ok());
            }
        }
    }
}
