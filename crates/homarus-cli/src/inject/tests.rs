#![allow(clippy::unwrap_used)]
use clap::Parser;

use super::transform::{Action, How};
use super::*;
use crate::command_line::{Cli, Command, Manifests};

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  template:
    metadata:
      labels:
        app: web
    spec:
      containers:
      - name: web
        image: web
        ports:
        - containerPort: 80
";

fn args(line: &str) -> Inject {
    match Cli::try_parse_from(format!("homarus inject {line} -").split_whitespace()).unwrap().command {
        Some(Command::Inject(args)) => *args,
        _ => unreachable!("inject"),
    }
}

fn injected(text: &str, line: &str) -> Result<(String, String), String> {
    let args = args(line);
    let action = match args.manual {
        true => Action::Whole(Box::default()),
        false => Action::Annotate { mode: if args.ingress { "ingress" } else { "enabled" } },
    };
    let annotations = transform::annotations(&args).map_err(|failure| failure.to_string())?;
    let how = How { action, annotations, control_plane_ns: "linkerd".into(), version: "1".into() };
    let done = transform_all(text, |object| transform::inject(object, &how)).map_err(|failure| failure.to_string())?;
    if let Some(refused) = report::refused(&done.1) {
        return Err(refused);
    }
    Ok((documents::write(&done.0, Manifests::Yaml).unwrap(), report::text(&done.1, "injected", false)))
}

fn uninjected(text: &str) -> (String, String) {
    let (documents, reports) = transform_all(text, |object| Ok(transform::uninject(object))).unwrap();
    (documents::write(&documents, Manifests::Yaml).unwrap(), report::text(&reports, "uninjected", false))
}

#[test]
fn annotations_go_to_the_pod_template() {
    let (yaml, said) = injected(WEB, "--skip-outbound-ports 3306 --enable-debug-sidecar").unwrap();
    assert_eq!(said, "\ndeployment \"web\" injected\n\n");
    assert!(yaml.ends_with("---\n"));
    let object = &documents::read(&yaml).unwrap()[0];
    assert_eq!(
        object["spec"]["template"]["metadata"]["annotations"],
        serde_json::json!({
            "linkerd.io/inject": "enabled",
            "config.linkerd.io/skip-outbound-ports": "3306",
            "config.linkerd.io/enable-debug-sidecar": "true",
        })
    );
    assert!(object["metadata"]["annotations"].is_null());
    let (ingress, _) = injected(WEB, "--ingress").unwrap();
    assert!(ingress.contains("linkerd.io/inject: ingress"));
    // On by default: what is said of it is off.
    for (flag, said) in [("", None), ("--native-sidecar", Some("'true'")), ("--native-sidecar=false", Some("'false'"))] {
        let (yaml, _) = injected(WEB, flag).unwrap();
        let found = yaml.lines().find_map(|line| line.trim().strip_prefix("config.linkerd.io/proxy-enable-native-sidecar: "));
        assert_eq!(found, said, "{flag}");
    }
}

#[test]
fn injecting_twice_is_injecting_once_and_keeps_what_people_wrote() {
    let settled = WEB.replace(
        "labels:\n        app: web",
        "annotations: {config.linkerd.io/opaque-ports: '9999'}\n      labels:\n        app: web",
    );
    for flags in ["", "--manual"] {
        let once = injected(&settled, flags).unwrap().0;
        assert_eq!(injected(&once, flags).unwrap().0, once, "{flags}");
        assert!(once.contains("opaque-ports: '9999'"), "{once}");
    }
}

#[test]
fn the_whole_proxy_and_back() {
    let (yaml, _) = injected(WEB, "--manual").unwrap();
    let object = &documents::read(&yaml).unwrap()[0];
    let template = &object["spec"]["template"];
    let init: Vec<_> = template["spec"]["initContainers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(init, ["linkerd-init", "linkerd-proxy"]);
    assert_eq!(template["metadata"]["labels"]["linkerd.io/proxy-deployment"], "web");
    assert_eq!(template["metadata"]["annotations"]["linkerd.io/created-by"], "linkerd/cli 1");
    assert!(template["metadata"]["annotations"]["linkerd.io/inject"].is_null());
    let (back, said) = uninjected(&yaml);
    assert_eq!(documents::read(&back).unwrap(), documents::read(WEB).unwrap());
    assert_eq!(said, "\ndeployment \"web\" uninjected\n\n");
    assert!(uninjected(WEB).1.contains("deployment \"web\" skipped"));
}

#[test]
fn namespaces_services_lists_and_nonsense() {
    let text = "kind: List\nitems:\n- {kind: Namespace, metadata: {name: a}}\n- {kind: Service, metadata: {name: b}}\n- {kind: ConfigMap, metadata: {name: c}}\n---\nx: 1\n";
    let (yaml, said) = injected(text, "--opaque-ports 12").unwrap();
    let list = &documents::read(&yaml).unwrap()[0];
    assert_eq!(list["items"][0]["metadata"]["annotations"]["linkerd.io/inject"], "enabled");
    assert_eq!(list["items"][1]["metadata"]["annotations"], serde_json::json!({ "config.linkerd.io/opaque-ports": "12" }));
    assert_eq!(
        said,
        "\nnamespace \"a\" annotated\nservice \"b\" annotated\nconfigmap \"c\" skipped\ndocument missing \"kind\" field, skipped\n\n"
    );
}

#[test]
fn warnings_and_refusals() {
    let with = |what: &str| WEB.replace("    spec:\n      containers", &format!("    spec:\n      {what}\n      containers"));
    assert_eq!(injected(&with("hostNetwork: true"), "").unwrap_err(), "failed to inject deployment/web: hostNetwork is enabled");
    let sidecar = with("initContainers: [{name: istio-init, image: x}]");
    assert_eq!(injected(&sidecar, "").unwrap_err(), "failed to inject deployment/web: pod has a sidecar injected already");
    let udp = WEB.replace("containerPort: 80", "{containerPort: 80, protocol: UDP}");
    assert!(injected(&udp, "").unwrap().1.starts_with("\n‼ deployment/web uses \"protocol: UDP\"\n\n"));
    let disabled = WEB.replace("labels:\n        app: web", "annotations: {linkerd.io/inject: disabled}");
    let (yaml, said) = injected(&disabled, "").unwrap();
    assert!(said.contains("‼ \"linkerd.io/inject: disabled\" annotation set on deployment/web"), "{said}");
    assert!(said.contains("deployment \"web\" skipped") && !yaml.contains("enabled"), "{said}");
    assert!(injected("kind: ConfigMap\nmetadata: {name: c}\n", "").unwrap().1.contains("‼ no supported objects found"));
    assert!(injected(WEB, "--proxy-cpu-limit lots").unwrap_err().contains("proxy-cpu-limit"));
    assert!(injected("a: [", "").unwrap_err().starts_with("Error transforming resources:"));
}
