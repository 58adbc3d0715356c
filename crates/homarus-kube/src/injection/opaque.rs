//! Which ports are opaque: those that someone listed, else those of the default list that the workload declares.

use std::collections::BTreeSet;

use homarus_model::ports::parse_range;
use serde_json::Value;

use super::workload::{PodSpec, list, port_number, ports};
use crate::annotations::{PortOrName, items, parse_port_or_name};

fn contains(defaults: &str, port: u16) -> bool {
    items(defaults).filter_map(parse_range).any(|range| range.contains(&port))
}

/// The default ports that the containers of a pod declare, in their order.
pub(super) fn declared_by_pod(spec: PodSpec<'_>, defaults: &str) -> Vec<u16> {
    let mut seen = BTreeSet::new();
    let declared = spec.containers().flat_map(ports).filter_map(port_number);
    declared.filter(|port| contains(defaults, *port) && seen.insert(*port)).collect()
}

/// The default ports of a Service: by target port where that is a number, by port where there is none. A target port with
/// a name says nothing here.
pub(super) fn declared_by_service(service: &Value, defaults: &str) -> Vec<u16> {
    let number = |value: &Value| u16::try_from(value.as_u64()?).ok().filter(|port| *port != 0);
    let opaque = list(&service["spec"]["ports"]).filter_map(|port| {
        let target = &port["targetPort"];
        // Absent, or as typed clients write an absent one.
        let decisive = if target.is_null() || target == 0 || target == "" { &port["port"] } else { target };
        number(decisive).filter(|target| contains(defaults, *target))?;
        number(&port["port"])
    });
    opaque.collect()
}

/// A list as someone wrote it, with the names of container ports resolved; what can't be read is left out.
pub(super) fn resolve(written: &str, spec: PodSpec<'_>) -> String {
    let named = |name: &str| {
        let found = spec.all_containers().flat_map(ports).find(|port| port["name"] == name)?;
        port_number(found).map(|port| port.to_string())
    };
    let resolved: Vec<String> = items(written)
        .filter_map(|item| match parse_port_or_name(item)? {
            PortOrName::Port(port) => Some(port.to_owned()),
            PortOrName::Name(name) => named(name),
        })
        .collect();
    resolved.join(",")
}

/// Ports as a comma list.
pub(super) fn join(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}
