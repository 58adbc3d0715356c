//! Values as JSON, as Go's `encoding/json` writes it: keys in order, and by default no `<`, `>` and `&`.

use super::number;
use super::value::{MAX_NESTING, Value, too_deep};

/// On one line.
pub(super) fn compact(value: &Value, for_html: bool) -> Result<String, String> {
    let mut writer = Writer { out: String::new(), for_html, pretty: false };
    writer.value(value, MAX_NESTING)?;
    Ok(writer.out)
}

/// With two spaces for each level.
pub(super) fn pretty(value: &Value) -> Result<String, String> {
    let mut writer = Writer { out: String::new(), for_html: true, pretty: true };
    writer.value(value, MAX_NESTING)?;
    Ok(writer.out)
}

struct Writer {
    out: String,
    for_html: bool,
    pretty: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), String> {
        let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
        match value {
            Value::Absent | Value::Nil => self.out.push_str("null"),
            Value::Bool(value) => self.out.push_str(if *value { "true" } else { "false" }),
            Value::Int(value) | Value::Long(value) => self.out.push_str(&value.to_string()),
            Value::Float(value) => self.out.push_str(&number::json(*value).ok_or("JSON has no such number")?),
            Value::Text(text) => self.text(text),
            Value::List(items) => self.many(['[', ']'], items.iter(), depth, |writer, item| writer.value(item, depth))?,
            Value::Dict(dict) => {
                self.many(['{', '}'], dict.entries().iter(), depth, |writer, (key, item)| writer.field(key, item, depth))?;
            }
            Value::Object(object) => return Err(format!("{} is no JSON", object.name)),
        }
        Ok(())
    }

    fn field(&mut self, key: &str, value: &Value, depth: usize) -> Result<(), String> {
        self.text(key);
        self.out.push_str(if self.pretty { ": " } else { ":" });
        self.value(value, depth)
    }

    fn many<T>(
        &mut self,
        [open, close]: [char; 2],
        items: impl ExactSizeIterator<Item = T>,
        depth: usize,
        write: impl Fn(&mut Self, T) -> Result<(), String>,
    ) -> Result<(), String> {
        let empty = items.len() == 0;
        self.out.push(open);
        for (index, item) in items.enumerate() {
            self.out.push_str(if index > 0 { "," } else { "" });
            self.line(MAX_NESTING - depth);
            write(self, item)?;
        }
        if !empty {
            self.line(MAX_NESTING - depth - 1);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, level: usize) {
        if self.pretty {
            self.out.push('\n');
            self.out.push_str(&"  ".repeat(level));
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for next in text.chars() {
            match next {
                '"' | '\\' => self.out.extend(['\\', next]),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\x08' => self.out.push_str("\\b"),
                '\x0c' => self.out.push_str("\\f"),
                '<' | '>' | '&' if self.for_html => self.escaped(next),
                '\u{2028}' | '\u{2029}' => self.escaped(next),
                next if next < ' ' => self.escaped(next),
                next => self.out.push(next),
            }
        }
        self.out.push('"');
    }

    fn escaped(&mut self, next: char) {
        self.out.push_str(&format!("\\u{:04x}", u32::from(next)));
    }
}
