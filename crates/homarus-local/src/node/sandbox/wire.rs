//! What the node and the processes inside a pod say to each other: one JSON message per datagram.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The longest message on the control socket.
pub(crate) const MESSAGE_MAX: usize = 64 << 10;
/// The longest launch order: environment, mounts and all.
pub(crate) const LAUNCH_MAX: u64 = 4 << 20;
/// The argument that makes this program process 1 of a pod.
pub const INIT_ARG: &str = "__homarus-pod-init";
/// The argument that makes this program become a container's.
pub const LAUNCH_ARG: &str = "__homarus-pod-launch";

/// The first message to process 1: what to make of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxSpec {
    pub(crate) hostname: String,
    pub(crate) host_network: bool,
    /// Size of the memory that the pod's own files may take, for `mount -o size=`.
    pub(crate) memory_limit: String,
    pub(crate) sysctls: Vec<(String, String)>,
}

/// Further messages to process 1.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum ToInit {
    /// Start a launcher. Its order socket comes along, and its standard output and error unless it gets a terminal.
    Spawn {
        id: u64,
        /// The process whose mounts it joins instead of getting its own.
        within: Option<u64>,
    },
    /// Send a signal to that process alone.
    Signal { id: u64, signal: i32 },
}

/// What process 1 reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromInit {
    Ready,
    Failed { message: String },
    Spawned { id: u64 },
    NotSpawned { id: u64, message: String },
    Exited { id: u64, code: i32, signal: Option<i32> },
}

/// What a launcher becomes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct LaunchSpec {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: String,
    /// Absent where it joins a container that is there already.
    pub(crate) root: Option<RootSpec>,
    pub(crate) rights: Rights,
    /// It gets a terminal, whose other end is sent back.
    pub(crate) terminal: bool,
}

/// A container's view of the file system. Sources are paths in the pod's own root, where the machine's tree is
/// at `/machine`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct RootSpec {
    /// Mount points of the machine's file systems besides `/` that are laid under the container too.
    pub(crate) lowers: Vec<PathBuf>,
    /// Folders of the machine that a container sees empty.
    pub(crate) hidden: Vec<PathBuf>,
    pub(crate) mounts: Vec<MountSpec>,
    /// Small files written into the private layer: `/etc/hosts` and the like.
    pub(crate) files: Vec<(PathBuf, String)>,
    pub(crate) read_only: bool,
    pub(crate) privileged: bool,
}

/// One bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountSpec {
    pub(crate) source: PathBuf,
    /// A path below `source` that must not lead out of it.
    pub(crate) sub_path: Option<PathBuf>,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
    /// Make the sub path a folder where nothing is.
    pub(crate) create: bool,
}

/// What a process may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rights {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Bit set of capabilities that it and its children may ever have.
    pub(crate) capabilities: u64,
    /// Bit set of those that it has though it isn't root.
    pub(crate) ambient: u64,
    pub(crate) no_new_privileges: bool,
}
