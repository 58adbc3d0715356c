//! Values as text, as Go's `fmt` writes them: `{{ . }}`, `quote`, `printf`.

use super::error::Wrong;
use super::number;
use super::value::{MAX_NESTING, Value, too_deep};

/// The widest field and the longest precision of `printf`.
const MAX_WIDTH: usize = 4096;

/// `%v`.
pub(super) fn plain(value: &Value) -> Result<String, Wrong> {
    let mut out = String::new();
    write(&mut out, value, 'v', &Flags::default(), MAX_NESTING)?;
    Ok(out)
}

/// What an action prints.
pub(super) fn action(value: &Value) -> Result<String, Wrong> {
    match value {
        // Helm removes it from what it rendered, but functions see it.
        Value::Absent | Value::Nil => Ok("<no value>".to_owned()),
        value => plain(value),
    }
}

/// `%q` of a text: a literal of Go.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for next in text.chars() {
        match next {
            '"' | '\\' => out.extend(['\\', next]),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            next if next < ' ' || next == '\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(next))),
            next if is_printable(next) => out.push(next),
            next if u32::from(next) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", u32::from(next))),
            next => out.push_str(&format!("\\U{:08x}", u32::from(next))),
        }
    }
    out.push('"');
    out
}

fn is_printable(next: char) -> bool {
    next.is_ascii() || next.escape_debug().count() == 1 || next.is_alphanumeric()
}

/// `print`: a space between operands of which neither is a text.
pub(super) fn print(values: &[Value]) -> Result<String, Wrong> {
    let mut out = String::new();
    let mut before_is_text = true;
    for (index, value) in values.iter().enumerate() {
        let is_text = matches!(value, Value::Text(_));
        if index > 0 && !is_text && !before_is_text {
            out.push(' ');
        }
        out.push_str(&plain(value)?);
        before_is_text = is_text;
    }
    Ok(out)
}

/// `println`.
pub(super) fn println(values: &[Value]) -> Result<String, Wrong> {
    let words = values.iter().map(plain).collect::<Result<Vec<_>, _>>()?;
    Ok(words.join(" ") + "\n")
}

/// `printf`.
pub(super) fn printf(format: &str, values: &[Value]) -> Result<String, Wrong> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        out.push_str(&rest[..start]);
        let (flags, after) = Flags::read(&rest[start + 1..])?;
        let Some(verb) = after.chars().next() else {
            out.push_str("%!(NOVERB)");
            rest = "";
            break;
        };
        rest = &after[verb.len_utf8()..];
        match (verb, verb == '%', values.as_slice().first()) {
            (_, true, _) => out.push('%'),
            (verb, _, None) => out.push_str(&format!("%!{verb}(MISSING)")),
            (verb, _, Some(value)) => {
                values.next();
                let mut text = String::new();
                write(&mut text, value, verb, &flags, MAX_NESTING)?;
                out.push_str(&flags.pad(text, matches!(value, Value::Int(_) | Value::Long(_) | Value::Float(_))));
            }
        }
    }
    out.push_str(rest);
    extra(&mut out, values.as_slice())?;
    Ok(out)
}

fn extra(out: &mut String, values: &[Value]) -> Result<(), Wrong> {
    if values.is_empty() {
        return Ok(());
    }
    let described = values.iter().map(|value| match value {
        value if value.is_nil() => Ok("<nil>".to_owned()),
        value => Ok(format!("{}={}", value.type_name(), plain(value)?)),
    });
    let described = described.collect::<Result<Vec<_>, Wrong>>()?;
    out.push_str(&format!("%!(EXTRA {})", described.join(", ")));
    Ok(())
}

/// What stands between `%` and the verb.
#[derive(Default)]
struct Flags {
    left: bool,
    zero: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    width: usize,
    precision: Option<usize>,
}

impl Flags {
    fn read(text: &str) -> Result<(Self, &str), Wrong> {
        let mut flags = Self::default();
        let after = text.trim_start_matches(['-', '0', '+', '#', ' ']);
        for flag in text[..text.len() - after.len()].chars() {
            match flag {
                '-' => flags.left = true,
                '0' => flags.zero = true,
                '+' => flags.plus = true,
                '#' => flags.sharp = true,
                _ => flags.space = true,
            }
        }
        let (width, after) = digits(after)?;
        flags.width = width.unwrap_or(0);
        let Some(fraction) = after.strip_prefix('.') else { return Ok((flags, after)) };
        let (precision, after) = digits(fraction)?;
        flags.precision = Some(precision.unwrap_or(0));
        Ok((flags, after))
    }

    fn pad(&self, text: String, number: bool) -> String {
        let missing = self.width.saturating_sub(text.chars().count());
        match (self.left, self.zero && number) {
            (true, _) => text + &" ".repeat(missing),
            (false, true) => {
                let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
                format!("{sign}{}{digits}", "0".repeat(missing))
            }
            (false, false) => " ".repeat(missing) + &text,
        }
    }

    fn signed(&self, text: String) -> String {
        match text.starts_with('-') {
            false if self.plus => format!("+{text}"),
            false if self.space => format!(" {text}"),
            _ => text,
        }
    }
}

fn digits(text: &str) -> Result<(Option<usize>, &str), Wrong> {
    let after = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &text[..text.len() - after.len()];
    if digits.is_empty() {
        return Ok((None, after));
    }
    match digits.parse() {
        Ok(value) if value <= MAX_WIDTH => Ok((Some(value), after)),
        _ => Err(Wrong::Because(format!("printf with a width of {digits}: at most {MAX_WIDTH} is allowed"))),
    }
}

/// One value with one verb; lists and mappings pass the verb on to what they hold.
fn write(out: &mut String, value: &Value, verb: char, flags: &Flags, depth: usize) -> Result<(), Wrong> {
    let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
    match (value, verb) {
        (Value::Absent | Value::Nil, 'v') => out.push_str("<nil>"),
        (Value::Absent | Value::Nil, verb) => out.push_str(&format!("%!{verb}(<nil>)")),
        (value, 'T') => out.push_str(value.type_name()),
        (Value::List(items), verb) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { " " } else { "" });
                write_inner(out, item, verb, flags, depth)?;
            }
            out.push(']');
        }
        (Value::Dict(dict), verb) => {
            out.push_str("map[");
            for (index, (key, item)) in dict.entries().iter().enumerate() {
                out.push_str(if index > 0 { " " } else { "" });
                write(out, &Value::text(key), verb, flags, depth)?;
                out.push(':');
                write_inner(out, item, verb, flags, depth)?;
            }
            out.push(']');
        }
        (Value::Object(object), _) => write_object(out, object)?,
        (value, verb) => out.push_str(&scalar(value, verb, flags)?),
    }
    Ok(())
}

/// Nil inside of something has one form for all verbs.
fn write_inner(out: &mut String, value: &Value, verb: char, flags: &Flags, depth: usize) -> Result<(), Wrong> {
    write(out, value, if value.is_nil() { 'v' } else { verb }, flags, depth)
}

fn write_object(out: &mut String, object: &super::value::Object) -> Result<(), Wrong> {
    match object.fields.get("Version") {
        Some(version) if object.name == "chartutil.KubeVersion" => out.push_str(&plain(version)?),
        _ => return Err(Wrong::Because(format!("{} can't be printed", object.name))),
    }
    Ok(())
}

fn scalar(value: &Value, verb: char, flags: &Flags) -> Result<String, Wrong> {
    Ok(match (value, verb) {
        (Value::Bool(value), 'v' | 't') => value.to_string(),
        (Value::Int(value) | Value::Long(value), 'v' | 'd') => flags.signed(value.to_string()),
        (Value::Int(value) | Value::Long(value), 'x') => flags.signed(radix(*value, |value| format!("{value:x}"))),
        (Value::Int(value) | Value::Long(value), 'X') => flags.signed(radix(*value, |value| format!("{value:X}"))),
        (Value::Int(value) | Value::Long(value), 'o') => flags.signed(radix(*value, |value| format!("{value:o}"))),
        (Value::Int(value) | Value::Long(value), 'b') => flags.signed(radix(*value, |value| format!("{value:b}"))),
        (Value::Int(value) | Value::Long(value), 'c') => {
            u32::try_from(*value).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER).to_string()
        }
        (Value::Float(value), 'v' | 'g') if flags.precision.is_none() => flags.signed(number::general(*value)),
        (Value::Float(value), 'f' | 'F') => flags.signed(format!("{value:.*}", flags.precision.unwrap_or(6))),
        (Value::Text(text), 'v' | 's') => match flags.precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text.to_string(),
        },
        (Value::Text(text), 'q') => quoted(text),
        (Value::Text(text), 'x') => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        (value, verb) => format!("%!{verb}({}={})", value.type_name(), plain(value)?),
    })
}

fn radix(value: i64, digits: impl Fn(u64) -> String) -> String {
    format!("{}{}", if value < 0 { "-" } else { "" }, digits(value.unsigned_abs()))
}
