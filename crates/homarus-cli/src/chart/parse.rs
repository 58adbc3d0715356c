//! Tokens into templates, by the rules of Go's `text/template`. Functions, variables and keywords are checked here, so a
//! mistake in a branch that is never taken is found too.

use std::rc::Rc;

use super::ast::{Branch, Command, Node, Operand, Pipe, Template, Templates};
use super::error::{ChartError, Place};
use super::functions;
use super::lex::{self, Broken, Token, What};

/// The deepest block or parenthesis in another.
const MAX_NESTING: usize = 64;

/// Reads a file, and adds what it defines and itself.
pub(super) fn file(name: &str, text: &str, templates: &mut Templates) -> Result<(), ChartError> {
    let at = |(line, what): Broken| ChartError::Syntax { at: Place { file: name.to_owned(), line }, what };
    let tokens = lex::tokens(text).map_err(at)?;
    let mut parser = Parser::new(Rc::from(name), tokens);
    let (body, end) = parser.nodes().map_err(at)?;
    if let End::Keyword(word, line) = end {
        return Err(at((line, format!("{{{{ {word} }}}} ends nothing"))));
    }
    parser.defined.push(Template { name: name.to_owned(), file: Rc::from(name), body });
    parser.defined.into_iter().for_each(|template| templates.add(template));
    Ok(())
}

struct Parser {
    file: Rc<str>,
    tokens: Vec<Token>,
    at: usize,
    variables: Vec<Rc<str>>,
    nesting: usize,
    ranges: usize,
    defined: Vec<Template>,
}

/// What a list of nodes ended with.
enum End {
    Text,
    Keyword(&'static str, u32),
}

/// Whose pipeline it is: they end and declare differently.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    Action,
    Range,
    Parentheses,
}

impl Parser {
    fn new(file: Rc<str>, tokens: Vec<Token>) -> Self {
        Self { file, tokens, at: 0, variables: vec![Rc::from("")], nesting: 0, ranges: 0, defined: Vec::new() }
    }

    fn peek(&self) -> Option<&What> {
        self.tokens.get(self.at).map(|token| &token.what)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |token| token.line)
    }

    fn next(&mut self) -> Option<What> {
        let token = self.tokens.get(self.at).map(|token| token.what.clone());
        self.at += 1;
        token
    }

    fn skip_space(&mut self) {
        while self.peek() == Some(&What::Space) {
            self.at += 1;
        }
    }

    fn broken<T>(&self, what: impl Into<String>) -> Result<T, Broken> {
        Err((self.line(), what.into()))
    }

    fn unexpected<T>(&self, context: &str) -> Result<T, Broken> {
        let found = self.peek().map_or("the end of the file".to_owned(), |token| format!("{token:?}"));
        self.broken(format!("unexpected {found} in {context}"))
    }

    fn deeper<T>(&mut self, what: impl FnOnce(&mut Self) -> Result<T, Broken>) -> Result<T, Broken> {
        if self.nesting == MAX_NESTING {
            return self.broken(format!("blocks nested more than {MAX_NESTING} levels deep"));
        }
        self.nesting += 1;
        let result = what(self);
        self.nesting -= 1;
        result
    }

    fn expect_close(&mut self, context: &str) -> Result<(), Broken> {
        self.skip_space();
        if self.peek() != Some(&What::Close) {
            return self.unexpected(context);
        }
        self.at += 1;
        Ok(())
    }

    /// Nodes up to `end`, `else` or the end of the text. After `else` the parser stands behind the word.
    fn nodes(&mut self) -> Result<(Vec<Node>, End), Broken> {
        let mut nodes = Vec::new();
        while let Some(token) = self.next() {
            match token {
                What::Text(text) => nodes.push(Node::Text(text)),
                What::Open => {
                    self.skip_space();
                    let line = self.line();
                    match self.peek() {
                        Some(What::Word(word)) if word == "end" => {
                            self.at += 1;
                            self.expect_close("end")?;
                            return Ok((nodes, End::Keyword("end", line)));
                        }
                        Some(What::Word(word)) if word == "else" => {
                            self.at += 1;
                            return Ok((nodes, End::Keyword("else", line)));
                        }
                        _ => nodes.extend(self.deeper(Self::action)?),
                    }
                }
                _ => return self.unexpected("text"),
            }
        }
        Ok((nodes, End::Text))
    }

    /// What stands between `{{` and `}}`, with its body.
    fn action(&mut self) -> Result<Option<Node>, Broken> {
        let word = match self.peek() {
            Some(What::Word(word)) => word.clone(),
            _ => String::new(),
        };
        let line = self.line();
        let keyword = matches!(word.as_str(), "if" | "with" | "range" | "template" | "define" | "block" | "break" | "continue");
        self.at += usize::from(keyword);
        Ok(Some(match word.as_str() {
            "if" => Node::If(self.branch("if")?),
            "with" => Node::With(self.branch("with")?),
            "range" => Node::Range(self.branch("range")?),
            "template" => self.invocation(line)?,
            "define" => return self.define().map(|()| None),
            "block" => self.block(line)?,
            "break" | "continue" => self.jump(&word)?,
            _ => Node::Action(self.pipeline(Of::Action, "command")?),
        }))
    }

    fn branch(&mut self, keyword: &'static str) -> Result<Branch, Broken> {
        let scope = self.variables.len();
        let opened = self.line();
        let ranges = keyword == "range";
        let pipe = self.pipeline(if ranges { Of::Range } else { Of::Action }, keyword)?;
        self.ranges += usize::from(ranges);
        let (body, end) = self.nodes()?;
        self.ranges -= usize::from(ranges);
        let otherwise = match end {
            End::Keyword("end", _) => Vec::new(),
            End::Keyword(..) => self.otherwise(keyword, opened)?,
            End::Text => return Err((opened, format!("{{{{ {keyword} }}}} is never ended"))),
        };
        self.variables.truncate(scope);
        Ok(Branch { pipe, body, otherwise })
    }

    /// After `else`: another `if` or `with`, which shares our `end`, or nodes of its own.
    fn otherwise(&mut self, keyword: &'static str, opened: u32) -> Result<Vec<Node>, Broken> {
        self.skip_space();
        match self.peek() {
            Some(What::Word(word)) if word == keyword && keyword != "range" => {
                self.at += 1;
                let branch = self.deeper(|parser| parser.branch(keyword))?;
                Ok(vec![if keyword == "if" { Node::If(branch) } else { Node::With(branch) }])
            }
            _ => {
                self.expect_close("else")?;
                match self.nodes()? {
                    (nodes, End::Keyword("end", _)) => Ok(nodes),
                    (_, End::Keyword(_, line)) => Err((line, format!("a second {{{{ else }}}} of the {keyword} in line {opened}"))),
                    (_, End::Text) => Err((opened, format!("{{{{ {keyword} }}}} is never ended"))),
                }
            }
        }
    }

    fn name(&mut self, context: &str) -> Result<String, Broken> {
        self.skip_space();
        match self.peek() {
            Some(What::Str(_)) => match self.next() {
                Some(What::Str(name)) => Ok(name),
                _ => self.unexpected(context),
            },
            _ => self.unexpected(context),
        }
    }

    fn invocation(&mut self, line: u32) -> Result<Node, Broken> {
        let name = self.name("template clause")?;
        self.skip_space();
        let pipe = match self.peek() {
            Some(What::Close) => {
                self.at += 1;
                None
            }
            _ => Some(self.pipeline(Of::Action, "template clause")?),
        };
        Ok(Node::Template { name, pipe, line })
    }

    fn define(&mut self) -> Result<(), Broken> {
        if self.nesting > 1 {
            return self.broken("{{ define }} inside of another block");
        }
        let name = self.name("define clause")?;
        self.expect_close("define clause")?;
        self.body_of(name)
    }

    fn block(&mut self, line: u32) -> Result<Node, Broken> {
        let name = self.name("block clause")?;
        let pipe = Some(self.pipeline(Of::Action, "block clause")?);
        self.body_of(name.clone())?;
        Ok(Node::Template { name, pipe, line })
    }

    /// The body of a `define` or `block`: it sees no variable of what is around it.
    fn body_of(&mut self, name: String) -> Result<(), Broken> {
        let opened = self.line();
        let outer = std::mem::replace(&mut self.variables, vec![Rc::from("")]);
        let ranges = std::mem::take(&mut self.ranges);
        let (body, end) = self.nodes()?;
        if !matches!(end, End::Keyword("end", _)) {
            return Err((opened, format!("the definition of {name:?} is never ended")));
        }
        self.variables = outer;
        self.ranges = ranges;
        let template = Template { name, file: self.file.clone(), body };
        let twice = self.defined.iter().any(|other| other.name == template.name && !other.is_blank());
        if twice && !template.is_blank() {
            return Err((opened, format!("{:?} is defined twice in this file", template.name)));
        }
        self.defined.push(template);
        Ok(())
    }

    fn jump(&mut self, word: &str) -> Result<Node, Broken> {
        self.expect_close(word)?;
        if self.ranges == 0 {
            return self.broken(format!("{{{{ {word} }}}} outside of a range"));
        }
        Ok(if word == "break" { Node::Break } else { Node::Continue })
    }

    /// A pipeline with what ends it.
    fn pipeline(&mut self, of: Of, context: &str) -> Result<Pipe, Broken> {
        self.skip_space();
        let line = self.line();
        let (variables, assigns) = self.declarations(of)?;
        let end = if of == Of::Parentheses { What::Right } else { What::Close };
        let mut commands = Vec::new();
        loop {
            commands.push(self.command(context)?);
            match self.next() {
                Some(What::Pipe) => {}
                Some(token) if token == end => break,
                _ => {
                    self.at -= 1;
                    return self.unexpected(context);
                }
            }
        }
        let fixed = |what: &Operand| {
            !matches!(
                what,
                Operand::Field(_) | Operand::Variable(..) | Operand::Function(_) | Operand::Pipe(_) | Operand::Chain(..)
            )
        };
        if let Some(command) = commands.iter().skip(1).find(|command| fixed(&command.what)) {
            return Err((command.line, "only a function or a method can take the result of a pipeline".to_owned()));
        }
        self.variables.extend(variables.iter().filter(|_| !assigns).cloned());
        Ok(Pipe { line, variables, assigns, commands })
    }

    /// `$x :=`, `$x =`, and in a range `$i, $x :=`.
    fn declarations(&mut self, of: Of) -> Result<(Vec<Rc<str>>, bool), Broken> {
        let start = self.at;
        let mut names: Vec<Rc<str>> = Vec::new();
        while let Some(What::Variable(name)) = self.peek() {
            names.push(Rc::from(name.as_str()));
            self.at += 1;
            self.skip_space();
            match self.peek() {
                Some(What::Comma) if of == Of::Range && names.len() == 1 => {
                    self.at += 1;
                    self.skip_space();
                }
                Some(What::Declare | What::Assign) => {
                    let assigns = self.peek() == Some(&What::Assign);
                    self.at += 1;
                    if assigns {
                        names.iter().try_for_each(|name| self.known(name))?;
                    }
                    return Ok((names, assigns));
                }
                Some(What::Comma) => return self.broken("too many declarations"),
                _ => break,
            }
        }
        if names.len() > 1 {
            return self.unexpected("range");
        }
        self.at = start;
        Ok((Vec::new(), false))
    }

    fn known(&self, variable: &str) -> Result<(), Broken> {
        match self.variables.iter().any(|known| **known == *variable) {
            true => Ok(()),
            false => self.broken(format!("undefined variable ${variable}")),
        }
    }

    fn command(&mut self, context: &str) -> Result<Command, Broken> {
        self.skip_space();
        let line = self.line();
        let Some(what) = self.operand()? else {
            return match self.peek() {
                Some(What::Close | What::Right | What::Pipe) => self.broken(format!("missing value for {context}")),
                _ => self.unexpected(context),
            };
        };
        let mut arguments = Vec::new();
        while self.peek() == Some(&What::Space) {
            self.skip_space();
            match self.operand()? {
                Some(argument) => arguments.push(argument),
                None => break,
            }
        }
        Ok(Command { line, what, arguments })
    }

    fn operand(&mut self) -> Result<Option<Operand>, Broken> {
        let Some(term) = self.term()? else { return Ok(None) };
        let mut path = Vec::new();
        while let Some(What::Field(name)) = self.peek() {
            path.push(name.clone());
            self.at += 1;
        }
        if path.is_empty() {
            return Ok(Some(term));
        }
        Ok(Some(match term {
            Operand::Field(mut fields) => {
                fields.append(&mut path);
                Operand::Field(fields)
            }
            Operand::Variable(name, _) => Operand::Variable(name, path),
            term @ (Operand::Pipe(_) | Operand::Function(_)) => Operand::Chain(Box::new(term), path),
            _ => return self.broken("a literal has no fields"),
        }))
    }

    fn term(&mut self) -> Result<Option<Operand>, Broken> {
        let Some(token) = self.peek().cloned() else { return Ok(None) };
        let term = match token {
            What::Word(word) => self.word(word)?,
            What::Dot => Operand::Dot,
            What::Field(name) => Operand::Field(vec![name]),
            What::Variable(name) => {
                self.known(&name)?;
                Operand::Variable(Rc::from(name.as_str()), Vec::new())
            }
            What::Str(text) => Operand::Text(Rc::from(text.as_str())),
            What::Int(value) => Operand::Int(value),
            What::Float(value) => Operand::Float(value),
            What::Left => {
                self.at += 1;
                let pipe = self.deeper(|parser| parser.pipeline(Of::Parentheses, "parenthesized pipeline"))?;
                return Ok(Some(Operand::Pipe(Box::new(pipe))));
            }
            _ => return Ok(None),
        };
        self.at += 1;
        Ok(Some(term))
    }

    fn word(&self, word: String) -> Result<Operand, Broken> {
        match word.as_str() {
            "true" | "false" => Ok(Operand::Bool(word == "true")),
            "nil" => Ok(Operand::Nil),
            "if" | "else" | "end" | "range" | "with" | "define" | "block" | "template" | "break" | "continue" => {
                self.broken(format!("unexpected {{{{ {word} }}}}"))
            }
            _ if functions::is_known(&word) => Ok(Operand::Function(word)),
            _ => self.broken(format!("function {word:?} not defined")),
        }
    }
}
