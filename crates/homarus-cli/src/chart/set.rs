//! What `--set` and its sisters say: `a.b[0].c=text,d={x,y}`, with a backslash before what shall mean nothing.
//!
//! As Helm reads it: `true`, `false`, `null`, integers without leading zeros become what they look like (not with
//! `--set-string`), everything else is text; a key takes the place of what values had before it.

use serde_json::{Map, Value as Json};

use super::yaml;

/// The highest index of a list.
const MAX_INDEX: usize = 65_536;
/// The most dots in a name.
const MAX_DOTS: usize = 30;

/// What stands behind the equals sign.
pub(super) enum Kind<'a> {
    /// `--set`
    Typed,
    /// `--set-string`
    Text,
    /// `--set-file`: the name of a file, and how to read it.
    File(&'a dyn Fn(&str) -> Result<String, String>),
    /// `--set-json`
    Json,
}

/// Puts what a flag says into values.
pub(super) fn apply(text: &str, kind: &Kind<'_>, values: &mut Map<String, Json>) -> Result<(), String> {
    let mut reader = Reader { text, at: 0, kind };
    while reader.key(values, 0)? == More::Follows {}
    Ok(())
}

#[derive(PartialEq)]
enum More {
    Follows,
    Nothing,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    kind: &'a Kind<'a>,
}

/// A word and what ended it: one of the characters asked for, or the end.
type Word = (String, Option<char>);

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.text[self.at..].chars().next()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn until(&mut self, stops: &str) -> Word {
        let mut word = String::new();
        while let Some(next) = self.next() {
            match next {
                next if stops.contains(next) => return (word, Some(next)),
                '\\' => word.extend(self.next()),
                next => word.push(next),
            }
        }
        (word, None)
    }

    fn key(&mut self, values: &mut Map<String, Json>, dots: usize) -> Result<More, String> {
        let (key, end) = self.until("=[,.");
        match end {
            None if key.is_empty() => Ok(More::Nothing),
            None => Err(format!("key {key:?} has no value")),
            Some(',') => Err(format!("key {key:?} has no value (cannot end with ,)")),
            Some('=') => {
                let (value, more) = self.value()?;
                put(values, key, value);
                Ok(more)
            }
            Some('[') => self.indexed(values, key, dots),
            Some(_) => self.nested(values, key, dots + 1),
        }
    }

    fn nested(&mut self, values: &mut Map<String, Json>, key: String, dots: usize) -> Result<More, String> {
        if dots > MAX_DOTS {
            return Err(format!("a name with more than {MAX_DOTS} dots"));
        }
        let existed = values.contains_key(&key);
        let mut inner = match values.remove(&key) {
            None => Map::new(),
            Some(Json::Object(inner)) => inner,
            Some(_) => return Err(format!("{key:?} is no mapping, it can't have keys")),
        };
        let more = self.key(&mut inner, dots)?;
        if inner.is_empty() && more == More::Follows {
            return Err(format!("key map {key:?} has no value"));
        }
        if existed || !inner.is_empty() {
            put(values, key, Json::Object(inner));
        }
        Ok(more)
    }

    fn indexed(&mut self, values: &mut Map<String, Json>, key: String, dots: usize) -> Result<More, String> {
        let mut items = match values.remove(&key) {
            None => Vec::new(),
            Some(Json::Array(items)) => items,
            Some(_) => return Err(format!("{key:?} is no list, it can't have indices")),
        };
        let more = self.item(&mut items, dots)?;
        put(values, key, Json::Array(items));
        Ok(more)
    }

    /// What follows `[`.
    fn item(&mut self, items: &mut Vec<Json>, dots: usize) -> Result<More, String> {
        let (index, end) = self.until("]");
        let index: usize = index.parse().ok().filter(|_| end.is_some()).ok_or_else(|| format!("{index:?} is no index"))?;
        if index > MAX_INDEX {
            return Err(format!("index {index} is greater than {MAX_INDEX}"));
        }
        let (surplus, end) = self.until("[.=");
        if !surplus.is_empty() {
            return Err(format!("unexpected data at end of array index: {surplus:?}"));
        }
        let (value, more) = match end {
            None => return Ok(More::Nothing),
            Some('=') => self.value()?,
            Some('[') => {
                // Lists in lists count like dots.
                if dots >= MAX_DOTS {
                    return Err(format!("more than {MAX_DOTS} lists in lists"));
                }
                let mut inner = match items.get_mut(index).map(Json::take) {
                    None | Some(Json::Null) => Vec::new(),
                    Some(Json::Array(inner)) => inner,
                    Some(_) => return Err(format!("item {index} is no list")),
                };
                let more = self.item(&mut inner, dots + 1)?;
                (Json::Array(inner), more)
            }
            Some(_) => {
                let mut inner = match items.get_mut(index).map(Json::take) {
                    Some(Json::Object(inner)) => inner,
                    _ => Map::new(),
                };
                let more = self.key(&mut inner, dots)?;
                if more == More::Nothing && inner.is_empty() {
                    return Ok(more);
                }
                (Json::Object(inner), more)
            }
        };
        if items.len() <= index {
            items.resize(index + 1, Json::Null);
        }
        items[index] = value;
        Ok(more)
    }

    fn value(&mut self) -> Result<(Json, More), String> {
        if let Kind::Json = self.kind {
            return Ok((self.json()?, More::Follows));
        }
        match self.text[self.at..].chars().next() {
            None => Ok((Json::String(String::new()), More::Nothing)),
            Some('{') => Ok((self.list()?, More::Follows)),
            Some(_) => {
                let (word, _) = self.until(",");
                Ok((self.typed(word)?, More::Follows))
            }
        }
    }

    fn list(&mut self) -> Result<Json, String> {
        self.next();
        let mut items = Vec::new();
        loop {
            let (word, end) = self.until(",}");
            let Some(end) = end else { return Err("list must terminate with '}'".to_owned()) };
            items.push(self.typed(word)?);
            if end == '}' {
                self.at += usize::from(self.text[self.at..].starts_with(','));
                return Ok(Json::Array(items));
            }
        }
    }

    fn typed(&self, word: String) -> Result<Json, String> {
        Ok(match self.kind {
            Kind::File(read) => Json::String(read(&word)?),
            Kind::Typed => typed(word),
            Kind::Text | Kind::Json => Json::String(word),
        })
    }

    /// One JSON value, and the comma behind it.
    fn json(&mut self) -> Result<Json, String> {
        if self.skip_to_value() {
            return Ok(Json::Null);
        }
        let mut stream = serde_json::Deserializer::from_str(&self.text[self.at..]).into_iter::<Json>();
        let value = stream.next().ok_or("no JSON value")?.map_err(|error| format!("invalid JSON: {error}"))?;
        self.at += stream.byte_offset();
        self.skip_to_value();
        Ok(yaml::as_helm_reads(value))
    }

    /// Skips blanks and at most one comma; whether nothing stands before the comma or the end.
    fn skip_to_value(&mut self) -> bool {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        self.at += usize::from(rest.starts_with(','));
        rest.is_empty() || rest.starts_with(',')
    }
}

/// An empty name says nothing.
fn put(values: &mut Map<String, Json>, key: String, value: Json) {
    if !key.is_empty() {
        values.insert(key, value);
    }
}

fn typed(word: String) -> Json {
    match word.to_ascii_lowercase().as_str() {
        "true" => Json::Bool(true),
        "false" => Json::Bool(false),
        "null" => Json::Null,
        "0" => Json::from(0),
        _ => match word.parse::<i64>() {
            Ok(value) if !word.starts_with('0') => Json::from(value),
            _ => Json::String(word),
        },
    }
}
