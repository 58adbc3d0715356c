//! Network, API, controllers and node, started in the order in which they need each other, and ended in the reverse.
//!
//! Invariant: dropping a [`Machine`] ends everything at once, whatever was under way; [`Machine::stop`] lets pods end first.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use kube::Client;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::api::{Api, Config as ApiConfig, OpenError};
use crate::controllers::{self, Controllers};
use crate::node::{self, ImageRow, Network, NetworkConfig, NetworkError, Node, StartError};

/// Where an API is expected: pods of control planes leave this port alone.
const PORT: u16 = 6443;

/// What may differ from machine to machine.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The name of the node.
    pub node: String,
    /// The networks.
    pub network: NetworkConfig,
    /// The folder of the objects; none keeps them in memory.
    pub objects: Option<PathBuf>,
    /// The folder of logs and volumes.
    pub logs: PathBuf,
    /// A folder that pods must not see: it has keys.
    pub hidden: PathBuf,
    /// The folder of our programs.
    pub programs: Option<PathBuf>,
    /// What images stand for, beside what is known.
    pub images: Vec<ImageRow>,
}

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The API.
    #[error(transparent)]
    Api(#[from] OpenError),
    /// The node.
    #[error(transparent)]
    Node(#[from] StartError),
    /// A port.
    #[error("cannot listen for the API at {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

/// A cluster on this machine.
#[derive(Debug)]
pub struct Machine {
    api: Api,
    node: Node,
    controllers: Controllers,
    // Ends with the machine.
    _servers: JoinSet<()>,
}

impl Machine {
    /// Starts everything. Needs root, and a runtime to be called in.
    pub async fn start(setup: Setup) -> Result<Self, UpError> {
        let network = Network::create(setup.network)?;
        let for_pods = SocketAddr::from((network.gateway(), PORT));
        let pods = network.listen_tcp(PORT).and_then(TcpListener::from_std);
        let pods = pods.map_err(|source| UpError::Listen { address: for_pods, source })?;
        let people = listen_on_loopback().await?;
        let loopback = people.local_addr().unwrap_or(for_pods);
        let api = Api::open(ApiConfig {
            state: setup.objects,
            service_cidr: network.config().services,
            addresses: vec![loopback, for_pods],
            pods: Some(for_pods),
        })?;
        let mut servers = JoinSet::new();
        servers.spawn(api.clone().serve(pods));
        servers.spawn(api.clone().serve(people));
        let controllers = controllers::start(api.client(), controllers::Config::default());
        let mut config = node::Config::new(setup.node, setup.logs);
        config.hidden = vec![setup.hidden];
        config.images = setup.images;
        if let Some(programs) = setup.programs {
            config.programs = programs;
        }
        let node = Node::start(config, network, api.client())?;
        api.set_node(Arc::new(node.clone()));
        Ok(Self { api, node, controllers, _servers: servers })
    }

    /// A client with all rights, that needs no connection.
    pub fn client(&self) -> Client {
        self.api.client()
    }

    /// A kubeconfig with all rights.
    pub fn kubeconfig(&self) -> String {
        self.api.kubeconfig()
    }

    /// Lets the pods end, then everything else. Their objects stay.
    pub async fn stop(self) {
        self.controllers.stop().await;
        self.node.shutdown().await;
    }
}

/// The usual port of an API if it is free, so that kubeconfigs stay good; any other if not.
async fn listen_on_loopback() -> Result<TcpListener, UpError> {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    match TcpListener::bind(usual).await {
        Ok(listener) => Ok(listener),
        Err(_) => {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            TcpListener::bind(address).await.map_err(|source| UpError::Listen { address, source })
        }
    }
}
