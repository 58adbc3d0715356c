//! The embedded API alone: `api KUBECONFIG [STATE-FOLDER]` serves it on loopback and writes a kubeconfig for it.

use std::path::PathBuf;

use homarus_local::api::{Api, Config};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let kubeconfig = arguments.next().ok_or("usage: api KUBECONFIG [STATE-FOLDER]")?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let config = Config { state: arguments.next(), ..Config::ephemeral(vec![listener.local_addr()?]) };
    let api = Api::open(config)?;
    api.write_kubeconfig(&kubeconfig)?;
    println!("serving on https://{}; KUBECONFIG={}", listener.local_addr()?, kubeconfig.display());
    api.serve(listener).await;
    Ok(())
}
