//! A whole mesh of two workloads: a client and a server, each with its proxy.

use crate::{
    control::{Control, Endpoint, Service, Serving},
    ground::{Ground, PROXY_UID, Site},
    proxy::{Proxy, Setup},
};
use homarus_model::Identity;
use std::{
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;

/// The client's identity.
pub const CLIENT_ID: &str = "client.test.serviceaccount.identity.linkerd.cluster.local";
/// The server's identity.
pub const SERVER_ID: &str = "server.test.serviceaccount.identity.linkerd.cluster.local";

/// What a mesh is made of.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The client's proxy; none: the client is not meshed.
    pub client: Option<PathBuf>,
    /// The server's proxy; none: the server is not meshed.
    pub server: Option<PathBuf>,
    /// Variables of the client's proxy beside the injector's.
    pub client_env: Vec<(&'static str, String)>,
    /// Variables of the server's proxy.
    pub server_env: Vec<(&'static str, String)>,
    /// Open files that the proxies may have.
    pub max_files: Option<u32>,
    /// How long leaves live.
    pub leaf_lifetime: Option<Duration>,
    /// The proxies read their trust anchors from files, which [`Mesh::set_anchors`] changes.
    pub anchors_in_files: bool,
    /// The control plane tells proxies of its root, and of those that [`Control::trust`] says then.
    pub tells_roots: bool,
}

/// A mesh that runs. Fields are dropped in this order: programs first, their ground last.
pub struct Mesh {
    client_proxy: Option<Proxy>,
    server_proxy: Option<Proxy>,
    /// The control plane in the client's namespace; taken: it is down.
    pub client_control: Option<Serving>,
    /// The same in the server's.
    pub server_control: Option<Serving>,
    /// What the control plane says.
    pub control: Control,
    /// Where it is.
    pub ground: Ground,
    dir: TempDir,
}

impl Plan {
    /// The same program on both sides.
    pub fn both(program: &str) -> Self {
        Self { client: Some(program.into()), server: Some(program.into()), ..Self::default() }
    }

    /// Starts it, and waits until the proxies are ready.
    pub fn start(&self) -> Mesh {
        let dir = tempfile::Builder::new().prefix("homarus-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let (ground, control) = (Ground::new(), Control::new());
        control.change(|state| state.leaf_lifetime = self.leaf_lifetime);
        if self.tells_roots {
            control.trust(&control.anchors);
        }
        let mut mesh =
            Mesh { client_proxy: None, server_proxy: None, client_control: None, server_control: None, control, ground, dir };
        mesh.client_control = Some(mesh.control.serve(&mesh.ground.client));
        mesh.server_control = Some(mesh.control.serve(&mesh.ground.server));
        let proxy = |site: &Site, program: &Option<PathBuf>, identity: &str, env: &[(&'static str, String)]| {
            let program = program.as_deref()?;
            site.redirect();
            let mut env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
            let dir = credentials(mesh.dir.path(), identity);
            let anchors = &mesh.control.anchors;
            let file = mesh.anchors_file(identity);
            if self.anchors_in_files {
                mesh.set_anchors(identity, anchors);
                env.push(("IDENTITY_TRUST_ANCHORS_FILE", file.to_str().unwrap()));
            }
            let setup = Setup { program, dir: &dir, identity, anchors, env: &env, max_files: self.max_files };
            Some(Proxy::start(site, &setup))
        };
        let client = proxy(&mesh.ground.client, &self.client, CLIENT_ID, &self.client_env);
        let server = proxy(&mesh.ground.server, &self.server, SERVER_ID, &self.server_env);
        (mesh.client_proxy, mesh.server_proxy) = (client, server);
        [&mut mesh.client_proxy, &mut mesh.server_proxy].into_iter().flatten().for_each(Proxy::wait_ready);
        mesh
    }
}

/// Key, request and token of a workload, as the proxy's account may read them.
fn credentials(dir: &Path, identity: &str) -> PathBuf {
    let dir = dir.join(identity.split('.').next().unwrap());
    std::fs::create_dir(&dir).unwrap();
    homarus_identity::files::ensure(&dir, &identity.parse::<Identity>().unwrap()).unwrap();
    std::fs::write(dir.join("token"), "a token").unwrap();
    for entry in std::fs::read_dir(&dir).unwrap() {
        chown(entry.unwrap().path(), Some(PROXY_UID), Some(PROXY_UID)).unwrap();
    }
    chown(&dir, Some(PROXY_UID), Some(PROXY_UID)).unwrap();
    dir
}

impl Mesh {
    /// Ends the client's proxy and starts it again as `plan` says, with the folder and the environment that it had: what
    /// becomes of a container that restarts. Waits until it is ready.
    pub fn restart_client(&mut self, plan: &Plan) {
        drop(self.client_proxy.take());
        let env: Vec<(&str, &str)> = plan.client_env.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let dir = self.dir.path().join("client");
        let (program, anchors) = (plan.client.as_deref().unwrap(), &*self.control.anchors);
        let setup = Setup { program, dir: &dir, identity: CLIENT_ID, anchors, env: &env, max_files: plan.max_files };
        let mut proxy = Proxy::start(&self.ground.client, &setup);
        proxy.wait_ready();
        self.client_proxy = Some(proxy);
    }

    fn anchors_file(&self, identity: &str) -> PathBuf {
        self.dir.path().join(format!("{identity}.pem"))
    }

    /// Changes whom the proxy of an identity believes, as a ConfigMap's volume does: all at once.
    pub fn set_anchors(&self, identity: &str, pem: &str) {
        let (file, fresh) = (self.anchors_file(identity), self.dir.path().join("fresh.pem"));
        std::fs::write(&fresh, pem).unwrap();
        std::fs::rename(fresh, file).unwrap();
    }

    /// The client's proxy.
    pub fn client_proxy(&mut self) -> &mut Proxy {
        self.client_proxy.as_mut().unwrap()
    }

    /// The server's proxy.
    pub fn server_proxy(&mut self) -> &mut Proxy {
        self.server_proxy.as_mut().unwrap()
    }

    /// Whether the client has a proxy.
    pub fn is_client_meshed(&self) -> bool {
        self.client_proxy.is_some()
    }

    /// The proxies there are.
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        [&self.client_proxy, &self.server_proxy].into_iter().flatten()
    }

    /// A port of the server as an endpoint, by its other address.
    pub fn endpoint6(&self, port: u16) -> Endpoint {
        Endpoint { addr: self.ground.server.at6(port), ..self.endpoint(port) }
    }

    /// The memory of all proxies in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.proxies().map(Proxy::resident_kib).sum()
    }

    /// The time that all proxies have spent on a processor.
    pub fn cpu(&self) -> Duration {
        self.proxies().map(Proxy::cpu).sum()
    }

    /// Where clients are.
    pub fn client(&self) -> &Site {
        &self.ground.client
    }

    /// Where servers are.
    pub fn server(&self) -> &Site {
        &self.ground.server
    }

    /// Adds a service; gives the address where it is dialed.
    pub fn service(&self, service: Service) -> SocketAddr {
        let addr = service.addr();
        self.control.change(|state| state.services.push(service));
        addr
    }

    /// A service with one endpoint, a port of the server: meshed if the server is.
    pub fn service_at(&self, name: &str, port: u16) -> SocketAddr {
        let mut service = Service::new(name, [10, 99, (port >> 8) as u8, port as u8], 80);
        service.endpoints = vec![self.endpoint(port)];
        self.service(service)
    }

    /// The same, opaque.
    pub fn opaque_service_at(&self, name: &str, port: u16) -> SocketAddr {
        let mut service = Service::new(name, [10, 99, (port >> 8) as u8, port as u8], 6000);
        service.opaque = true;
        service.endpoints = vec![self.endpoint(port)];
        self.service(service)
    }

    /// A port of the server as an endpoint.
    pub fn endpoint(&self, port: u16) -> Endpoint {
        let addr = self.ground.server.at(port);
        let meshed = self.server_proxy.is_some() && !crate::ground::UNMESHED.contains(&port);
        if meshed { Endpoint::meshed(addr, SERVER_ID) } else { Endpoint::unmeshed(addr) }
    }

    /// Starts a server in a thread of its own, on a free port.
    pub fn serve(&self, handle: impl Fn(std::net::TcpStream) + Send + Sync + 'static) -> u16 {
        crate::servers::serve(self.ground.server.listen(0), handle)
    }
}
