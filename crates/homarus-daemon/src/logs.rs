//! Log lines on standard output.
//!
//! Two formats, both as operators of a Linkerd mesh know them:
//! - plain: `[     0.000092s]  INFO ThreadId(01) span{field=1}: target: message field=value`, the time being
//!   the uptime of the process;
//! - JSON: one object a line with `timestamp` (RFC 3339), `level`, `fields`, `target`, `spans`, `threadId`.
//!
//! Filters are `tracing` directives (`target[span{field}]=level`, comma-separated, default level `warn`). In
//! running systems they name Linkerd's crates (`warn,linkerd=info`), so a directive about one of those
//! applies to ours as well. Our programs have no spans and log no headers, so a directive about a span or a
//! field (`[{headers}]=off`) is checked and has no effect. `off` turns the log off altogether: no subscriber,
//! and no filter to change.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// The longest filter that is taken over the wire.
pub const MAX_FILTER_BYTES: usize = 8 * 1024;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Plain,
    /// For machines, one object a line.
    Json,
}

/// A format that doesn't exist.
#[derive(Debug, thiserror::Error)]
#[error("unknown log format {0:?}; use \"plain\" or \"json\"")]
pub struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s.to_ascii_lowercase().as_str() {
            "plain" | "" => Ok(Self::Plain),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat(s.to_owned())),
        }
    }
}

/// Why logging could not begin or its filter not be changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter can't be read.
    #[error("invalid log filter {filter:?}: {reason}; write target=level, as in warn,homarus=debug")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The filter is longer than [`MAX_FILTER_BYTES`].
    #[error("log filter of {0} bytes is longer than {MAX_FILTER_BYTES}")]
    TooLong(usize),
    /// Something else in this process already logs.
    #[error("logging was already initialized")]
    AlreadyInitialized,
    /// The subscriber is gone.
    #[error("the log was shut down")]
    Gone,
}

/// Changes the filter of a running log.
#[derive(Clone)]
pub struct Filter {
    text: Arc<Mutex<String>>,
    reload: reload::Handle<Targets, Registry>,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.current()).finish()
    }
}

impl Filter {
    /// The filter in force, in the words in which it was given.
    pub fn current(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another filter in force at once. A bad one is refused and changes nothing.
    pub fn set(&self, text: &str) -> Result<(), LogError> {
        if text.len() > MAX_FILTER_BYTES {
            return Err(LogError::TooLong(text.len()));
        }
        let filter = parse_strict(text)?;
        self.reload.reload(filter).map_err(|_| LogError::Gone)?;
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = text.to_owned();
        Ok(())
    }
}

/// Begins to log on standard output; `None` when the filter is `off`.
///
/// Directives that can't be read are dropped with a word on standard error, as a mesh must start even if
/// someone mistyped its verbosity. Controllers pass simple levels (`info`, `warning`): these work too.
pub fn init(filter: &str, format: Format) -> Result<Option<Filter>, LogError> {
    let filter = filter.trim();
    if filter.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let (layer, handle) = reload::Layer::new(parse_lossy(filter));
    let lines = match format {
        Format::Plain => {
            tracing_subscriber::fmt::layer().with_timer(Uptime::start()).with_thread_ids(true).with_ansi(false).boxed()
        }
        Format::Json => tracing_subscriber::fmt::layer().json().with_current_span(false).with_thread_ids(true).boxed(),
    };
    tracing_subscriber::registry().with(layer).with(lines).try_init().map_err(|_| LogError::AlreadyInitialized)?;
    Ok(Some(Filter { text: Arc::new(Mutex::new(filter.to_owned())), reload: handle }))
}

/// Seconds since the log began: what happened after what, at a glance.
struct Uptime(Instant);

impl Uptime {
    fn start() -> Self {
        Self(Instant::now())
    }
}

impl FormatTime for Uptime {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let up = self.0.elapsed();
        write!(w, "[{:>6}.{:06}s]", up.as_secs(), up.subsec_micros())
    }
}

/// All directives that can be read; the others are named on standard error.
fn parse_lossy(text: &str) -> Targets {
    let mut filter = Targets::new().with_default(LevelFilter::WARN);
    for directive in in_our_words(text) {
        match read(&directive) {
            Ok(read) => filter.extend(read),
            // The log itself isn't there yet.
            Err(reason) => eprintln!("ignoring log directive {directive:?}: {reason}"),
        }
    }
    filter
}

fn parse_strict(text: &str) -> Result<Targets, LogError> {
    let mut filter = Targets::new().with_default(LevelFilter::WARN);
    for directive in in_our_words(text) {
        filter.extend(read(&directive).map_err(|reason| LogError::Filter { filter: text.to_owned(), reason })?);
    }
    Ok(filter)
}

/// One directive; nothing if it is about spans or fields.
fn read(directive: &str) -> Result<Option<(String, LevelFilter)>, String> {
    let (target, level) = match directive.rsplit_once('=').filter(|(_, level)| !level.contains(']')) {
        Some((target, level)) => {
            let level = level.trim();
            let parsed = level.parse().ok().filter(|_| !level.is_empty());
            (target, parsed.ok_or_else(|| format!("{directive}: {level:?} is no level (off, error, warn, info, debug, trace)"))?)
        }
        None => match directive.parse() {
            Ok(level) => return Ok(Some((String::new(), level))),
            Err(_) => (directive, LevelFilter::TRACE),
        },
    };
    let target = target.trim();
    match target.find(['[', '{', ']', '}', '=']) {
        None => Ok(Some((target.to_owned(), level))),
        Some(at) if target[at..].starts_with('[') && target.ends_with(']') => Ok(None),
        Some(_) => Err(format!("{directive}: {target:?} is no target")),
    }
}

/// Targets that mean "the mesh" in filters written for Linkerd.
const FOREIGN_TARGETS: [&str; 5] =
    ["linkerd", "linkerd2_proxy", "linkerd_app", "linkerd_policy_controller", "linkerd2_policy_controller"];

/// Repeats each directive about Linkerd for our crates, and knows the level names of Go programs.
fn in_our_words(text: &str) -> Vec<String> {
    let mut ours = Vec::new();
    for directive in split_directives(text) {
        let directive = directive.trim();
        match directive.to_ascii_lowercase().as_str() {
            "" => continue,
            "warning" => ours.push("warn".to_owned()),
            "panic" | "fatal" => ours.push("error".to_owned()),
            _ => ours.push(directive.to_owned()),
        }
        let end = directive.find(['=', '[']).unwrap_or(directive.len());
        let (target, rest) = directive.split_at(end);
        if FOREIGN_TARGETS.contains(&target.trim()) {
            ours.push(format!("homarus{rest}"));
        }
    }
    ours
}

/// Splits at commas outside of brackets: `a[b{c,d}]=info,e=warn` has two directives.
fn split_directives(text: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0usize, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn filters_for_linkerd_apply_to_us() {
        let check = |given: &str, ours: &str| assert_eq!(in_our_words(given).join(","), ours, "{given}");
        check(
            "warn,linkerd=info,hickory=error,[{headers}]=off,[{request}]=off",
            "warn,linkerd=info,homarus=info,hickory=error,[{headers}]=off,[{request}]=off",
        );
        check("linkerd[a{b,c}]=trace", "linkerd[a{b,c}]=trace,homarus[a{b,c}]=trace");
        check("linkerd", "linkerd,homarus");
        check("info", "info");
        check("warning", "warn");
        check("panic", "error");
        check("linkerd_proxy_http=debug", "linkerd_proxy_http=debug");
        check("", "");
    }

    #[test]
    fn a_bad_filter_is_refused_but_never_stops_a_start() {
        assert!(parse_strict("homarus=debug,info").is_ok());
        let error = parse_strict("homarus=loud").unwrap_err().to_string();
        assert!(error.contains("homarus=loud"), "{error}");
        let filter = parse_lossy("homarus=loud,other=info");
        assert!(filter.would_enable("other", &tracing::Level::INFO) && !filter.would_enable("homarus", &tracing::Level::INFO));
        for bad in ["homarus=", "a]=info", "a{b}=info", "a=b=info", "a[b=info"] {
            assert!(parse_strict(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_longest_target_decides() {
        let filter = parse_strict("warn,linkerd=info,homarus::dns=debug,other,[{headers}]=off,linkerd[a{b=1,c}]=trace").unwrap();
        let check = |target, level, wanted| assert_eq!(filter.would_enable(target, &level), wanted, "{target} {level}");
        check("homarus_proxy::run", tracing::Level::INFO, true);
        check("homarus_proxy::run", tracing::Level::DEBUG, false);
        check("homarus::dns", tracing::Level::DEBUG, true);
        check("other", tracing::Level::TRACE, true);
        check("h2", tracing::Level::WARN, true);
        check("h2", tracing::Level::INFO, false);
    }

    #[test]
    fn formats_by_name() {
        assert_eq!("JSON".parse::<Format>().unwrap(), Format::Json);
        assert_eq!("plain".parse::<Format>().unwrap(), Format::Plain);
        assert!("xml".parse::<Format>().is_err());
    }

    #[test]
    fn a_filter_changes_while_running() {
        let filter = init("error", Format::Plain).unwrap().unwrap();
        assert!(!tracing::enabled!(tracing::Level::INFO));
        filter.set("info").unwrap();
        assert!(tracing::enabled!(tracing::Level::INFO));
        assert!(filter.set("a=b=c=nonsense").is_err());
        assert_eq!(filter.current(), "info");
        assert!(matches!(filter.set(&"a".repeat(MAX_FILTER_BYTES + 1)), Err(LogError::TooLong(_))));
        assert!(matches!(init("info", Format::Json), Err(LogError::AlreadyInitialized)));
        assert!(init("off", Format::Plain).unwrap().is_none());
    }
}
