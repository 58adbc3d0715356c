//! The environment as raw strings, and the parsers of single values (proxy-wire §2).

use homarus_model::{Identity, duration};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

/// What every variable's name begins with.
pub const PREFIX: &str = "LINKERD2_PROXY_";

/// A variable that can't be used: the fault of whoever wrote the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The variable's whole name.
    pub name: String,
    /// Its value; none if it is missing or not text.
    pub value: Option<String>,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value:?} is not valid: {}", self.name, self.reason),
            None => write!(f, "{} {}", self.name, self.reason),
        }
    }
}

/// The variables, and what was found wrong with those that were read.
#[derive(Debug, Default)]
pub struct Vars {
    raw: BTreeMap<String, OsString>,
    read: BTreeSet<String>,
    errors: Vec<Invalid>,
    warnings: Vec<Invalid>,
}

impl FromIterator<(OsString, OsString)> for Vars {
    /// Keeps the variables with our prefix; the prefix is taken off.
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(vars: I) -> Self {
        let ours = |(name, value): (OsString, OsString)| Some((name.to_str()?.strip_prefix(PREFIX)?.to_owned(), value));
        Self { raw: vars.into_iter().filter_map(ours).collect(), ..Self::default() }
    }
}

impl Vars {
    /// The value, parsed; none if it isn't set. A value that can't be parsed is recorded, and counts as not set.
    pub fn opt<T, E: fmt::Display>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let value = self.text(name)?;
        match parse(&value) {
            Ok(parsed) => Some(parsed),
            Err(reason) => {
                self.invalid(name, reason);
                None
            }
        }
    }

    /// The value, parsed, or a default.
    pub fn or<T, E: fmt::Display>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, E>, default: T) -> T {
        self.opt(name, parse).unwrap_or(default)
    }

    /// The value, parsed; that it isn't set is recorded as an error with this remedy.
    pub fn required<T, E: fmt::Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
        remedy: &str,
    ) -> Option<T> {
        if !self.is_set(name) {
            self.missing(name, remedy);
        }
        self.opt(name, parse)
    }

    /// As [`Self::opt`], but a bad value is only warned about.
    pub fn lenient<T, E: fmt::Display>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let errors = self.errors.len();
        let value = self.opt(name, parse);
        self.warnings.extend(self.errors.drain(errors..));
        value
    }

    /// Whether the variable is there at all.
    pub fn is_set(&self, name: &str) -> bool {
        self.raw.contains_key(name)
    }

    /// The value as it is, if it is set and not only white space.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.read.insert(name.to_owned());
        let value = self.raw.get(name)?;
        match value.to_str() {
            Some(text) => Some(text.to_owned()),
            None => {
                self.errors.push(Invalid { name: format!("{PREFIX}{name}"), value: None, reason: "is not UTF-8 text".into() });
                None
            }
        }
    }

    /// Records that a value means nothing.
    pub fn invalid(&mut self, name: &str, reason: impl fmt::Display) {
        let value = self.raw.get(name).map(|v| v.to_string_lossy().into_owned());
        self.errors.push(Invalid { name: format!("{PREFIX}{name}"), value, reason: reason.to_string() });
    }

    /// Records that a variable has to be set.
    pub fn missing(&mut self, name: &str, remedy: &str) {
        let reason = format!("is not set: {remedy}");
        self.errors.push(Invalid { name: format!("{PREFIX}{name}"), value: None, reason });
    }

    /// Records something that an operator should know.
    pub fn warn(&mut self, name: &str, reason: impl Into<String>) {
        self.warnings.push(Invalid { name: format!("{PREFIX}{name}"), value: None, reason: reason.into() });
    }

    /// Everything that was wrong, everything to warn about, and the names of variables that nobody asked for.
    pub fn finish(self) -> (Vec<Invalid>, Vec<Invalid>, Vec<String>) {
        let unused = self.raw.keys().filter(|name| !self.read.contains(*name)).map(|name| format!("{PREFIX}{name}"));
        let unused = unused.collect();
        (self.errors, self.warnings, unused)
    }
}

/// Anything that parses itself.
pub fn parsed<T: FromStr>(text: &str) -> Result<T, T::Err> {
    text.parse()
}

/// A text, as is.
pub fn text(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(text.to_owned())
}

/// `true` or `false`, nothing else.
pub fn boolean(text: &str) -> Result<bool, &'static str> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("expected true or false"),
    }
}

/// A duration.
pub fn time(text: &str) -> Result<Duration, duration::InvalidDuration> {
    duration::parse(text)
}

/// A duration, or nothing for none.
pub fn time_or_none(text: &str) -> Result<Option<Duration>, duration::InvalidDuration> {
    if text.trim().is_empty() { Ok(None) } else { duration::parse(text).map(Some) }
}

/// One or two addresses to listen on.
pub fn listen_addrs(text: &str) -> Result<Vec<SocketAddr>, String> {
    let addrs: Result<Vec<SocketAddr>, _> = text.split(',').map(str::trim).filter(|a| !a.is_empty()).map(str::parse).collect();
    match addrs {
        Ok(addrs) if (1..=2).contains(&addrs.len()) => Ok(addrs),
        Ok(addrs) => Err(format!("{} addresses where one or two are allowed", addrs.len())),
        Err(error) => Err(format!("{error}; expected a comma list of IP:PORT")),
    }
}

/// A comma list of addresses, without spaces.
pub fn ips(text: &str) -> Result<BTreeSet<IpAddr>, std::net::AddrParseError> {
    text.split(',').filter(|ip| !ip.is_empty()).map(str::parse).collect()
}

/// A comma list of DNS suffixes, lower-cased and without the final dot; `.` (everything) becomes the empty text.
pub fn suffixes(text: &str) -> Result<Vec<String>, String> {
    let items = text.split(',').map(str::trim).filter(|s| !s.is_empty());
    let suffix = |item: &str| match item {
        "." => Ok(String::new()),
        name => name.parse::<homarus_model::DnsName>().map(|n| n.as_str().to_owned()).map_err(|e| format!("{name:?}: {e}")),
    };
    items.map(suffix).collect()
}

/// An identity that isn't a URI.
pub fn dns_identity(text: &str) -> Result<Identity, String> {
    text.parse().map(Identity::Dns).map_err(|e: homarus_model::name::InvalidName| e.to_string())
}

/// A jitter ratio.
pub fn jitter(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..=100.0).contains(&ratio) => Ok(ratio),
        _ => Err("expected a number from 0 to 100".into()),
    }
}
