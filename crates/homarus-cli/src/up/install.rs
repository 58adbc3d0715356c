//! The control plane onto the machine: certificates, custom resources, manifests, and the wait for what comes of them.

use std::time::SystemTime;

use homarus_kube::{crds, manifests};
use homarus_local::up::State;
use kube::Client;

use crate::command_line::Up;
use crate::failure::Failure;

use super::progress::Progress;
use super::{apply, authority, readiness};

/// Installs, and waits until all is ready.
pub(super) async fn run(client: &Client, state: &State, args: &Up, progress: &Progress) -> Result<(), Failure> {
    progress.step("making certificates");
    let options = authority::options((!args.ephemeral).then_some(state), SystemTime::now())?;
    progress.step("applying custom resources");
    apply::all(client, &crds::all()).await?;
    progress.step("applying the control plane");
    apply::all(client, &manifests::control_plane(&options).map_err(Failure::new)?).await?;
    readiness::wait(client, &options.namespace, args.wait, progress).await
}
