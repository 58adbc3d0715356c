//! What a request names: `/apis/GROUP/VERSION/namespaces/NAMESPACE/PLURAL/NAME/SUBRESOURCE?query`.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;

use crate::api::authz::Action;
use crate::api::refusal::{Answer, Refusal};
use crate::api::schema::kinds::{Kind, Kinds};
use crate::api::store::Name;
use crate::api::store::selector::{Fields, Labels};

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// GET of one.
    Get,
    /// GET of many.
    List,
    /// GET of many with `watch`.
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH.
    Patch,
    /// DELETE of one.
    Delete,
    /// DELETE of many.
    DeleteCollection,
}

impl Verb {
    /// As RBAC rules say it.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }
}

/// What a request names.
#[derive(Debug, Clone)]
pub struct Target {
    /// The kind.
    pub kind: Arc<Kind>,
    /// What is done.
    pub verb: Verb,
    /// Empty: cluster-wide, or all namespaces.
    pub namespace: String,
    /// Empty: all.
    pub name: String,
    /// `status`, `log`, ...
    pub subresource: String,
    /// Parameters.
    pub query: Query,
}

/// Decoded query parameters; of repeated ones the first counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Parses what follows the question mark.
    pub fn parse(text: &str) -> Query {
        let mut all = BTreeMap::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            all.entry(unescape(key)).or_insert_with(|| unescape(value));
        }
        Query(all)
    }

    /// All values of a parameter that may be repeated.
    pub fn all(text: &str, key: &str) -> Vec<String> {
        let pairs = text.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(|(name, _)| unescape(name) == key).map(|(_, value)| unescape(value)).collect()
    }

    /// A parameter; empty ones count as absent.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// A switch.
    pub fn flag(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|v| !matches!(v.as_str(), "false" | "0" | "False" | "f"))
    }

    /// A number.
    pub fn number<N: std::str::FromStr>(&self, key: &str) -> Answer<Option<N>> {
        let bad = |_| Refusal::bad_request(format!("{key} must be a number"));
        self.text(key).map(|v| v.parse().map_err(bad)).transpose()
    }

    /// `dryRun=All`.
    pub fn dry_run(&self) -> bool {
        self.text("dryRun").is_some()
    }
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |b: u8| char::from(b).to_digit(16);
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [a, b, after @ ..]) if hex(*a).is_some() && hex(*b).is_some() => {
                bytes.push((hex(*a).unwrap_or(0) * 16 + hex(*b).unwrap_or(0)) as u8);
                rest = after;
                continue;
            }
            (byte, _) => bytes.push(*byte),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Target {
    /// What a path names, or `None` when it isn't about objects.
    pub fn parse(kinds: &Kinds, path: &str, query: Option<&str>, method: &Method) -> Answer<Option<Target>> {
        let parts: Vec<String> = path.split('/').filter(|p| !p.is_empty()).map(unescape).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Ok(None),
        };
        if rest.is_empty() {
            return Ok(None);
        }
        if kinds.in_version(group, version).next().is_none() {
            return Ok(None);
        }
        let (namespace, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] if !matches!(*plural, "status" | "finalize") => {
                (*namespace, [&[*plural][..], rest].concat())
            }
            _ => ("", rest.to_vec()),
        };
        let (plural, name, subresource) = match rest.as_slice() {
            [plural] => (*plural, "", ""),
            [plural, name] => (*plural, *name, ""),
            [plural, name, subresource] => (*plural, *name, *subresource),
            _ => return Err(Refusal::no_such_path()),
        };
        let kind = kinds.find(group, version, plural).ok_or_else(Refusal::no_such_path)?;
        let query = Query::parse(query.unwrap_or_default());
        let verb = verb(method, name, subresource, &query).ok_or_else(Refusal::method_not_allowed)?;
        let target = Target { kind, verb, namespace: namespace.into(), name: name.into(), subresource: subresource.into(), query };
        target.check_scope()?;
        Ok(Some(target))
    }

    fn check_scope(&self) -> Answer<()> {
        let misplaced = !self.kind.namespaced && !self.namespace.is_empty()
            || self.kind.namespaced && self.namespace.is_empty() && !self.name.is_empty();
        if misplaced || !self.has_subresource() {
            return Err(Refusal::no_such_path());
        }
        Ok(())
    }

    fn has_subresource(&self) -> bool {
        let kind = &self.kind;
        let core = |plural: &str| kind.group.is_empty() && kind.plural == plural;
        match self.subresource.as_str() {
            "" => true,
            "status" => kind.status,
            "scale" => kind.scale.is_some(),
            "attach" | "binding" | "ephemeralcontainers" | "eviction" | "exec" | "log" | "portforward" | "resize" => core("pods"),
            "token" => core("serviceaccounts"),
            "finalize" => core("namespaces"),
            _ => false,
        }
    }

    /// What authorization decides about.
    pub fn action(&self) -> Action {
        Action {
            verb: self.verb.name().into(),
            group: self.kind.group.clone(),
            version: self.kind.version.clone(),
            resource: self.kind.plural.clone(),
            subresource: self.subresource.clone(),
            namespace: match self.kind.plural.as_str() {
                "namespaces" if self.kind.group.is_empty() => self.name.clone(),
                _ => self.namespace.clone(),
            },
            name: self.one_name(),
            path: String::new(),
        }
    }

    /// The name of the one object that is meant: a list or watch that selects it by name is about nothing else, and a role that
    /// names it is enough.
    fn one_name(&self) -> String {
        let selected = || self.fields().ok()?.exact("metadata.name").map(str::to_owned);
        match self.verb {
            Verb::List | Verb::Watch if self.name.is_empty() => selected().unwrap_or_default(),
            _ => self.name.clone(),
        }
    }

    /// Where the object is stored.
    pub fn stored_name(&self) -> Name {
        Name::new(&self.namespace, &self.name)
    }

    /// The label selector asked for.
    pub fn labels(&self) -> Answer<Labels> {
        let text = self.query.text("labelSelector").unwrap_or_default();
        Labels::parse(text).map_err(|e| Refusal::bad_request(e.to_string()))
    }

    /// The field selector asked for; only paths that the kind offers.
    pub fn fields(&self) -> Answer<Fields> {
        let text = self.query.text("fieldSelector").unwrap_or_default();
        let mut fields = Fields::parse(text).map_err(|e| Refusal::bad_request(e.to_string()))?;
        if let Some(unknown) = fields.paths().find(|p| !offers_field(&self.kind, p)) {
            return Err(Refusal::bad_request(self.unknown_field(unknown, text)));
        }
        if !self.name.is_empty() {
            // A watch of one object by its path.
            fields = fields.and_name(&self.name);
        }
        Ok(fields)
    }
}

impl Target {
    fn unknown_field(&self, unknown: &str, selector: &str) -> String {
        let kind = &self.kind;
        let plain = kind.custom.is_none() && !SELECTABLE.contains(&kind.plural.as_str());
        if plain {
            return format!("\"{unknown}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"");
        }
        let labels = self.query.text("labelSelector").unwrap_or_default();
        let (group, version, plural) = (&kind.group, &kind.version, &kind.plural);
        format!(
            "Unable to find \"{group}/{version}, Resource={plural}\" that match label selector \"{labels}\", \
             field selector \"{selector}\": field label not supported: {unknown}"
        )
    }
}

/// Kinds with fields of their own to select by.
const SELECTABLE: &[&str] = &["pods", "events", "secrets", "namespaces", "nodes", "replicasets", "jobs", "services"];

fn verb(method: &Method, name: &str, subresource: &str, query: &Query) -> Option<Verb> {
    let many = name.is_empty();
    Some(match *method {
        Method::GET if query.flag("watch") && subresource.is_empty() => Verb::Watch,
        Method::GET | Method::HEAD if many => Verb::List,
        Method::GET | Method::HEAD => Verb::Get,
        Method::POST if many || !subresource.is_empty() => Verb::Create,
        Method::PUT if !many => Verb::Update,
        Method::PATCH if !many => Verb::Patch,
        Method::DELETE if many => Verb::DeleteCollection,
        Method::DELETE => Verb::Delete,
        _ => return None,
    })
}

/// Which paths a kind can be selected by.
fn offers_field(kind: &Kind, path: &str) -> bool {
    if matches!(path, "metadata.name" | "metadata.namespace") {
        return true;
    }
    if let Some(custom) = &kind.custom {
        return custom.selectable.iter().any(|p| p.trim_start_matches('.') == path);
    }
    match kind.plural.as_str() {
        "pods" => matches!(
            path,
            "spec.nodeName"
                | "spec.restartPolicy"
                | "spec.schedulerName"
                | "spec.serviceAccountName"
                | "spec.hostNetwork"
                | "status.phase"
                | "status.podIP"
                | "status.nominatedNodeName"
        ),
        "events" => {
            path.starts_with("involvedObject.")
                || path.starts_with("regarding.")
                || matches!(path, "reason" | "reportingComponent" | "reportingController" | "source" | "type")
        }
        "secrets" => path == "type",
        "namespaces" => path == "status.phase",
        "nodes" => path == "spec.unschedulable",
        "replicasets" => path == "status.replicas",
        "jobs" => path == "status.successful",
        "services" => matches!(path, "spec.clusterIP" | "spec.type"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(method: Method, path: &str, query: &str) -> Option<Target> {
        Target::parse(&Kinds::default(), path, Some(query), &method).ok().flatten()
    }

    #[test]
    fn paths() {
        let check = |method, path, query, verb: Verb, what: &str| {
            let t = parse(method, path, query).unwrap();
            assert_eq!(t.verb, verb, "{path}");
            assert_eq!(format!("{} {} {} {}", t.kind.plural, t.namespace, t.name, t.subresource), what, "{path}");
        };
        check(Method::GET, "/api/v1/pods", "", Verb::List, "pods   ");
        check(Method::GET, "/api/v1/pods", "watch=true", Verb::Watch, "pods   ");
        check(Method::GET, "/api/v1/namespaces/a/pods/b/log", "", Verb::Get, "pods a b log");
        check(Method::PUT, "/api/v1/namespaces/a/finalize", "", Verb::Update, "namespaces  a finalize");
        check(Method::DELETE, "/api/v1/namespaces/a", "", Verb::Delete, "namespaces  a ");
        check(Method::DELETE, "/apis/apps/v1/namespaces/a/deployments", "", Verb::DeleteCollection, "deployments a  ");
        check(Method::POST, "/api/v1/namespaces/a/serviceaccounts/x/token", "", Verb::Create, "serviceaccounts a x token");
    }

    #[test]
    fn a_list_of_one_name_is_about_that_object() {
        let name = |query: &str| parse(Method::GET, "/api/v1/namespaces/a/secrets", query).unwrap().action().name;
        assert_eq!(name("fieldSelector=metadata.name%3Dx"), "x");
        assert_eq!(name("watch=true&fieldSelector=metadata.name%3D%3Dx"), "x");
        assert_eq!(name("fieldSelector=metadata.name!%3Dx"), "");
        assert_eq!(name("fieldSelector=metadata.namespace%3Dx"), "");
        assert_eq!(name(""), "");
        let all = parse(Method::DELETE, "/api/v1/namespaces/a/secrets", "fieldSelector=metadata.name%3Dx").unwrap();
        assert_eq!(all.action().name, "", "as on a real cluster");
    }

    #[test]
    fn what_is_not_served() {
        for path in [
            "/api/v1/nonsense",
            "/apis/apps/v2/deployments",
            "/api/v1/namespaces/a/nodes/x",
            "/api/v1/pods/x",
            "/api/v1/namespaces/a/pods/x/nonsense",
            "/api/v1/namespaces/a/configmaps/x/status",
        ] {
            assert!(parse(Method::GET, path, "").is_none(), "{path}");
        }
        assert!(parse(Method::POST, "/api/v1/namespaces/a/pods/x", "").is_none());
    }

    #[test]
    fn queries() {
        let query = Query::parse("labelSelector=app%3Dweb%2Cx+in+%28a%29&watch=1&limit=&f=false");
        assert_eq!(query.text("labelSelector"), Some("app=web,x in (a)"));
        assert!(query.flag("watch") && !query.flag("f") && query.text("limit").is_none());
        assert_eq!(Query::parse("a=%zz%4").text("a"), Some("%zz%4"));
        assert_eq!(Query::all("command=sh&stdin=1&command=-c&command=a+%26", "command"), ["sh", "-c", "a &"]);
    }
}
