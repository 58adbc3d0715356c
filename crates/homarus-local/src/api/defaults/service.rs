//! Services: defaults, ClusterIPs and node ports.

use std::net::Ipv4Addr;

use rand::Rng;
use serde_json::{Value, json};

use super::{each, set, within};
use crate::api::Core;
use crate::api::refusal::{Answer, Cause, Refusal};
use crate::api::schema::kinds::Kind;

/// Node ports come from here.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;
/// Random tries before the range is searched in order.
const TRIES: usize = 64;

/// A service's defaults.
pub fn defaults(service: &mut Value) {
    let spec = within(service, "spec");
    set(spec, "type", "ClusterIP");
    set(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        set(within(within(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds", 10800);
    }
    for port in each(spec, "ports") {
        set(port, "protocol", "TCP");
        if port["targetPort"].is_null() || port["targetPort"] == 0 || port["targetPort"] == "" {
            port["targetPort"] = port["port"].clone();
        }
        if port["name"] == "" {
            port.as_object_mut().map(|p| p.remove("name"));
        }
    }
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    if kind != "ExternalName" {
        set(spec, "internalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        set(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// Gives a service its addresses and ports, or keeps those it has.
pub fn allocate(core: &Core, kind: &Kind, old: Option<&Value>, service: &mut Value) -> Answer<()> {
    if &*kind.bucket != "/services" {
        return Ok(());
    }
    let name = service["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let spec = within(service, "spec");
    let kind_of = spec["type"].as_str().unwrap_or_default().to_owned();
    if kind_of == "ExternalName" {
        return Ok(());
    }
    let had = old.map(|o| &o["spec"]["clusterIP"]).and_then(Value::as_str);
    let wanted = spec["clusterIP"].as_str().filter(|a| !a.is_empty()).or(had).map(str::to_owned);
    let address = match wanted {
        Some(wanted) => {
            if old.is_none() && wanted != "None" {
                check_address(core, kind, &name, &wanted)?;
            }
            if had.is_some_and(|had| had != wanted) {
                let message = format!("Invalid value: [\"{wanted}\"]: may not change once set");
                let cause = Cause { reason: "FieldValueInvalid", message, field: "spec.clusterIPs[0]".into() };
                return Err(Refusal::invalid(kind, &name, vec![cause]));
            }
            wanted
        }
        None => free_address(core).ok_or_else(|| Refusal::internal("failed to allocate a serviceIP: range is full"))?,
    };
    spec["clusterIPs"] = json!([address]);
    spec["clusterIP"] = address.into();
    set(spec, "ipFamilies", json!(["IPv4"]));
    set(spec, "ipFamilyPolicy", "SingleStack");
    if matches!(kind_of.as_str(), "NodePort" | "LoadBalancer") {
        node_ports(core, old, spec);
    }
    Ok(())
}

fn taken(core: &Core, address: &str) -> bool {
    core.store.read(|store| store.list("/services", "").any(|s| s.value["spec"]["clusterIP"] == address))
}

fn check_address(core: &Core, kind: &Kind, name: &str, wanted: &str) -> Answer<()> {
    let cidr = core.config.service_cidr;
    let why = match wanted.parse::<Ipv4Addr>() {
        Err(_) => format!("Invalid value: \"{wanted}\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        Ok(address) if !cidr.contains(&address) => {
            format!(
                "Invalid value: \"{wanted}\": failed to allocate IP {wanted}: the provided network does not match the current range"
            )
        }
        Ok(_) if taken(core, wanted) => {
            format!("Invalid value: \"{wanted}\": failed to allocate IP {wanted}: provided IP is already allocated")
        }
        Ok(_) => return Ok(()),
    };
    let cause = Cause { reason: "FieldValueInvalid", message: why, field: "spec.clusterIPs".into() };
    Err(Refusal::invalid(kind, name, vec![cause]))
}

/// A free address: at random, so that a deleted service's address isn't the next one's; in order when it gets tight.
fn free_address(core: &Core) -> Option<String> {
    let cidr = core.config.service_cidr;
    let (first, last) = (u32::from(cidr.network()) + 2, u32::from(cidr.broadcast()).checked_sub(1)?);
    let used: std::collections::HashSet<String> = core.store.read(|store| {
        store.list("/services", "").filter_map(|s| s.value["spec"]["clusterIP"].as_str().map(str::to_owned)).collect()
    });
    let text = |n: u32| Ipv4Addr::from(n).to_string();
    let mut rng = rand::rng();
    let random = (0..TRIES).map(|_| rng.random_range(first..=last.max(first)));
    random.chain(first..=last).map(text).find(|a| !used.contains(a))
}

fn node_ports(core: &Core, old: Option<&Value>, spec: &mut Value) {
    let mut used: std::collections::HashSet<u64> = core.store.read(|store| {
        let ports = store.list("/services", "").flat_map(|s| s.value["spec"]["ports"].as_array().cloned().unwrap_or_default());
        ports.filter_map(|p| p["nodePort"].as_u64()).collect()
    });
    let before = old.and_then(|o| o["spec"]["ports"].as_array()).cloned().unwrap_or_default();
    for port in each(spec, "ports") {
        if port["nodePort"].as_u64().is_some_and(|p| p > 0) {
            continue;
        }
        let had = before.iter().find(|p| p["port"] == port["port"] && p["protocol"] == port["protocol"]);
        let had = had.and_then(|p| p["nodePort"].as_u64());
        let free = NODE_PORTS.map(u64::from).find(|p| !used.contains(p));
        if let Some(chosen) = had.or(free) {
            used.insert(chosen);
            port["nodePort"] = chosen.into();
        }
    }
}
