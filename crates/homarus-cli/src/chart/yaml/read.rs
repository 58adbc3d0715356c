//! YAML texts into JSON values.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, StrInput};
use serde_json::{Map, Number, Value as Json};

use super::scalar::{Scalar, resolve};
use crate::chart::value::MAX_NESTING;

/// The longest text that is read.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// The most values of a text, with what aliases repeat.
const MAX_VALUES: usize = 1_000_000;

/// All documents of a text, empty ones as null.
pub(in crate::chart) fn documents(text: &str) -> Result<Vec<Json>, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("more than {MAX_BYTES} bytes of YAML"));
    }
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: Vec::new(), values: 0 };
    let mut documents = Vec::new();
    loop {
        match reader.next()? {
            Event::DocumentStart(_) => documents.push(reader.document()?),
            Event::StreamEnd => return Ok(documents),
            _ => {}
        }
    }
}

/// The first document of a text.
pub(in crate::chart) fn first(text: &str) -> Result<Json, String> {
    Ok(documents(text)?.into_iter().next().unwrap_or(Json::Null))
}

/// What Helm makes of values that it reads: every number is a 64-bit float.
pub(in crate::chart) fn as_helm_reads(value: Json) -> Json {
    match value {
        Json::Number(number) => number.as_f64().and_then(Number::from_f64).map_or(Json::Null, Json::Number),
        Json::Array(items) => Json::Array(items.into_iter().map(as_helm_reads).collect()),
        Json::Object(fields) => Json::Object(fields.into_iter().map(|(key, value)| (key, as_helm_reads(value))).collect()),
        other => other,
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: Vec<(usize, Json, usize)>,
    values: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Event<'a>, String> {
        match self.parser.next_event() {
            Some(Ok((event, _))) => Ok(event),
            Some(Err(error)) => Err(said(&error)),
            None => Ok(Event::StreamEnd),
        }
    }

    fn document(&mut self) -> Result<Json, String> {
        self.anchors.clear();
        match self.next()? {
            Event::DocumentEnd => Ok(Json::Null),
            event => self.node(event, MAX_NESTING),
        }
    }

    fn count(&mut self, values: usize) -> Result<(), String> {
        self.values += values;
        if self.values > MAX_VALUES { Err(format!("more than {MAX_VALUES} values")) } else { Ok(()) }
    }

    fn node(&mut self, event: Event<'a>, depth: usize) -> Result<Json, String> {
        let depth = depth.checked_sub(1).ok_or_else(|| format!("nested more than {MAX_NESTING} levels deep"))?;
        self.count(1)?;
        let before = self.values;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.as_ref().filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
                (scalar(&text, style, tag)?, anchor)
            }
            Event::SequenceStart(anchor, _) => (self.sequence(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.mapping(depth)?, anchor),
            Event::Alias(anchor) => (self.alias(anchor)?, 0),
            other => return Err(format!("unexpected {other:?}")),
        };
        if anchor > 0 {
            let size = 1 + self.values - before;
            self.anchors.push((anchor, value.clone(), size));
        }
        Ok(value)
    }

    fn alias(&mut self, wanted: usize) -> Result<Json, String> {
        let known = self.anchors.iter().rev().find(|(anchor, ..)| *anchor == wanted);
        let (value, size) = known.map(|(_, value, size)| (value.clone(), *size)).ok_or("an alias of what isn't complete")?;
        self.count(size)?;
        Ok(value)
    }

    fn sequence(&mut self, depth: usize) -> Result<Json, String> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(Json::Array(items)),
                event => items.push(self.node(event, depth)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Json, String> {
        let mut fields = Map::new();
        let mut taken_in = Vec::new();
        loop {
            let event = match self.next()? {
                Event::MappingEnd => break,
                event => event,
            };
            let merges = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if resolve(text) == Scalar::Merge);
            let key = self.node(event, depth)?;
            let value_event = self.next()?;
            let value = self.node(value_event, depth)?;
            match merges {
                true => taken_in.push(value),
                false => drop(fields.insert(named(key)?, value)),
            }
        }
        for value in taken_in {
            take_in(&mut fields, value)?;
        }
        Ok(Json::Object(fields))
    }
}

/// `<<`: fields of another mapping, or of several, as far as they aren't there.
fn take_in(fields: &mut Map<String, Json>, value: Json) -> Result<(), String> {
    match value {
        Json::Object(others) => {
            for (key, value) in others {
                fields.entry(key).or_insert(value);
            }
            Ok(())
        }
        Json::Array(items) => items.into_iter().try_for_each(|item| match item {
            Json::Object(_) => take_in(fields, item),
            _ => Err("map merge requires map or sequence of maps as the value".to_owned()),
        }),
        _ => Err("map merge requires map or sequence of maps as the value".to_owned()),
    }
}

fn named(key: Json) -> Result<String, String> {
    match key {
        Json::String(text) => Ok(text),
        Json::Bool(value) => Ok(value.to_string()),
        Json::Number(number) => Ok(number.to_string()),
        other => Err(format!("a key must be text, not {other}")),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&str>) -> Result<Json, String> {
    if style != ScalarStyle::Plain || matches!(tag, Some("str" | "binary")) {
        return Ok(Json::String(text.to_owned()));
    }
    Ok(match resolve(text) {
        Scalar::Null => Json::Null,
        Scalar::Bool(value) => Json::Bool(value),
        Scalar::Int(value) if tag == Some("float") => Json::from(value as f64),
        Scalar::Int(value) => Json::from(value),
        Scalar::Uint(value) => Json::from(value),
        Scalar::Float(value) => Json::Number(Number::from_f64(value).ok_or_else(|| format!("{text} has no place in JSON"))?),
        Scalar::Time | Scalar::Merge | Scalar::Text => Json::String(text.to_owned()),
    })
}

fn said(error: &ScanError) -> String {
    format!("line {}, column {}: {}", error.marker().line(), error.marker().col() + 1, error.info())
}
