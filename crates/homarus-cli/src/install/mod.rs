//! `install`, `upgrade`, `prune` and `uninstall`: programs that print manifests and change nothing. `kubectl` does the rest.
//!
//! Values come together in one order: the chart's, high availability, what was stored, flags, files, `--set`; `stored` keeps
//! what differs from the chart's in a Secret, so that an upgrade can begin with it. Whatever can be known to fail is found
//! before the first line is printed: a half-printed mesh would be applied.

mod certificates;
mod facts;
pub(crate) mod flags;
mod leftovers;
mod sound;
mod stored;

use std::path::Path;
use std::time::SystemTime;

use serde_json::Value as Json;

use crate::chart::{self, Capabilities, Chart, Manifest, Name, Overrides, Release, Values};
use crate::cluster::Cluster;
use crate::command_line::{Globals, Install, Manifests, Prune, Uninstall, Upgrade, ValueFlags};
use crate::failure::{Exit, Failure, Outcome};
use crate::inject::{documents, source};
use crate::{terminal, version};

use flags::Flags;

/// The values of `--ha`.
const HA: &str = "values-ha.yaml";
/// The largest file that `--set-file` reads.
const MAX_FILE: u64 = 1024 * 1024;

/// Prints what installs the custom resources or the control plane.
pub async fn run(globals: &Globals, args: &Install) -> Outcome {
    let cluster = if args.ignore_cluster { None } else { Some(connect(globals, "install").await?) };
    let said = said(&args.values).await?;
    if args.crds {
        return crds(globals, cluster.as_ref(), &said, args.output).await;
    }
    let chart = Chart::embedded(Name::ControlPlane)?;
    let mut flags = Flags::default();
    flags.once(&args.once);
    if let Some(cluster) = &cluster {
        facts::ready_for_the_control_plane(cluster).await?;
        flags.put("proxyInit.kubeAPIServerPorts", facts::api_server_ports(cluster).await?);
    }
    flags.control(&args.control)?;
    flags.proxy(&args.proxy, &chart.values)?;
    certificates::read(&args.control, args.once.identity_external_issuer, &mut flags)?;
    let base = if args.control.ha { chart.preset(HA)? } else { Values::new() };
    let mut user = said.apply(chart::over(base, flags.into_values()), &read_file)?;
    if let Some(cluster) = &cluster {
        facts::external_issuer(cluster, &mut user).await?;
        facts::runtimes_fit(cluster, &user).await?;
    }
    usable(globals, &chart, &user)?;
    print_control_plane(globals, &chart, user, args.output)
}

/// Whether a mesh with these values would work.
fn usable(globals: &Globals, chart: &Chart, user: &Values) -> Result<(), Failure> {
    let values = Json::Object(chart.accept(user.clone())?);
    sound::check(&values)?;
    certificates::check(&values, &globals.linkerd_namespace, SystemTime::now())
}

/// Prints what brings an installed mesh to this version, and to what flags say.
pub async fn upgrade(globals: &Globals, args: &Upgrade) -> Outcome {
    let said = said(&args.values).await?;
    let cluster = match args.from_manifests {
        Some(_) => None,
        None => Some(connect(globals, "upgrade").await?),
    };
    if args.crds {
        return crds(globals, cluster.as_ref(), &said, args.output).await;
    }
    if let Some(cluster) = &cluster {
        facts::has_crds(cluster, "upgrade").await?;
    }
    let before = stored::find(cluster.as_ref(), args.from_manifests.as_deref()).await?;
    let chart = Chart::embedded(Name::ControlPlane)?;
    let mut flags = Flags::default();
    flags.control(&args.control)?;
    flags.proxy(&args.proxy, &chart.values)?;
    let external = before.pointer("/identity/issuer/scheme").and_then(Json::as_str) == Some("kubernetes.io/tls");
    certificates::read(&args.control, external, &mut flags)?;
    let mut base = fields(before);
    if args.control.ha {
        base = chart::over(base, chart.preset(HA)?);
    }
    let user = said.apply(chart::over(base.clone(), flags.into_values()), &read_file)?;
    let user = stored::forgetting(&base, user);
    certificates::warn_of_rotation(&base, &user);
    if !args.force {
        usable(globals, &chart, &user)?;
    }
    if let (Some(cluster), false) = (&cluster, args.force) {
        facts::trusted_by_all(cluster, &user).await?;
        facts::nothing_is_pruned_that_the_mesh_stands_on(cluster, &base, &user).await?;
    }
    print_control_plane(globals, &chart, user, args.output)
}

/// Prints what is labelled as the mesh's, but isn't rendered any more.
pub async fn prune(globals: &Globals, args: &Prune) -> Outcome {
    let cluster = connect(globals, "prune").await?;
    let user = fields(stored::find(Some(&cluster), None).await?);
    let mut rendered = control_plane(&globals.linkerd_namespace, &Chart::embedded(Name::ControlPlane)?, user)?;
    rendered.extend(stored_crds(globals, &cluster).await?);
    let left = leftovers::all(&cluster, leftovers::Of::Prune).await?;
    let stale =
        |object: &Json| !leftovers::made_at_run_time(object) && !rendered.iter().any(|known| leftovers::same(known, object));
    let stale: Vec<Json> = left.into_iter().filter(stale).collect();
    terminal::print(&minimal(&stale, args.output)?)?;
    Ok(Exit::Ok)
}

/// The custom resources as they were installed: those of the Gateway API as well, if they are ours.
async fn stored_crds(globals: &Globals, cluster: &Cluster) -> Result<Vec<Json>, Failure> {
    let installs = facts::gateway_api(cluster).await? == facts::GatewayApi::Ours;
    let values = fields(serde_json::json!({ "installGatewayAPI": installs }));
    Ok(render_into(&globals.linkerd_namespace, &Chart::embedded(Name::Crds)?, values)?
        .into_iter()
        .map(|manifest| manifest.object)
        .collect())
}

/// Prints everything that is labelled as the mesh's.
pub async fn uninstall(globals: &Globals, args: &Uninstall) -> Outcome {
    let cluster = connect(globals, "uninstall").await?;
    if !args.force {
        facts::nothing_depends_on_us(&cluster).await?;
    }
    let mut objects = leftovers::all(&cluster, leftovers::Of::Uninstall).await?;
    if facts::gateway_api_is_used(&cluster).await? {
        objects.retain(|object| !leftovers::is_of_gateway_api(object));
        eprintln!(
            "{} The Gateway API's custom resources stay, because there are routes: deleting them would delete these\n    To remove both: \
             homarus install --crds --ignore-cluster --set installGatewayAPI=true | kubectl delete -f -",
            terminal::warning()
        );
    }
    if objects.is_empty() {
        return Err(Failure::new("No resources found to uninstall"));
    }
    terminal::print(&minimal(&objects, args.output)?)?;
    Ok(Exit::Ok)
}

async fn connect(globals: &Globals, what: &str) -> Result<Cluster, Failure> {
    let failed = |failure: Failure| {
        Failure::new(format!("Unable to {what} the Linkerd control plane. Cannot connect to the Kubernetes cluster: {failure}"))
            .remedy("You can use the --ignore-cluster flag of install if you just want to generate the installation config.")
    };
    let cluster = Cluster::connect(globals).await.map_err(failed)?;
    cluster.client.apiserver_version().await.map_err(|error| failed(Failure::from(error)))?;
    Ok(cluster)
}

/// What a user says about values, with its files read.
pub(crate) async fn said(flags: &ValueFlags) -> Result<Overrides, Failure> {
    let mut files = Vec::new();
    for file in &flags.files {
        let text = match file.contains("://") || file == "-" {
            true => source::read(Some(file)).await?,
            false => read_file(file).map_err(|error| Failure::new(format!("cannot read {file}: {error}")))?,
        };
        files.push((file.clone(), text));
    }
    let ValueFlags { set, set_string, set_file, set_json, .. } = flags.clone();
    Ok(Overrides { files, set_json, set, set_string, set_file })
}

pub(crate) fn read_file(name: &str) -> Result<String, String> {
    let about = std::fs::metadata(name).map_err(|error| error.to_string())?;
    if about.len() > MAX_FILE {
        return Err(format!("a file of more than {MAX_FILE} bytes"));
    }
    std::fs::read_to_string(Path::new(name)).map_err(|error| error.to_string())
}

async fn crds(globals: &Globals, cluster: Option<&Cluster>, said: &Overrides, output: Manifests) -> Outcome {
    let chart = Chart::embedded(Name::Crds)?;
    let mut user = said.apply(Values::new(), &read_file)?;
    if let Some(cluster) = cluster {
        let wanted = user.get("installGatewayAPI").and_then(Json::as_bool);
        let installs = facts::gateway_api(cluster).await?.installs(wanted)?;
        user.insert("installGatewayAPI".to_owned(), installs.into());
    }
    let objects: Vec<Json> =
        render_into(&globals.linkerd_namespace, &chart, user)?.into_iter().map(|manifest| manifest.object).collect();
    eprintln!("Rendering Linkerd CRDs...\nNext, run `homarus install | kubectl apply -f -` to install the control plane.\n");
    terminal::print(&written(&objects, output)?)?;
    Ok(Exit::Ok)
}

fn print_control_plane(globals: &Globals, chart: &Chart, user: Values, output: Manifests) -> Outcome {
    terminal::print(&written(&control_plane(&globals.linkerd_namespace, chart, user)?, output)?)?;
    Ok(Exit::Ok)
}

/// What `install` prints: the custom resources, those of the Gateway API too, and the control plane.
pub(crate) fn objects(namespace: &str, user: Values) -> Result<(Vec<Json>, Vec<Json>), Failure> {
    let gateway = fields(serde_json::json!({ "installGatewayAPI": true }));
    let crds = render_into(namespace, &Chart::embedded(Name::Crds)?, gateway)?;
    let control_plane = control_plane(namespace, &Chart::embedded(Name::ControlPlane)?, user)?;
    Ok((crds.into_iter().map(|manifest| manifest.object).collect(), control_plane))
}

/// The control plane with what an upgrade needs to know of it.
fn control_plane(namespace: &str, chart: &Chart, user: Values) -> Result<Vec<Json>, Failure> {
    let secret = stored::secret(namespace, &user, &chart.values)?;
    let manifests = render_into(namespace, chart, user)?;
    let mut objects: Vec<Json> = manifests.into_iter().map(|manifest| manifest.object).collect();
    // The namespace has to be there first, everything else finds its order.
    let place = objects.iter().position(|object| object["kind"] == "Secret").unwrap_or(objects.len());
    objects.insert(place, secret);
    Ok(objects)
}

/// The objects of a chart, as this program installs it.
pub(crate) fn render_into(namespace: &str, chart: &Chart, user: Values) -> Result<Vec<Manifest>, Failure> {
    let values = chart.accept(user)?;
    let release =
        Release { name: "homarus".to_owned(), namespace: namespace.to_owned(), service: "CLI".to_owned(), upgrades: false };
    let mut chart = chart.clone();
    chart.metadata.insert("appVersion".to_owned(), version::ours().into());
    let manifests = chart::render(&chart, &values, &release, &Capabilities::default())?;
    Ok(manifests.into_iter().filter(|manifest| !manifest.object.is_null()).collect())
}

/// Objects as text. YAML is Kubernetes' own dialect: a text like `on` is quoted, or it would be read as a boolean.
pub(crate) fn written(objects: &[Json], output: Manifests) -> Result<String, Failure> {
    match output {
        Manifests::Yaml => objects.iter().map(|object| Ok(chart::to_yaml(object).map_err(Failure::new)? + "---\n")).collect(),
        Manifests::Json => documents::write(objects, output),
    }
}

fn minimal(objects: &[Json], output: Manifests) -> Result<String, Failure> {
    let text = written(objects, output)?;
    // Each is preceded by the separator, so that what follows an empty list is no document.
    Ok(match output {
        Manifests::Yaml if !objects.is_empty() => format!("---\n{}", text.trim_end_matches("---\n")),
        _ => text,
    })
}

fn fields(values: Json) -> Values {
    match values {
        Json::Object(fields) => fields,
        _ => Values::new(),
    }
}
