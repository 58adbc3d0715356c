//! Scratch.
#![allow(clippy::unwrap_used, missing_docs)]
use clap::Parser;
use homarus_identity::{authority::Pair, csr, Credential, Key, TrustAnchors};
use std::time::{Duration, SystemTime};
#[derive(Parser)]
enum Cli {
    Identity(homarus_control::issue::Args),
    ProxyInjector(homarus_control::inject::Args),
    Make { dir: std::path::PathBuf },
    Certify { addr: String, name: String, token: String, anchors: std::path::PathBuf },
}
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse_from(homarus_daemon::args::double_dashes(std::env::args_os())) {
        Cli::Identity(a) => homarus_control::issue::run(a).await,
        Cli::ProxyInjector(a) => homarus_control::inject::run(a).await,
        Cli::Make { dir } => {
            let now = SystemTime::now();
            let day = Duration::from_secs(86400);
            let root = Pair::root("root.linkerd.cluster.local", day * 365, now)?;
            let issuer = root.issuer("identity.linkerd.cluster.local", day * 100, now)?;
            let server = Pair::server(&["localhost", "linkerd-proxy-injector.linkerd.svc"], day * 365, now)?;
            for (f, t) in [("ca-bundle.crt", root.certificate.to_pem()), ("crt.pem", issuer.certificate.to_pem()), ("key.pem", issuer.key_pem()), ("tls.crt", server.certificate.to_pem()), ("tls.key", server.key_pem())] {
                std::fs::write(dir.join(f), t)?;
            }
            Ok(())
        }
        Cli::Certify { addr, name, token, anchors } => {
            let key = Key::generate()?;
            let id = name.parse()?;
            let mut io = Some(tokio::net::TcpStream::connect(&addr).await?);
            let channel = tonic::transport::Endpoint::try_from(format!("http://{addr}"))?.connect().await?;
            io.take();
            let mut client = linkerd2_proxy_api::identity::identity_client::IdentityClient::new(channel);
            let request = linkerd2_proxy_api::identity::CertifyRequest { identity: name.clone(), token: token.into_bytes(), certificate_signing_request: csr::make(&id, &key)? };
            for _ in 0..3 { let t = std::time::Instant::now(); client.certify(request.clone()).await?; println!("answered in {:?}", t.elapsed()); }
            let began = std::time::Instant::now();
            let answer = client.certify(request).await?.into_inner();
            println!("answered in {:?}", began.elapsed());
            let anchors = TrustAnchors::from_pem(&std::fs::read_to_string(anchors)?)?;
            let c = Credential::verified(&id, &key, answer.leaf_certificate.clone(), answer.intermediate_certificates, &anchors, SystemTime::now())?;
            println!("{} until {:?}", c.identity(), c.expiry());
            std::fs::write("/tmp/hm-side/leaf.pem", homarus_identity::pem::certificate(&answer.leaf_certificate))?;
            Ok(())
        }
    }
}
