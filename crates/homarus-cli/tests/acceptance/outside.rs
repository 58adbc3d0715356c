//! Something outside of the cluster: an nginx on this machine, at an address that no cluster has.

use homarus_identity::authority::Pair;
use std::{
    net::TcpStream,
    process::{Child, Command},
    time::{Duration, SystemTime},
};

use crate::cluster::eventually;

/// Of a network for documentation (RFC 5737), so that nobody has it.
pub const ADDRESS: &str = "203.0.113.7";
pub const TWO_LABELS: &str = "outside.example";
pub const THREE_LABELS: &str = "www.outside.example";

/// A server; it and its address go when this is dropped.
pub struct Outside {
    process: Child,
    _files: tempfile::TempDir,
}

impl Outside {
    /// Starts it.
    pub fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let at = |name: &str| files.path().join(name).display().to_string();
        let pair = Pair::server(&[TWO_LABELS, THREE_LABELS], Duration::from_secs(3600), SystemTime::now()).unwrap();
        std::fs::write(at("crt"), pair.certificate.to_pem()).unwrap();
        std::fs::write(at("key"), pair.key_pem()).unwrap();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path {};", at(name)));
        let config = format!(
            "daemon off; pid {}; user root root; events {{}} http {{ access_log off; {} default_type text/plain; server {{
               listen {ADDRESS}:80; listen {ADDRESS}:443 ssl; ssl_certificate {}; ssl_certificate_key {};
               location / {{ return 200 \"outside $request_method $scheme $host\"; }} }} }}",
            at("pid"),
            temporary.join(" "),
            at("crt"),
            at("key"),
        );
        std::fs::write(at("conf"), config).unwrap();
        ip("add");
        let mut nginx = Command::new("nginx");
        // Users' PATH may lack where it is.
        nginx.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
        let process = nginx.args(["-e", "stderr", "-c", &at("conf")]).spawn().expect("nginx starts");
        eventually("the server outside", || TcpStream::connect((ADDRESS, 443)).ok());
        Self { process, _files: files }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // Its master ends its workers when it is told, not when it is killed.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
        ip("del");
    }
}

fn ip(what: &str) {
    let _ = Command::new("ip").args(["address", what, &format!("{ADDRESS}/32"), "dev", "lo"]).status();
}
