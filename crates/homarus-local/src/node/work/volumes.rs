//! A pod's volumes: what each is, filling it, and keeping it up to date.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::claims;
use super::fields::{self, Surroundings};
use super::objects::{self, Objects};
use super::payload::{self, Entry};

const TOKEN_LIFE: i64 = 3600;
/// A token is renewed when this part of its life is over, and after a day in any case.
const TOKEN_RENEW_PERCENT: i64 = 80;
const TOKEN_RENEW_MOST: Duration = Duration::from_secs(24 * 3600);
/// Where the pod's own root has its volumes, and the machine's tree.
const VOLUMES: &str = "/volumes";
pub(super) const MACHINE: &str = "/machine";

/// A token, and when to get the next.
#[derive(Debug, Clone)]
struct Token {
    text: String,
    renew: Timestamp,
}

/// The volumes of one pod.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    tokens: BTreeMap<(String, String), Token>,
    /// What was written last, by volume.
    written: BTreeMap<String, Vec<Entry>>,
}

/// Where things are that volumes are made of.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub(crate) client: &'a Client,
    pub(crate) objects: &'a Objects,
    pub(crate) pod: &'a Pod,
    pub(crate) around: &'a Surroundings,
    /// The node's folder.
    pub(crate) state: &'a Path,
}

impl Volumes {
    /// Makes and fills all volumes below `root`, or brings them up to date. An error names the volume.
    pub(crate) async fn fill(&mut self, sources: Sources<'_>, root: &Path) -> Result<(), String> {
        let spec = sources.pod.spec.clone().unwrap_or_default();
        let group = spec.security_context.as_ref().and_then(|s| s.fs_group);
        let group = group.and_then(|g| u32::try_from(g).ok());
        for volume in spec.volumes.iter().flatten() {
            let name = &volume.name;
            let said = |e: String| format!("MountVolume.SetUp failed for volume {name:?}: {e}");
            let place = root.join("volumes").join(name);
            if let Some(claim) = &volume.persistent_volume_claim {
                claims::lead_to(sources, &claim.claim_name, &place, group).await.map_err(said)?;
                continue;
            }
            match self.files(sources, volume).await.map_err(said)? {
                Some(files) if self.written.get(name) == Some(&files) => {}
                Some(files) => {
                    payload::write(&place, &files, group).map_err(|e| said(e.to_string()))?;
                    self.written.insert(name.clone(), files);
                }
                None if place.exists() => {}
                None => make_folder(volume, &place, group).map_err(said)?,
            }
        }
        Ok(())
    }

    /// When a token has to be renewed.
    pub(crate) fn renew_at(&self) -> Option<Timestamp> {
        self.tokens.values().map(|token| token.renew).min()
    }

    /// The files of a volume that has files; none for one that is a mere place.
    async fn files(&mut self, sources: Sources<'_>, volume: &Volume) -> Result<Option<Vec<Entry>>, String> {
        let mode = |mode: Option<i32>| mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644);
        if let Some(v) = &volume.config_map {
            let files = from_config_map(sources, &v.name, v.items.as_deref(), v.optional, mode(v.default_mode));
            return files.await.map(Some);
        }
        if let Some(v) = &volume.secret {
            let name = v.secret_name.as_deref().unwrap_or_default();
            let files = from_secret(sources, name, v.items.as_deref(), v.optional, mode(v.default_mode));
            return files.await.map(Some);
        }
        if let Some(v) = &volume.downward_api {
            let items = v.items.as_deref().unwrap_or_default();
            return from_fields(sources, items, mode(v.default_mode)).map(Some);
        }
        if let Some(v) = &volume.projected {
            let mut files = Vec::new();
            for source in v.sources.iter().flatten() {
                files.extend(self.projected(sources, source, mode(v.default_mode)).await?);
            }
            return Ok(Some(files));
        }
        if volume.empty_dir.is_some() || volume.host_path.is_some() {
            return Ok(None);
        }
        Err("this node has configMap, secret, downwardAPI, projected, emptyDir, hostPath and persistentVolumeClaim volumes only"
            .into())
    }

    async fn projected(&mut self, sources: Sources<'_>, source: &VolumeProjection, mode: u32) -> Result<Vec<Entry>, String> {
        if let Some(s) = &source.config_map {
            return from_config_map(sources, &s.name, s.items.as_deref(), s.optional, mode).await;
        }
        if let Some(s) = &source.secret {
            return from_secret(sources, &s.name, s.items.as_deref(), s.optional, mode).await;
        }
        if let Some(s) = &source.downward_api {
            return from_fields(sources, s.items.as_deref().unwrap_or_default(), mode);
        }
        if let Some(s) = &source.service_account_token {
            let token = self.token(sources, s).await?;
            let (mode, owner) = token_rights(sources.pod, mode);
            let mut file = payload::entry(&s.path, token.into_bytes(), mode)?;
            file.owner = owner;
            return Ok(vec![file]);
        }
        Err("this kind of projection is not supported".into())
    }

    async fn token(&mut self, sources: Sources<'_>, projection: &ServiceAccountTokenProjection) -> Result<String, String> {
        let audience = projection.audience.clone().unwrap_or_default();
        let key = (audience.clone(), projection.path.clone());
        let now = Timestamp::now();
        if let Some(token) = self.tokens.get(&key).filter(|token| now < token.renew) {
            return Ok(token.text.clone());
        }
        let life = projection.expiration_seconds.unwrap_or(TOKEN_LIFE);
        match request_token(sources, audience, life).await {
            Ok(token) => {
                let text = token.text.clone();
                self.tokens.insert(key, token);
                Ok(text)
            }
            // An old token is better than none, and still good for the rest of its life.
            Err(error) => match self.tokens.get_mut(&key) {
                Some(token) => {
                    tracing::warn!(%error, "renewing a token failed");
                    token.renew = now + Duration::from_secs(10);
                    Ok(token.text.clone())
                }
                None => Err(error),
            },
        }
    }
}

async fn request_token(sources: Sources<'_>, audience: String, life: i64) -> Result<Token, String> {
    let meta = &sources.pod.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    let spec = sources.pod.spec.as_ref();
    let account = spec.and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: Some(audience).filter(|a| !a.is_empty()).into_iter().collect(),
            expiration_seconds: Some(life),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
            }),
        },
        ..TokenRequest::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(sources.client.clone(), namespace);
    let issued = api.create_token_request(account, &PostParams::default(), &request).await;
    let issued = issued.map_err(|e| format!("requesting a token for service account {account:?}: {e}"))?;
    let status = issued.status.ok_or("the API issued no token")?;
    let now = Timestamp::now();
    let life = status.expiration_timestamp.0.as_second() - now.as_second();
    let renew = Duration::from_secs(u64::try_from(life * TOKEN_RENEW_PERCENT / 100).unwrap_or(0));
    Ok(Token { text: status.token, renew: now + renew.min(TOKEN_RENEW_MOST) })
}

/// A token is for its user alone where all containers have the same one.
fn token_rights(pod: &Pod, mode: u32) -> (u32, Option<u32>) {
    let spec = pod.spec.clone().unwrap_or_default();
    let shared = spec.security_context.as_ref();
    if shared.is_some_and(|s| s.fs_group.is_some()) {
        return (0o600, None);
    }
    let user = |c: &k8s_openapi::api::core::v1::Container| {
        let own = c.security_context.as_ref().and_then(|s| s.run_as_user);
        own.or_else(|| shared.and_then(|s| s.run_as_user))
    };
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(user);
    let first = all.next().flatten();
    match first.filter(|_| all.all(|other| other == first)) {
        Some(user) => (0o600, u32::try_from(user).ok()),
        None => (mode, None),
    }
}

async fn from_config_map(
    sources: Sources<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
) -> Result<Vec<Entry>, String> {
    let namespace = sources.pod.metadata.namespace.as_deref().unwrap_or_default();
    let found = sources.objects.config_map(namespace, name).await;
    let entries = found.map(|map| objects::config_map_entries(&map));
    pick("configmap", name, entries, items, optional, mode)
}

async fn from_secret(
    sources: Sources<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
) -> Result<Vec<Entry>, String> {
    let namespace = sources.pod.metadata.namespace.as_deref().unwrap_or_default();
    let found = sources.objects.secret(namespace, name).await;
    let entries = found.map(|secret| objects::secret_entries(&secret));
    pick("secret", name, entries, items, optional, mode)
}

/// The entries that were asked for, or all.
fn pick(
    kind: &str,
    name: &str,
    entries: Option<BTreeMap<String, Vec<u8>>>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
) -> Result<Vec<Entry>, String> {
    let optional = optional == Some(true);
    let Some(mut entries) = entries else {
        return if optional { Ok(Vec::new()) } else { Err(format!("{kind} {name:?} not found")) };
    };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return entries.into_iter().map(|(key, bytes)| payload::entry(&key, bytes, mode)).collect();
    };
    let mut files = Vec::new();
    for item in items {
        let own = item.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(mode);
        match entries.remove(&item.key) {
            Some(bytes) => files.push(payload::entry(&item.path, bytes, own)?),
            None if optional => {}
            None => return Err(format!("{kind} {name:?} has no key {:?}", item.key)),
        }
    }
    Ok(files)
}

fn from_fields(sources: Sources<'_>, items: &[DownwardAPIVolumeFile], mode: u32) -> Result<Vec<Entry>, String> {
    let mut files = Vec::new();
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => fields::field(sources.pod, sources.around, &field.field_path)?,
            (None, Some(selector)) => fields::resource(sources.pod, sources.around, None, selector)?,
            (None, None) => return Err(format!("file {:?} names no field", item.path)),
        };
        let own = item.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(mode);
        files.push(payload::entry(&item.path, value.into_bytes(), own)?);
    }
    Ok(files)
}

/// An empty folder of the pod, in memory whatever its medium; or what a `hostPath` wants to be there.
fn make_folder(volume: &Volume, place: &Path, group: Option<u32>) -> Result<(), String> {
    if let Some(host) = &volume.host_path {
        return host_path(&host.path, host.type_.as_deref().unwrap_or_default());
    }
    make_open(place, group).map_err(|e| e.to_string())
}

/// A folder that every container may write to.
pub(super) fn make_open(place: &Path, group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(place)?;
    chown(place, None, group)?;
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(place, fs::Permissions::from_mode(mode))
}

fn host_path(path: &str, kind: &str) -> Result<(), String> {
    let there = fs::metadata(path);
    let fits = match kind {
        "DirectoryOrCreate" if there.is_err() => {
            return fs::create_dir_all(path).map_err(|e| format!("{path}: {e}"));
        }
        "FileOrCreate" if there.is_err() => {
            return fs::write(path, "").map_err(|e| format!("{path}: {e}"));
        }
        "Directory" | "DirectoryOrCreate" => there.is_ok_and(|m| m.is_dir()),
        "File" | "FileOrCreate" => there.is_ok_and(|m| m.is_file()),
        _ => return Ok(()),
    };
    if fits { Ok(()) } else { Err(format!("hostPath type check failed: {path} is not a {kind}")) }
}

/// Where the pod's own root has a volume.
pub(crate) fn source(volume: &Volume) -> PathBuf {
    match &volume.host_path {
        Some(host) => Path::new(MACHINE).join(host.path.trim_start_matches('/')),
        None => Path::new(VOLUMES).join(&volume.name),
    }
}
