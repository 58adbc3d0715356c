//! What a plain word is: by the resolution rules of `go-yaml` version 2.

use crate::chart::number;

/// What a plain word turns out to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar {
    /// Nothing.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An integer beyond those.
    Uint(u64),
    /// Any other number.
    Float(f64),
    /// A time: read as text, but quoted when written.
    Time,
    /// `<<`, which takes in another mapping.
    Merge,
    /// Anything else.
    Text,
}

/// What a plain word is.
pub(super) fn resolve(word: &str) -> Scalar {
    match word {
        "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Scalar::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Scalar::Bool(false),
        ".nan" | ".NaN" | ".NAN" => Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Scalar::Float(f64::NEG_INFINITY),
        "<<" => Scalar::Merge,
        word if word.starts_with('.') => float(word),
        word if word.starts_with(|c: char| c.is_ascii_digit() || c == '+' || c == '-') => {
            if is_time(word) {
                Scalar::Time
            } else {
                number(&word.replace('_', ""))
            }
        }
        _ => Scalar::Text,
    }
}

fn number(word: &str) -> Scalar {
    if let Some(value) = number::integer(word) {
        return Scalar::Int(value);
    }
    match number::magnitude(word) {
        Some((false, value)) if !word.starts_with('+') => Scalar::Uint(value),
        _ => float(word),
    }
}

/// Digits with a fraction, an exponent, or both.
fn float(word: &str) -> Scalar {
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    let mantissa = unsigned.split(['e', 'E']).next().unwrap_or_default();
    let digits = mantissa.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && mantissa.bytes().any(|byte| byte != b'.');
    match word.parse::<f64>() {
        Ok(value) if digits && value.is_finite() => Scalar::Float(value),
        _ => Scalar::Text,
    }
}

/// Sixty is the base of "1:30" in YAML 1.1: never read so, but quoted when written.
pub(super) fn is_base_60(word: &str) -> bool {
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    let (whole, fraction) = unsigned.split_once('.').map_or((unsigned, ""), |(whole, fraction)| (whole, fraction));
    let separated = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    let mut parts = whole.split(':');
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    let sixtieth = |part: &&str| match part.as_bytes() {
        [unit] => unit.is_ascii_digit(),
        [ten, unit] => (b'0'..=b'5').contains(ten) && unit.is_ascii_digit(),
        _ => false,
    };
    let leads = first.starts_with(|c: char| c.is_ascii_digit()) && separated(first);
    leads && !rest.is_empty() && rest.iter().all(sixtieth) && separated(fraction)
}

/// A date, or a date and a time.
fn is_time(word: &str) -> bool {
    let Some((year, rest)) = word.split_once('-') else { return false };
    if year.len() != 4 || !year.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let (date, time) = match rest.find(['T', 't', ' ']) {
        Some(at) => (&rest[..at], Some(&rest[at..])),
        None => (rest, None),
    };
    let Some((month, day)) = date.split_once('-') else { return false };
    let (Some(month), Some(day)) = (small(month), small(day)) else { return false };
    let days = days_of(year.parse().unwrap_or(0), month);
    let dated = (1..=12).contains(&month) && (1..=days).contains(&day);
    dated
        && time.is_none_or(|time| match time.strip_prefix(' ') {
            Some(clock) => is_clock(clock),
            None => zoned(&time[1..]),
        })
}

fn days_of(year: u32, month: u32) -> u32 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// One or two digits.
fn small(text: &str) -> Option<u32> {
    let fits = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| fits)
}

fn zoned(text: &str) -> bool {
    if let Some(clock) = text.strip_suffix('Z') {
        return is_clock(clock);
    }
    let Some(at) = text.rfind(['+', '-']) else { return false };
    let zone = text[at + 1..].split_once(':');
    let two = |part: &str, most: u32| part.len() == 2 && small(part).is_some_and(|value| value <= most);
    is_clock(&text[..at]) && zone.is_some_and(|(hours, minutes)| two(hours, 24) && two(minutes, 60))
}

fn is_clock(text: &str) -> bool {
    let (whole, fraction) = text.split_once(['.', ',']).map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    let parts: Vec<Option<u32>> = whole.split(':').map(small).collect();
    let fine = fraction.is_none_or(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
    fine && matches!(parts[..], [Some(0..=23), Some(0..=59), Some(0..=59)])
}
