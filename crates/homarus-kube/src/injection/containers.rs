//! The containers that injection adds.

use serde_json::{Map, Value, json};

use super::overrides::Settings;
use super::values::{Image, Resource, Values};
use super::workload::{PodSpec, list};
use super::{END_ENTITY_DIR, END_ENTITY_VOLUME, InjectError, Mesh, PODINFO_DIR, PODINFO_VOLUME, TOKEN_DIR, TOKEN_VOLUME, env};

/// Where the image keeps its programs.
const PROGRAMS: &str = "/usr/lib/linkerd";
/// What redirection needs.
const NET_CAPABILITIES: [&str; 2] = ["NET_ADMIN", "NET_RAW"];

fn image(values: &Values, image: &Image) -> String {
    format!("{}:{}", image.name, values.version(image))
}

fn pull_policy<'a>(values: &'a Values, image: &'a Image) -> &'a str {
    if image.pull_policy.is_empty() { &values.image_pull_policy } else { &image.pull_policy }
}

/// `linkerd-proxy`.
pub(super) fn proxy(mesh: &Mesh<'_>, settings: &Settings, spec: PodSpec<'_>) -> Result<Value, InjectError> {
    let (values, proxy) = (&settings.values, &settings.values.proxy);
    let admin = proxy.ports.admin;
    let mut container = json!({
        "name": "linkerd-proxy",
        "image": image(values, &proxy.image),
        "imagePullPolicy": pull_policy(values, &proxy.image),
        "env": env::render(mesh, settings, spec)?,
        "ports": [
            { "containerPort": proxy.ports.inbound, "name": "linkerd-proxy" },
            { "containerPort": admin, "name": "linkerd-admin" },
        ],
        "livenessProbe": {
            "httpGet": { "path": "/live", "port": admin },
            "initialDelaySeconds": proxy.liveness_probe.initial_delay_seconds,
            "timeoutSeconds": proxy.liveness_probe.timeout_seconds,
        },
        "readinessProbe": {
            "httpGet": { "path": "/ready", "port": admin },
            "initialDelaySeconds": proxy.readiness_probe.initial_delay_seconds,
            "timeoutSeconds": proxy.readiness_probe.timeout_seconds,
        },
        "resources": resources(values),
        "securityContext": security_context(values, spec),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts(values, spec),
    });
    if proxy.native_sidecar {
        container["restartPolicy"] = "Always".into();
        container["startupProbe"] = startup_probe(values);
    } else if let Some(lifecycle) = lifecycle(values) {
        if proxy.r#await {
            container["startupProbe"] = startup_probe(values);
        }
        container["lifecycle"] = lifecycle;
    }
    Ok(container)
}

fn startup_probe(values: &Values) -> Value {
    let probe = &values.proxy.startup_probe;
    json!({
        "httpGet": { "path": "/ready", "port": values.proxy.ports.admin },
        "initialDelaySeconds": probe.initial_delay_seconds,
        "periodSeconds": probe.period_seconds,
        "failureThreshold": probe.failure_threshold,
    })
}

fn lifecycle(values: &Values) -> Option<Value> {
    let (proxy, mut hooks) = (&values.proxy, Map::new());
    if proxy.r#await {
        let port = format!("--port={}", proxy.ports.admin);
        let command = json!([format!("{PROGRAMS}/linkerd-await"), "--timeout=2m", port]);
        hooks.insert("postStart".into(), json!({ "exec": { "command": command } }));
    }
    if proxy.wait_before_exit_seconds > 0 {
        let command = json!(["/bin/sleep", proxy.wait_before_exit_seconds.to_string()]);
        hooks.insert("preStop".into(), json!({ "exec": { "command": command } }));
    }
    (!hooks.is_empty()).then(|| hooks.into())
}

fn security_context(values: &Values, spec: PodSpec<'_>) -> Value {
    let proxy = &values.proxy;
    if !proxy.security_context.is_empty() {
        return json!(proxy.security_context);
    }
    let mut context = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "runAsUser": proxy.uid,
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    if proxy.gid >= 0 {
        context["runAsGroup"] = proxy.gid.into();
    }
    let capabilities = proxy.capabilities.clone().or_else(|| app_capabilities(spec).cloned());
    if let Some(capabilities) = capabilities {
        context["capabilities"] = capabilities;
    }
    context
}

/// The capabilities of the first container: a pod that must drop all (by policy) must do so in every container.
fn app_capabilities(spec: PodSpec<'_>) -> Option<&Value> {
    let capabilities = &spec.containers().next()?["securityContext"]["capabilities"];
    capabilities.is_object().then_some(capabilities)
}

fn mounts(values: &Values, spec: PodSpec<'_>) -> Vec<Value> {
    let mut mounts = vec![json!({ "mountPath": END_ENTITY_DIR, "name": END_ENTITY_VOLUME })];
    if values.proxy.tracing.enabled {
        mounts.push(json!({ "mountPath": PODINFO_DIR, "name": PODINFO_VOLUME }));
    }
    if values.identity.service_account_token_projection {
        mounts.push(json!({ "mountPath": TOKEN_DIR, "name": TOKEN_VOLUME }));
    }
    mounts.extend(spec.service_account_mount().cloned());
    mounts
}

fn resources(values: &Values) -> Value {
    let proxy = &values.proxy.resources;
    let named = [("cpu", &proxy.cpu), ("memory", &proxy.memory), ("ephemeral-storage", &proxy.ephemeral_storage)];
    let pick = |amount: fn(&Resource) -> &String| {
        let set = named.iter().map(|(name, resource)| (*name, amount(resource))).filter(|(_, amount)| !amount.is_empty());
        set.map(|(name, amount)| (name.to_owned(), json!(amount))).collect::<Map<_, _>>()
    };
    let mut resources = Map::new();
    for (field, amounts) in [("limits", pick(|r| &r.limit)), ("requests", pick(|r| &r.request))] {
        if !amounts.is_empty() {
            resources.insert(field.into(), amounts.into());
        }
    }
    resources.into()
}

/// `linkerd-init`.
pub(super) fn init(settings: &Settings, spec: PodSpec<'_>) -> Result<Value, InjectError> {
    let (values, init) = (&settings.values, &settings.values.proxy_init);
    let lock = &init.xt_mount_path;
    let mut mounts = vec![json!({ "mountPath": lock.mount_path, "name": lock.name })];
    mounts.extend(spec.service_account_mount().cloned());
    let all = init.close_wait_timeout_secs > 0 || init.privileged;
    let (user, group) = if init.run_as_root { (0, 0) } else { (init.run_as_user, init.run_as_group) };
    Ok(json!({
        "name": "linkerd-init",
        "image": image(values, &values.proxy.image),
        "imagePullPolicy": pull_policy(values, &values.proxy.image),
        "command": [format!("{PROGRAMS}/linkerd2-proxy-init")],
        "args": init_args(values)?,
        "resources": resources(values),
        "securityContext": {
            "allowPrivilegeEscalation": all,
            "capabilities": init_capabilities(values, spec),
            "privileged": all,
            "readOnlyRootFilesystem": true,
            "runAsGroup": group,
            "runAsNonRoot": !init.run_as_root,
            "runAsUser": user,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }))
}

fn init_capabilities(values: &Values, spec: PodSpec<'_>) -> Value {
    let app = values.proxy.capabilities.as_ref().or_else(|| app_capabilities(spec)).unwrap_or(&Value::Null);
    let mut add: Vec<Value> = NET_CAPABILITIES.map(Value::from).into();
    add.extend(list(&app["add"]).filter(|name| !NET_CAPABILITIES.iter().any(|ours| *name == ours)).cloned());
    let drop: Vec<_> = list(&app["drop"]).filter(|name| !NET_CAPABILITIES.iter().any(|ours| *name == ours)).cloned().collect();
    let mut capabilities = json!({ "add": add });
    if !drop.is_empty() {
        capabilities["drop"] = drop.into();
    }
    capabilities
}

fn init_args(values: &Values) -> Result<Vec<String>, InjectError> {
    let (init, proxy) = (&values.proxy_init, &values.proxy);
    let mut args: Vec<String> = Vec::new();
    let mut flag = |name: &str, value: &str| args.extend([format!("--{name}"), value.to_owned()]);
    match init.iptables_mode.as_str() {
        "nft" => {
            flag("firewall-bin-path", "iptables-nft");
            flag("firewall-save-bin-path", "iptables-nft-save");
        }
        "legacy" => {}
        other => return Err(InjectError::IptablesMode(other.to_owned())),
    }
    if init.close_wait_timeout_secs > 0 && !init.run_as_root {
        return Err(InjectError::CloseWaitNeedsRoot);
    }
    if values.disable_ipv6 {
        args.push("--ipv6=false".into());
    }
    let mut flag = |name: &str, value: &str| args.extend([format!("--{name}"), value.to_owned()]);
    flag("incoming-proxy-port", &proxy.ports.inbound.to_string());
    flag("outgoing-proxy-port", &proxy.ports.outbound.to_string());
    flag("proxy-uid", &proxy.uid.to_string());
    if proxy.gid >= 0 {
        flag("proxy-gid", &proxy.gid.to_string());
    }
    let own = format!("{},{}", proxy.ports.control, proxy.ports.admin);
    let inbound = [own.as_str(), init.ignore_inbound_ports.as_str()];
    flag("inbound-ports-to-ignore", &inbound.into_iter().filter(|ports| !ports.is_empty()).collect::<Vec<_>>().join(","));
    let close_wait = if init.close_wait_timeout_secs > 0 { init.close_wait_timeout_secs.to_string() } else { String::new() };
    for (name, value) in [
        ("outbound-ports-to-ignore", &init.ignore_outbound_ports),
        ("timeout-close-wait-secs", &close_wait),
        ("log-format", &init.log_format),
        ("log-level", &init.log_level),
        ("subnets-to-ignore", &init.skip_subnets),
    ] {
        if !value.is_empty() {
            flag(name, value);
        }
    }
    Ok(args)
}

/// `linkerd-network-validator`.
pub(super) fn validator(settings: &Settings) -> Value {
    let (values, validator) = (&settings.values, &settings.values.network_validator);
    let ipv6 = !values.disable_ipv6;
    let or = |value: &str, default: String| if value.is_empty() { default } else { value.to_owned() };
    let connect = or(&validator.connect_addr, if ipv6 { "[fd00::1]:20001" } else { "1.1.1.1:20001" }.into());
    let any = if ipv6 { "[::]" } else { "0.0.0.0" };
    let listen = or(&validator.listen_addr, format!("{any}:{}", values.proxy.ports.outbound));
    let context = if validator.security_context.is_empty() {
        json!({
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
            "runAsGroup": 65534,
            "runAsNonRoot": true,
            "runAsUser": 65534,
            "seccompProfile": { "type": "RuntimeDefault" },
        })
    } else {
        json!(validator.security_context)
    };
    json!({
        "name": "linkerd-network-validator",
        "image": image(values, &values.proxy.image),
        "imagePullPolicy": pull_policy(values, &values.proxy.image),
        "command": [format!("{PROGRAMS}/linkerd2-network-validator")],
        "args": [
            "--log-format", validator.log_format, "--log-level", validator.log_level, "--connect-addr", connect,
            "--listen-addr", listen, "--timeout", validator.timeout,
        ],
        "resources": resources(values),
        "securityContext": context,
    })
}

/// `linkerd-debug`.
pub(super) fn debug(settings: &Settings) -> Value {
    let (values, debug) = (&settings.values, &settings.values.debug_container.image);
    json!({
        "name": "linkerd-debug",
        "image": image(values, debug),
        "imagePullPolicy": pull_policy(values, debug),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "livenessProbe": { "exec": { "command": ["true"] } },
        "readinessProbe": { "exec": { "command": ["true"] } },
    })
}
