//! What runs where a manifest names an image: a table instead of a registry.
//!
//! Rows compare repositories without tag or digest. A row without a registry (`linkerd/proxy`) stands for any.

use std::path::{Path, PathBuf};

/// One row of the table: what an image would have held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// The repository, without tag; with a trailing `*` for all that begin so.
    pub repository: String,
    /// The program, and arguments that go before the container's own; replaced by `command`.
    pub entrypoint: Vec<String>,
    /// Arguments where the container has none; replaced by `args`.
    pub default_args: Vec<String>,
    /// Files of the machine, and where they are inside the container.
    pub files: Vec<ImageFile>,
    /// The user where the container names none.
    pub user: Option<u32>,
}

/// A file of the machine that a container sees elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// Where the container sees it.
    pub inside: PathBuf,
    /// Where it is.
    pub machine: PathBuf,
}

/// A container that can't be started for want of a program. The spec's or the table's fault; adding a row helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ImageError {
    #[error(
        "no program is known for image {image:?} and the container has no command: give it one, or add a row for \
         the image to the node's table (repository, program, arguments)"
    )]
    Unknown { image: String },
    #[error("image {image:?} stands for {}, which is not there: build it, or put it there", path.display())]
    Missing { image: String, path: PathBuf },
}

/// The table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Images {
    rows: Vec<ImageRow>,
}

impl Images {
    /// Users' rows go before the built-in ones.
    pub(crate) fn new(users: &[ImageRow], programs: &Path) -> Self {
        let mut rows = users.to_vec();
        rows.extend(built_in(programs));
        Self { rows }
    }

    /// The row of an image, if there is one.
    pub(crate) fn row(&self, image: &str) -> Option<&ImageRow> {
        let repository = repository(image);
        self.rows.iter().find(|row| matches(&row.repository, repository))
    }

    /// What a container executes, and the files it needs for that.
    pub(crate) fn resolve(
        &self,
        image: &str,
        command: &[String],
        args: &[String],
    ) -> Result<(Vec<String>, Vec<ImageFile>), ImageError> {
        let row = self.row(image);
        let files = row.map(|row| row.files.clone()).unwrap_or_default();
        if !command.is_empty() {
            let there = files.into_iter().filter(|f| f.machine.exists()).collect();
            return Ok(([command, args].concat(), there));
        }
        let row = row.filter(|row| !row.entrypoint.is_empty());
        let row = row.ok_or_else(|| ImageError::Unknown { image: image.into() })?;
        if let Some(missing) = files.iter().find(|f| !f.machine.exists()) {
            return Err(ImageError::Missing { image: image.into(), path: missing.machine.clone() });
        }
        let args = if args.is_empty() { &row.default_args } else { args };
        Ok(([row.entrypoint.as_slice(), args].concat(), files))
    }
}

/// The image's name without tag and digest.
fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    }
}

fn matches(row: &str, repository: &str) -> bool {
    if let Some(start) = row.strip_suffix('*') {
        let anywhere = repository.match_indices('/').map(|(at, _)| &repository[at + 1..]);
        return repository.starts_with(start) || anywhere.into_iter().any(|part| part.starts_with(start));
    }
    repository == row || repository.strip_suffix(row).is_some_and(|rest| rest.ends_with('/'))
}

const LINKERD: &str = "/usr/lib/linkerd";

/// Ours, Linkerd's and the demo's.
fn built_in(programs: &Path) -> Vec<ImageRow> {
    let proxy_files = [
        ("linkerd2-proxy-identity", "homarus-proxy"),
        ("linkerd2-proxy", "homarus-proxy"),
        ("linkerd2-proxy-init", "homarus-redirect"),
        ("linkerd2-network-validator", "homarus-redirect"),
        ("linkerd-await", "homarus-redirect"),
    ];
    let proxy = |entry: &str, repository: &str| {
        let files = proxy_files.map(|(name, program)| (format!("{LINKERD}/{name}"), program));
        row(programs, repository, &[&format!("{LINKERD}/{entry}")], &files)
    };
    let homarus = ("/usr/local/bin/homarus".to_owned(), "homarus");
    let controller = |repository: &str, args: &[&str]| {
        let entrypoint = [&[homarus.0.as_str()], args].concat();
        row(programs, repository, &entrypoint, std::slice::from_ref(&homarus))
    };
    let demo_names = ["web", "emoji-svc", "voting-svc", "vote-bot"];
    let demo_files = demo_names.map(|name| (format!("/usr/local/bin/emojivoto-{name}"), "homarus-demo"));
    let mut rows = vec![
        proxy("linkerd2-proxy-identity", "linkerd/proxy"),
        proxy("linkerd2-proxy-identity", "homarus-proxy"),
        proxy("linkerd2-proxy-init", "linkerd/proxy-init"),
        proxy("linkerd2-proxy-init", "homarus-redirect"),
        controller("linkerd/controller", &["controller"]),
        controller("linkerd/policy-controller", &["controller", "policy"]),
        controller("homarus", &[]),
        row(programs, "homarus-demo", &["/usr/local/bin/homarus-demo"], &[("/usr/local/bin/homarus-demo".into(), "homarus-demo")]),
    ];
    rows.extend(demo_names.map(|name| {
        let program = format!("/usr/local/bin/emojivoto-{name}");
        row(programs, &format!("buoyantio/emojivoto-{name}"), &[&program], &demo_files)
    }));
    rows
}

fn row(programs: &Path, repository: &str, entrypoint: &[&str], files: &[(String, &str)]) -> ImageRow {
    ImageRow {
        repository: repository.into(),
        entrypoint: entrypoint.iter().map(|s| (*s).to_owned()).collect(),
        default_args: Vec::new(),
        files: files.iter().map(|(inside, program)| ImageFile { inside: inside.into(), machine: programs.join(program) }).collect(),
        user: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn repositories_match_without_registry_and_tag() {
        for image in ["linkerd/proxy", "cr.l5d.io/linkerd/proxy:edge-1", "localhost:5000/linkerd/proxy@sha256:00"] {
            assert!(matches("linkerd/proxy", repository(image)), "{image}");
        }
        for image in ["cr.l5d.io/linkerd/proxy-init", "xlinkerd/proxy", "nginx"] {
            assert!(!matches("linkerd/proxy", repository(image)), "{image}");
        }
        assert!(matches("acme/*", repository("reg.example/acme/any:1")));
        assert!(!matches("acme/*", repository("reg.example/other/acme")));
    }

    #[test]
    fn a_command_needs_no_row_and_neither_has_a_remedy() {
        let images = Images::new(&[], Path::new("/nonexistent"));
        let (argv, files) = images.resolve("any", &["/bin/x".into()], &["1".into()]).unwrap();
        assert_eq!((argv, files.len()), (vec!["/bin/x".into(), "1".into()], 0));
        let error = images.resolve("nginx:1", &[], &["-g".into()]).unwrap_err().to_string();
        assert!(error.contains("nginx:1") && error.contains("add a row"), "{error}");
        let error = images.resolve("cr.l5d.io/linkerd/proxy:1", &[], &[]).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/homarus-proxy"), "{error}");
    }

    #[test]
    fn args_replace_only_the_default_ones() {
        let own = ImageRow {
            repository: "nginx".into(),
            entrypoint: vec!["/usr/sbin/nginx".into()],
            default_args: vec!["-g".into(), "daemon off;".into()],
            files: Vec::new(),
            user: None,
        };
        let images = Images::new(&[own], Path::new("/"));
        let argv = |args: &[String]| images.resolve("docker.io/library/nginx:1", &[], args).unwrap().0;
        assert_eq!(argv(&[]), ["/usr/sbin/nginx", "-g", "daemon off;"]);
        assert_eq!(argv(&["-t".into()]), ["/usr/sbin/nginx", "-t"]);
    }
}
