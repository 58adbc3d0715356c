//! Texts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::{ANY, Answer, Args, Entry, snake, text};
use crate::chart::error::Wrong;
use crate::chart::format;
use crate::chart::value::Value;

/// The longest text that a function makes.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// The largest program that a regular expression may come to.
const MAX_REGEX: usize = 1024 * 1024;

pub(super) const TABLE: &[Entry] = &[
    ("quote", 0, ANY, |args| each(args, |value| Ok(format::quoted(&format::plain(value)?)))),
    ("squote", 0, ANY, |args| each(args, |value| Ok(format!("'{}'", format::plain(value)?)))),
    ("cat", 0, ANY, |args| each(args, format::plain)),
    ("toString", 1, 1, |args| text(format::plain(args.any(0))?)),
    ("toStrings", 1, 1, |args| Ok(Value::list(words(args.any(0))?.iter().map(Value::text).collect()))),
    ("upper", 1, 1, |args| text(args.text(0)?.chars().map(upper).collect::<String>())),
    ("lower", 1, 1, |args| text(args.text(0)?.chars().map(lower).collect::<String>())),
    ("title", 1, 1, |args| text(title(args.text(0)?))),
    ("snakecase", 1, 1, |args| text(snake::join(args.text(0)?, '_'))),
    ("kebabcase", 1, 1, |args| text(snake::join(args.text(0)?, '-'))),
    ("trim", 1, 1, |args| text(args.text(0)?.trim())),
    ("trimAll", 2, 2, trim_all),
    ("trimPrefix", 2, 2, |args| text(args.text(1)?.strip_prefix(args.text(0)?).unwrap_or(args.text(1)?))),
    ("trimSuffix", 2, 2, |args| text(args.text(1)?.strip_suffix(args.text(0)?).unwrap_or(args.text(1)?))),
    ("trunc", 2, 2, trunc),
    ("substr", 3, 3, substr),
    ("contains", 2, 2, |args| Ok(Value::Bool(args.text(1)?.contains(args.text(0)?)))),
    ("hasPrefix", 2, 2, |args| Ok(Value::Bool(args.text(1)?.starts_with(args.text(0)?)))),
    ("hasSuffix", 2, 2, |args| Ok(Value::Bool(args.text(1)?.ends_with(args.text(0)?)))),
    ("nospace", 1, 1, |args| text(args.text(0)?.split_whitespace().collect::<String>())),
    ("replace", 3, 3, replace),
    ("repeat", 2, 2, |args| repeat(args.text(1)?, args.count(0)?)),
    ("indent", 2, 2, |args| text(indent(args.count(0)?, args.text(1)?)?)),
    ("nindent", 2, 2, |args| text(format!("\n{}", indent(args.count(0)?, args.text(1)?)?))),
    ("join", 2, 2, |args| text(words(args.any(1))?.join(args.text(0)?))),
    ("splitList", 2, 2, split),
    ("sortAlpha", 1, 1, sort),
    ("b64enc", 1, 1, |args| text(STANDARD.encode(args.text(0)?))),
    ("b64dec", 1, 1, |args| text(decode(args.text(0)?))),
    ("sha256sum", 1, 1, |args| text(Sha256::digest(args.text(0)?).iter().map(|byte| format!("{byte:02x}")).collect::<String>())),
    ("regexMatch", 2, 2, |args| Ok(Value::Bool(regex(args.text(0)?)?.is_match(args.text(1)?)))),
    ("regexReplaceAll", 3, 3, |args| text(regex(args.text(0)?)?.replace_all(args.text(1)?, args.text(2)?))),
];

/// All that is not nil, each made a word.
fn each(args: &Args<'_>, word: impl Fn(&Value) -> Result<String, Wrong>) -> Answer {
    let words = args.from(0).iter().filter(|value| !value.is_nil()).map(word).collect::<Result<Vec<_>, _>>()?;
    text(words.join(" "))
}

/// What `join` makes of a value: the texts of a list without its nils, or one text.
fn words(value: &Value) -> Result<Vec<String>, Wrong> {
    match value {
        Value::List(items) => items.iter().filter(|item| !item.is_nil()).map(format::plain).collect(),
        value if value.is_nil() => Ok(Vec::new()),
        value => Ok(vec![format::plain(value)?]),
    }
}

/// Go turns letters one by one; what would become two letters stays.
fn upper(letter: char) -> char {
    let mut letters = letter.to_uppercase();
    letters.next().filter(|_| letters.next().is_none()).unwrap_or(letter)
}

fn lower(letter: char) -> char {
    let mut letters = letter.to_lowercase();
    letters.next().filter(|_| letters.next().is_none()).unwrap_or(letter)
}

fn title(text: &str) -> String {
    let mut inside = false;
    text.chars()
        .map(|next| {
            let starts = !inside;
            inside = next.is_alphanumeric() || next == '_' || !next.is_ascii() && !next.is_whitespace();
            if starts { upper(next) } else { next }
        })
        .collect()
}

fn trim_all(args: &Args<'_>) -> Answer {
    let letters = args.text(0)?;
    text(args.text(1)?.trim_matches(|letter| letters.contains(letter)))
}

fn trunc(args: &Args<'_>) -> Answer {
    let (count, whole) = (args.int(0)?, args.text(1)?);
    let size = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    let kept = match count < 0 {
        true if whole.len() > size => whole.get(whole.len() - size..),
        false if whole.len() > size => whole.get(..size),
        _ => Some(whole),
    };
    text(kept.ok_or("the cut goes through a character")?)
}

fn substr(args: &Args<'_>) -> Answer {
    let (start, end, whole) = (args.int(0)?, args.int(1)?, args.text(2)?);
    let place = |at: i64| usize::try_from(at).ok();
    let part = match (place(start), place(end)) {
        (None, Some(end)) => whole.get(..end),
        (None, None) => None,
        (Some(start), Some(end)) if end <= whole.len() => whole.get(start..end),
        (Some(start), _) => whole.get(start..),
    };
    text(part.ok_or("slice bounds out of range")?)
}

fn replace(args: &Args<'_>) -> Answer {
    let (old, new, whole) = (args.text(0)?, args.text(1)?, args.text(2)?);
    let most = whole.len().saturating_add(whole.len().saturating_add(1).saturating_mul(new.len()));
    if most > MAX_BYTES {
        return Err(too_long());
    }
    text(whole.replace(old, new))
}

fn repeat(part: &str, count: usize) -> Answer {
    if part.len().saturating_mul(count) > MAX_BYTES {
        return Err(too_long());
    }
    text(part.repeat(count))
}

fn indent(spaces: usize, whole: &str) -> Result<String, Wrong> {
    let lines = whole.bytes().filter(|byte| *byte == b'\n').count() + 1;
    if spaces.saturating_mul(lines).saturating_add(whole.len()) > MAX_BYTES {
        return Err(too_long());
    }
    let pad = " ".repeat(spaces);
    Ok(pad.clone() + &whole.replace('\n', &format!("\n{pad}")))
}

fn too_long() -> Wrong {
    Wrong::Because(format!("a text of more than {MAX_BYTES} bytes"))
}

fn split(args: &Args<'_>) -> Answer {
    let (separator, whole) = (args.text(0)?, args.text(1)?);
    Ok(Value::list(match separator {
        "" => whole.chars().map(|one| Value::text(one.to_string())).collect(),
        separator => whole.split(separator).map(Value::text).collect(),
    }))
}

fn sort(args: &Args<'_>) -> Answer {
    let mut words = words(args.any(0))?;
    words.sort_unstable();
    Ok(Value::list(words.iter().map(Value::text).collect()))
}

/// What can't be decoded becomes the reason why, as in sprig.
fn decode(encoded: &str) -> String {
    match STANDARD.decode(encoded) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => error.to_string(),
    }
}

fn regex(pattern: &str) -> Result<regex::Regex, Wrong> {
    let built = regex::RegexBuilder::new(pattern).size_limit(MAX_REGEX).build();
    built.map_err(|error| Wrong::Because(format!("{pattern:?} is no regular expression: {error}")))
}
