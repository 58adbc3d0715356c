//! Numbers as Go reads and writes them.

/// Where `%g` writes no exponent.
const PLAIN_EXPONENTS: std::ops::Range<i32> = -4..6;

/// `strconv.ParseInt(text, 0, 64)`: decimal, `0x`, `0b`, `0o`, and octal after a plain zero.
pub(super) fn integer(text: &str) -> Option<i64> {
    let (negative, magnitude) = magnitude(text)?;
    if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// The sign and the digits of an integer.
pub(super) fn magnitude(text: &str) -> Option<(bool, u64)> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits, prefixed) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..], true),
        Some("0b") => (2, &lower[2..], true),
        Some("0o") => (8, &lower[2..], true),
        Some(two) if two.starts_with('0') => (8, &lower[1..], true),
        _ => (10, lower.as_str(), false),
    };
    // Go allows underscores between digits, and after a prefix.
    let separated = digits.starts_with('_') && !prefixed || digits.ends_with('_') || digits.contains("__");
    let digits = digits.replace('_', "");
    let plain = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    if separated || !plain { None } else { u64::from_str_radix(&digits, radix).ok().map(|value| (negative, value)) }
}

/// `%g` with as many digits as needed to tell it from its neighbours: 8080, 1e+06, 0.25.
pub(super) fn general(value: f64) -> String {
    if let Some(special) = special(value) {
        return special.to_owned();
    }
    let (mantissa, exponent) = scientific(value);
    if PLAIN_EXPONENTS.contains(&exponent) { format!("{value}") } else { with_exponent(&mantissa, exponent) }
}

/// As `encoding/json` writes it: plain from 1e-6 up to 1e21.
pub(super) fn json(value: f64) -> Option<String> {
    if !value.is_finite() {
        return None;
    }
    let size = value.abs();
    if size == 0.0 || (1e-6..1e21).contains(&size) {
        return Some(format!("{value}"));
    }
    let (mantissa, exponent) = scientific(value);
    let sign = if exponent < 0 { '-' } else { '+' };
    let digits = exponent.unsigned_abs();
    Some(format!("{mantissa}e{sign}{digits}"))
}

fn special(value: f64) -> Option<&'static str> {
    match value {
        value if value.is_nan() => Some("NaN"),
        f64::INFINITY => Some("+Inf"),
        f64::NEG_INFINITY => Some("-Inf"),
        _ => None,
    }
}

/// Shortest digits and the exponent of ten.
fn scientific(value: f64) -> (String, i32) {
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => (mantissa.to_owned(), exponent.parse().unwrap_or(0)),
        None => (text, 0),
    }
}

fn with_exponent(mantissa: &str, exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}
