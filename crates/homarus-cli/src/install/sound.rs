//! Values that no schema can judge: texts with a syntax of their own, and numbers that have to be in order.

use homarus_kube::annotations::Quantity;
use homarus_model::inbound::DefaultPolicy;
use homarus_model::{duration, network};
use serde_json::Value as Json;

use super::flags::{LEVELS, valid_ports};
use crate::failure::Failure;

/// Finds what the control plane or the proxies would refuse later, when half of the mesh runs.
pub(super) fn check(values: &Json) -> Result<(), Failure> {
    let said = |path: &str| values.pointer(path).and_then(Json::as_str).filter(|text| !text.is_empty());
    let syntax = |path: &str, fits: &dyn Fn(&str) -> Result<(), String>| match said(path) {
        Some(text) => fits(text).map_err(|what| wrong(path, text, &what)),
        None => Ok(()),
    };
    for path in ["/clusterDomain", "/identityTrustDomain"] {
        syntax(path, &domain)?;
    }
    syntax("/clusterNetworks", &|text| {
        network::parse_list(text).map(drop).map_err(|_| "write networks like 10.0.0.0/8,fd00::/8".into())
    })?;
    syntax("/controllerLogLevel", &|text| one_of(text, &LEVELS))?;
    syntax("/proxy/logLevel", &filter)?;
    syntax("/proxy/defaultInboundPolicy", &|text| text.parse::<DefaultPolicy>().map(drop).map_err(|error| error.to_string()))?;
    for path in ["/identity/issuer/issuanceLifetime", "/identity/issuer/clockSkewAllowance"] {
        syntax(path, &|text| duration::parse_go(text).map(drop).map_err(|error| format!("{error}; write it like 24h0m0s")))?;
    }
    for path in ["/proxyInit/ignoreInboundPorts", "/proxyInit/ignoreOutboundPorts", "/proxy/opaquePorts"] {
        syntax(path, &|text| valid_ports(text).map_err(|failure| failure.to_string()))?;
    }
    for resources in RESOURCES {
        amounts(values, resources)?;
    }
    Ok(())
}

/// Where amounts of CPU and memory are asked for.
const RESOURCES: [&str; 10] = [
    "/proxy/resources",
    "/destinationResources",
    "/destinationProxyResources",
    "/identityResources",
    "/identityProxyResources",
    "/proxyInjectorResources",
    "/proxyInjectorProxyResources",
    "/spValidatorResources",
    "/heartbeatResources",
    "/policyController/resources",
];

fn wrong(path: &str, text: &str, what: &str) -> Failure {
    let name = path.trim_start_matches('/').replace('/', ".");
    Failure::new(format!("{name}: {text:?} is not valid: {what}"))
        .remedy("Change it in your values file, with --set, or by its flag.")
}

fn one_of(text: &str, allowed: &[&str]) -> Result<(), String> {
    if allowed.contains(&text) { Ok(()) } else { Err(format!("use one of {}", allowed.join(", "))) }
}

fn domain(text: &str) -> Result<(), String> {
    match homarus_kube::names::is_subdomain(text) {
        true => Ok(()),
        false => Err("a domain has lower-case letters, digits, dashes, and dots between".to_owned()),
    }
}

/// `level`, `target` or `target=level`, with commas between.
fn filter(text: &str) -> Result<(), String> {
    let part = |part: &str| {
        let (target, level) = part.split_once('=').map_or((part, None), |(target, level)| (target, Some(level)));
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        !target.is_empty() && level.is_none_or(|level| levels.contains(&level.to_ascii_lowercase().as_str()))
    };
    match text.split(',').map(str::trim).all(part) {
        true => Ok(()),
        false => Err("write levels and targets like warn,linkerd=info".to_owned()),
    }
}

/// Quantities that can be read, and no limit below what is asked for.
fn amounts(values: &Json, path: &str) -> Result<(), Failure> {
    for (resource, amount) in values.pointer(path).and_then(Json::as_object).into_iter().flatten() {
        let read = |field: &str| {
            let text = match &amount[field] {
                Json::String(text) if !text.is_empty() => text.clone(),
                Json::Number(number) => number.to_string(),
                _ => return Ok(None),
            };
            let path = format!("{path}/{resource}/{field}");
            let quantity: Result<Quantity, ()> = text.parse();
            quantity.map(|quantity| Some((quantity, text.clone()))).map_err(|()| wrong(&path, &text, "write it like 100m or 20Mi"))
        };
        if let (Some((limit, text)), Some((request, asked))) = (read("limit")?, read("request")?)
            && limit < request
        {
            return Err(wrong(&format!("{path}/{resource}/limit"), &text, &format!("it is less than the request, {asked}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::chart::{Chart, Name};
    use serde_json::json;

    #[test]
    fn the_charts_own_values_are_sound() {
        let chart = Chart::embedded(Name::ControlPlane).unwrap();
        check(&Json::Object(chart.values.clone())).unwrap();
        check(&Json::Object(chart.preset("values-ha.yaml").unwrap())).unwrap();
    }

    #[test]
    fn what_would_fail_later_is_named_now() {
        for (values, name) in [
            (json!({ "identityTrustDomain": "Cluster.Local" }), "identityTrustDomain: \"Cluster.Local\""),
            (json!({ "clusterDomain": "a..b" }), "clusterDomain"),
            (json!({ "clusterNetworks": "10.0.0.0" }), "clusterNetworks"),
            (json!({ "controllerLogLevel": "loud" }), "controllerLogLevel"),
            (json!({ "proxy": { "logLevel": "warn,,info" } }), "proxy.logLevel"),
            (json!({ "proxy": { "logLevel": "linkerd=loud" } }), "proxy.logLevel"),
            (json!({ "proxy": { "defaultInboundPolicy": "everybody" } }), "proxy.defaultInboundPolicy"),
            (json!({ "identity": { "issuer": { "issuanceLifetime": "a day" } } }), "identity.issuer.issuanceLifetime"),
            (json!({ "proxyInit": { "ignoreInboundPorts": "80,x" } }), "proxyInit.ignoreInboundPorts"),
            (json!({ "proxy": { "resources": { "cpu": { "request": "lots" } } } }), "proxy.resources.cpu.request"),
            (
                json!({ "proxy": { "resources": { "memory": { "request": "2Gi", "limit": "500Mi" } } } }),
                "proxy.resources.memory.limit",
            ),
            (json!({ "identityResources": { "cpu": { "request": 2, "limit": "1" } } }), "identityResources.cpu.limit"),
        ] {
            let said = check(&values).unwrap_err().to_string();
            assert!(said.starts_with(name) && said.contains("\n  "), "{values}: {said}");
        }
    }
}
