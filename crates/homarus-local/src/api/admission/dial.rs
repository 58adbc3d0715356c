//! How the API reaches a Service that a webhook names.

use std::io;
use std::net::{IpAddr, SocketAddr};

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::api::store::{Name, Store};

/// A Service to be reached, with all the API knows about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The Service's port.
    pub port: u16,
    /// Its address, unless headless.
    pub cluster_ip: Option<IpAddr>,
    /// Its ready endpoints, with the port behind the Service's.
    pub endpoints: Vec<SocketAddr>,
}

/// Connects to Services. `homarus up` has one that knows the way into the pod network.
pub trait ServiceDialer: Send + Sync + 'static {
    /// A connection to any of its endpoints.
    fn dial(&self, service: Service) -> BoxFuture<'static, io::Result<TcpStream>>;
}

/// Connects from this process to the first endpoint that answers.
#[derive(Debug, Clone, Copy)]
pub struct DialEndpoints;

impl ServiceDialer for DialEndpoints {
    fn dial(&self, service: Service) -> BoxFuture<'static, io::Result<TcpStream>> {
        Box::pin(async move {
            let nobody = format!("service {}/{} has no ready endpoints", service.namespace, service.name);
            let mut last = io::Error::new(io::ErrorKind::NotConnected, nobody);
            for endpoint in service.endpoints {
                match TcpStream::connect(endpoint).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }
}

/// What the store knows about a Service; `None` if it isn't there.
pub fn resolve(store: &Store, namespace: &str, name: &str, port: u16) -> Option<Service> {
    let service = store.find("/services", &Name::new(namespace, name))?;
    let spec = &service.value["spec"];
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let named = ports.iter().find(|p| p["port"].as_u64() == Some(port.into()))?;
    let port_name = named["name"].as_str().unwrap_or_default();
    let mut endpoints = Vec::new();
    for slice in store.list("discovery.k8s.io/endpointslices", namespace) {
        if slice.value["metadata"]["labels"]["kubernetes.io/service-name"] == name {
            endpoints.extend(ready(&slice.value, port_name));
        }
    }
    let cluster_ip = spec["clusterIP"].as_str().and_then(|a| a.parse().ok());
    Some(Service { namespace: namespace.into(), name: name.into(), port, cluster_ip, endpoints })
}

fn ready(slice: &Value, port_name: &str) -> Vec<SocketAddr> {
    let ports = slice["ports"].as_array().into_iter().flatten();
    let port = ports.into_iter().find(|p| p["name"].as_str().unwrap_or_default() == port_name);
    let Some(port) = port.and_then(|p| p["port"].as_u64()).and_then(|p| u16::try_from(p).ok()) else { return Vec::new() };
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    endpoints
        .filter(|e| e["conditions"]["ready"] != false)
        .filter_map(|e| e["addresses"][0].as_str()?.parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, port))
        .collect()
}
