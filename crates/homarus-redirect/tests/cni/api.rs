//! A stand-in for the Kubernetes API that can be told to misbehave, as a real one can't. That the plugin works with a real one
//! is shown on a real cluster.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use homarus_redirect::api::Access;
use homarus_redirect::netns::Netns;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// How it answers.
#[derive(Clone)]
pub enum Manner {
    /// With this status and these bodies, by the path's last words.
    Answers(u16, Vec<(&'static str, String)>),
    /// Not at all.
    Silent,
}

pub struct ApiServer {
    address: SocketAddr,
    roots: String,
    manner: Arc<Mutex<Manner>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl ApiServer {
    /// Listens in a network namespace, as long as the test's process lives.
    pub fn start(netns: &Netns) -> Self {
        let (roots, config) = credentials();
        let listener = netns.enter(|| TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let server = Self { address, roots, manner: Arc::new(Mutex::new(Manner::Answers(200, Vec::new()))), asked: Arc::default() };
        let (manner, asked) = (Arc::clone(&server.manner), Arc::clone(&server.asked));
        thread::spawn(move || {
            for connection in listener.incoming() {
                let (config, manner, asked) = (Arc::clone(&config), Arc::clone(&manner), Arc::clone(&asked));
                thread::spawn(move || serve(connection.unwrap(), config, &manner, &asked));
            }
        });
        server
    }

    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// Paths, in the order in which they were asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub fn kubeconfig(&self) -> String {
        Access { server: format!("https://{}", self.address), roots: self.roots.clone(), token: "secret".into() }.kubeconfig()
    }
}

fn credentials() -> (String, Arc<ServerConfig>) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::new(vec![]).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_certificate = root.self_signed(&root_key).unwrap();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let chain = vec![CertificateDer::from(leaf.der().to_vec())];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    (root_certificate.pem(), Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()))
}

/// One question per connection is enough here.
fn serve(connection: TcpStream, config: Arc<ServerConfig>, manner: &Mutex<Manner>, asked: &Mutex<Vec<String>>) {
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), connection);
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => request.push(byte[0]),
            _ => return,
        }
    }
    let request = String::from_utf8(request).unwrap();
    let path = request.split(' ').nth(1).unwrap().to_owned();
    asked.lock().unwrap().push(path.clone());
    let manner = manner.lock().unwrap().clone();
    let Manner::Answers(status, bodies) = manner else {
        thread::park();
        return;
    };
    assert!(request.to_lowercase().contains("authorization: bearer secret"), "{request}");
    let body = bodies.into_iter().find(|(end, _)| path.ends_with(end)).map_or_else(|| "{}".to_owned(), |(_, body)| body);
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    let _client_may_be_gone = stream.write_all(answer.as_bytes());
    stream.conn.send_close_notify();
    let _client_may_be_gone = stream.flush();
}
