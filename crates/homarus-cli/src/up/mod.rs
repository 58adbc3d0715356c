//! `up`, `down` and `status`: the mesh of this machine.
//!
//! `up` takes the state folder, starts a machine ([`homarus_local::up`]), installs the control plane on it as on any
//! cluster (`install`), and stays until it is told to end. What it says itself is terse; its log is in the state folder.

mod apply;
mod authority;
mod down;
mod install;
mod progress;
mod readiness;
mod status;

use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use homarus_daemon::drain;
use homarus_local::node::NetworkConfig;
use homarus_local::up::{Machine, Setup, State, StateError, kubeconfig, log_file};
use kube::Client;

use crate::cluster::Cluster;
use crate::command_line::Up;
use crate::failure::{Exit, Failure, Outcome};
use crate::{stat, terminal};

use progress::Progress;

pub use down::run as down;
pub use status::run as status;

/// The sample application.
const EMOJIVOTO: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/emojivoto.yml"));
const EMOJIVOTO_NAMESPACE: &str = "emojivoto";
/// A log that is longer when `up` starts is begun anew.
const MAX_LOG_BYTES: u64 = 16 * 1024 * 1024;
/// How often the table of the demo is refreshed.
const REFRESH: Duration = Duration::from_secs(2);
/// The programs that pods run.
const PROGRAMS: [&str; 2] = ["homarus-proxy", "homarus-redirect"];

/// Runs the mesh until it is told to end.
pub async fn run(args: &Up) -> Outcome {
    require_root("up")?;
    let programs = programs(args)?;
    let state = State::take(&args.state_dir).map_err(|error| match error {
        StateError::Taken { .. } => Failure::new(error).remedy(
            "Look at it with `homarus status`, end it with `sudo homarus down --keep-state`, or choose another --state-dir.",
        ),
        other => Failure::new(other).remedy("Choose another --state-dir."),
    })?;
    log_to(&log_file(state.dir()))?;
    let mut requests = drain::requests()?;
    let progress = Progress::new();
    let mut running = None;
    let outcome = tokio::select! {
        outcome = live(args, &state, programs, &progress, &mut running) => outcome,
        request = requests.next() => {
            tracing::info!(%request, "ending");
            Ok(())
        }
    };
    progress.clear();
    if let Some(machine) = running {
        eprintln!("Ending ...");
        tokio::select! {
            () = machine.stop() => {}
            // Whoever asks twice means it: everything ends with this process.
            _ = requests.next() => {}
        }
    }
    leave(args, state)?;
    outcome.map(|()| Exit::Ok)
}

/// Starts everything; ends only by failing.
async fn live(
    args: &Up,
    state: &State,
    programs: PathBuf,
    progress: &Progress,
    running: &mut Option<Machine>,
) -> Result<(), Failure> {
    let begun = Instant::now();
    progress.step("starting API, controllers and node");
    let machine = running.insert(Machine::start(setup(args, state, programs)).await.map_err(Failure::new)?);
    let client = machine.client();
    let config = state.write_secret("kubeconfig", &machine.kubeconfig()).map_err(Failure::new)?;
    give_to_caller(&config);
    install::run(&client, state, args, progress)
        .await
        .map_err(|failure| failure.remedy(format!("The log is in {}.", log_file(state.dir()).display())))?;
    for path in &args.manifests {
        progress.step(&format!("applying {}", path.display()));
        let text =
            std::fs::read_to_string(path).map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
        apply::text(&client, &text).await.map_err(|failure| failure.during(path.display()))?;
    }
    if args.demo {
        demo(&client, args, progress).await?;
    }
    progress.done(&format!("The mesh is up, after {:.1} s.", begun.elapsed().as_secs_f64()));
    print_welcome(args, &config)?;
    if args.demo {
        return show_demo(&config).await;
    }
    std::future::pending().await
}

fn setup(args: &Up, state: &State, programs: PathBuf) -> Setup {
    let folder = |name: &str| state.path(if args.ephemeral { "ephemeral" } else { name });
    Setup {
        node: "homarus".to_owned(),
        network: NetworkConfig::default(),
        objects: (!args.ephemeral).then(|| state.path("api")),
        logs: folder("node"),
        hidden: state.dir().to_owned(),
        programs: Some(programs),
        images: Vec::new(),
    }
}

async fn demo(client: &Client, args: &Up, progress: &Progress) -> Result<(), Failure> {
    progress.step("applying emojivoto");
    apply::text(client, EMOJIVOTO).await.map_err(|failure| failure.during("emojivoto"))?;
    readiness::wait(client, EMOJIVOTO_NAMESPACE, args.wait, progress).await
}

fn print_welcome(args: &Up, config: &Path) -> Result<(), Failure> {
    let path = config.display();
    let default = args.state_dir == Path::new(crate::command_line::DEFAULT_STATE_DIR);
    let flag = if default { String::new() } else { format!(" --kubeconfig {path}") };
    terminal::print(&format!(
        "\nkubeconfig: {path}\n\
         \n\
         Look at it from another terminal, with kubectl too (KUBECONFIG={path}):\n\
         \x20 homarus{flag} check\n\
         \x20 homarus{flag} stat deploy -A\n\
         \x20 homarus{flag} top deploy -A\n\
         Ctrl-C ends it{}.\n\n",
        if args.ephemeral { " and forgets everything" } else { "; the next `up` goes on where this one ended" }
    ))
}

/// The table of the sample application, for ever.
async fn show_demo(config: &Path) -> Result<(), Failure> {
    let cluster = Cluster::of_kubeconfig(config.to_owned()).await?;
    let live = terminal::on_terminal();
    if live {
        terminal::clear()?;
    }
    loop {
        let shown = stat::follow(&cluster, EMOJIVOTO_NAMESPACE, REFRESH, |table| {
            let (every, path) = (REFRESH.as_secs(), config.display());
            let text = format!("emojivoto, refreshed every {every} s; Ctrl-C ends it; kubeconfig: {path}\n\n{table}\n");
            let _ = if live { terminal::repaint(&text) } else { terminal::print(&text) };
        });
        // A look that fails is no reason to take the mesh down.
        if let Err(failure) = shown.await {
            tracing::warn!(%failure, "measuring the sample application failed");
            tokio::time::sleep(REFRESH).await;
        }
    }
}

/// Cleans up what isn't kept.
fn leave(args: &Up, state: State) -> Result<(), Failure> {
    if !args.ephemeral {
        return Ok(());
    }
    let kept = state.path("api").exists();
    let _ = std::fs::remove_dir_all(state.path("ephemeral"));
    let _ = std::fs::remove_file(kubeconfig(state.dir()));
    if kept { Ok(()) } else { state.remove().map_err(Failure::new) }
}

/// Refuses without root, before anything is touched.
pub(crate) fn require_root(command: &str) -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new(format!("`homarus {command}` needs root: it makes network namespaces and redirects traffic in them"))
        .remedy(format!("Run `sudo homarus {command}`.")))
}

/// The folder of the programs that pods run; all must be there.
fn programs(args: &Up) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()?;
    let folder = args.programs.clone().or_else(|| own.parent().map(Path::to_owned)).unwrap_or_default();
    let wanted = PROGRAMS.iter().chain(args.demo.then_some(&"homarus-demo"));
    let missing: Vec<_> = wanted.filter(|name| !folder.join(name).is_file()).copied().collect();
    if missing.is_empty() {
        return Ok(folder);
    }
    Err(Failure::new(format!("{} is missing {}", folder.display(), missing.join(", ")))
        .remedy("Build all programs (`cargo build`), or name their folder with --programs."))
}

/// Whoever called `sudo` may read the kubeconfig.
fn give_to_caller(path: &Path) {
    let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID")) {
        // Without it, they use sudo.
        let _ = std::os::unix::fs::chown(path, Some(uid), Some(gid));
    }
}

/// Begins to log into a file, private as the state is.
fn log_to(path: &Path) -> Result<(), Failure> {
    let long = path.metadata().is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES);
    let file = OpenOptions::new().create(true).append(!long).write(true).truncate(long).mode(0o640).open(path);
    let file = file.map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    let filter = std::env::var("HOMARUS_LOG").unwrap_or_else(|_| "info,kube=warn,tower=warn,hyper=warn".to_owned());
    terminal::log_into(file, &filter);
    tracing::info!(version = crate::version::ours(), terminal = std::io::stdout().is_terminal(), "starting");
    Ok(())
}
