//! `status`: the mesh of this machine, in a few lines.

use homarus_local::up::{holder, kubeconfig, log_file, running};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::cluster::Cluster;
use crate::command_line::{Output, Status};
use crate::failure::{Exit, Failure, Outcome};
use crate::terminal;
use crate::{version, workloads};

/// What can be told of a mesh that runs.
struct Told {
    version: String,
    pods: usize,
    ready: usize,
    meshed: usize,
}

/// Prints it; 1 if nothing runs.
pub async fn run(args: &Status) -> Outcome {
    let dir = &args.state_dir;
    let is_running = running(dir);
    let told = if is_running { ask(args).await } else { Err(Failure::new("not running")) };
    let path = kubeconfig(dir);
    let text = match args.output {
        Output::Json => {
            let counts = told.as_ref().ok().map(|told| json!({ "total": told.pods, "ready": told.ready, "meshed": told.meshed }));
            let answer = json!({
                "running": is_running,
                "pid": holder(dir),
                "stateDir": dir,
                "kubeconfig": is_running.then_some(&path),
                "log": is_running.then(|| log_file(dir)),
                "controlPlaneVersion": told.as_ref().ok().map(|told| &told.version),
                "pods": counts,
                "error": told.as_ref().err().filter(|_| is_running).map(ToString::to_string),
            });
            format!("{}\n", serde_json::to_string_pretty(&answer).map_err(Failure::new)?)
        }
        Output::Table if !is_running => {
            let state = if dir.exists() { "its state is kept in" } else { "there is no state in" };
            format!("No mesh is running; {state} {}.\n", dir.display())
        }
        Output::Table => {
            let pid = holder(dir).map_or_else(|| "?".to_owned(), |pid| pid.to_string());
            let rest = match &told {
                Ok(told) => format!(
                    "version:     {}\npods:        {} ({} ready, {} meshed)\n",
                    told.version, told.pods, told.ready, told.meshed
                ),
                Err(failure) => format!("API:         {failure}\n"),
            };
            format!("running:     process {pid}\nkubeconfig:  {}\nlog:         {}\n{rest}", path.display(), log_file(dir).display())
        }
    };
    terminal::print(&text)?;
    Ok(if is_running { Exit::Ok } else { Exit::Unwell })
}

async fn ask(args: &Status) -> Result<Told, Failure> {
    let cluster = Cluster::of_kubeconfig(kubeconfig(&args.state_dir)).await?;
    let pods: Vec<Pod> = workloads::list(&cluster.client, None, None).await?;
    let is_ready = |pod: &&Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|conditions| conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    };
    Ok(Told {
        version: version::of_control_plane(&cluster).await.unwrap_or_else(|_| "unavailable".to_owned()),
        pods: pods.len(),
        ready: pods.iter().filter(is_ready).count(),
        meshed: pods.iter().filter(|pod| workloads::is_meshed(pod)).count(),
    })
}
