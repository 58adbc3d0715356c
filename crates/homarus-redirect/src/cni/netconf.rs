//! Our entry in a node's network configuration, as the chart writes it into ConfigMap `linkerd-cni-config`.
//!
//! Keys and defaults are those of linkerd-cni; `exempt-namespaces` is ours. What isn't ours (the runtime adds keys) is
//! left unread.

use serde::Deserialize;

use crate::config::Request;

/// Our entry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NetConf {
    /// How much is told on standard error, in logrus' words.
    #[serde(default = "info")]
    pub log_level: String,
    /// How to ask about pods.
    #[serde(default)]
    pub kubernetes: Kubernetes,
    /// What rules to set.
    #[serde(default)]
    pub linkerd: Rules,
}

fn info() -> String {
    "info".to_owned()
}

/// How to ask about pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Kubernetes {
    /// The path of the kubeconfig on the host.
    pub kubeconfig: String,
    /// Namespaces whose pods are never asked about: the installer's own, or a node whose token expired while it was off
    /// could never start the one pod that renews it.
    pub exempt_namespaces: Vec<String>,
}

/// What rules to set. The types are those of the chart's JSON.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Rules {
    /// Where inbound connections go.
    pub incoming_proxy_port: i64,
    /// Where outbound connections go.
    pub outgoing_proxy_port: i64,
    /// The proxy's user.
    pub proxy_uid: i64,
    /// The proxy's group.
    pub proxy_gid: i64,
    /// Inbound ports to redirect; empty means all.
    pub ports_to_redirect: Vec<i64>,
    /// Ports and ranges left alone inbound.
    pub inbound_ports_to_ignore: Vec<String>,
    /// Ports and ranges left alone outbound.
    pub outbound_ports_to_ignore: Vec<String>,
    /// Sources left alone inbound.
    pub subnets_to_ignore: Vec<String>,
    /// Tell what would be done, and do nothing.
    pub simulate: bool,
    /// Have iptables wait for its lock.
    pub use_wait_flag: bool,
    /// `nft`, `legacy` or `plain`.
    pub iptables_mode: String,
    /// Whether IPv6 is redirected too.
    pub ipv6: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            incoming_proxy_port: -1,
            outgoing_proxy_port: -1,
            proxy_uid: -1,
            proxy_gid: -1,
            ports_to_redirect: Vec::new(),
            inbound_ports_to_ignore: Vec::new(),
            outbound_ports_to_ignore: Vec::new(),
            subnets_to_ignore: Vec::new(),
            simulate: false,
            use_wait_flag: false,
            iptables_mode: String::new(),
            // A configuration that says nothing of it is older than the key, and was for IPv4 alone.
            ipv6: false,
        }
    }
}

impl Rules {
    /// The same as the flags of proxy-init.
    pub fn request(&self) -> Request {
        Request {
            incoming_proxy_port: self.incoming_proxy_port,
            outgoing_proxy_port: self.outgoing_proxy_port,
            proxy_uid: self.proxy_uid,
            proxy_gid: self.proxy_gid,
            ports_to_redirect: self.ports_to_redirect.clone(),
            inbound_ports_to_ignore: self.inbound_ports_to_ignore.clone(),
            outbound_ports_to_ignore: self.outbound_ports_to_ignore.clone(),
            subnets_to_ignore: self.subnets_to_ignore.clone(),
            ipv6: self.ipv6,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_entry_of_linkerds_chart_is_read() {
        let config: NetConf = serde_json::from_str(
            r#"{"name": "linkerd-cni", "type": "linkerd-cni", "log_level": "debug", "policy": {"type": "k8s"},
                "kubernetes": {"kubeconfig": "/etc/cni/net.d/ZZZ-linkerd-cni-kubeconfig"},
                "linkerd": {"incoming-proxy-port": 4143, "outgoing-proxy-port": 4140, "proxy-uid": 2102, "proxy-gid": 7,
                  "ports-to-redirect": [80], "inbound-ports-to-ignore": ["4191", "4190"], "outbound-ports-to-ignore": ["25"],
                  "simulate": false, "use-wait-flag": true, "iptables-mode": "legacy", "ipv6": true}}"#,
        )
        .unwrap();
        assert_eq!((config.log_level.as_str(), config.kubernetes.exempt_namespaces.len()), ("debug", 0));
        let request = config.linkerd.request();
        assert_eq!((request.incoming_proxy_port, request.outgoing_proxy_port, request.proxy_gid), (4143, 4140, 7));
        assert_eq!((request.ports_to_redirect, request.outbound_ports_to_ignore), (vec![80], vec!["25".to_owned()]));
        assert!(request.ipv6 && config.linkerd.use_wait_flag && !config.linkerd.simulate);
    }
}
