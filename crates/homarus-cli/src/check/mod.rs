//! `check`: whether cluster, control plane and proxies are as they should be.
//!
//! A check is a description, a class and a question (`plan` has them all, in order); the answers are in a module for
//! each thing that is looked at; [`report`] writes them down. Checks that have no meaning on this cluster are left out of
//! what is written, and count as passed.

mod bypass;
mod cni;
mod control_plane;
mod data_plane;
mod explain;
mod extensions;
mod facts;
mod high_availability;
mod identity;
mod kubernetes;
mod plan;
pub mod report;
mod setup;
mod versions;
mod webhooks;

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::cluster::Cluster;
use crate::command_line::{Check as Args, Globals};
use crate::failure::{Exit, Failure, Outcome};
use crate::terminal;

use facts::{Facts, Pass, Problem};
use plan::{Check, Mode};
use report::{Category, Finding, Report, Verdict};

/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait between attempts.
const RETRY_PERIOD: Duration = Duration::from_millis(500);

/// How findings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Table,
    /// What passed is told as well.
    Wide,
    /// Only what did not pass.
    Short,
    Json,
}

/// Checks, and prints what is found as it is found.
pub async fn run(globals: &Globals, args: &Args) -> Outcome {
    if let Some(anchor) = &args.explain {
        terminal::print(explain::section(anchor)?)?;
        return Ok(Exit::Ok);
    }
    let (mode, format) = read(args)?;
    let cluster = Cluster::connect(globals).await;
    let facts = Facts::new(cluster, globals, args);
    let mut printer = Printer { format, colour: terminal::colour() };
    let mut report = all(&plan::categories(mode), &facts, args.wait, &mut printer).await?;
    if !matches!(mode, Mode::Pre { .. } | Mode::Crds) {
        for category in extensions::all(&facts, globals, args).await {
            printer.category(&category)?;
            report.success &= category.checks.iter().all(|finding| finding.result != Verdict::Error);
            report.categories.push(category);
        }
    }
    printer.end(&report)?;
    Ok(if report.success { Exit::Ok } else { Exit::Unwell })
}

fn read(args: &Args) -> Result<(Mode, Format), Failure> {
    let refuse = |what: &str| Err(Failure::usage(format!("Validation error when executing check command: {what}")));
    if args.pre && args.proxy {
        return refuse("--pre and --proxy flags are mutually exclusive");
    }
    if args.pre && args.crds {
        return refuse("--pre and --crds flags are mutually exclusive");
    }
    if args.linkerd_cni_enabled && !args.pre {
        return refuse("--linkerd-cni-enabled can only be used with --pre");
    }
    let format = match args.output.as_str() {
        "table" | "basic" => Format::Table,
        "wide" => Format::Wide,
        "short" => Format::Short,
        "json" => Format::Json,
        other => return refuse(&format!("Invalid output type '{other}'. Supported output types are: json, table, short")),
    };
    let mode = match (args.pre, args.crds, args.proxy) {
        (true, ..) => Mode::Pre { cni: args.linkerd_cni_enabled },
        (_, true, _) => Mode::Crds,
        (.., true) => Mode::Proxy,
        _ => Mode::ControlPlane,
    };
    Ok((mode, format))
}

/// Runs checks in order; a fatal one that fails is the last.
async fn all(categories: &[plan::Category], facts: &Facts, wait: Duration, printer: &mut Printer) -> Result<Report, Failure> {
    let deadline = Instant::now() + wait;
    let mut report = Report { success: true, categories: Vec::new() };
    for category in categories {
        let mut found = Category { category_name: category.name.to_owned(), checks: Vec::new() };
        let mut fatal = false;
        for check in &category.checks {
            let Some(finding) = one(check, facts, deadline).await else { continue };
            printer.finding(&found, &finding)?;
            report.success &= finding.result != Verdict::Error;
            fatal = finding.result == Verdict::Error && check.class.fatal;
            found.checks.push(finding);
            if fatal {
                break;
            }
        }
        if !found.checks.is_empty() {
            printer.gap(&found)?;
            report.categories.push(found);
        }
        if fatal {
            break;
        }
    }
    Ok(report)
}

/// Asks until the answer is good, or the time is over. None if the question has no meaning here.
async fn one(check: &Check, facts: &Facts, deadline: Instant) -> Option<Finding> {
    let spinner = terminal::spinner("waiting for check to complete");
    let mut seen = None;
    let problem = loop {
        let answer = timeout(ATTEMPT_TIMEOUT, (check.ask)(facts)).await;
        let problem = match answer {
            Ok(Ok(Pass::Yes)) => break None,
            Ok(Ok(Pass::As(detail))) => {
                seen = Some(detail);
                break None;
            }
            Ok(Ok(Pass::Skip)) => {
                spinner.finish_and_clear();
                return None;
            }
            Ok(Err(problem)) => problem,
            Err(_) => Problem(format!("no answer within {} seconds", ATTEMPT_TIMEOUT.as_secs())),
        };
        if !check.class.retried || Instant::now() + RETRY_PERIOD > deadline {
            break Some(problem);
        }
        spinner.set_message(problem.0.lines().next().unwrap_or_default().to_owned());
        sleep(RETRY_PERIOD).await;
    };
    spinner.finish_and_clear();
    Some(match (problem, seen) {
        (None, None) => Finding::passed(check.description),
        (None, Some(seen)) => Finding::passed_as(check.description, &seen),
        (Some(Problem(error)), _) => Finding::failed(check.description, check.anchor, &error, check.class.warning),
    })
}

/// Writes findings as they come.
struct Printer {
    format: Format,
    colour: bool,
}

impl Printer {
    fn shows(&self, finding: &Finding) -> bool {
        match self.format {
            Format::Table | Format::Wide => true,
            Format::Short => finding.result != Verdict::Success,
            Format::Json => false,
        }
    }

    /// One more of a category of which `before` is written.
    fn finding(&self, before: &Category, finding: &Finding) -> Result<(), Failure> {
        if !self.shows(finding) {
            return Ok(());
        }
        let first = !before.checks.iter().any(|finding| self.shows(finding));
        let header = if first { report::header(&before.category_name) } else { String::new() };
        terminal::print(&format!("{header}{}", finding.lines(self.colour, self.format == Format::Wide)))
    }

    fn gap(&self, category: &Category) -> Result<(), Failure> {
        if category.checks.iter().any(|finding| self.shows(finding)) { terminal::print("\n") } else { Ok(()) }
    }

    fn category(&self, category: &Category) -> Result<(), Failure> {
        let mut before = Category { category_name: category.category_name.clone(), checks: Vec::new() };
        for finding in &category.checks {
            self.finding(&before, finding)?;
            before.checks.push(finding.clone());
        }
        self.gap(&before)
    }

    fn end(&self, report: &Report) -> Result<(), Failure> {
        match self.format {
            Format::Json => terminal::print(&report.json()),
            Format::Table | Format::Wide | Format::Short => terminal::print(&report::footer(report.success, self.colour)),
        }
    }
}
