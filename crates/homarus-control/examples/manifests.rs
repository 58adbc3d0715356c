//! Prints the manifests of a control plane with certificates of its own, for `kubectl apply -f -`.
//!
//! `cargo run -p homarus-control --example manifests -- [CONTROLLER_IMAGE [PROXY_IMAGE VERSION]]`

use homarus_identity::authority::Pair;
use homarus_kube::{
    crds,
    manifests::{KeyPair, Options, control_plane},
};
use serde_json::json;
use std::time::{Duration, SystemTime};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn main() -> anyhow::Result<()> {
    let now = SystemTime::now();
    let root = Pair::root("root.linkerd.cluster.local", YEAR, now)?;
    let issuer = root.issuer("identity.linkerd.cluster.local", YEAR, now)?;
    let injector = Pair::server(&[&Options::injector_name("linkerd")], YEAR, now)?;
    let pem = |pair: &Pair| KeyPair { certificate: pair.certificate.to_pem(), key: pair.key_pem() };
    let mut options = Options::new(root.certificate.to_pem(), pem(&issuer), pem(&injector));
    let mut args = std::env::args().skip(1);
    if let Some(image) = args.next() {
        options.controller_image = image;
    }
    if let (Some(image), Some(version)) = (args.next(), args.next()) {
        (options.proxy_image, options.version) = (image, version);
    }
    let items: Vec<_> = crds::all().into_iter().chain(control_plane(&options)?).collect();
    println!("{}", json!({ "apiVersion": "v1", "kind": "List", "items": items }));
    Ok(())
}
