//! Laws on Rust source: read with `syn`, so that neither comments nor layout can hide or fake anything.

use super::{
    File, Finding,
    allowances::{Allowance, Pass, excess, passes, unused, unused_passes},
};
use proc_macro2::{Span, TokenStream, TokenTree};
use std::{collections::BTreeMap, ops::RangeInclusive};
use syn::{
    Attribute, Block, Ident, ImplItemFn, Item, ItemFn, ItemMod, Macro, Signature, TraitItemFn, UseTree,
    visit::{self, Visit},
};

/// Longer functions want an argument: a row of the allowances. We aim at 40.
pub const FUNCTION_LINES: usize = 70;

/// Says nothing about what is inside: name the concept, or put it where it is used.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc"];

/// What stands for unfinished work.
const UNFINISHED: &[&str] = &["todo", "unimplemented"];

const PROXY: &str = "crates/homarus-proxy/src/";

/// Paths that only one place of the proxy may name.
const SEAMS: &[(&[&str], &str, &str)] = &[
    (&["hyper"], "http/", "the HTTP engine is one module"),
    (&["hyper_util"], "http/", "the HTTP engine is one module"),
    (&["h2"], "http/", "the HTTP engine is one module"),
    (&["tokio", "net"], "net.rs", "sockets are the seam of a simulated network"),
    (&["tokio", "time"], "net.rs", "clocks are the seam of a simulated network"),
    (&["std", "time", "Instant"], "net.rs", "clocks are the seam of a simulated network"),
    (&["Instant", "now"], "net.rs", "clocks are the seam of a simulated network"),
    (&["SystemTime", "now"], "net.rs", "clocks are the seam of a simulated network"),
];

/// Every law on Rust source.
pub fn check(files: &[File], long: &[Allowance<'_>], passed: &[Pass<'_>]) -> Vec<Finding> {
    let mut findings = vec![];
    let (mut lengths, mut seams) = (vec![], vec![]);
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        match syn::parse_file(&file.text) {
            Ok(ast) => {
                let mut reader = Reader { path: &file.path, findings: vec![], lengths: vec![] };
                reader.file_name();
                reader.visit_file(&ast);
                findings.append(&mut reader.findings);
                lengths.append(&mut reader.lengths);
            }
            Err(error) => findings.push(Finding::new(at(&file.path, error.span()), format!("is no Rust: {error}"))),
        }
        seams.extend(crossings(file));
    }
    findings.extend(too_long(lengths, long));
    findings.extend(unsafe_places(files));
    findings.extend(crossed(seams, passed));
    findings
}

/// A crate allows `unsafe` in one place at most.
fn unsafe_places(files: &[File]) -> Vec<Finding> {
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let allows = file.text.lines().filter(|line| line.trim_start().starts_with('#') && line.contains("(unsafe_code"));
        let owner = file.path.split_once("/src/").map_or(file.path.as_str(), |(owner, _)| owner);
        places.entry(owner).or_default().extend(allows.map(|_| file.path.as_str()));
    }
    let many = places.into_iter().filter(|(_, places)| places.len() > 1);
    many.map(|(owner, places)| Finding::new(owner, format!("allows unsafe code in {}; one place at most", places.join(", "))))
        .collect()
}

fn too_long(lengths: Vec<Length>, allowed: &[Allowance<'_>]) -> Vec<Finding> {
    let stale = unused(allowed, |row| lengths.iter().any(|length| length.place() == row.place && length.lines > FUNCTION_LINES));
    let over = lengths.iter().filter(|length| length.lines > excess(allowed, &length.place(), FUNCTION_LINES));
    let findings = over.map(|length| {
        Finding::new(
            format!("{}:{}", length.path, length.line),
            format!("fn {} has {} lines (at most {FUNCTION_LINES})", length.name, length.lines),
        )
    });
    findings.chain(stale).collect()
}

fn crossed(seams: Vec<Crossing>, allowed: &[Pass<'_>]) -> Vec<Finding> {
    let stale = unused_passes(allowed, |pass| seams.iter().any(|crossing| pass.lets(&crossing.path, &crossing.what)));
    let refused = seams.iter().filter(|crossing| !passes(allowed, &crossing.path, &crossing.what));
    let findings = refused.map(|crossing| {
        Finding::new(
            format!("{}:{}", crossing.path, crossing.line),
            format!("names {}, which only {PROXY}{} may: {}", crossing.what, crossing.home, crossing.why),
        )
    });
    findings.chain(stale).collect()
}

struct Length {
    path: String,
    line: usize,
    name: String,
    lines: usize,
}

impl Length {
    fn place(&self) -> String {
        format!("{} {}", self.path, self.name)
    }
}

struct Reader<'a> {
    path: &'a str,
    findings: Vec<Finding>,
    lengths: Vec<Length>,
}

impl Reader<'_> {
    fn file_name(&mut self) {
        let empty = |part: &&str| EMPTY_NAMES.contains(&part.trim_end_matches(".rs"));
        if let Some(part) = self.path.split('/').find(empty) {
            self.findings.push(Finding::new(self.path, format!("{part} says nothing about what is inside: name the concept")));
        }
    }

    fn function(&mut self, signature: &Signature, block: &Block) {
        let (from, to) = (signature.fn_token.span.start().line, block.brace_token.span.close().end().line);
        let name = signature.ident.to_string();
        self.lengths.push(Length { path: self.path.to_owned(), line: from, name, lines: to + 1 - from });
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if item.content.is_some() && EMPTY_NAMES.iter().any(|name| item.ident == name) {
            self.findings.push(Finding::new(
                at(self.path, item.ident.span()),
                format!("mod {} says nothing about what is inside", item.ident),
            ));
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if attribute.path().is_ident("ignore") {
            self.findings
                .push(Finding::new(at(self.path, attribute.pound_token.span), "a test that never runs: mend it or drop it"));
        }
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        if let Some(name) = UNFINISHED.iter().find(|name| call.path.is_ident(name)) {
            self.findings.push(Finding::new(at(self.path, call.bang_token.span), format!("{name}! is unfinished work: finish it")));
        }
        visit::visit_macro(self, call);
    }
}

struct Crossing {
    path: String,
    line: usize,
    what: String,
    home: &'static str,
    why: &'static str,
}

/// Where a file of the proxy, tests aside, names what belongs to another. A module of ours that is called like a library,
/// and imported, is not that library.
fn crossings(file: &File) -> Vec<Crossing> {
    let is_test = |path: &&str| path.ends_with("tests.rs") || path.contains("/tests/");
    let Some(inside) = file.path.strip_prefix(PROXY).filter(|path| !is_test(path)) else { return vec![] };
    let (Ok(tokens), Ok(ast)) = (file.text.parse::<TokenStream>(), syn::parse_file(&file.text)) else { return vec![] };
    let tests: Vec<RangeInclusive<usize>> = ast.items.iter().filter_map(test_module).collect();
    let mut named = vec![];
    paths(tokens, &mut named);
    named.retain(|(_, span)| !tests.iter().any(|lines| lines.contains(&span.start().line)));
    let mut crossings: Vec<Crossing> = vec![];
    let leaf = |path: &[String]| path.iter().rfind(|part| *part != "self").cloned();
    let ours = |name: &str| named.iter().any(|(path, _)| path[0] == "crate" && leaf(path).as_deref() == Some(name));
    for (seam, home, why) in SEAMS.iter().filter(|(seam, home, _)| !inside.starts_with(home) && !ours(seam[0])) {
        for (path, span) in named.iter().filter(|(path, _)| names(path, seam)) {
            let (line, what) = (span.start().line, path.join("::"));
            if !crossings.iter().any(|crossing| crossing.line == line && crossing.what == what) {
                crossings.push(Crossing { path: file.path.clone(), line, what, home, why });
            }
        }
    }
    crossings
}

/// The lines of a module that is only there in tests.
fn test_module(item: &Item) -> Option<RangeInclusive<usize>> {
    let Item::Mod(module) = item else { return None };
    let (brace, _) = module.content.as_ref()?;
    let test = |attribute: &Attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<Ident>().is_ok_and(|word| word == "test")
    };
    let lines = module.mod_token.span.start().line..=brace.span.close().end().line;
    module.attrs.iter().any(test).then_some(lines)
}

/// Whether a path begins with a seam, or ends with one that is a call of a clock.
fn names(path: &[String], seam: &[&str]) -> bool {
    let same = |part: &[String]| part.iter().zip(seam).all(|(a, b)| a == b);
    match seam.last() {
        Some(&"now") => path.len() >= seam.len() && same(&path[path.len() - seam.len()..]),
        _ => path.len() >= seam.len() && same(&path[..seam.len()]),
    }
}

/// Every `a::b::c` of a token stream, macros included; of a `use`, each leaf of its tree.
fn paths(tokens: TokenStream, found: &mut Vec<(Vec<String>, Span)>) {
    let mut path: Vec<String> = vec![];
    let mut start = Span::call_site();
    let mut colons = 0;
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(name) if name == "use" && colons == 0 => {
                let tree: TokenStream =
                    tokens.by_ref().take_while(|t| !matches!(t, TokenTree::Punct(p) if p.as_char() == ';')).collect();
                if let Ok(tree) = syn::parse2::<UseTree>(tree) {
                    leaves(&tree, &mut vec![], found);
                }
            }
            TokenTree::Ident(name) => {
                if colons != 2 {
                    flush(&mut path, start, found);
                    start = name.span();
                }
                path.push(name.to_string());
                colons = 0;
            }
            TokenTree::Punct(p) if p.as_char() == ':' => colons += 1,
            other => {
                flush(&mut path, start, found);
                colons = 0;
                if let TokenTree::Group(group) = other {
                    paths(group.stream(), found);
                }
            }
        }
    }
    flush(&mut path, start, found);
}

fn flush(path: &mut Vec<String>, start: Span, found: &mut Vec<(Vec<String>, Span)>) {
    if path.len() > 1 {
        found.push((std::mem::take(path), start));
    }
    path.clear();
}

fn leaves(tree: &UseTree, before: &mut Vec<String>, found: &mut Vec<(Vec<String>, Span)>) {
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            leaves(&path.tree, before, found);
            before.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|item| leaves(item, before, found)),
        UseTree::Name(name) => found.push(([before.as_slice(), &[name.ident.to_string()]].concat(), name.ident.span())),
        UseTree::Rename(name) => found.push(([before.as_slice(), &[name.ident.to_string()]].concat(), name.ident.span())),
        UseTree::Glob(glob) => found.push((before.clone(), glob.star_token.span)),
    }
}

fn at(path: &str, span: Span) -> String {
    format!("{path}:{}", span.start().line)
}
