//! Scripts in a client's pod: its container `shell` runs what comes in at a port that only port-forwarding reaches.

use super::{Cluster, eventually};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PORT: u16 = 9000;
/// A script that takes longer hangs.
const SCRIPT_LIMIT: Duration = Duration::from_secs(60);
/// Printed by no script.
const END: &str = "-- end of script --";

/// A client.
#[derive(Clone, Copy)]
pub struct Shell {
    cluster: &'static Cluster,
    /// Its namespace.
    pub namespace: &'static str,
    /// Its pod.
    pub pod: &'static str,
}

impl Shell {
    /// In this pod.
    pub fn of(cluster: &'static Cluster, namespace: &'static str, pod: &'static str) -> Self {
        Self { cluster, namespace, pod }
    }

    /// Runs a script, and gives what it printed.
    pub fn run(&self, script: &str) -> String {
        eventually(&format!("an answer of {}/{} to: {script}", self.namespace, self.pod), || {
            // Until its pod runs there is nobody to connect to.
            let printed = self.cluster.ask(async { tokio::time::timeout(SCRIPT_LIMIT, self.attempt(script)).await.ok() })??;
            printed.split_once(END).map(|(text, _)| text.trim().to_owned())
        })
    }

    async fn attempt(&self, script: &str) -> Option<String> {
        let api: Api<Pod> = self.cluster.api(self.namespace);
        let containers = api.get(self.pod).await.ok()?.status?.container_statuses?;
        containers.into_iter().find(|container| container.name == "shell")?.state?.running?;
        let mut forwarder = api.portforward(self.pod, &[PORT]).await.ok()?;
        let mut stream = forwarder.take_stream(PORT)?;
        let text = format!("(\n{script}\n) < /dev/null 2>&1; echo; echo '{END}'; exit\n");
        stream.write_all(text.as_bytes()).await.ok()?;
        let mut printed = Vec::new();
        while !String::from_utf8_lossy(&printed).contains(END) {
            match stream.read_buf(&mut printed).await {
                Ok(1..) => {}
                _ => break,
            }
        }
        Some(String::from_utf8_lossy(&printed).into_owned())
    }

    /// The status of a GET, `000` where there was no answer.
    pub fn status(&self, url: &str) -> String {
        self.run(&format!("curl -s -m 10 -o /dev/null -w '%{{http_code}}' {url}"))
    }

    /// Waits until a GET has this status: what a policy says is known a moment after it was made.
    pub fn wait_for_status(&self, url: &str, wanted: &str) {
        let mut last = String::new();
        let within = std::time::Instant::now() + Duration::from_secs(30);
        while last != wanted {
            assert!(std::time::Instant::now() < within, "{} > {url}: {last}, not {wanted}", self.pod);
            last = self.status(url);
        }
    }
}
