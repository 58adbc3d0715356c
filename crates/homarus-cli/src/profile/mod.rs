//! `profile`: ServiceProfiles made of what describes a service already: an OpenAPI document, a protobuf definition, or nothing.

mod open_api;
mod proto;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::command_line::{Globals, Manifests, Profile as Args};
use crate::failure::{Exit, Failure, Outcome};
use crate::inject::source;
use crate::terminal;

/// The cluster's domain if nobody knows.
const DOMAIN: &str = "cluster.local";

/// Prints a ServiceProfile.
pub async fn run(globals: &Globals, args: &Args) -> Outcome {
    let source = Source::of(args)?;
    label("service", &args.service)?;
    let place = place(globals, args).await?;
    label("namespace", &place.namespace)?;
    let routes = match source {
        Source::Template => {
            terminal::print(&template(&place, &args.service))?;
            return Ok(Exit::Ok);
        }
        Source::OpenApi(file) => open_api::routes(&read(file).await?),
        Source::Proto(file) => proto::routes(&read(file).await?),
    };
    let object = object(&place, &args.service, routes?);
    terminal::print(&match args.output {
        Manifests::Yaml => serde_yaml_ng::to_string(&object).map_err(Failure::new)?,
        Manifests::Json => format!("{}\n", serde_json::to_string_pretty(&object).map_err(Failure::new)?),
    })?;
    Ok(Exit::Ok)
}

/// What a profile is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source<'a> {
    Template,
    OpenApi(&'a str),
    Proto(&'a str),
}

impl<'a> Source<'a> {
    fn of(args: &'a Args) -> Result<Self, Failure> {
        match (args.template, args.open_api.as_deref(), args.proto.as_deref()) {
            (true, None, None) => Ok(Self::Template),
            (false, Some(file), None) => Ok(Self::OpenApi(file)),
            (false, None, Some(file)) => Ok(Self::Proto(file)),
            _ => Err(Failure::usage("You must specify exactly one of --template or --open-api or --proto")),
        }
    }
}

/// A file or standard input; a folder's files together make no sense here.
async fn read(file: &str) -> Result<String, Failure> {
    if std::path::Path::new(file).is_dir() {
        return Err(Failure::usage(format!("{file} is a folder, not a file")));
    }
    let text = source::read(Some(file)).await?;
    // Files are read as documents, with a mark before each.
    Ok(text.strip_prefix("---\n").map(str::to_owned).unwrap_or(text))
}

/// Where the service is.
struct Place {
    namespace: String,
    domain: String,
}

async fn place(globals: &Globals, args: &Args) -> Result<Place, Failure> {
    if args.ignore_cluster {
        // A kubeconfig may still say which namespace is meant.
        let context = Cluster::connect(globals).await.map_or_else(|_| "default".to_owned(), |cluster| cluster.default_namespace);
        return Ok(Place { namespace: args.namespace.clone().unwrap_or(context), domain: DOMAIN.to_owned() });
    }
    let cluster = Cluster::connect(globals).await.map_err(|failure| failure.during("Cannot connect to Kubernetes"))?;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &cluster.control_plane_ns);
    let unknown = |failure: Failure| {
        failure.during("Cannot find the cluster's domain").remedy("Use --ignore-cluster if it is cluster.local.")
    };
    let config = maps.get("linkerd-config").await.map_err(|error| unknown(Failure::from(error)))?;
    let text = config.data.as_ref().and_then(|data| data.get("values")).map(String::as_str).unwrap_or_default();
    let values: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).map_err(|error| unknown(Failure::new(error)))?;
    let domain = values.get("clusterDomain").and_then(serde_yaml_ng::Value::as_str).unwrap_or(DOMAIN);
    Ok(Place { namespace: cluster.namespace(args.namespace.as_deref()), domain: domain.to_owned() })
}

/// Refuses what can't be a part of a DNS name.
fn label(what: &str, name: &str) -> Result<(), Failure> {
    if homarus_kube::names::is_label(name) {
        return Ok(());
    }
    Err(Failure::usage(format!("invalid {what} {name:?}"))
        .remedy("It must consist of lower case letters, digits and '-', and begin and end with a letter or digit."))
}

fn object(place: &Place, service: &str, routes: Vec<Value>) -> Value {
    json!({
        "apiVersion": "linkerd.io/v1alpha2",
        "kind": "ServiceProfile",
        "metadata": {
            "name": format!("{service}.{}.svc.{}", place.namespace, place.domain),
            "namespace": place.namespace,
        },
        "spec": { "routes": routes },
    })
}

/// A profile to be filled in.
fn template(place: &Place, service: &str) -> String {
    let (namespace, domain) = (&place.namespace, &place.domain);
    format!(
        r"### ServiceProfile of {service}.{namespace}: change it to your needs.
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata:
  # The name that clients call the service by, in full.
  name: {service}.{namespace}.svc.{domain}
  namespace: {namespace}
spec:
  # Requests are told apart by routes; the first that matches counts.
  routes:
  - name: '/authors/{{id}}'

    # Which requests are meant. One of: pathRegex, method, all, any, not.
    condition:
      # The whole path, without query and fragment.
      pathRegex: '/authors/\d+'
      # all: a list of conditions that must hold together.
      # any: a list of conditions of which one must hold.
      # not: a condition that must not hold.

    # Which responses are failures. One of: status, all, any, not. Without classes: those of 500 and above.
    # responseClasses:
    # - condition:
    #     status:
    #       min: 500
    #       max: 599
    #   isFailure: true

    # Whether a failed request may be sent again.
    # isRetryable: true

    # How long a request may take, retries included.
    # timeout: 250ms

  # How many requests may be sent again.
  # retryBudget:
  #   # The share that retries may add to all requests.
  #   retryRatio: 0.2
  #   # These are always allowed.
  #   minRetriesPerSecond: 10
  #   # How long requests count.
  #   ttl: 10s
"
    )
}

/// A regular expression for a path, in which parameters stand for one segment.
fn path_regex(path: &str) -> String {
    let mut pattern = String::new();
    let mut rest = path;
    while let Some((before, (_, after))) = rest.split_once('{').and_then(|(before, after)| Some((before, after.split_once('}')?))) {
        pattern.push_str(&quoted(before));
        pattern.push_str("[^/]*");
        rest = after;
    }
    pattern + &quoted(rest)
}

/// A text as a regular expression that matches nothing else, escaped as Go escapes it.
fn quoted(text: &str) -> String {
    let special = |c: char| r"\.+*?()|[]{}^$".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn place_of(namespace: &str) -> Place {
        Place { namespace: namespace.to_owned(), domain: "example.org".to_owned() }
    }

    #[test]
    fn paths_as_patterns() {
        for (path, pattern) in [
            ("/v1/books", "/v1/books"),
            ("/books/{id}", "/books/[^/]*"),
            ("/a.b/{x}/c+{y}", r"/a\.b/[^/]*/c\+[^/]*"),
            ("/open{brace", r"/open\{brace"),
            ("/emojivoto.v1.VotingService/VoteDog", r"/emojivoto\.v1\.VotingService/VoteDog"),
        ] {
            assert_eq!(path_regex(path), pattern, "{path}");
            assert!(regex::Regex::new(&path_regex(path)).is_ok(), "{path}");
        }
    }

    #[test]
    fn names_are_labels() {
        for good in ["web", "web-2", "0"] {
            assert!(label("service", good).is_ok(), "{good}");
        }
        for bad in ["", "Web", "-web", "web-", "a.b", "web_1", &"x".repeat(64)] {
            assert!(label("service", bad).unwrap_err().to_string().starts_with("invalid service"), "{bad}");
        }
    }

    #[test]
    fn the_template_is_a_profile() {
        let read: Value = serde_yaml_ng::from_str(&template(&place_of("shop"), "books")).unwrap();
        assert_eq!(read["metadata"], object(&place_of("shop"), "books", Vec::new())["metadata"]);
        assert_eq!(read["metadata"]["name"], "books.shop.svc.example.org");
        assert_eq!(read["spec"]["routes"][0]["condition"]["pathRegex"], r"/authors/\d+");
        // What is commented out must be right as well: it is there to be used.
        let whole: String = template(&place_of("shop"), "books")
            .lines()
            .map(|line| match line.trim_start().strip_prefix("# ") {
                Some(text) if text.ends_with(':') || text.contains(": ") && !text.ends_with('.') => {
                    format!("{}{text}\n", " ".repeat(line.len() - line.trim_start().len()))
                }
                _ => format!("{line}\n"),
            })
            .collect();
        let read: Value = serde_yaml_ng::from_str(&whole).unwrap();
        assert_eq!(read["spec"]["routes"][0]["responseClasses"][0]["condition"]["status"]["max"], 599);
        assert_eq!(read["spec"]["retryBudget"]["ttl"], "10s");
    }

    #[test]
    fn exactly_one_source() {
        let args = |template, open_api: Option<&str>, proto: Option<&str>| Args {
            service: "web".to_owned(),
            template,
            open_api: open_api.map(str::to_owned),
            proto: proto.map(str::to_owned),
            namespace: None,
            ignore_cluster: true,
            output: Manifests::Yaml,
        };
        assert_eq!(Source::of(&args(true, None, None)).unwrap(), Source::Template);
        assert_eq!(Source::of(&args(false, Some("a"), None)).unwrap(), Source::OpenApi("a"));
        for bad in [args(false, None, None), args(true, Some("a"), None), args(false, Some("a"), Some("b"))] {
            assert!(Source::of(&bad).is_err());
        }
    }
}
