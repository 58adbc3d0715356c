//! The control plane onto the machine: certificates, what `homarus install` prints, and the wait for what comes of it.

use std::time::SystemTime;

use homarus_local::up::State;
use kube::Client;

use crate::command_line::Up;
use crate::failure::Failure;
use crate::install;

use super::progress::Progress;
use super::{apply, authority, readiness};

const NAMESPACE: &str = "linkerd";

/// Installs, and waits until all is ready.
pub(super) async fn run(client: &Client, state: &State, args: &Up, progress: &Progress) -> Result<(), Failure> {
    progress.step("making certificates");
    let mut values = authority::values((!args.ephemeral).then_some(state), SystemTime::now())?;
    // Nobody looks at facts of a machine's own mesh once a day.
    values["disableHeartBeat"] = true.into();
    let (crds, control_plane) = install::objects(NAMESPACE, values.as_object().cloned().unwrap_or_default())?;
    progress.step("applying custom resources");
    apply::all(client, &crds).await?;
    progress.step("applying the control plane");
    apply::all(client, &control_plane).await?;
    readiness::wait(client, NAMESPACE, args.wait, progress).await
}
