//! What stands in each column.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::columns::Column;
use crate::api::store::selector::Labels;

pub(super) const NONE: &str = "<none>";
pub(super) const UNKNOWN: &str = "<unknown>";

/// Time passed, as kubectl says it: two units at most.
pub fn duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match seconds {
        i64::MIN..=-2 => "<invalid>".into(),
        -1 => "0s".into(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

pub(super) fn since(time: &Value, now: Timestamp) -> String {
    match time.as_str().and_then(|t| t.parse::<Timestamp>().ok()) {
        Some(then) => duration(now.as_second() - then.as_second()),
        None => UNKNOWN.into(),
    }
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub(super) fn or_none(text: String) -> String {
    if text.is_empty() { NONE.into() } else { text }
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn count(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// The cells of a built-in kind's row.
pub fn builtin(plural: &str, object: &Value, now: Timestamp) -> Vec<Value> {
    let name = || object["metadata"]["name"].clone();
    let age = || Value::from(since(&object["metadata"]["creationTimestamp"], now));
    let spec = &object["spec"];
    let status = &object["status"];
    match plural {
        "pods" => pod(object, now),
        "services" => service(object, now),
        "deployments" => {
            let ready = format!("{}/{}", count(&status["readyReplicas"]), count(&spec["replicas"]));
            let mut cells = vec![
                name(),
                ready.into(),
                count(&status["updatedReplicas"]).into(),
                count(&status["availableReplicas"]).into(),
                age(),
            ];
            cells.extend(of_template(object));
            cells
        }
        "replicasets" => {
            let mut cells = vec![
                name(),
                count(&spec["replicas"]).into(),
                count(&status["replicas"]).into(),
                count(&status["readyReplicas"]).into(),
                age(),
            ];
            cells.extend(of_template(object));
            cells
        }
        "statefulsets" | "daemonsets" | "controllerrevisions" | "cronjobs" | "persistentvolumeclaims" => {
            super::workloads::cells(plural, object, now)
        }
        "jobs" => job(object, now),
        "nodes" => node(object, now),
        "namespaces" => vec![name(), status["phase"].clone(), age()],
        "events" => event(object, now),
        "serviceaccounts" => vec![name(), list(&object["secrets"]).len().into(), age()],
        "configmaps" => vec![name(), entries(object).into(), age()],
        "secrets" => vec![name(), object["type"].clone(), entries(object).into(), age()],
        "endpoints" => vec![name(), endpoints(object).into(), age()],
        "endpointslices" => {
            vec![name(), object["addressType"].clone(), slice_ports(object).into(), slice_addresses(object).into(), age()]
        }
        "leases" => vec![name(), text(&spec["holderIdentity"]).into(), age()],
        "roles" | "clusterroles" | "customresourcedefinitions" => vec![name(), object["metadata"]["creationTimestamp"].clone()],
        "rolebindings" | "clusterrolebindings" => binding(object, now),
        "mutatingwebhookconfigurations" | "validatingwebhookconfigurations" => {
            vec![name(), list(&object["webhooks"]).len().into(), age()]
        }
        _ => vec![name(), age()],
    }
}

fn entries(object: &Value) -> usize {
    ["data", "binaryData"].iter().filter_map(|f| object[*f].as_object()).map(serde_json::Map::len).sum()
}

pub(super) fn joined(values: impl Iterator<Item = String>) -> String {
    values.collect::<Vec<_>>().join(",")
}

pub(super) fn of_template(object: &Value) -> [Value; 3] {
    let containers = list(&object["spec"]["template"]["spec"]["containers"]);
    let selector = Labels::from_object(&object["spec"]["selector"]).map(|s| s.to_string()).unwrap_or_default();
    [
        joined(containers.iter().map(|c| text(&c["name"]))).into(),
        joined(containers.iter().map(|c| text(&c["image"]))).into(),
        or_none(selector).into(),
    ]
}

/// Whether an init container goes on beside the others.
fn is_sidecar(pod: &Value, name: &Value) -> bool {
    list(&pod["spec"]["initContainers"]).iter().any(|c| c["name"] == *name && c["restartPolicy"] == "Always")
}

fn pod(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let sidecars = list(&spec["initContainers"]).iter().filter(|c| c["restartPolicy"] == "Always").count();
    let statuses = list(&status["containerStatuses"]);
    let init = list(&status["initContainerStatuses"]);
    let beside = || init.iter().filter(|s| is_sidecar(object, &s["name"]));
    let ready = statuses.iter().chain(beside()).filter(|s| s["ready"] == true && !s["state"]["running"].is_null()).count();
    let total = list(&spec["containers"]).len() + sidecars;
    let gates = list(&spec["readinessGates"]);
    let fulfilled = gates
        .iter()
        .filter(|g| list(&status["conditions"]).iter().any(|c| c["type"] == g["conditionType"] && c["status"] == "True"));
    let gates_text = if gates.is_empty() { NONE.into() } else { format!("{}/{}", fulfilled.count(), gates.len()) };
    vec![
        object["metadata"]["name"].clone(),
        format!("{ready}/{total}").into(),
        pod_status(object).into(),
        restarts(object, now).into(),
        since(&object["metadata"]["creationTimestamp"], now).into(),
        or_none(text(&status["podIP"])).into(),
        or_none(text(&spec["nodeName"])).into(),
        or_none(text(&status["nominatedNodeName"])).into(),
        gates_text.into(),
    ]
}

fn restarts(pod: &Value, now: Timestamp) -> String {
    let status = &pod["status"];
    let init = list(&status["initContainerStatuses"]);
    let initializing = pod_status(pod).starts_with("Init:");
    let counted: Vec<&Value> = match initializing {
        true => init.iter().collect(),
        false => list(&status["containerStatuses"]).iter().chain(init.iter().filter(|s| is_sidecar(pod, &s["name"]))).collect(),
    };
    let total: i64 = counted.iter().map(|s| count(&s["restartCount"])).sum();
    let last = counted.iter().filter_map(|s| s["lastState"]["terminated"]["finishedAt"].as_str()).max();
    match last.filter(|_| total > 0) {
        Some(last) => format!("{total} ({} ago)", since(&last.into(), now)),
        None => total.to_string(),
    }
}

/// The word that sums up a pod.
pub fn pod_status(pod: &Value) -> String {
    let status = &pod["status"];
    let mut reason = match text(&status["reason"]) {
        r if r.is_empty() => text(&status["phase"]),
        r => r,
    };
    if list(&status["conditions"]).iter().any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated") {
        reason = "SchedulingGated".into();
    }
    let initializing = init_status(pod);
    let initialized = list(&status["conditions"]).iter().any(|c| c["type"] == "Initialized" && c["status"] == "True");
    match initializing {
        Some(word) if !initialized => reason = word,
        _ => reason = running_status(pod, reason),
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() && !matches!(text(&status["phase"]).as_str(), "Succeeded" | "Failed") {
        reason = if status["reason"] == "NodeLost" { "Unknown".into() } else { "Terminating".into() };
    }
    reason
}

fn init_status(pod: &Value) -> Option<String> {
    let all = list(&pod["spec"]["initContainers"]).len();
    for (i, status) in list(&pod["status"]["initContainerStatuses"]).iter().enumerate() {
        let state = &status["state"];
        let terminated = &state["terminated"];
        if terminated.is_object() && count(&terminated["exitCode"]) == 0 {
            continue;
        }
        if is_sidecar(pod, &status["name"]) && status["started"] == true {
            continue;
        }
        if terminated.is_object() {
            return Some(match (text(&terminated["reason"]), count(&terminated["signal"])) {
                (reason, 0) if reason.is_empty() => format!("Init:ExitCode:{}", count(&terminated["exitCode"])),
                (reason, signal) if reason.is_empty() => format!("Init:Signal:{signal}"),
                (reason, _) => format!("Init:{reason}"),
            });
        }
        let waiting = text(&state["waiting"]["reason"]);
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return Some(format!("Init:{waiting}"));
        }
        return Some(format!("Init:{i}/{all}"));
    }
    None
}

fn running_status(pod: &Value, mut reason: String) -> String {
    let mut running = false;
    for status in list(&pod["status"]["containerStatuses"]).iter().rev() {
        let state = &status["state"];
        let (waiting, terminated) = (text(&state["waiting"]["reason"]), &state["terminated"]);
        if !waiting.is_empty() {
            reason = waiting;
        } else if terminated.is_object() {
            reason = match (text(&terminated["reason"]), count(&terminated["signal"])) {
                (said, 0) if said.is_empty() => format!("ExitCode:{}", count(&terminated["exitCode"])),
                (said, signal) if said.is_empty() => format!("Signal:{signal}"),
                (said, _) => said,
            };
        } else if status["ready"] == true && state["running"].is_object() {
            running = true;
        }
    }
    if reason == "Completed" && running {
        let ready = list(&pod["status"]["conditions"]).iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        reason = if ready { "Running".into() } else { "NotReady".into() };
    }
    reason
}

fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    let port = |p: &Value| match p["nodePort"].as_u64().filter(|n| *n > 0) {
        Some(node) => format!("{}:{node}/{}", count(&p["port"]), text(&p["protocol"])),
        None => format!("{}/{}", count(&p["port"]), text(&p["protocol"])),
    };
    let ingress = list(&object["status"]["loadBalancer"]["ingress"]);
    let outside = match spec["type"].as_str() {
        Some("ExternalName") => text(&spec["externalName"]),
        Some("LoadBalancer") if ingress.is_empty() => "<pending>".into(),
        Some("LoadBalancer") => joined(ingress.iter().map(|i| text(&i["ip"]) + &text(&i["hostname"]))),
        _ => joined(list(&spec["externalIPs"]).iter().map(text)),
    };
    let selector = spec["selector"].as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", text(v)));
    vec![
        object["metadata"]["name"].clone(),
        spec["type"].clone(),
        or_none(text(&spec["clusterIP"])).into(),
        or_none(outside).into(),
        or_none(joined(list(&spec["ports"]).iter().map(port))).into(),
        since(&object["metadata"]["creationTimestamp"], now).into(),
        or_none(joined(selector)).into(),
    ]
}

fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let has = |kind: &str| list(&status["conditions"]).iter().any(|c| c["type"] == kind && c["status"] == "True");
    let word = match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if !object["metadata"]["deletionTimestamp"].is_null() => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    let done = count(&status["succeeded"]);
    let completions = match (spec["completions"].as_i64(), count(&spec["parallelism"])) {
        (Some(all), _) => format!("{done}/{all}"),
        (None, 0 | 1) => format!("{done}/1"),
        (None, n) => format!("{done}/1 of {n}"),
    };
    let seconds = |v: &Value| v.as_str().and_then(|t| t.parse::<Timestamp>().ok()).map(Timestamp::as_second);
    let took = match (seconds(&status["startTime"]), seconds(&status["completionTime"])) {
        (None, _) => String::new(),
        (Some(from), Some(to)) => duration(to - from),
        (Some(from), None) => duration(now.as_second() - from),
    };
    let mut cells = vec![
        object["metadata"]["name"].clone(),
        word.into(),
        completions.into(),
        took.into(),
        since(&object["metadata"]["creationTimestamp"], now).into(),
    ];
    cells.extend(of_template(object));
    cells
}

fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let ready = list(&status["conditions"]).iter().find(|c| c["type"] == "Ready");
    let mut word = match ready.map(|c| c["status"] == "True") {
        Some(true) => "Ready".to_owned(),
        Some(false) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if spec["unschedulable"] == true {
        word.push_str(",SchedulingDisabled");
    }
    let labels = object["metadata"]["labels"].as_object();
    let roles = labels.into_iter().flatten().filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/")).map(str::to_owned);
    let address = |kind: &str| {
        or_none(list(&status["addresses"]).iter().find(|a| a["type"] == kind).map(|a| text(&a["address"])).unwrap_or_default())
    };
    let info = |field: &str| match text(&status["nodeInfo"][field]) {
        t if t.is_empty() => UNKNOWN.to_owned(),
        t => t,
    };
    vec![
        object["metadata"]["name"].clone(),
        word.into(),
        or_none(joined(roles)).into(),
        since(&object["metadata"]["creationTimestamp"], now).into(),
        text(&status["nodeInfo"]["kubeletVersion"]).into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        info("osImage").into(),
        info("kernelVersion").into(),
        info("containerRuntimeVersion").into(),
    ]
}

fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let of = if object["involvedObject"].is_object() { &object["involvedObject"] } else { &object["regarding"] };
    let either = |a: &str, b: &str| if object[a].is_null() { object[b].clone() } else { object[a].clone() };
    let times = ["lastTimestamp", "deprecatedLastTimestamp", "eventTime"];
    let last = times.iter().map(|t| &object[*t]).find(|t| t.is_string()).cloned().unwrap_or_default();
    let firsts = ["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"];
    let first = firsts.iter().map(|t| &object[*t]).find(|t| t.is_string()).cloned().unwrap_or_default();
    let source = either("source", "deprecatedSource");
    let component = match text(&source["component"]) {
        c if c.is_empty() => text(&either("reportingComponent", "reportingController")),
        c => c,
    };
    let source = joined([component, text(&source["host"])].into_iter().filter(|s| !s.is_empty())).replace(',', ", ");
    let object_text = match text(&of["kind"]).to_lowercase() {
        kind if kind.is_empty() => text(&of["name"]),
        kind => format!("{kind}/{}", text(&of["name"])),
    };
    vec![
        since(&last, now).into(),
        object["type"].clone(),
        object["reason"].clone(),
        object_text.into(),
        text(&of["fieldPath"]).into(),
        source.into(),
        text(&either("message", "note")).trim().into(),
        since(&first, now).into(),
        count(&either("count", "deprecatedCount")).max(1).into(),
        object["metadata"]["name"].clone(),
    ]
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(&object["subsets"]) {
        for address in list(&subset["addresses"]) {
            match list(&subset["ports"]) {
                [] => all.push(text(&address["ip"])),
                ports => all.extend(ports.iter().map(|p| format!("{}:{}", text(&address["ip"]), count(&p["port"])))),
            }
        }
    }
    shortened(all)
}

/// Three of them, and how many more.
fn shortened(all: Vec<String>) -> String {
    const SHOWN: usize = 3;
    match all.len() {
        0 => NONE.into(),
        n if n > SHOWN => format!("{} + {} more...", all[..SHOWN].join(","), n - SHOWN),
        _ => all.join(","),
    }
}

fn slice_ports(object: &Value) -> String {
    let ports = list(&object["ports"]);
    if ports.is_empty() {
        return "<unset>".into();
    }
    shortened(ports.iter().map(|p| count(&p["port"]).to_string()).collect())
}

fn slice_addresses(object: &Value) -> String {
    let all: Vec<String> = list(&object["endpoints"]).iter().flat_map(|e| list(&e["addresses"]).iter().map(text)).collect();
    if all.is_empty() { "<unset>".into() } else { shortened(all) }
}

fn binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let of = |kind: &str| {
        let subjects = list(&object["subjects"]).iter().filter(|s| s["kind"] == kind);
        subjects
            .map(|s| match (kind, s["namespace"].as_str()) {
                ("ServiceAccount", Some(namespace)) => format!("{namespace}/{}", text(&s["name"])),
                _ => text(&s["name"]),
            })
            .collect::<Vec<_>>()
            .join(", ")
    };
    let role = &object["roleRef"];
    vec![
        object["metadata"]["name"].clone(),
        format!("{}/{}", text(&role["kind"]), text(&role["name"])).into(),
        since(&object["metadata"]["creationTimestamp"], now).into(),
        of("User").into(),
        of("Group").into(),
        of("ServiceAccount").into(),
    ]
}

/// The cell of a custom resource's column.
pub fn custom(column: &Column, object: &Value, now: Timestamp) -> Value {
    let found = path(object, &column.path);
    match (column.kind.as_str(), found.as_slice()) {
        (_, []) => Value::Null,
        ("date", [time, ..]) => since(time, now).into(),
        ("integer", [number, ..]) => number.as_i64().map_or(Value::Null, Value::from),
        ("number", [number, ..]) => number.as_f64().map_or(Value::Null, Value::from),
        ("boolean", [flag, ..]) => flag.as_bool().map_or(Value::Null, Value::from),
        (_, [Value::String(one)]) => one.clone().into(),
        (_, [one]) => one.to_string().into(),
        (_, many) => {
            many.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect::<Vec<_>>().join(",").into()
        }
    }
}

/// The JSONPath that columns use: fields (`.a`, `\.` in a name), indices (`[0]`, `[*]`), and
/// `[?(@.type=="Ready")]`.
pub fn path<'v>(object: &'v Value, path: &str) -> Vec<&'v Value> {
    let mut found = vec![object];
    let mut rest = path.trim_start_matches('$').trim_matches(['{', '}']);
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let Some((inside, tail)) = after.split_once(']') else { return Vec::new() };
            found = found.into_iter().flat_map(|v| select(v, inside)).collect();
            rest = tail;
            continue;
        }
        let start = rest.strip_prefix('.').unwrap_or(rest);
        let (name, tail) = field_name(start);
        found = found.into_iter().filter_map(|v| v.get(name.as_str())).filter(|v| !v.is_null()).collect();
        rest = tail;
    }
    found
}

fn field_name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => name.extend(letters.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[at..]),
            _ => name.push(letter),
        }
    }
    (name, "")
}

fn select<'v>(value: &'v Value, inside: &str) -> Vec<&'v Value> {
    let items = list(value);
    if inside == "*" {
        return items.iter().collect();
    }
    if let Ok(index) = inside.parse::<usize>() {
        return items.get(index).into_iter().collect();
    }
    let quoted = inside.trim_matches(['\'', '"']);
    if quoted.len() + 2 == inside.len() {
        return value.get(quoted).into_iter().collect();
    }
    let condition = inside.trim_start_matches("?(").trim_end_matches(')');
    let Some((left, right)) = condition.split_once("==") else { return Vec::new() };
    let wanted: Value = serde_json::from_str(&right.trim().replace('\'', "\"")).unwrap_or_else(|_| json!(right.trim()));
    let left = left.trim().trim_start_matches('@');
    items.iter().filter(|item| path(item, left).first() == Some(&&wanted)).collect()
}
