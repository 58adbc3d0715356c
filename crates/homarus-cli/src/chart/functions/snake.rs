//! Words of an identifier, as the `xstrings` library finds them: `keepAliveInterval` is `keep_alive_interval`, `HTTP2` stays
//! together, `http2` is `http_2` at the end and `http_2xx` before letters.

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Number,
    Upper,
    Letters,
    Connector,
    Punctuation,
    Other,
    None,
}

/// Joins the words of an identifier, in lower case.
pub(super) fn join(text: &str, connector: char) -> String {
    if text.is_empty() {
        return String::new();
    }
    let mut words = Words { rest: text, kind: Kind::None, word: "", out: String::new(), connector };
    words.next();
    while !words.rest.is_empty() {
        words.step();
    }
    words.put(words.kind, words.word);
    words.out
}

struct Words<'a> {
    rest: &'a str,
    kind: Kind,
    word: &'a str,
    out: String,
    connector: char,
}

impl<'a> Words<'a> {
    fn next(&mut self) {
        (self.kind, self.word, self.rest) = next_word(self.rest);
    }

    fn put(&mut self, kind: Kind, word: &str) {
        match kind {
            Kind::Upper | Kind::Connector => {
                let connector = self.connector;
                self.out.extend(word.chars().map(|next| if is_connector(next) { connector } else { lowered(next) }));
            }
            _ => self.out.push_str(word),
        }
    }

    fn put_current(&mut self) {
        self.put(self.kind, self.word);
    }

    fn connect_unless(&mut self, kinds: &[Kind]) {
        if !kinds.contains(&self.kind) {
            self.out.push(self.connector);
        }
    }

    /// Writes one word, and what joins it to the next.
    fn step(&mut self) {
        let (before, last) = (self.kind, self.word);
        if before != Kind::Connector {
            self.put_current();
        }
        self.next();
        match before {
            Kind::Number => {
                self.take_run();
                self.connect_unless(&[Kind::None, Kind::Punctuation, Kind::Connector]);
            }
            Kind::Connector => self.put(before, last),
            Kind::Punctuation => {}
            _ if self.kind != Kind::Number => self.connect_unless(&[Kind::Connector, Kind::Punctuation]),
            _ if self.rest.is_empty() => {}
            _ => self.number_after_letters(),
        }
    }

    /// Letters and numbers that follow a number belong to it.
    fn take_run(&mut self) {
        while matches!(self.kind, Kind::Letters | Kind::Number) {
            self.put_current();
            self.next();
        }
    }

    /// A number belongs to the word before it, unless small letters follow.
    fn number_after_letters(&mut self) {
        let number = self.word;
        self.next();
        if self.kind != Kind::Letters {
            self.put(Kind::Number, number);
            self.connect_unless(&[Kind::Connector, Kind::Punctuation]);
            return;
        }
        self.out.push(self.connector);
        self.put(Kind::Number, number);
        self.take_run();
        self.connect_unless(&[Kind::None, Kind::Connector, Kind::Punctuation]);
    }
}

fn lowered(letter: char) -> char {
    if letter.is_uppercase() { letter.to_lowercase().next().unwrap_or(letter) } else { letter }
}

fn is_connector(next: char) -> bool {
    next == '-' || next == '_' || next.is_whitespace()
}

fn is_punctuation(next: char) -> bool {
    next.is_ascii_punctuation() && !"$+<=>^`|~".contains(next)
}

fn next_word(text: &str) -> (Kind, &str, &str) {
    let Some(first) = text.chars().next() else { return (Kind::None, "", "") };
    let small = |next: char| next.is_alphabetic() && !next.is_uppercase();
    let run = |is: &dyn Fn(char) -> bool| text.find(|next| !is(next)).unwrap_or(text.len());
    let (kind, end) = match first {
        first if is_connector(first) => (Kind::Connector, run(&is_connector)),
        first if is_punctuation(first) => (Kind::Punctuation, run(&is_punctuation)),
        first if first.is_uppercase() => (Kind::Upper, upper_word(text, first)),
        first if first.is_alphabetic() => (Kind::Letters, first.len_utf8() + leading(&text[first.len_utf8()..], small)),
        first if first.is_numeric() => (Kind::Number, run(&char::is_numeric)),
        _ => {
            let other = |next: char| !is_connector(next) && !next.is_alphabetic() && !next.is_numeric() && !is_punctuation(next);
            (Kind::Other, run(&other))
        }
    };
    (kind, &text[..end], &text[end..])
}

fn leading(text: &str, is: impl Fn(char) -> bool) -> usize {
    text.find(|next| !is(next)).unwrap_or(text.len())
}

/// `HTTP` of `HTTPStatus`, `Status` of `StatusCode`.
fn upper_word(text: &str, first: char) -> usize {
    let start = first.len_utf8();
    let rest = &text[start..];
    match rest.chars().next() {
        Some(second) if second.is_uppercase() => {
            let run = leading(text, char::is_uppercase);
            let small_follows = text[run..].chars().next().is_some_and(char::is_alphabetic);
            let last = text[..run].chars().next_back().map_or(0, char::len_utf8);
            if small_follows { run - last } else { run }
        }
        Some(second) if second.is_alphabetic() => start + leading(rest, |next| next.is_alphabetic() && !next.is_uppercase()),
        _ => start,
    }
}
