//! Limits of requests, and networks outside of the cluster.

use std::net::IpAddr;

use homarus_model::network::Network;
use ipnet::IpNet;
use serde::Deserialize;

use super::{POLICY, exceptions_fit, spec};
use crate::admit::Judgement;
use crate::webhook::review::Question;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Egress {
    traffic_policy: String,
    networks: Option<Vec<Block>>,
}

#[derive(Deserialize)]
struct Block {
    cidr: String,
    except: Option<Vec<String>>,
}

pub(super) fn egress_network(question: &Question) -> Judgement {
    let Egress { traffic_policy, networks } = spec(question)?;
    if !matches!(traffic_policy.as_str(), "Allow" | "Deny") {
        return Err(format!("spec.trafficPolicy: {traffic_policy:?} is unknown; use Allow or Deny"));
    }
    let Some(blocks) = networks else { return Ok(Vec::new()) };
    if blocks.is_empty() {
        return Err("spec.networks: it is empty; leave it away to mean everything outside of the cluster".to_owned());
    }
    let networks: Vec<Network> = blocks.iter().map(Block::read).collect::<Result<_, _>>()?;
    exceptions_fit(&networks).map(|()| Vec::new())
}

impl Block {
    fn read(&self) -> Result<Network, String> {
        let except = self.except.iter().flatten().map(|text| cidr(text)).collect::<Result<_, _>>()?;
        Ok(Network { net: cidr(&self.cidr)?, except })
    }
}

fn cidr(text: &str) -> Result<IpNet, String> {
    let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    net.map_err(|_| format!("spec.networks: {text:?} is no network; write 10.0.0.0/8 or a single address"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RateLimit {
    target_ref: Ref,
    total: Option<Rate>,
    identity: Option<Rate>,
    overrides: Option<Vec<Override>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rate {
    requests_per_second: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Override {
    requests_per_second: u32,
    client_refs: Vec<Ref>,
}

#[derive(Deserialize)]
struct Ref {
    group: Option<String>,
    kind: String,
}

impl Ref {
    fn is(&self, group: &str, kind: &str) -> bool {
        let own = self.group.as_deref().filter(|group| *group != "core").unwrap_or_default();
        own.eq_ignore_ascii_case(group) && self.kind.eq_ignore_ascii_case(kind)
    }
}

pub(super) fn rate_limit(question: &Question) -> Judgement {
    let RateLimit { target_ref, total, identity, overrides } = spec(question)?;
    if !target_ref.is(POLICY, "Server") {
        return Err(format!("spec.targetRef: {} can't be limited; name a Server of group {POLICY}", target_ref.kind));
    }
    let overrides = overrides.unwrap_or_default();
    let most = total.as_ref().map(|rate| rate.requests_per_second);
    let rates = [("total", &total), ("identity", &identity)];
    let rates = rates.into_iter().filter_map(|(field, rate)| Some((field.to_owned(), rate.as_ref()?.requests_per_second)));
    let of_overrides = overrides.iter().enumerate().map(|(i, rate)| (format!("overrides[{i}]"), rate.requests_per_second));
    for (field, rate) in rates.chain(of_overrides) {
        if rate == 0 {
            return Err(format!("spec.{field}.requestsPerSecond: 0 lets nothing through; to refuse everybody use a policy"));
        }
        if most.is_some_and(|most| rate > most) {
            return Err(format!("spec.{field}.requestsPerSecond: {rate} is more than total allows; make it less, or total more"));
        }
    }
    let clients = overrides.iter().enumerate().flat_map(|(i, of)| of.client_refs.iter().map(move |client| (i, client)));
    for (i, client) in clients {
        if !client.is("", "ServiceAccount") {
            return Err(format!("spec.overrides[{i}].clientRefs: {} is no client; name ServiceAccounts", client.kind));
        }
    }
    Ok(Vec::new())
}
