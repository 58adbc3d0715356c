//! `install-cni`: prints what installs the CNI plugin, by the same chart files as Helm. The cluster isn't asked: nothing of the
//! output depends on it.

use serde_json::Value as Json;

use crate::chart::{Chart, Name, Values};
use crate::command_line::{Globals, InstallCni};
use crate::failure::{Exit, Failure, Outcome};
use crate::install::flags::{Flags, LEVELS, moved, one_of, valid_ports};
use crate::install::{read_file, render_into, said, written};
use crate::terminal;

/// Prints what installs the plugin.
pub async fn run(globals: &Globals, args: &InstallCni) -> Outcome {
    let chart = Chart::embedded(Name::Cni)?;
    let user = said(&args.values).await?.apply(values(args, &chart)?, &read_file)?;
    let manifests = render_into(&globals.cni_namespace, &chart, user)?;
    let objects: Vec<Json> = manifests.into_iter().map(|manifest| manifest.object).collect();
    terminal::print(&written(&objects, args.output)?)?;
    Ok(Exit::Ok)
}

/// What the flags stand for.
fn values(args: &InstallCni, chart: &Chart) -> Result<Values, Failure> {
    if let Some(level) = &args.cni_log_level {
        one_of("--cni-log-level", level, &LEVELS)?;
    }
    for ports in [&args.skip_inbound_ports, &args.skip_outbound_ports, &args.redirect_ports].into_iter().flatten() {
        if !ports.is_empty() {
            valid_ports(ports)?;
        }
    }
    let mut flags = Flags::default();
    let registry = args.registry.as_ref().and_then(|registry| moved(&chart.values, "image.name", registry));
    flags.put("image.name", args.cni_image.clone().or(registry));
    flags.put("linkerdVersion", args.linkerd_version.clone());
    for (path, text) in [
        ("image.version", &args.cni_image_version),
        ("logLevel", &args.cni_log_level),
        ("ignoreInboundPorts", &args.skip_inbound_ports),
        ("ignoreOutboundPorts", &args.skip_outbound_ports),
        ("portsToRedirect", &args.redirect_ports),
        ("destCNINetDir", &args.dest_cni_net_dir),
        ("destCNIBinDir", &args.dest_cni_bin_dir),
        ("priorityClassName", &args.priority_class_name),
    ] {
        flags.put(path, text.clone());
    }
    for (path, port) in [
        ("inboundProxyPort", args.inbound_port),
        ("outboundProxyPort", args.outbound_port),
        ("proxyControlPort", args.control_port),
        ("proxyAdminPort", args.admin_port),
    ] {
        flags.put(path, port);
    }
    flags.put("proxyUID", args.proxy_uid);
    flags.put("proxyGID", args.proxy_gid);
    flags.yes("useWaitFlag", args.use_wait_flag);
    Ok(flags.into_values())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rendered(args: &InstallCni) -> Vec<Json> {
        let chart = Chart::embedded(Name::Cni).unwrap();
        let user = values(args, &chart).unwrap();
        render_into("linkerd-cni", &chart, user).unwrap().into_iter().map(|manifest| manifest.object).collect()
    }

    fn network_config(objects: &[Json]) -> Json {
        let config = objects.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
        serde_json::from_str(config["data"]["cni_network_config"].as_str().unwrap()).unwrap()
    }

    #[test]
    fn everything_is_there_and_the_namespace_first() {
        let objects = rendered(&InstallCni::default());
        let kinds: Vec<&str> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds.first(), Some(&"Namespace"));
        for kind in ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet"] {
            assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
        }
    }

    #[test]
    fn flags_reach_the_plugin() {
        let args = InstallCni {
            registry: Some("my.registry/mesh/".into()),
            cni_image_version: Some("v9".into()),
            cni_log_level: Some("debug".into()),
            proxy_uid: Some(7),
            proxy_gid: Some(8),
            inbound_port: Some(5143),
            admin_port: Some(5191),
            skip_inbound_ports: Some("25,300-310".into()),
            skip_outbound_ports: Some("443".into()),
            redirect_ports: Some("80,81".into()),
            use_wait_flag: true,
            ..InstallCni::default()
        };
        let objects = rendered(&args);
        let config = network_config(&objects);
        let rules = &config["linkerd"];
        assert_eq!(config["log_level"], "debug");
        assert_eq!(rules["inbound-ports-to-ignore"], serde_json::json!(["5191", "4190", "25", "300-310"]));
        assert_eq!(rules["outbound-ports-to-ignore"], serde_json::json!(["443"]));
        assert_eq!(rules["ports-to-redirect"], serde_json::json!([80, 81]));
        assert_eq!((&rules["proxy-uid"], &rules["proxy-gid"]), (&7.into(), &8.into()));
        assert_eq!((&rules["incoming-proxy-port"], &rules["use-wait-flag"]), (&5143.into(), &true.into()));
        let set = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
        assert_eq!(set["spec"]["template"]["spec"]["containers"][0]["image"], "my.registry/mesh/homarus-redirect:v9");
    }

    #[test]
    fn what_flags_cannot_mean_is_named() {
        let chart = Chart::embedded(Name::Cni).unwrap();
        let loud = InstallCni { cni_log_level: Some("loud".into()), ..InstallCni::default() };
        assert!(values(&loud, &chart).unwrap_err().to_string().contains("--cni-log-level"));
        let ports = InstallCni { redirect_ports: Some("80,x".into()), ..InstallCni::default() };
        assert!(values(&ports, &chart).unwrap_err().to_string().contains("\"x\""));
    }
}
