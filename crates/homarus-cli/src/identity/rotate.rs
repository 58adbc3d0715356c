//! `identity rotate`: new roots for a mesh that makes its own, and where that stands.
//!
//! The identity controller does it; this asks, by an annotation of ConfigMap `linkerd-identity-rotation`, and reads what the
//! controller writes there. Whoever has no `homarus` at hand can do the same with `kubectl annotate`.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde::Deserialize;
use serde_json::json;

use crate::cluster::Cluster;
use crate::command_line::Rotate;
use crate::failure::{Exit, Failure, Outcome};
use crate::terminal;

const NAME: &str = "linkerd-identity-rotation";
const ASKED: &str = "homarus.dev/rotate";
/// How often is looked.
const LOOK: Duration = Duration::from_millis(500);
/// How long the controller may say the same before this says what may be wrong.
const SILENCE: Duration = Duration::from_secs(300);
/// Names on one line, at most.
const MAX_NAMES: usize = 10;

/// What the controller writes.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    answered: Option<String>,
    root: Option<Said>,
    next: Option<Said>,
    issuer: Option<Said>,
    proxies: Option<Counts>,
    waiting_for: Vec<String>,
    /// Who refuses the bundle, and why.
    refusing: BTreeMap<String, String>,
}

/// A certificate.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Said {
    subject: String,
    sha256: String,
    not_after: String,
}

/// Proxies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Counts {
    all: usize,
    following: usize,
    believing: usize,
    renewed: usize,
}

/// Asks, unless only the state is wanted, and shows how it goes.
pub async fn run(cluster: &Cluster, args: &Rotate) -> Outcome {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &cluster.control_plane_ns);
    let begun = read(&maps).await?;
    if args.status {
        terminal::print(&begun.text())?;
        return Ok(Exit::Ok);
    }
    let asked = Timestamp::now().to_string();
    let patch = json!({ "metadata": { "annotations": { ASKED: asked } } });
    maps.patch(NAME, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    terminal::print("asked the identity controller for a new root\n")?;
    watch(&maps, &asked, &cluster.control_plane_ns).await
}

/// Shows each change until the new root is the only one, or people have to do something.
async fn watch(maps: &Api<ConfigMap>, asked: &str, namespace: &str) -> Outcome {
    let (mut last, mut since) = (String::new(), std::time::Instant::now());
    loop {
        match read(maps).await?.news(asked) {
            News::Nothing => {}
            News::Goes(line) if line == last => {}
            News::Goes(line) => {
                terminal::print(&format!("  {line}\n"))?;
                (last, since) = (line, std::time::Instant::now());
            }
            News::Waits(text) => {
                terminal::print(&text)?;
                return Ok(Exit::Unwell);
            }
            News::Done(line) => {
                terminal::print(&format!("{} {line}\n", terminal::tick(terminal::colour())))?;
                return Ok(Exit::Ok);
            }
        }
        if since.elapsed() > SILENCE {
            return Err(silent(&last, namespace));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The controller has said nothing new for too long.
fn silent(last: &str, namespace: &str) -> Failure {
    let what = match last {
        "" => format!("the identity controller hasn't begun to make a new root for {SILENCE:?}"),
        last => format!("the identity controller has said nothing new for {SILENCE:?}; at last: {last}"),
    };
    Failure::new(what).remedy(format!(
        "Look at its logs and Events: kubectl -n {namespace} describe deploy/linkerd-identity\n\
         What was asked for stays asked for; `homarus identity rotate --status` shows where it stands."
    ))
}

async fn read(maps: &Api<ConfigMap>) -> Result<Status, Failure> {
    let Some(map) = maps.get_opt(NAME).await? else {
        return Err(Failure::new("the identity controller of this mesh doesn't make its own certificates").remedy(
            "Whoever made root and issuer replaces them: put old and new root into the bundle, then change the issuer, and \
             take the old root out when every proxy has a certificate of the new one.",
        ));
    };
    let text = map.data.and_then(|mut data| data.remove("status")).unwrap_or_default();
    serde_json::from_str(&text).map_err(|error| Failure::new(format!("ConfigMap {NAME} can't be read: {error}")))
}

/// What there is to say to whoever asked for a rotation.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Nothing,
    /// It goes on.
    Goes(String),
    /// It doesn't, until somebody does something.
    Waits(String),
    Done(String),
}

impl Status {
    /// What is new to whoever asked for this.
    fn news(&self, asked: &str) -> News {
        let mine = self.answered.as_deref() == Some(asked);
        match (self.phase.as_str(), mine) {
            // Steps between are over before anybody has read of them; and who rests hasn't read what was asked for.
            ("" | "changing", _) | ("at rest", false) => News::Nothing,
            ("at rest", true) => News::Done(self.rest()),
            ("waiting for restarts", true) => News::Waits(self.restarts()),
            ("waiting for restarts", false) => {
                News::Waits(format!("{}What was asked for now begins after that.\n", self.restarts()))
            }
            (_, true) => News::Goes(self.line()),
            (_, false) => News::Goes(format!("an earlier rotation ends first: {}", self.line())),
        }
    }

    /// One line of progress.
    fn line(&self) -> String {
        let Counts { all, believing, renewed, .. } = self.proxies.unwrap_or_default();
        match self.phase.as_str() {
            "spreading the new root" => format!("{}: {believing} of {all} proxies believe in it{}", self.phase, self.who()),
            "renewing certificates" => format!("{}: {renewed} of {all} proxies have one{}", self.phase, self.who()),
            phase => phase.to_owned(),
        }
    }

    /// Whom it waits for, and what they say.
    fn who(&self) -> String {
        let refusals = self.refusing.iter().take(MAX_NAMES);
        self.names() + &refusals.map(|(name, why)| format!("; {name} refuses the bundle: {why}")).collect::<String>()
    }

    fn names(&self) -> String {
        match self.waiting_for.len() {
            0 => String::new(),
            n if n <= MAX_NAMES => format!("; waiting for {}", self.waiting_for.join(", ")),
            n => format!("; waiting for {} and {} more", self.waiting_for[..MAX_NAMES].join(", "), n - MAX_NAMES),
        }
    }

    fn rest(&self) -> String {
        let root = self.root.as_ref();
        let of = |field: fn(&Said) -> &str| root.map(field).unwrap_or_default();
        format!("the mesh believes in {} until {}", of(|said| &said.subject), of(|said| &said.not_after))
    }

    fn restarts(&self) -> String {
        let head = "Proxies that can't follow while they run, or don't run; restart them, then the old root is dropped:\n";
        let names: String = self.waiting_for.iter().map(|name| format!("    * {name}\n")).collect();
        format!("{} {head}{names}", terminal::exclamation(terminal::colour()))
    }

    /// All of it.
    fn text(&self) -> String {
        let mut text = format!("{}\n", self.line());
        for (what, said) in [("root", &self.root), ("next root", &self.next), ("issuer", &self.issuer)] {
            if let Some(Said { subject, sha256, not_after }) = said {
                text += &format!("{what:<10} {subject}, until {not_after}, {}\n", sha256.get(..16).unwrap_or(sha256));
            }
        }
        if let Some(Counts { all, following, believing, renewed }) = &self.proxies {
            text += &format!("{:<10} {all}: {following} follow, {believing} believe, {renewed} renewed\n", "proxies");
        }
        for (name, why) in &self.refusing {
            text += &format!("{:<10} {name} refuses the bundle: {why}\n", "refused");
        }
        if self.phase == "waiting for restarts" {
            text += &self.restarts();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn status(text: serde_json::Value) -> Status {
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn where_it_stands_is_said_in_a_line() {
        let counts = json!({ "all": 30, "following": 28, "believing": 12, "renewed": 3 });
        let spreading = status(json!({ "phase": "spreading the new root", "proxies": counts, "waitingFor": ["a/b"] }));
        assert_eq!(spreading.line(), "spreading the new root: 12 of 30 proxies believe in it; waiting for a/b");
        let refuses = json!({ "phase": "spreading the new root", "proxies": counts, "refusing": { "a/b": "it is empty" } });
        let refuses = status(refuses);
        assert!(refuses.line().ends_with("believe in it; a/b refuses the bundle: it is empty"), "{}", refuses.line());
        assert!(refuses.text().ends_with("\nrefused    a/b refuses the bundle: it is empty\n"), "{}", refuses.text());
        let many: Vec<String> = (0..13).map(|i| format!("ns/{i}")).collect();
        let renewing = status(json!({ "phase": "renewing certificates", "proxies": counts, "waitingFor": many }));
        assert!(renewing.line().starts_with("renewing certificates: 3 of 30 proxies have one; waiting for ns/0, "));
        assert!(renewing.line().ends_with("ns/9 and 3 more"), "{}", renewing.line());
    }

    #[test]
    fn proxies_that_need_a_restart_are_named() {
        let status = status(json!({ "phase": "waiting for restarts", "waitingFor": ["shop/web-0", "shop/api-1"],
            "root": { "subject": "CN=old", "sha256": "00112233445566778899", "notAfter": "2030-01-01T00:00:00Z" } }));
        let text = status.text();
        assert!(text.contains("    * shop/web-0\n    * shop/api-1\n"), "{text}");
        assert!(text.contains("root       CN=old, until 2030-01-01T00:00:00Z, 0011223344556677\n"), "{text}");
    }

    #[test]
    fn whoever_asks_hears_of_the_rotation_before_as_well() {
        let of = |phase: &str, answered: &str| {
            status(json!({ "phase": phase, "answered": answered, "waitingFor": ["shop/web-0"] })).news("now")
        };
        assert_eq!([of("at rest", "before"), of("changing", "before"), of("changing", "now")], [const { News::Nothing }; 3]);
        assert!(matches!(of("at rest", "now"), News::Done(_)));
        assert!(matches!(of("renewing certificates", "now"), News::Goes(line) if line.starts_with("renewing")));
        assert!(matches!(of("renewing certificates", "before"), News::Goes(line) if line.starts_with("an earlier rotation")));
        let (News::Waits(mine), News::Waits(other)) = (of("waiting for restarts", "now"), of("waiting for restarts", "before"))
        else {
            panic!("nobody restarts them");
        };
        assert!(mine.contains("* shop/web-0") && other.starts_with(&mine) && other.ends_with("begins after that.\n"), "{other}");
    }

    #[test]
    fn a_controller_that_says_nothing_is_looked_for_where_it_is() {
        let (before, between) = (silent("", "mesh").to_string(), silent("renewing certificates", "mesh").to_string());
        assert!(before.contains("hasn't begun") && between.contains("renewing certificates"), "{before}; {between}");
        assert!(before.contains("kubectl -n mesh "), "{before}");
    }

    #[test]
    fn what_is_not_there_yet_is_nothing() {
        assert_eq!(status(json!({ "phase": "changing", "root": null, "proxies": null })).text(), "changing\n");
    }
}
