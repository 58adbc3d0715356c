//! The text format of Prometheus, as far as it is needed: samples, without comments and timestamps.

use std::borrow::Cow;

/// One line of a page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Its name.
    pub name: &'a str,
    /// What is between its braces, as written.
    pub labels: &'a str,
    /// Its value.
    pub value: f64,
}

/// The samples of a page; lines that can't be read are passed over, as are values that are no numbers.
pub fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter_map(sample)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (name, labels, rest) = match line.find(['{', ' ']) {
        Some(at) if line.as_bytes()[at] == b'{' => {
            let end = closing_brace(&line[at + 1..])? + at + 1;
            (&line[..at], &line[at + 1..end], &line[end + 1..])
        }
        Some(at) => (&line[..at], "", &line[at..]),
        None => return None,
    };
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    value.is_finite().then_some(Sample { name, labels, value })
}

/// The place of the brace that ends the labels: one outside of quotes.
fn closing_brace(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// The labels of a sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labels<'a>(Vec<(&'a str, Cow<'a, str>)>);

impl<'a> Labels<'a> {
    /// Reads what is between braces; ends at the first thing that is no label.
    pub fn read(mut text: &'a str) -> Self {
        let mut labels = Vec::new();
        while let Some((name, rest)) = text.split_once("=\"") {
            let Some(end) = closing_quote(rest) else { break };
            labels.push((name.trim_matches([',', ' ']), unescaped(&rest[..end])));
            text = &rest[end + 1..];
        }
        Self(labels)
    }

    /// The value of a label.
    pub fn of(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_ref())
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_ref()))
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at),
            _ => {}
        }
    }
    None
}

fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return text.into();
    }
    let (mut plain, mut chars) = (String::with_capacity(text.len()), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => plain.push('\n'),
                Some(other) => plain.push(other),
                None => {}
            },
            c => plain.push(c),
        }
    }
    plain.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_of_a_page() {
        let page = "# HELP a b\n# TYPE a counter\na 1\nb{x=\"y\"} 2.5 1700000000\nc{x=\"}\\\"{\",y=\"\"} 3\nd{ 4\ne NaN\n\nf\n";
        let read: Vec<_> = samples(page).map(|s| (s.name, s.labels, s.value)).collect();
        assert_eq!(read, [("a", "", 1.0), ("b", "x=\"y\"", 2.5), ("c", "x=\"}\\\"{\",y=\"\"", 3.0)]);
    }

    #[test]
    fn labels_with_everything_in_them() {
        let labels = Labels::read(r#"a="1",b="x\"y\\z\n,{}=",c="""#);
        assert_eq!(labels.of("a"), Some("1"));
        assert_eq!(labels.of("b"), Some("x\"y\\z\n,{}="));
        assert_eq!(labels.of("c"), Some(""));
        assert_eq!(labels.of("d"), None);
        assert_eq!(labels.iter().map(|(name, _)| name).collect::<String>(), "abc");
        assert_eq!(Labels::read("a=\"unfinished").of("a"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_a_page_says(page in "(\\PC{0,20}|[a-z]{1,3}(\\{[a-z=\"\\\\,}]{0,12})? ?[0-9eE+.Nan-]{0,6})(\n.{0,8}){0,3}") {
            for sample in samples(&page) {
                prop_assert!(sample.value.is_finite());
                prop_assert!(Labels::read(sample.labels).iter().count() <= page.len());
            }
        }

        /// Any value of a label, written as the format says, is read as it was.
        #[test]
        fn labels_are_read_as_they_were(values in proptest::collection::vec("\\PC{0,12}|[\"\\\\{},=\n]{0,8}", 1..4)) {
            let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let written: Vec<_> = values.iter().map(|value| format!("l=\"{}\"", escape(value))).collect();
            let line = format!("m{{{}}} 1.5", written.join(","));
            let read: Vec<_> = samples(&line).collect();
            prop_assert_eq!(read.len(), 1, "{}", line);
            let labels = Labels::read(read[0].labels);
            prop_assert_eq!(labels.iter().map(|(_, value)| value).collect::<Vec<_>>(), values.iter().collect::<Vec<_>>());
        }
    }
}
