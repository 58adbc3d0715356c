//! Templates into tokens, by the rules of Go's `text/template`: text outside `{{ }}`, words within, and the trim markers
//! `{{- ` and ` -}}` done with already.

/// The longest template that is read.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// What trim markers take away.
const SPACES: &[char] = &[' ', '\t', '\r', '\n'];

/// A token and the line it starts on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) what: What,
    pub(super) line: u32,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    /// Text outside of actions.
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// Space inside an action: it separates arguments.
    Space,
    /// A keyword or the name of a function.
    Word(String),
    /// `.name`
    Field(String),
    /// `.`
    Dot,
    /// `$` or `$name`, without the dollar.
    Variable(String),
    /// A string, unquoted.
    Str(String),
    /// An integer or a character.
    Int(i64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// `|`
    Pipe,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    /// `,`
    Comma,
    /// `(`
    Left,
    /// `)`
    Right,
}

/// Why a text is no template, and on which line.
pub(super) type Broken = (u32, String);

/// All tokens of a template.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Broken> {
    if text.len() > MAX_BYTES {
        return Err((1, format!("a template of more than {MAX_BYTES} bytes")));
    }
    let mut lexer = Lexer { text, at: 0, line: 1, tokens: Vec::new() };
    lexer.run()?;
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn run(&mut self) -> Result<(), Broken> {
        while let Some(start) = self.rest().find("{{") {
            let trims = trims_left(&self.rest()[start + 2..]);
            let text = &self.rest()[..start];
            self.text_token(if trims { text.trim_end_matches(SPACES) } else { text });
            self.advance(start + if trims { 4 } else { 2 });
            match self.rest().strip_prefix("/*") {
                Some(comment) => self.comment(comment)?,
                None => self.action()?,
            }
        }
        let rest = self.rest();
        self.text_token(rest);
        Ok(())
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn advance(&mut self, bytes: usize) {
        self.line += self.text[self.at..self.at + bytes].bytes().filter(|byte| *byte == b'\n').count() as u32;
        self.at += bytes;
    }

    fn push(&mut self, what: What, bytes: usize) {
        self.tokens.push(Token { what, line: self.line });
        self.advance(bytes);
    }

    fn text_token(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(What::Text(text.to_owned()), 0);
        }
    }

    fn comment(&mut self, comment: &str) -> Result<(), Broken> {
        let end = comment.find("*/").ok_or((self.line, "unclosed comment".to_owned()))?;
        self.advance(2 + end + 2);
        if !self.close(false) {
            return Err((self.line, "a comment must end with */}}, or with */ -}}".to_owned()));
        }
        Ok(())
    }

    /// Takes the end of an action, if it is here.
    fn close(&mut self, token: bool) -> bool {
        let rest = self.rest();
        let trims = rest.starts_with(SPACES) && rest[1..].starts_with("-}}");
        if !trims && !rest.starts_with("}}") {
            return false;
        }
        if token {
            self.push(What::Close, 0);
        }
        self.advance(if trims { 4 } else { 2 });
        if trims {
            let rest = self.rest();
            self.advance(rest.len() - rest.trim_start_matches(SPACES).len());
        }
        true
    }

    fn action(&mut self) -> Result<(), Broken> {
        self.push(What::Open, 0);
        let opened = self.line;
        while !self.close(true) {
            let Some(next) = self.rest().chars().next() else {
                return Err((opened, "this action is never closed with }}".to_owned()));
            };
            self.token(next)?;
        }
        Ok(())
    }

    fn token(&mut self, next: char) -> Result<(), Broken> {
        match next {
            next if SPACES.contains(&next) => self.space(),
            '=' => self.push(What::Assign, 1),
            ':' if self.rest().starts_with(":=") => self.push(What::Declare, 2),
            '|' => self.push(What::Pipe, 1),
            ',' => self.push(What::Comma, 1),
            '(' => self.push(What::Left, 1),
            ')' => self.push(What::Right, 1),
            '"' => self.quoted()?,
            '`' => self.raw()?,
            '\'' => self.character()?,
            '$' => self.name(1, What::Variable)?,
            '.' if !self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => self.field()?,
            '+' | '-' | '.' | '0'..='9' => self.number()?,
            next if next.is_alphanumeric() || next == '_' => self.name(0, What::Word)?,
            other => return Err((self.line, format!("unexpected {other:?} in an action"))),
        }
        Ok(())
    }

    /// A run of spaces, short of the one that belongs to ` -}}`.
    fn space(&mut self) {
        let rest = self.rest();
        let mut run = rest.len() - rest.trim_start_matches(SPACES).len();
        if rest[run..].starts_with("-}}") {
            run -= 1;
        }
        self.push(What::Space, run);
    }

    fn name(&mut self, skip: usize, what: fn(String) -> What) -> Result<(), Broken> {
        let name = identifier(&self.rest()[skip..]);
        let token = what(name.to_owned());
        self.push(token, skip + name.len());
        self.terminated(name)
    }

    fn field(&mut self) -> Result<(), Broken> {
        let name = identifier(&self.rest()[1..]);
        let token = if name.is_empty() { What::Dot } else { What::Field(name.to_owned()) };
        self.push(token, 1 + name.len());
        self.terminated(name)
    }

    /// Names and numbers end at punctuation.
    fn terminated(&self, name: &str) -> Result<(), Broken> {
        match self.rest().chars().next() {
            None => Ok(()),
            Some(next) if SPACES.contains(&next) || ".,|:()=".contains(next) || self.rest().starts_with("}}") => Ok(()),
            Some(next) => Err((self.line, format!("unexpected {next:?} after {name:?}"))),
        }
    }

    fn quoted(&mut self) -> Result<(), Broken> {
        let (text, bytes) = unquote(self.rest(), '"').map_err(|what| (self.line, what))?;
        self.push(What::Str(text), bytes);
        Ok(())
    }

    fn raw(&mut self) -> Result<(), Broken> {
        let rest = &self.rest()[1..];
        let end = rest.find('`').ok_or((self.line, "unterminated raw string".to_owned()))?;
        self.push(What::Str(rest[..end].replace('\r', "")), end + 2);
        Ok(())
    }

    fn character(&mut self) -> Result<(), Broken> {
        let (text, bytes) = unquote(self.rest(), '\'').map_err(|what| (self.line, what))?;
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (Some(one), None) => self.push(What::Int(i64::from(u32::from(one))), bytes),
            _ => return Err((self.line, format!("{text:?} is not one character"))),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Broken> {
        let rest = self.rest();
        let mut end = 0;
        for (index, next) in rest.char_indices() {
            let sign = matches!(next, '+' | '-') && (index == 0 || rest[..index].ends_with(['e', 'E']));
            if !sign && !next.is_ascii_alphanumeric() && next != '.' && next != '_' {
                break;
            }
            end = index + next.len_utf8();
        }
        let text = &rest[..end];
        let token = number(text).ok_or_else(|| (self.line, format!("bad number {text:?}")))?;
        self.push(token, end);
        self.terminated(text)
    }
}

/// Whether an action that goes on like this trims what stands before it.
fn trims_left(rest: &str) -> bool {
    rest.starts_with('-') && rest[1..].starts_with(SPACES)
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

fn number(text: &str) -> Option<What> {
    if let Some(value) = super::number::integer(text) {
        return Some(What::Int(value));
    }
    let plain = text.replace('_', "");
    let hexadecimal = plain.trim_start_matches(['+', '-']).to_ascii_lowercase().starts_with("0x");
    let starts = plain.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let value = plain.parse::<f64>().ok().filter(|value| value.is_finite() && !hexadecimal && starts)?;
    Some(What::Float(value))
}

/// A quoted text by Go's rules, and how many bytes it takes.
fn unquote(text: &str, quote: char) -> Result<(String, usize), String> {
    let mut out = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((index, next)) = characters.next() {
        match next {
            next if next == quote => return Ok((out, index + 1)),
            '\n' => break,
            '\\' => {
                let (_, escape) = characters.next().ok_or("unterminated string")?;
                let mut digits = |count: usize, radix| code(characters.by_ref().take(count).map(|(_, c)| c), count, radix);
                out.push(match escape {
                    'a' => '\x07',
                    'b' => '\x08',
                    'f' => '\x0c',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\x0b',
                    '\\' => '\\',
                    'x' => digits(2, 16)?,
                    'u' => digits(4, 16)?,
                    'U' => digits(8, 16)?,
                    escape if escape == quote => quote,
                    escape => return Err(format!("unknown escape \\{escape}")),
                });
            }
            next => out.push(next),
        }
    }
    Err("unterminated string".to_owned())
}

fn code(digits: impl Iterator<Item = char>, count: usize, radix: u32) -> Result<char, String> {
    let digits: String = digits.collect();
    let code = u32::from_str_radix(&digits, radix).ok().filter(|_| digits.chars().count() == count);
    code.and_then(char::from_u32).ok_or_else(|| format!("\\x, \\u or \\U with {digits:?}, which is no character"))
}
