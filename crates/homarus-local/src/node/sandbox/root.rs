//! A container's root: the machine's `/` below, a private layer in memory above, and what is its own besides.
//!
//! Everything is made in the mount namespace of the container alone and vanishes with its last process. Sources of
//! bind mounts are picked up as detached trees before the root is changed and put down after, so that a symbolic
//! link in a mount path (`/var/run`) leads where it leads inside.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::wire::{MountSpec, RootSpec};

const LAYER: &str = "/layer";
const MACHINE: &str = "/machine";
const ROOT: &str = "/layer/root";

type Outcome<T = ()> = Result<T, String>;

/// Makes the root that `spec` describes and moves into it.
pub(crate) fn make(spec: &RootSpec) -> Outcome {
    let sources = spec.mounts.iter().map(pick_up).collect::<Outcome<Vec<_>>>()?;
    let shm = open_tree(Path::new("/shm")).map_err(said("picking up /dev/shm"))?;
    lay_layers(spec)?;
    for (path, contents) in &spec.files {
        write_file(path, contents).map_err(said(&path.display().to_string()))?;
    }
    own_places(spec.privileged)?;
    change_root().map_err(said("changing the root"))?;
    put_down(&shm, Path::new("/dev/shm"), true).map_err(said("mounting /dev/shm"))?;
    let mut mounts: Vec<_> = spec.mounts.iter().zip(&sources).collect();
    // Outer mount points first, or they would cover the inner ones.
    mounts.sort_by_key(|(mount, _)| mount.target.components().count());
    for (mount, (source, folder)) in mounts {
        let what = format!("mounting {}", mount.target.display());
        put_down(source, &mount.target, *folder).map_err(said(&what))?;
        if mount.read_only {
            read_only(&mount.target).map_err(said(&what))?;
        }
    }
    if spec.read_only {
        for place in ["/tmp", "/run", "/"] {
            read_only(Path::new(place)).map_err(said("making the root read-only"))?;
        }
    }
    Ok(())
}

fn said<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}

fn mount(source: &str, at: &str, kind: &str, flags: MountFlags, options: &str) -> io::Result<()> {
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    rustix::mount::mount(source, at, kind, flags, Some(options.as_c_str()))?;
    Ok(())
}

/// The old root ends up on top of the new one, from where it is taken away (pivot_root(2)).
fn change_root() -> io::Result<()> {
    rustix::process::chdir(ROOT)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// The overlays: `/`, and each further file system of the machine at its place.
fn lay_layers(spec: &RootSpec) -> Outcome {
    mount("tmpfs", LAYER, "tmpfs", MountFlags::NODEV, "mode=0755").map_err(said("making a layer"))?;
    fs::create_dir(ROOT).map_err(said("making a layer"))?;
    overlay(Path::new("/"), 0).map_err(said("laying the root over the machine's /"))?;
    for (at, lower) in spec.lowers.iter().enumerate() {
        // A file system that can't be laid under is seen as it would be in a container: not at all.
        let _ = overlay(lower, at + 1);
    }
    for hidden in &spec.hidden {
        let place = inside(hidden);
        if place.is_dir() {
            mount("tmpfs", &place.display().to_string(), "tmpfs", MountFlags::RDONLY, "mode=0700,size=4k")
                .map_err(said("hiding the state folder"))?;
        }
    }
    Ok(())
}

fn overlay(lower: &Path, number: usize) -> io::Result<()> {
    let (upper, work) = (format!("{LAYER}/upper{number}"), format!("{LAYER}/work{number}"));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    let below = Path::new(MACHINE).join(relative(lower));
    let meta = fs::metadata(&below)?;
    fs::set_permissions(&upper, meta.permissions())?;
    let below = below.display().to_string();
    // The option's own separators in a path would be read as further options.
    let below = below.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,");
    let options = format!("lowerdir={below},upperdir={upper},workdir={work}");
    mount("overlay", &inside(lower).display().to_string(), "overlay", MountFlags::empty(), &options)
}

/// Where a path of the container is while its root is still being made. The paths are the node's, not the pod's.
fn inside(path: &Path) -> PathBuf {
    Path::new(ROOT).join(relative(path))
}

fn relative(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

fn write_file(path: &Path, contents: &str) -> io::Result<()> {
    let path = inside(path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Never through a link (`/etc/resolv.conf` often is one), which could lead anywhere.
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    fs::write(&path, contents)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
}

/// `/tmp`, `/run`, `/proc`, `/sys` and `/dev` are never the machine's.
fn own_places(privileged: bool) -> Outcome {
    let guarded = MountFlags::NOSUID | MountFlags::NODEV;
    for (name, kind, flags, options) in [
        ("tmp", "tmpfs", guarded, "mode=1777"),
        ("run", "tmpfs", guarded, "mode=0755"),
        ("proc", "proc", guarded | MountFlags::NOEXEC, ""),
        ("sys", "sysfs", guarded | MountFlags::NOEXEC | MountFlags::RDONLY, ""),
        ("dev", "tmpfs", MountFlags::NOSUID, "mode=0755,size=1m"),
    ] {
        let place = format!("{ROOT}/{name}");
        fs::create_dir_all(&place).map_err(said(name))?;
        mount(kind, &place, kind, flags, options).map_err(said(name))?;
    }
    let _ = fs::create_dir(format!("{ROOT}/run/lock"));
    let _ = fs::set_permissions(format!("{ROOT}/run/lock"), fs::Permissions::from_mode(0o1777));
    devices().map_err(said("making /dev"))?;
    if !privileged {
        guard_proc().map_err(said("guarding /proc"))?;
    }
    Ok(())
}

fn devices() -> io::Result<()> {
    let dev = format!("{ROOT}/dev");
    for (name, major, minor) in [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        let path = format!("{dev}/{name}");
        let number = rustix::fs::makedev(major, minor);
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(CWD, path.as_str(), FileType::CharacterDevice, mode, number)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    }
    for folder in ["pts", "shm"] {
        fs::create_dir(format!("{dev}/{folder}"))?;
    }
    mount(
        "devpts",
        &format!("{dev}/pts"),
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "newinstance,ptmxmode=0666,mode=0620,gid=5",
    )?;
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, format!("{dev}/{name}"))?;
    }
    Ok(())
}

/// What of `/proc` speaks of the whole machine is read-only or empty, as in any container.
fn guard_proc() -> io::Result<()> {
    for name in ["sys", "sysrq-trigger", "irq", "bus", "fs"] {
        let place = format!("{ROOT}/proc/{name}");
        if Path::new(&place).exists() {
            rustix::mount::mount_bind(place.as_str(), place.as_str())?;
            read_only(Path::new(&place))?;
        }
    }
    for name in ["kcore", "keys", "timer_list", "sched_debug"] {
        let place = format!("{ROOT}/proc/{name}");
        if Path::new(&place).exists() {
            rustix::mount::mount_bind(format!("{ROOT}/dev/null").as_str(), place.as_str())?;
        }
    }
    Ok(())
}

fn open_tree(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(CWD, path, flags)?)
}

/// A detached copy of what a mount shows, and whether it is a folder.
fn pick_up(mount: &MountSpec) -> Outcome<(OwnedFd, bool)> {
    let what = format!("volume for {}", mount.target.display());
    let base = &mount.source;
    let path = match &mount.sub_path {
        None => base.clone(),
        Some(sub) => {
            let full = base.join(relative(sub));
            if mount.create && !full.exists() {
                fs::create_dir_all(&full).map_err(said(&what))?;
            }
            // The kernel refuses a link that leads out of the volume.
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let volume = rustix::fs::open(base, flags, Mode::empty()).map_err(said(&what))?;
            let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            let found = rustix::fs::openat2(&volume, relative(sub), flags, Mode::empty(), beneath)
                .map_err(said(&format!("{what}: sub path {}", sub.display())))?;
            let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
            fs::read_link(link).map_err(said(&what))?
        }
    };
    let meta = fs::metadata(&path).map_err(said(&format!("{what}: {}", path.display())))?;
    let tree = open_tree(&path).map_err(said(&what))?;
    Ok((tree, meta.is_dir()))
}

fn put_down(tree: &OwnedFd, at: &Path, folder: bool) -> io::Result<()> {
    if folder {
        fs::create_dir_all(at)?;
    } else if !at.exists() {
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(at, "")?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    rustix::mount::move_mount(tree, "", CWD, at, flags)?;
    Ok(())
}

fn read_only(at: &Path) -> io::Result<()> {
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    rustix::mount::mount_remount(at, flags, c"")?;
    Ok(())
}
