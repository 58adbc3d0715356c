//! What people call the objects of a cluster.

use std::fmt;

use crate::failure::Failure;

/// The kinds that traffic can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Makes Jobs.
    CronJob,
    /// Pods on every node.
    DaemonSet,
    /// Replicas that are rolled out.
    Deployment,
    /// Pods that end.
    Job,
    /// All pods of one.
    Namespace,
    /// One pod.
    Pod,
    /// Replicas.
    ReplicaSet,
    /// Replicas, as they were once.
    ReplicationController,
    /// A name that clients dial.
    Service,
    /// Replicas with names.
    StatefulSet,
}

/// Names of a kind: canonical, plural, short.
const NAMES: [(Kind, [&str; 3]); 10] = [
    (Kind::CronJob, ["cronjob", "cronjobs", "cj"]),
    (Kind::DaemonSet, ["daemonset", "daemonsets", "ds"]),
    (Kind::Deployment, ["deployment", "deployments", "deploy"]),
    (Kind::Job, ["job", "jobs", "job"]),
    (Kind::Namespace, ["namespace", "namespaces", "ns"]),
    (Kind::Pod, ["pod", "pods", "po"]),
    (Kind::ReplicaSet, ["replicaset", "replicasets", "rs"]),
    (Kind::ReplicationController, ["replicationcontroller", "replicationcontrollers", "rc"]),
    (Kind::Service, ["service", "services", "svc"]),
    (Kind::StatefulSet, ["statefulset", "statefulsets", "sts"]),
];

/// The kinds of `all`.
const ALL: [Kind; 9] = [
    Kind::DaemonSet,
    Kind::StatefulSet,
    Kind::Job,
    Kind::Deployment,
    Kind::ReplicationController,
    Kind::Pod,
    Kind::Service,
    Kind::CronJob,
    Kind::ReplicaSet,
];

impl Kind {
    /// The kind that someone means.
    pub fn named(word: &str) -> Result<Self, Failure> {
        let lower = word.to_ascii_lowercase();
        let found = NAMES.iter().find(|(_, names)| names.contains(&lower.as_str()));
        found.map(|(kind, _)| *kind).ok_or_else(|| {
            let known = NAMES.map(|(_, names)| names[0]).join(", ");
            Failure::usage(format!("cannot find Kubernetes canonical name from friendly name [{word}]"))
                .remedy(format!("Use one of {known}, or their short names."))
        })
    }

    /// All of them.
    pub fn every() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|(kind, _)| *kind)
    }

    /// Its name in full; also the end of the label `dst_<name>` in the metrics of its clients.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(kind, _)| *kind == self).map_or("", |(_, names)| names[0])
    }

    /// Its short name.
    pub fn short(self) -> &'static str {
        NAMES.iter().find(|(kind, _)| *kind == self).map_or("", |(_, names)| names[2])
    }

    /// The kind of an owner, as owner references write it.
    pub fn of_owner(kind: &str) -> Option<Self> {
        Self::named(kind).ok()
    }

    /// The label by which its clients tell it apart.
    pub fn client_label(self) -> String {
        format!("dst_{}", self.name())
    }
}

/// All objects of a kind, or one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which kind.
    pub kind: Kind,
    /// Which one.
    pub name: Option<String>,
}

impl Target {
    /// Whether an object is meant.
    pub fn includes(&self, kind: Kind, name: &str) -> bool {
        self.kind == kind && self.name.as_deref().is_none_or(|wanted| wanted == name)
    }

    /// `TYPE/NAME` or `TYPE`.
    pub fn read(word: &str) -> Result<Self, Failure> {
        let (kind, name) = word.split_once('/').unwrap_or((word, ""));
        if name.contains('/') || kind.is_empty() {
            return Err(Failure::usage(format!("Invalid resource string: {word}")));
        }
        Ok(Self { kind: Kind::named(kind)?, name: (!name.is_empty()).then(|| name.to_owned()) })
    }

    /// Reads several words: a type and names, or some of `TYPE[/NAME]`.
    pub fn read_all(words: &[String]) -> Result<Vec<Self>, Failure> {
        let targets = match words {
            [] => return Err(Failure::usage("No resource arguments provided").remedy("Try `deploy`, `ns`, or `deploy/NAME`.")),
            [all] if all == "all" => ALL.map(|kind| Self { kind, name: None }).into(),
            several if several.iter().any(|word| word == "all") => {
                return Err(Failure::usage("'all' can't be supplied alongside other resources"));
            }
            [kind, names @ ..] if !kind.contains('/') && !names.is_empty() => {
                let kind = Kind::named(kind)?;
                match names.iter().find(|name| name.contains('/')) {
                    Some(odd) => return Err(Failure::usage(format!("Invalid resource string: {odd}"))),
                    None => names.iter().map(|name| Self { kind, name: Some(name.clone()) }).collect(),
                }
            }
            several => several.iter().map(|word| Self::read(word)).collect::<Result<Vec<_>, _>>()?,
        };
        let twice = targets.iter().enumerate().any(|(i, target)| targets[..i].contains(target));
        if twice { Err(Failure::usage("cannot supply duplicate resources")) } else { Ok(targets) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{}/{name}", self.kind.name()),
            None => f.write_str(self.kind.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(line: &str) -> Result<String, String> {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let targets = Target::read_all(&words).map_err(|failure| failure.to_string())?;
        Ok(targets.iter().map(Target::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn resources_as_people_name_them() {
        let check = |line: &str, wanted: &str| assert_eq!(read(line).as_deref(), Ok(wanted), "{line}");
        check("deploy", "deployment");
        check("deploy/", "deployment");
        check("deploy/web", "deployment/web");
        check("deploy web voting", "deployment/web deployment/voting");
        check("po/a svc/b", "pod/a service/b");
        check("Pods", "pod");
        assert_eq!(read("all").unwrap().split(' ').count(), 9);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |line: &str, wanted: &str| {
            let error = read(line).unwrap_err();
            assert!(error.starts_with(wanted), "{line}: {error}");
        };
        check("", "No resource arguments provided");
        check("au", "cannot find Kubernetes canonical name from friendly name [au]");
        check("deploy/a/b", "Invalid resource string: deploy/a/b");
        check("deploy a/b", "Invalid resource string: a/b");
        check("all deploy", "'all' can't be supplied alongside other resources");
        check("deploy/a deploy/a", "cannot supply duplicate resources");
    }
}
