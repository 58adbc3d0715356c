//! What is asked, and which labels of which proxies answer it.
//!
//! Servers are measured at their own proxies (inbound); with `--to` or `--from`, and for Services, at the proxies of their
//! clients (outbound), whose labels `dst_*` name the server.

use std::time::Duration;

use crate::command_line::Stat;
use crate::failure::Failure;
use crate::metrics::Labels;
use crate::resources::{Kind, Target};
use crate::workloads::Member;

/// The shortest time that rates mean something in.
const MIN_WINDOW: Duration = Duration::from_secs(1);

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Table,
    Wide,
    Json,
}

/// Where traffic is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// At the servers.
    Servers,
    /// At the rows, but only what goes to this.
    To { target: Target, namespace: String },
    /// At this, told apart by where it goes.
    From { target: Target, namespace: String },
}

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) targets: Vec<Target>,
    /// None means all.
    pub(super) namespace: Option<String>,
    pub(super) selector: Option<String>,
    pub(super) side: Side,
    pub(super) unmeshed: bool,
    pub(super) all_namespaces: bool,
    pub(super) window: Duration,
}

impl Query {
    /// Reads the flags.
    pub(super) fn read(args: &Stat, default_namespace: &str) -> Result<(Self, Format), Failure> {
        let format = match args.output.as_str() {
            "table" | "" => Format::Table,
            "wide" => Format::Wide,
            "json" => Format::Json,
            other => return Err(Failure::usage(format!("invalid output type '{other}'; use table, json or wide"))),
        };
        let selection = &args.selection;
        let targets = Target::read_all(&selection.resources)?;
        let refuse = |what: &str| Err(Failure::usage(what));
        if args.to.is_some() && args.from.is_some() {
            return refuse("--to and --from flags are mutually exclusive");
        }
        if args.to_namespace.is_some() && args.from_namespace.is_some() {
            return refuse("--to-namespace and --from-namespace flags are mutually exclusive");
        }
        if selection.all_namespaces && selection.namespace.is_some() {
            return refuse("--all-namespaces and --namespace flags are mutually exclusive");
        }
        if selection.all_namespaces && targets.iter().any(|target| target.name.is_some()) {
            return refuse("stats for a resource cannot be retrieved by name across all namespaces");
        }
        let of_namespaces = targets.iter().any(|target| target.kind == Kind::Namespace);
        if of_namespaces && selection.namespace.is_some() {
            return refuse("--namespace flag is incompatible with namespace resource type");
        }
        if args.time_window < MIN_WINDOW {
            return refuse("metrics time window needs to be at least 1s");
        }
        let namespace = selection.namespace.clone().unwrap_or_else(|| default_namespace.to_owned());
        let side = Self::side(args, &namespace)?;
        if matches!(side, Side::To { .. }) && targets.iter().any(|target| target.kind == Kind::Service) {
            return refuse("a Service sends nothing: --to needs workloads");
        }
        let everywhere = selection.all_namespaces || of_namespaces;
        let query = Self {
            targets,
            namespace: (!everywhere).then_some(namespace),
            selector: selection.selector.clone(),
            side,
            unmeshed: args.unmeshed || args.from.is_some(),
            all_namespaces: selection.all_namespaces,
            window: args.time_window,
        };
        Ok((query, format))
    }

    /// The deployments of a namespace.
    pub(super) fn deployments(namespace: &str, window: Duration) -> Self {
        Self {
            targets: vec![Target { kind: Kind::Deployment, name: None }],
            namespace: Some(namespace.to_owned()),
            selector: None,
            side: Side::Servers,
            unmeshed: false,
            all_namespaces: false,
            window,
        }
    }

    fn side(args: &Stat, namespace: &str) -> Result<Side, Failure> {
        let or_own = |flag: &Option<String>| flag.clone().unwrap_or_else(|| namespace.to_owned());
        Ok(match (&args.to, &args.from) {
            (Some(to), _) => Side::To { target: Target::read(to)?, namespace: or_own(&args.to_namespace) },
            (_, Some(from)) => Side::From { target: Target::read(from)?, namespace: or_own(&args.from_namespace) },
            _ => Side::Servers,
        })
    }

    /// The namespace (or all) of the clients whose proxies are asked; none if only those of the rows are.
    pub(super) fn clients_namespace(&self) -> Option<Option<&str>> {
        match &self.side {
            Side::From { target: Target { kind: Kind::Namespace, .. }, .. } => Some(None),
            Side::From { namespace, .. } => Some(Some(namespace)),
            Side::Servers if self.has_services() => Some(None),
            Side::Servers | Side::To { .. } => None,
        }
    }

    fn has_services(&self) -> bool {
        self.targets.iter().any(|target| target.kind == Kind::Service)
    }

    /// Whether a pod of the rows has part of the answer.
    pub(super) fn counts_at(&self, member: &Member) -> bool {
        let of_rows = || self.targets.iter().any(|target| member.is_part_of(target.kind, target.name.as_deref()));
        !matches!(self.side, Side::From { .. }) && of_rows()
    }

    /// Whether a client has part of the answer.
    pub(super) fn counts_at_client(&self, member: &Member) -> bool {
        match &self.side {
            Side::From { target, .. } => member.is_part_of(target.kind, target.name.as_deref()),
            Side::Servers => self.has_services() && !self.counts_at(member),
            Side::To { .. } => false,
        }
    }
}

/// Whether a series of a client is about traffic to this.
pub(super) fn goes_to(labels: &Labels<'_>, target: &Target, namespace: &str) -> bool {
    let name = labels.of(&target.kind.client_label());
    match (target.kind, &target.name) {
        (Kind::Namespace, Some(wanted)) => name == Some(wanted),
        (Kind::Namespace, None) => name.is_some(),
        (_, wanted) => {
            labels.of("dst_namespace") == Some(namespace)
                && name.is_some_and(|name| wanted.as_deref().is_none_or(|wanted| wanted == name))
        }
    }
}
