//! What a template says, read.

use std::collections::BTreeMap;
use std::rc::Rc;

/// All templates of a chart, by name: its files, and what they define.
#[derive(Clone, Debug, Default)]
pub(super) struct Templates(BTreeMap<String, Rc<Template>>);

impl Templates {
    /// The template of a name.
    pub(super) fn find(&self, name: &str) -> Option<Rc<Template>> {
        self.0.get(name).cloned()
    }

    /// Adds a template. A later one takes the place of an earlier one of its name, unless it is blank.
    pub(super) fn add(&mut self, template: Template) {
        if template.is_blank() && self.0.contains_key(&template.name) {
            return;
        }
        self.0.insert(template.name.clone(), Rc::new(template));
    }
}

/// One template.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) name: String,
    pub(super) file: Rc<str>,
    pub(super) body: Vec<Node>,
}

impl Template {
    /// Whether it is blank text at most.
    pub(super) fn is_blank(&self) -> bool {
        self.body.iter().all(|node| matches!(node, Node::Text(text) if text.trim().is_empty()))
    }
}

/// A part of a template.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Action(Pipe),
    If(Branch),
    With(Branch),
    Range(Branch),
    Template { name: String, pipe: Option<Pipe>, line: u32 },
    Break,
    Continue,
}

/// What `if`, `with` and `range` have.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) pipe: Pipe,
    pub(super) body: Vec<Node>,
    pub(super) otherwise: Vec<Node>,
}

/// A pipeline: commands, each with the result of the one before as its last argument, and where the end of it goes.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) line: u32,
    pub(super) variables: Vec<Rc<str>>,
    /// `=` rather than `:=`.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

/// A command: what to call or to look up, and arguments.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) line: u32,
    pub(super) what: Operand,
    pub(super) arguments: Vec<Operand>,
}

/// A word of a command.
#[derive(Debug)]
pub(super) enum Operand {
    Dot,
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    /// `.a.b`
    Field(Vec<String>),
    /// `$x.a.b`
    Variable(Rc<str>, Vec<String>),
    Function(String),
    /// `( … )`
    Pipe(Box<Pipe>),
    /// `( … ).a.b`
    Chain(Box<Operand>, Vec<String>),
}
