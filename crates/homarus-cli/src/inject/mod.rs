//! `inject` and `uninject`: workloads of manifests into the mesh, and out of it.
//!
//! By default only annotations are written, and the cluster's webhook does the rest; `--manual` does what the webhook would
//! do, with the same code ([`homarus_kube::injection`]). Objects are read as JSON and written back whole, so that fields
//! we know nothing of survive.

pub(crate) mod documents;
mod report;
pub(crate) mod source;
mod transform;

use homarus_identity::TrustAnchors;
use homarus_kube::injection::values::Values;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;

use crate::cluster::Cluster;
use crate::command_line::{Globals, Inject, Uninject};
use crate::failure::{Exit, Failure, Outcome};
use crate::{terminal, version};

use report::Report;
use transform::{Action, How};

/// Puts workloads into the mesh.
pub async fn run(globals: &Globals, args: &Inject) -> Outcome {
    let text = source::read(args.source.as_deref()).await?;
    let how = how(globals, args).await?;
    let (documents, reports) = transform_all(&text, |object| transform::inject(object, &how))?;
    eprint!("{}", report::text(&reports, "injected", globals.verbose));
    if let Some(refused) = report::refused(&reports) {
        return Err(Failure::new(format!("Error transforming resources:\n{refused}")));
    }
    terminal::print(&documents::write(&documents, args.output)?)?;
    Ok(Exit::Ok)
}

/// Takes workloads out of the mesh.
pub async fn run_uninject(globals: &Globals, args: &Uninject) -> Outcome {
    let text = source::read(args.source.as_deref()).await?;
    let (documents, reports) = transform_all(&text, |object| Ok(transform::uninject(object)))?;
    eprint!("{}", report::text(&reports, "uninjected", globals.verbose));
    terminal::print(&documents::write(&documents, args.output)?)?;
    Ok(Exit::Ok)
}

type Reports = Vec<Report>;

fn transform_all(
    text: &str,
    mut change: impl FnMut(&mut serde_json::Value) -> Result<Report, Failure>,
) -> Result<(Vec<serde_json::Value>, Reports), Failure> {
    let mut documents = documents::read(text)?;
    let mut reports = Reports::new();
    for document in &mut documents {
        match document["kind"].as_str() {
            Some("List") => {
                for item in document.get_mut("items").and_then(serde_json::Value::as_array_mut).into_iter().flatten() {
                    reports.push(change(item)?);
                }
            }
            _ => reports.push(change(document)?),
        }
    }
    Ok((documents, reports))
}

async fn how(globals: &Globals, args: &Inject) -> Result<How, Failure> {
    let annotations = transform::annotations(args)?;
    let mode = if args.ingress { "ingress" } else { "enabled" };
    let mut values = Values::default();
    if !args.ignore_cluster {
        values = stored_values(globals, args.manual).await?;
    }
    let action = if args.manual { Action::Whole(Box::new(values)) } else { Action::Annotate { mode } };
    Ok(How { action, annotations, control_plane_ns: globals.linkerd_namespace.clone(), version: version::ours() })
}

/// What the mesh is like; with the roots that hold now, if `whole` proxies are to be written.
async fn stored_values(globals: &Globals, whole: bool) -> Result<Values, Failure> {
    let remedy = "Validate the install with: 'homarus check', or use --ignore-cluster.";
    let cannot = |what: &str, error: &dyn std::fmt::Display| Failure::new(format!("{what}: {error}")).remedy(remedy);
    let cluster = Cluster::connect(globals).await.map_err(|error| cannot("Cannot connect to Kubernetes", &error))?;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &cluster.control_plane_ns);
    let config = maps.get("linkerd-config").await.map_err(|error| cannot("Cannot find Linkerd", &error))?;
    let text = config.data.as_ref().and_then(|data| data.get("values")).map(String::as_str).unwrap_or_default();
    let mut values = Values::from_yaml(text).map_err(|error| cannot("Cannot find Linkerd", &error))?;
    if whole {
        let roots =
            maps.get("linkerd-identity-trust-roots").await.map_err(|error| cannot("Cannot find the trust anchors", &error))?;
        let roots = roots.data.and_then(|mut data| data.remove("ca-bundle.crt")).unwrap_or_default();
        let roots = TrustAnchors::from_pem(&roots).map_err(|error| cannot("Cannot read the trust anchors", &error))?;
        values.identity_trust_anchors_pem = roots.pem().to_owned();
    }
    Ok(values)
}

#[cfg(test)]
mod tests;
