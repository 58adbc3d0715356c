//! Subresources of pods: `log`, `portforward`, `exec` and `attach` (the node answers), `binding`, `eviction`.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};

use super::respond::{self, Body};
use super::target::Query;
use super::{Call, write};
use crate::api::node::{CommandOptions, LogOptions, NodeBackend, NodeError, PodRef};
use crate::api::refusal::{Answer, Refusal};
use crate::api::store::Object;
use crate::api::streams::upgrade::{self, Carrier, Offers};
use crate::api::streams::{command, forward};
use crate::api::{collect, now, now_text};

fn pod(call: &Call) -> Answer<Arc<Object>> {
    let target = &call.target;
    let found = call.core.store.find("/pods", &target.stored_name());
    found.ok_or_else(|| Refusal::not_found(&target.kind, &target.name))
}

fn node(call: &Call, pod: &Value) -> Answer<(Arc<dyn NodeBackend>, PodRef)> {
    let name = call.target.name.clone();
    if pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        return Err(Refusal::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let node = call.core.node.get().cloned();
    let node = node.ok_or_else(|| Refusal::internal("no node runs pods here; start one with `homarus up`"))?;
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    Ok((node, PodRef { namespace: call.target.namespace.clone(), name, uid }))
}

fn refused(error: NodeError) -> Refusal {
    match error {
        NodeError::NotReady(why) => Refusal::bad_request(why),
        NodeError::NotFound(why) => Refusal::new(404, "NotFound", why),
        NodeError::Failed(why) => Refusal::internal(why),
    }
}

/// GET of `log`.
pub async fn log(call: Call) -> Answer<Response<Body>> {
    let pod = pod(&call)?;
    let options = log_options(&call, &pod.value)?;
    if pod.value["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        // Nothing has been written yet, and nothing is wrong.
        let mut response = Response::new(respond::full(""));
        *response.status_mut() = http::StatusCode::NO_CONTENT;
        return Ok(response);
    }
    let (node, reference) = node(&call, &pod.value)?;
    let stream = node.log(reference, options).await.map_err(refused)?;
    let frames = stream.map(|chunk| chunk.map(Frame::<Bytes>::data));
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

fn log_options(call: &Call, pod: &Value) -> Answer<LogOptions> {
    let query = &call.target.query;
    let since = match (query.number::<i64>("sinceSeconds")?, query.text("sinceTime")) {
        (Some(_), Some(_)) => return Err(Refusal::bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified")),
        (Some(seconds), None) => jiff::Timestamp::from_second(now().as_second() - seconds).ok(),
        (None, Some(time)) => Some(time.parse().map_err(|e| Refusal::bad_request(format!("sinceTime: {e}")))?),
        (None, None) => None,
    };
    Ok(LogOptions {
        container: container(call, pod)?,
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        tail_lines: query.number("tailLines")?,
        limit_bytes: query.number("limitBytes")?,
        since,
    })
}

/// The container asked for, or the only one.
fn container(call: &Call, pod: &Value) -> Answer<String> {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let names = |list: &str| -> Vec<String> {
        let all = pod["spec"][list].as_array().into_iter().flatten();
        all.filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    };
    let name = &call.target.name;
    match call.target.query.text("container") {
        Some(wanted) if lists.iter().any(|list| names(list).iter().any(|n| n == wanted)) => Ok(wanted.to_owned()),
        Some(wanted) => Err(Refusal::bad_request(format!("container {wanted} is not valid for pod {name}"))),
        None => match names("containers").as_slice() {
            [only] => Ok(only.clone()),
            many => {
                let init = names("initContainers");
                let mut message = format!("a container name must be specified for pod {name}, choose one of: [{}]", many.join(" "));
                if !init.is_empty() {
                    message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(Refusal::bad_request(message))
            }
        },
    }
}

/// `portforward`.
pub async fn port_forward(call: Call) -> Answer<Response<Body>> {
    const OFFERS: Offers = &[
        (Carrier::Tunnel, "SPDY/3.1+portforward.k8s.io"),
        (Carrier::Channels, "v4.channel.k8s.io"),
        (Carrier::Spdy, "portforward.k8s.io"),
    ];
    let found = pod(&call)?;
    let (node, pod) = node(&call, &found.value)?;
    let agreed = upgrade::agree(call.head.headers(), OFFERS)?;
    if found.value["status"]["phase"] != "Running" {
        let phase = found.value["status"]["phase"].as_str().unwrap_or_default();
        return Err(Refusal::bad_request(format!("unable to forward port because pod is not running. Current status={phase}")));
    }
    let ports = match agreed.carrier {
        Carrier::Channels => forward::ports(call.head.uri().query().unwrap_or_default())?,
        Carrier::Tunnel | Carrier::Spdy => Vec::new(),
    };
    let source = forward::Source { node, pod };
    agreed.answer(call.head, move |carrier, io| forward::serve(carrier, io, source, ports))
}

/// `exec` and `attach`.
pub async fn run(call: Call) -> Answer<Response<Body>> {
    const OFFERS: Offers =
        &[(Carrier::Channels, "v5.channel.k8s.io"), (Carrier::Channels, "v4.channel.k8s.io"), (Carrier::Spdy, "v4.channel.k8s.io")];
    let found = pod(&call)?;
    let container = container(&call, &found.value)?;
    let (node, pod) = node(&call, &found.value)?;
    let agreed = upgrade::agree(call.head.headers(), OFFERS)?;
    if !runs(&found.value, &container) {
        return Err(Refusal::internal(format!("container not found (\"{container}\")")));
    }
    let command = command::Command { node, pod, options: command_options(&call, container)? };
    agreed.answer(call.head, move |carrier, io| command::serve(carrier, io, command))
}

fn command_options(call: &Call, container: String) -> Answer<CommandOptions> {
    let query = &call.target.query;
    let command = match call.target.subresource.as_str() {
        "exec" => Query::all(call.head.uri().query().unwrap_or_default(), "command"),
        _ => Vec::new(),
    };
    if command.is_empty() && call.target.subresource == "exec" {
        return Err(Refusal::bad_request("you must specify at least 1 command for the container"));
    }
    let [stdin, stdout, stderr, tty] = ["stdin", "stdout", "stderr", "tty"].map(|name| query.flag(name));
    if !(stdin || stdout || stderr) {
        return Err(Refusal::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    Ok(CommandOptions { container, command, stdin, stdout, stderr, tty })
}

fn runs(pod: &Value, container: &str) -> bool {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut statuses = lists.iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    statuses.any(|s| s["name"] == container && !s["state"]["running"].is_null())
}

/// POST of `binding`: a pod gets its node.
pub async fn bind(call: Call) -> Answer<Response<Body>> {
    let binding = write::parsed(&call)?;
    let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
    if node.is_empty() {
        return Err(Refusal::new(
            422,
            "Invalid",
            format!("Binding \"{}\" is invalid: target.name: Required value", call.target.name),
        ));
    }
    let pod = pod(&call)?;
    if let Some(already) = pod.value["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        let why = format!("pod {} is already assigned to node \"{already}\"", call.target.name);
        return Err(Refusal::conflict(&call.target.kind, &call.target.name, &why));
    }
    let name = call.target.stored_name();
    let uid = pod.value["metadata"]["uid"].clone();
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now_text()});
    call.core.store.write::<Refusal>(&call.target.kind.bucket, &name, |_, current| {
        let current = current.filter(|c| c.value["metadata"]["uid"] == uid);
        let mut pod = current.ok_or_else(|| Refusal::not_found(&call.target.kind, &name.name))?.value.clone();
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            let why = format!("pod {} is being deleted, cannot be assigned to a host", name.name);
            return Err(Refusal::conflict(&call.target.kind, &name.name, &why));
        }
        pod["spec"]["nodeName"] = node.into();
        let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.retain(|c| c["type"] != "PodScheduled");
        conditions.push(condition);
        pod["status"]["conditions"] = conditions.into();
        Ok(crate::api::store::shared::Write::Put(pod))
    })?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::json(201, &status))
}

/// POST of `eviction`: a polite deletion. There are no disruption budgets here to say no.
pub async fn evict(call: Call) -> Answer<Response<Body>> {
    let eviction = write::parsed(&call)?;
    let options = match &eviction["deleteOptions"] {
        Value::Null => collect::Options::parse(&[], &call.target.query)?,
        options => collect::Options::parse(options.to_string().as_bytes(), &call.target.query)?,
    };
    write::delete_object(&call, &call.target.stored_name(), &options).await?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::json(201, &status))
}
