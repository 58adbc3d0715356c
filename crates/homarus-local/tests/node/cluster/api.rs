use std::sync::Arc;

use homarus_local::api::{Api, Config};
use homarus_local::node::{Backend, Network};
use kube::Client;

/// The port that pods reach the API at.
const PORT: u16 = 6443;

/// The API of one scenario.
pub struct Served {
    api: Api,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Served {
    pub fn set_node(&self, node: Backend) {
        self.api.set_node(Arc::new(node));
    }
}

/// The embedded API, listening where pods reach it.
pub async fn serve(network: &Network) -> (Client, Served) {
    let listener = tokio::net::TcpListener::from_std(network.listen_tcp(PORT).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let config = Config { service_cidr: network.config().services, ..Config::ephemeral(vec![address]) };
    let api = Api::open(config).unwrap();
    let server = tokio::spawn(api.clone().serve(listener));
    (api.client(), Served { api, server })
}
