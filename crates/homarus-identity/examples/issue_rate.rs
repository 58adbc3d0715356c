//! How many leaves one core issues in a second: `cargo run --release -p homarus-identity --example issue_rate`.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant, SystemTime};

use homarus_identity::authority::Pair;
use homarus_identity::csr::{self, Request};
use homarus_identity::issuer::Validity;
use homarus_identity::{Issuer, Key, TrustAnchors};

const NAME: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";
const DAY: Duration = Duration::from_secs(24 * 3600);

fn main() {
    let now = SystemTime::now();
    let root = Pair::root("root", 365 * DAY, now).unwrap();
    let pair = root.issuer("issuer", 365 * DAY, now).unwrap();
    let anchors = TrustAnchors::from_pem(&root.certificate.to_pem()).unwrap();
    let issuer = Issuer::from_pem(&pair.certificate.to_pem(), &pair.key_pem(), &anchors, Validity::default(), now).unwrap();
    let request = csr::make(&NAME.parse().unwrap(), &Key::generate().unwrap()).unwrap();
    let (mut issued, began) = (0u32, Instant::now());
    while began.elapsed() < Duration::from_secs(2) {
        issuer.issue(&Request::parse(&request).unwrap(), NAME, SystemTime::now()).unwrap();
        issued += 1;
    }
    println!("{:.0} certificates per second", f64::from(issued) / began.elapsed().as_secs_f64());
}
