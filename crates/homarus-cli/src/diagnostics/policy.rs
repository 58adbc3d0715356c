//! `diagnostics policy`: what the policy controller tells proxies about a port.

use homarus_wire::api::{inbound, outbound};
use prost::Message;
use serde_json::json;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::{ANSWER_TIMEOUT, protobuf};
use crate::command_line::Manifests;
use crate::failure::{Exit, Failure, Outcome};
use crate::resources::{Kind, Target as Resource};
use crate::terminal;

/// Whose port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Who may connect to it, and how.
    Pod(String),
    /// How clients reach it.
    Service(String),
}

impl Target {
    pub(super) fn read(word: &str) -> Result<Self, Failure> {
        let (kind, name) = word.split_once('/').ok_or_else(|| Failure::usage("resource type and name are required"))?;
        if name.is_empty() || name.contains('/') {
            return Err(Failure::usage(format!("invalid resource string: {word}")));
        }
        let invalid = || Failure::usage(format!("invalid resource type {kind}; must be one of Pod or Service"));
        match Resource::read(kind).map_err(|_| invalid())?.kind {
            Kind::Pod => Ok(Self::Pod(name.to_owned())),
            Kind::Service => Ok(Self::Service(name.to_owned())),
            _ => Err(invalid()),
        }
    }
}

/// Asks and prints.
pub(super) async fn run(channel: Channel, target: &Target, namespace: &str, port: u16, token: &str, output: Manifests) -> Outcome {
    let asked = timeout(ANSWER_TIMEOUT, ask(channel, target, namespace, port, token));
    let json = asked.await.map_err(|_| Failure::new("Policy API error: no answer"))??;
    terminal::print(&match output {
        Manifests::Yaml => crate::chart::to_yaml(&json).map_err(Failure::new)?,
        Manifests::Json => format!("{}\n", serde_json::to_string_pretty(&json).map_err(Failure::new)?),
    })?;
    Ok(Exit::Ok)
}

async fn ask(channel: Channel, target: &Target, namespace: &str, port: u16, token: &str) -> Result<serde_json::Value, Failure> {
    let failed = |status: tonic::Status| Failure::new(format!("Policy API error: {}", status.message()));
    let (message, bytes) = match target {
        Target::Pod(name) => {
            let workload = json!({ "ns": namespace, "pod": name }).to_string();
            let request = inbound::PortSpec { workload, port: port.into() };
            let mut client = inbound::inbound_server_policies_client::InboundServerPoliciesClient::new(channel);
            ("inbound.Server", client.get_port(request).await.map_err(failed)?.into_inner().encode_to_vec())
        }
        Target::Service(name) => {
            let authority = format!("{name}.{namespace}.svc:{port}");
            let target = Some(outbound::traffic_spec::Target::Authority(authority));
            let request = outbound::TrafficSpec { source_workload: token.to_owned(), target };
            let mut client = outbound::outbound_policies_client::OutboundPoliciesClient::new(channel);
            ("outbound.OutboundPolicy", client.get(request).await.map_err(failed)?.into_inner().encode_to_vec())
        }
    };
    protobuf::to_json(message, &bytes).map_err(Failure::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let check = |word: &str, wanted: Result<Target, &str>| {
            let read = Target::read(word).map_err(|failure| failure.to_string());
            assert_eq!(read, wanted.map_err(str::to_owned), "{word}");
        };
        check("po/web-0", Ok(Target::Pod("web-0".into())));
        check("svc/web", Ok(Target::Service("web".into())));
        check("web", Err("resource type and name are required"));
        check("po/a/b", Err("invalid resource string: po/a/b"));
        check("deploy/web", Err("invalid resource type deploy; must be one of Pod or Service"));
        check("x/web", Err("invalid resource type x; must be one of Pod or Service"));
    }
}
