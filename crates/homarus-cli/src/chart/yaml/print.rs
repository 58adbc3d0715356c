//! Values as YAML, byte for byte as `sigs.k8s.io/yaml` writes them: keys in its order, texts quoted where a plain word would be
//! something else, blocks for texts of several lines, and long lines folded after the eightieth column.
//!
//! The emitter keeps three facts, as libyaml does: the column, whether blank space was just written, and whether the line holds
//! nothing but indentation yet.

use super::scalar::{Scalar, is_base_60, resolve};
use crate::chart::number;
use crate::chart::value::{MAX_NESTING, Value, too_deep};

/// Lines are folded at the first space behind this column.
const WIDTH: usize = 80;
/// Spaces for each level.
const STEP: usize = 2;
/// The longest key that needs no question mark.
const MAX_SIMPLE_KEY: usize = 128;

/// A value as a YAML document, with a line break at its end.
pub(in crate::chart) fn print(value: &Value) -> Result<String, String> {
    let mut emitter = Emitter { out: String::new(), column: 0, blank: true, indenting: true };
    emitter.node(value, None, Place::Root, MAX_NESTING)?;
    emitter.line(0);
    Ok(emitter.out)
}

/// The same for what was read.
pub(in crate::chart) fn print_json(value: &serde_json::Value) -> Result<String, String> {
    print(&Value::from_json(value))
}

/// Where a node stands.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Root,
    Item,
    Key,
    Value,
}

/// How a scalar is written.
#[derive(Clone, Copy, PartialEq)]
enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

struct Emitter {
    out: String,
    column: usize,
    blank: bool,
    indenting: bool,
}

impl Emitter {
    fn put(&mut self, next: char) {
        self.out.push(next);
        self.column = if next == '\n' { 0 } else { self.column + 1 };
    }

    /// Moves to a column, on a new line if need be.
    fn line(&mut self, indent: usize) {
        if !self.indenting || self.column > indent || (self.column == indent && !self.blank) {
            self.put('\n');
        }
        while self.column < indent {
            self.put(' ');
        }
        (self.blank, self.indenting) = (true, true);
    }

    fn sign(&mut self, sign: &str, spaced: bool, blank: bool, indenting: bool) {
        if spaced && !self.blank {
            self.put(' ');
        }
        sign.chars().for_each(|next| self.put(next));
        self.blank = blank;
        self.indenting &= indenting;
    }

    fn node(&mut self, value: &Value, indent: Option<usize>, place: Place, depth: usize) -> Result<(), String> {
        let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
        match value {
            Value::Absent | Value::Nil => self.plain("null", indent),
            Value::Bool(value) => self.plain(if *value { "true" } else { "false" }, indent),
            Value::Int(value) | Value::Long(value) => self.plain(&value.to_string(), indent),
            Value::Float(value) => self.plain(&float(*value)?, indent),
            Value::Text(text) => self.text(text, indent, place),
            Value::List(items) if items.is_empty() => self.empty(["[", "]"]),
            Value::Dict(dict) if dict.len() == 0 => self.empty(["{", "}"]),
            Value::List(items) => self.list(items, indent, place, depth)?,
            Value::Dict(dict) => self.dict(dict.entries(), indent, depth)?,
            Value::Object(object) => return Err(format!("{} is no YAML", object.name)),
        }
        Ok(())
    }

    fn empty(&mut self, [open, close]: [&str; 2]) {
        self.sign(open, true, true, false);
        self.sign(close, false, false, false);
    }

    fn list(&mut self, items: &[Value], indent: Option<usize>, place: Place, depth: usize) -> Result<(), String> {
        // A list under a key starts in the column of the key.
        let flush = place == Place::Value && !self.indenting;
        let inner = deeper(indent, flush);
        for item in items {
            self.line(inner);
            self.sign("-", true, false, true);
            self.node(item, Some(inner), Place::Item, depth)?;
        }
        Ok(())
    }

    fn dict(&mut self, entries: Vec<(String, Value)>, indent: Option<usize>, depth: usize) -> Result<(), String> {
        let inner = deeper(indent, false);
        for (key, value) in &ordered(entries) {
            self.line(inner);
            if key.len() <= MAX_SIMPLE_KEY && !key.contains(is_break) {
                self.text(key, Some(inner), Place::Key);
                self.sign(":", false, false, false);
            } else {
                self.sign("?", true, false, true);
                self.text(key, Some(inner), Place::Value);
                self.line(inner);
                self.sign(":", true, false, true);
            }
            self.node(value, Some(inner), Place::Value, depth)?;
        }
        Ok(())
    }

    fn text(&mut self, text: &str, indent: Option<usize>, place: Place) {
        let inner = indent.map_or(STEP, |indent| indent + STEP);
        match style(text, place == Place::Key) {
            Style::Plain if place == Place::Key => self.words(text, None, false),
            Style::Plain => self.words(text, Some(inner), false),
            Style::Single => self.single(text, inner, place == Place::Key),
            Style::Double => self.double(text, inner, place == Place::Key),
            Style::Literal => self.literal(text, inner),
        }
    }

    fn plain(&mut self, text: &str, indent: Option<usize>) {
        self.words(text, Some(deeper(indent, false)), false);
    }

    /// Words, folded at spaces if there is a column to go on in; quoted words are folded between words only.
    fn words(&mut self, text: &str, fold: Option<usize>, quoted: bool) {
        if !quoted && !self.blank {
            self.put(' ');
        }
        let mut spaces = false;
        let mut rest = text.char_indices().peekable();
        while let Some((at, next)) = rest.next() {
            let more = rest.peek().is_some_and(|(_, after)| *after != ' ') || (!quoted && rest.peek().is_none());
            let inside = !quoted || (at > 0 && at + 1 < text.len());
            match fold {
                Some(indent) if next == ' ' && !spaces && self.column > WIDTH && inside && more => self.line(indent),
                _ => {
                    if quoted && next == '\'' {
                        self.put('\'');
                    }
                    self.put(next);
                    self.indenting = false;
                }
            }
            spaces = next == ' ';
        }
        (self.blank, self.indenting) = (false, false);
    }

    fn single(&mut self, text: &str, indent: usize, key: bool) {
        self.sign("'", true, false, false);
        self.words(text, (!key).then_some(indent), true);
        self.sign("'", false, false, false);
    }

    fn double(&mut self, text: &str, indent: usize, key: bool) {
        self.sign("\"", true, false, false);
        // Behind a byte order mark libyaml takes every character for one.
        let marked = text.starts_with('\u{feff}');
        let mut spaces = false;
        let mut rest = text.char_indices().peekable();
        while let Some((at, next)) = rest.next() {
            let folds = !marked && !key && next == ' ' && !spaces && self.column > WIDTH && at > 0 && at + 1 < text.len();
            if folds {
                self.line(indent);
                if rest.peek().is_some_and(|(_, after)| *after == ' ') {
                    self.put('\\');
                }
            } else if marked || !is_printable(next) || is_break(next) || next == '"' || next == '\\' {
                escape(next).chars().for_each(|next| self.put(next));
            } else {
                self.put(next);
            }
            spaces = next == ' ';
        }
        self.sign("\"", false, false, false);
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.sign("|", true, false, false);
        if text.starts_with(|next| next == ' ' || is_break(next)) {
            self.sign(&STEP.to_string(), false, false, false);
        }
        self.sign(chomping(text), false, false, false);
        self.put('\n');
        (self.blank, self.indenting) = (true, true);
        let mut broken = true;
        for next in text.chars() {
            if is_break(next) {
                self.put(next);
                self.column = 0;
                self.indenting = true;
                broken = true;
                continue;
            }
            if broken {
                self.line(indent);
            }
            self.put(next);
            self.indenting = false;
            broken = false;
        }
    }
}

/// The column of what is inside: the first level is at the margin.
fn deeper(indent: Option<usize>, flush: bool) -> usize {
    match indent {
        None => 0,
        Some(indent) if flush => indent,
        Some(indent) => indent + STEP,
    }
}

/// What becomes of a number on its way through JSON.
fn float(value: f64) -> Result<String, String> {
    let json = number::json(value).ok_or("YAML by way of JSON has no such number")?;
    Ok(match resolve(&json) {
        Scalar::Int(whole) => whole.to_string(),
        Scalar::Uint(whole) => whole.to_string(),
        _ => number::general(value),
    })
}

/// How a text has to be written, as libyaml finds it out.
fn style(text: &str, key: bool) -> Style {
    let facts = Facts::of(text);
    let wanted = match text {
        text if text.contains('\n') => Style::Literal,
        text if is_text(text) && !is_base_60(text) => Style::Plain,
        _ => Style::Double,
    };
    match wanted {
        Style::Plain if facts.plain => Style::Plain,
        Style::Plain if facts.single => Style::Single,
        Style::Literal if facts.block && !key => Style::Literal,
        _ => Style::Double,
    }
}

/// Whether a plain word is read as text. `<<` means something to readers only.
fn is_text(word: &str) -> bool {
    matches!(resolve(word), Scalar::Text | Scalar::Merge)
}

/// Which styles a text allows.
struct Facts {
    plain: bool,
    single: bool,
    block: bool,
}

impl Facts {
    fn of(text: &str) -> Self {
        let letters: Vec<char> = text.chars().collect();
        let pair =
            |first: fn(char) -> bool, second: fn(char) -> bool| letters.windows(2).any(|two| first(two[0]) && second(two[1]));
        let special = !letters.iter().all(|next| is_printable(*next));
        let space = |next: char| next == ' ';
        let (space_break, break_space) = (pair(space, is_break), pair(is_break, space));
        let edge = |next: Option<&char>| next.is_some_and(|next| *next == ' ' || is_break(*next));
        let edges = edge(letters.first()) || edge(letters.last());
        let breaks = letters.iter().any(|next| is_break(*next));
        Self {
            plain: !(edges || breaks || special || space_break || break_space || indicates(text, &letters)),
            single: !(special || space_break || break_space),
            block: !(special || space_break || letters.last() == Some(&' ')),
        }
    }
}

/// Whether a text starts or holds something that means more than itself.
fn indicates(text: &str, letters: &[char]) -> bool {
    let blank = |at: usize| letters.get(at).is_none_or(|next| matches!(next, ' ' | '\t'));
    let opens = match letters.first() {
        Some(',' | '#' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`') => true,
        Some('?' | ':' | '-') => blank(1),
        _ => false,
    };
    let before = |at: usize| matches!(letters[at - 1], ' ' | '\t' | '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let within = (1..letters.len()).any(|at| match letters[at] {
        ':' => blank(at + 1),
        '#' => before(at),
        _ => false,
    });
    opens || within || text.starts_with("---") || text.starts_with("...")
}

fn is_break(next: char) -> bool {
    matches!(next, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_printable(next: char) -> bool {
    matches!(next, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') && next != '\u{feff}'
}

fn escape(next: char) -> String {
    match next {
        '\0' => "\\0".to_owned(),
        '\x07' => "\\a".to_owned(),
        '\x08' => "\\b".to_owned(),
        '\t' => "\\t".to_owned(),
        '\n' => "\\n".to_owned(),
        '\x0b' => "\\v".to_owned(),
        '\x0c' => "\\f".to_owned(),
        '\r' => "\\r".to_owned(),
        '\x1b' => "\\e".to_owned(),
        '"' | '\\' => format!("\\{next}"),
        '\u{85}' => "\\N".to_owned(),
        '\u{a0}' => "\\_".to_owned(),
        '\u{2028}' => "\\L".to_owned(),
        '\u{2029}' => "\\P".to_owned(),
        next if u32::from(next) <= 0xff => format!("\\x{:02X}", u32::from(next)),
        next if u32::from(next) <= 0xffff => format!("\\u{:04X}", u32::from(next)),
        next => format!("\\U{:08X}", u32::from(next)),
    }
}

/// What a block says of the line breaks at its end.
fn chomping(text: &str) -> &'static str {
    let mut letters = text.chars().rev();
    match (letters.next(), letters.next()) {
        (Some(last), _) if !is_break(last) => "-",
        (Some(_), None) => "+",
        (Some(_), Some(before)) if is_break(before) => "+",
        (Some(_), Some(_)) => "",
        (None, _) => "-",
    }
}

/// Entries in the order of their keys. That order is no real one (some keys go round in a circle), and the sorting of the
/// standard library may panic at such: hence a merge sort of our own.
fn ordered(mut entries: Vec<(String, Value)>) -> Vec<(String, Value)> {
    if entries.len() < 2 {
        return entries;
    }
    let right = entries.split_off(entries.len() / 2);
    let mut left = ordered(entries).into_iter().peekable();
    let mut right = ordered(right).into_iter().peekable();
    let mut merged = Vec::with_capacity(left.len() + right.len());
    while let (Some((first, _)), Some((second, _))) = (left.peek(), right.peek()) {
        merged.extend(if less(second, first) { right.next() } else { left.next() });
    }
    merged.extend(left.chain(right));
    merged
}

/// Letters by themselves, runs of digits by their number, letters behind all else.
fn less(left: &str, right: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let Some(at) = (0..a.len().min(b.len())).find(|at| a[*at] != b[*at]) else { return a.len() < b.len() };
    let (first, second) = (a[at], b[at]);
    match (first.is_alphabetic(), second.is_alphabetic()) {
        (true, true) => first < second,
        (false, false) => {
            // Zeros inside of a number count as digits of it.
            let inside = (first == '0' || second == '0')
                && a[..at].iter().rev().take_while(|next| next.is_ascii_digit()).any(|next| *next != '0');
            let (left, right) = (digits(&a[at..], inside), digits(&b[at..], inside));
            match left == right {
                true => first < second,
                false => left < right,
            }
        }
        (_, letter) => letter,
    }
}

/// The number that stands here, and how long it is.
fn digits(letters: &[char], inside: bool) -> (i64, usize) {
    let run = letters.iter().take_while(|next| next.is_ascii_digit());
    let start = i64::from(inside);
    run.fold((start, 0), |(number, length), next| {
        (number.wrapping_mul(10).wrapping_add(i64::from(next.to_digit(10).unwrap_or(0))), length + 1)
    })
}
