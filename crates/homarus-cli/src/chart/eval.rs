//! Templates carried out, by the rules of Go's `text/template` with the options that Helm sets.
//!
//! What Go does by reflection is in [`Value`]: a field of a mapping that isn't there is nil ([`Value::Nil`]), of which a field
//! is an error; a pipeline that comes to nil is nothing ([`Value::Absent`]), of which a field is nothing again. Everything is
//! bounded: depth, steps and output, so that no chart and no values can make it run on.

use std::cell::Cell;
use std::rc::Rc;

use super::ast::{Branch, Command, Node, Operand, Pipe, Template, Templates};
use super::error::{ChartError, Place, Wrong};
use super::value::{Methods, Value};
use super::{format, functions, parse};

/// The deepest template in a template, counted with the blocks and pipelines around it.
const MAX_DEPTH: u32 = 192;
/// The most that may be done for one file of a chart.
const MAX_STEPS: u64 = 4_000_000;
/// The most text that one file may come to, includes counted each time.
const MAX_OUTPUT: usize = 32 * 1024 * 1024;

/// What rendering may use up.
#[derive(Debug, Default)]
struct Budget {
    depth: Cell<u32>,
    steps: Cell<u64>,
    output: Cell<usize>,
}

impl Budget {
    fn step(&self) -> Result<(), Wrong> {
        self.steps.set(self.steps.get() + 1);
        match self.steps.get() > MAX_STEPS {
            true => Err(Wrong::Because(format!("more than {MAX_STEPS} steps: does a template call itself without end?"))),
            false => Ok(()),
        }
    }

    fn write(&self, bytes: usize) -> Result<(), Wrong> {
        self.output.set(self.output.get() + bytes);
        match self.output.get() > MAX_OUTPUT {
            true => Err(Wrong::Because(format!("more than {MAX_OUTPUT} bytes of output"))),
            false => Ok(()),
        }
    }
}

/// Renders the template of a name.
pub(super) fn render(templates: &Templates, name: &str, dot: &Value) -> Result<String, ChartError> {
    let engine = Engine { templates, budget: Rc::default() };
    engine.execute(name, dot).map_err(|wrong| wrong.at(|| Place { file: name.to_owned(), line: 1 }))
}

struct Engine<'a> {
    templates: &'a Templates,
    budget: Rc<Budget>,
}

/// One template at work.
struct Frame<'a> {
    engine: &'a Engine<'a>,
    file: Rc<str>,
    variables: Vec<(Rc<str>, Value)>,
    out: &'a mut String,
}

/// How a list of nodes ended.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

type Evaluated = Result<Value, Wrong>;

impl Engine<'_> {
    fn execute(&self, name: &str, dot: &Value) -> Result<String, Wrong> {
        let template = self.templates.find(name).ok_or_else(|| format!("no template {name:?}"))?;
        let mut out = String::new();
        self.run(&template, dot, &mut out)?;
        Ok(out)
    }

    fn run(&self, template: &Template, dot: &Value, out: &mut String) -> Result<(), Wrong> {
        let variables = vec![(Rc::from(""), dot.clone())];
        let mut frame = Frame { engine: self, file: template.file.clone(), variables, out };
        frame.nodes(dot, &template.body).map(|_| ())
    }

    /// `include`: what a template comes to, as a value.
    fn include(&self, arguments: &[Value]) -> Evaluated {
        let [Value::Text(name), dot] = arguments else {
            return Err("include wants the name of a template and what it is to work on".into());
        };
        Ok(Value::text(self.execute(name, &nothing_if_nil(dot.clone()))?))
    }

    /// `tpl`: a text as a template.
    fn tpl(&self, arguments: &[Value], file: &str) -> Evaluated {
        let [Value::Text(text), dot] = arguments else {
            return Err("tpl wants a text and what it is to work on".into());
        };
        let mut templates = self.templates.clone();
        parse::file(file, text, &mut templates).map_err(Wrong::Placed)?;
        let engine = Engine { templates: &templates, budget: self.budget.clone() };
        Ok(Value::text(engine.execute(file, &nothing_if_nil(dot.clone()))?.replace("<no value>", "")))
    }
}

fn nothing_if_nil(value: Value) -> Value {
    if value.is_nil() { Value::Absent } else { value }
}

impl Frame<'_> {
    fn place(&self, line: u32) -> Place {
        Place { file: self.file.to_string(), line }
    }

    fn deeper<T>(&mut self, what: impl FnOnce(&mut Self) -> Result<T, Wrong>) -> Result<T, Wrong> {
        let depth = self.engine.budget.depth.get();
        if depth == MAX_DEPTH {
            return Err("templates, blocks and pipelines nested too deeply: does a template call itself?".into());
        }
        self.engine.budget.depth.set(depth + 1);
        let result = what(self);
        self.engine.budget.depth.set(depth);
        result
    }

    fn write(&mut self, text: &str) -> Result<(), Wrong> {
        self.engine.budget.write(text.len())?;
        self.out.push_str(text);
        Ok(())
    }

    fn nodes(&mut self, dot: &Value, nodes: &[Node]) -> Result<Flow, Wrong> {
        self.deeper(|frame| {
            for node in nodes {
                let flow = frame.node(dot, node)?;
                if flow != Flow::On {
                    return Ok(flow);
                }
            }
            Ok(Flow::On)
        })
    }

    fn node(&mut self, dot: &Value, node: &Node) -> Result<Flow, Wrong> {
        match node {
            Node::Text(text) => self.write(text)?,
            Node::Action(pipe) => {
                let value = self.pipe(dot, pipe)?;
                if pipe.variables.is_empty() {
                    let text = format::action(&value).map_err(|wrong| Wrong::Placed(wrong.at(|| self.place(pipe.line))))?;
                    self.write(&text)?;
                }
            }
            Node::If(branch) => return self.scoped(|frame| frame.choose(dot, branch, false)),
            Node::With(branch) => return self.scoped(|frame| frame.choose(dot, branch, true)),
            Node::Range(branch) => return self.scoped(|frame| frame.range(dot, branch)),
            Node::Template { name, pipe, line } => self.invoke(dot, name, pipe.as_ref(), *line)?,
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    /// Variables of a block end with it.
    fn scoped<T>(&mut self, what: impl FnOnce(&mut Self) -> T) -> T {
        let scope = self.variables.len();
        let result = what(self);
        self.variables.truncate(scope);
        result
    }

    fn choose(&mut self, dot: &Value, branch: &Branch, moves: bool) -> Result<Flow, Wrong> {
        let value = self.pipe(dot, &branch.pipe)?;
        match value.truth() {
            true => self.nodes(if moves { &value } else { dot }, &branch.body),
            false => self.nodes(dot, &branch.otherwise),
        }
    }

    fn range(&mut self, dot: &Value, branch: &Branch) -> Result<Flow, Wrong> {
        // The variables are set for each item, not to the whole.
        let value = self.commands(dot, &branch.pipe)?;
        let many = self.items(&value, &branch.pipe)?;
        if many.is_empty() {
            return self.nodes(dot, &branch.otherwise);
        }
        for (index, item) in many {
            let flow = self.scoped(|frame| {
                frame.declare_item(&branch.pipe, index, &item)?;
                frame.nodes(&item, &branch.body)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    /// What there is to go through, each with its index or key.
    fn items(&self, value: &Value, pipe: &Pipe) -> Result<Vec<(Value, Value)>, Wrong> {
        let indexed = |(index, item): (usize, &Value)| (Value::Int(index as i64), item.clone());
        let refused = |what: String| Err(Wrong::Placed(Wrong::Because(what).at(|| self.place(pipe.line))));
        match value {
            Value::Absent | Value::Nil => Ok(Vec::new()),
            Value::List(items) => Ok(items.iter().enumerate().map(indexed).collect()),
            Value::Dict(dict) => Ok(dict.entries().into_iter().map(|(key, item)| (Value::text(key), item)).collect()),
            Value::Int(_) | Value::Long(_) if pipe.variables.len() > 1 => refused("a number has no index to range over".to_owned()),
            Value::Int(count) => self.counted(*count, Value::Int, pipe),
            Value::Long(count) => self.counted(*count, Value::Long, pipe),
            other => refused(format!("range can't iterate over a {}", other.kind())),
        }
    }

    fn counted(&self, count: i64, item: fn(i64) -> Value, pipe: &Pipe) -> Result<Vec<(Value, Value)>, Wrong> {
        let many = functions::bounded_count(count).map_err(|wrong| Wrong::Placed(wrong.at(|| self.place(pipe.line))))?;
        Ok((0..many).map(|value| (Value::Absent, item(value))).collect())
    }

    fn declare_item(&mut self, pipe: &Pipe, index: Value, item: &Value) -> Result<(), Wrong> {
        let values = match pipe.variables.len() {
            0 => vec![],
            1 => vec![item.clone()],
            _ => vec![index, item.clone()],
        };
        pipe.variables.iter().zip(values).try_for_each(|(name, value)| self.bind(pipe, name, value))
    }

    fn invoke(&mut self, dot: &Value, name: &str, pipe: Option<&Pipe>, line: u32) -> Result<(), Wrong> {
        let value = match pipe {
            Some(pipe) => self.pipe(dot, pipe)?,
            None => Value::Absent,
        };
        let template = self.engine.templates.find(name);
        let undefined = || Wrong::Placed(Wrong::Because(format!("template {name:?} not defined")).at(|| self.place(line)));
        let template = template.ok_or_else(undefined)?;
        self.engine.run(&template, &value, self.out)
    }

    /// A pipeline, with its variables set.
    fn pipe(&mut self, dot: &Value, pipe: &Pipe) -> Evaluated {
        let value = self.commands(dot, pipe)?;
        for name in &pipe.variables {
            self.bind(pipe, name, value.clone())?;
        }
        Ok(value)
    }

    fn bind(&mut self, pipe: &Pipe, name: &Rc<str>, value: Value) -> Result<(), Wrong> {
        if !pipe.assigns {
            self.variables.push((name.clone(), value));
            return Ok(());
        }
        match self.variables.iter_mut().rev().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => return Err(format!("undefined variable ${name}").into()),
        }
        Ok(())
    }

    fn commands(&mut self, dot: &Value, pipe: &Pipe) -> Evaluated {
        self.deeper(|frame| {
            let mut value = None;
            for command in &pipe.commands {
                let result = frame.engine.budget.step().and_then(|()| frame.command(dot, command, value));
                let result = result.map_err(|wrong| Wrong::Placed(wrong.at(|| frame.place(command.line))))?;
                value = Some(nothing_if_nil(result));
            }
            Ok(value.unwrap_or(Value::Absent))
        })
    }

    fn command(&mut self, dot: &Value, command: &Command, last: Option<Value>) -> Evaluated {
        match &command.what {
            Operand::Function(name) => self.call(dot, name, &command.arguments, last),
            Operand::Field(path) => self.chain(dot, dot.clone(), path, &command.arguments, last),
            Operand::Variable(name, path) if !path.is_empty() => {
                let value = self.variable(name)?;
                self.chain(dot, value, path, &command.arguments, last)
            }
            Operand::Chain(inner, path) => {
                let value = self.operand(dot, inner)?;
                self.chain(dot, value, path, &command.arguments, last)
            }
            Operand::Nil => Err("nil is not a command".into()),
            _ if last.is_some() || !command.arguments.is_empty() => Err("can't give an argument to what is no function".into()),
            other => self.operand(dot, other),
        }
    }

    /// A word by itself: an argument, or all of a command.
    fn operand(&mut self, dot: &Value, operand: &Operand) -> Evaluated {
        Ok(match operand {
            Operand::Dot => dot.clone(),
            Operand::Nil => Value::Nil,
            Operand::Bool(value) => Value::Bool(*value),
            Operand::Int(value) => Value::Int(*value),
            Operand::Float(value) => Value::Float(*value),
            Operand::Text(text) => Value::Text(text.clone()),
            Operand::Field(path) => self.chain(dot, dot.clone(), path, &[], None)?,
            Operand::Variable(name, path) => {
                let value = self.variable(name)?;
                self.chain(dot, value, path, &[], None)?
            }
            Operand::Function(name) => self.call(dot, name, &[], None)?,
            Operand::Pipe(pipe) => self.pipe(dot, pipe)?,
            Operand::Chain(inner, path) => {
                let value = self.operand(dot, inner)?;
                self.chain(dot, value, path, &[], None)?
            }
        })
    }

    fn variable(&self, name: &str) -> Evaluated {
        let found = self.variables.iter().rev().find(|(known, _)| **known == *name);
        found.map(|(_, value)| value.clone()).ok_or_else(|| format!("undefined variable ${name}").into())
    }

    /// `.a.b.c`: only the last may be a method with arguments.
    fn chain(&mut self, dot: &Value, of: Value, path: &[String], arguments: &[Operand], last: Option<Value>) -> Evaluated {
        let Some((end, before)) = path.split_last() else { return Ok(of) };
        let of = before.iter().try_fold(of, |of, name| field(&of, name, &[]))?;
        let mut values = arguments.iter().map(|argument| self.operand(dot, argument)).collect::<Result<Vec<_>, _>>()?;
        values.extend(last);
        field(&of, end, &values)
    }

    fn call(&mut self, dot: &Value, name: &str, arguments: &[Operand], last: Option<Value>) -> Evaluated {
        if matches!(name, "and" | "or") {
            return self.either(dot, name, arguments, last);
        }
        let mut values = arguments.iter().map(|argument| self.operand(dot, argument)).collect::<Result<Vec<_>, _>>()?;
        values.extend(last);
        match name {
            "include" => self.deeper(|frame| frame.engine.include(&values)),
            "tpl" => self.deeper(|frame| frame.engine.tpl(&values, &frame.file)),
            _ => functions::call(name, &values),
        }
    }

    /// `and` and `or` stop at the first argument that decides.
    fn either(&mut self, dot: &Value, name: &str, arguments: &[Operand], last: Option<Value>) -> Evaluated {
        let mut value = None;
        for argument in arguments {
            let decided = self.operand(dot, argument)?;
            if decided.truth() == (name == "or") {
                return Ok(decided);
            }
            value = Some(decided);
        }
        last.or(value).ok_or_else(|| format!("wrong number of args for {name}: want at least 1 got 0").into())
    }
}

/// A field of a value, or a method with arguments.
fn field(of: &Value, name: &str, arguments: &[Value]) -> Evaluated {
    match of {
        Value::Absent => Ok(Value::Absent),
        Value::Nil => Err(format!("nil pointer evaluating interface {{}}.{name}: what stands before .{name} has no value").into()),
        Value::Dict(dict) if arguments.is_empty() => Ok(dict.lookup(name).unwrap_or(Value::Nil)),
        Value::Dict(_) => Err(format!("{name} is not a method but has arguments").into()),
        Value::Object(object) => match (&object.methods, name, arguments) {
            (Methods::ApiVersions(versions), "Has", [Value::Text(version)]) => {
                Ok(Value::Bool(versions.iter().any(|known| **known == **version)))
            }
            (Methods::Files(files), "Get", [Value::Text(file)]) => Ok(Value::text(files.get(&**file).map_or("", String::as_str))),
            (_, name, []) if object.fields.contains_key(name) => Ok(object.fields.get(name).cloned().unwrap_or(Value::Nil)),
            _ => Err(format!("can't evaluate field {name} in type {}", object.name).into()),
        },
        other => Err(format!("can't evaluate field {name} in type {}", other.type_name()).into()),
    }
}
