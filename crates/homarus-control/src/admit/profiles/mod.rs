//! The validator of ServiceProfiles (control-plane §9).

mod schema;

use std::path::PathBuf;

use anyhow::Context;
use clap::Args as ClapArgs;
use homarus_daemon::args::Listen;
use homarus_model::duration::parse_go;
use kube::Client;

use crate::admit::{Judge, Judgement};
use crate::run::{Compatibility, Logging, Program};
use crate::webhook::review::Question;
use crate::webhook::{Origin, PROFILES, Webhook};
use schema::{Profile, RequestMatch, ResponseMatch, RetryBudget, Route};

/// The flags of `homarus controller sp-validator` (control-plane §1.5).
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Address of the webhook.
    #[arg(long, default_value = ":8443")]
    addr: Listen,
    /// Address of the admin server.
    #[arg(long, default_value = ":9997")]
    metrics_addr: Listen,
    /// Directory of the webhook's certificate (tls.crt) and key (tls.key).
    #[arg(long, default_value = "/var/run/linkerd/tls")]
    tls_dir: PathBuf,
    /// Make the webhook's certificate and tell the API server, rather than read it from --tls-dir.
    #[arg(long)]
    manage_certificates: bool,
    /// Namespace of the control plane, where a certificate that is made here is kept.
    #[arg(long, default_value = "linkerd")]
    linkerd_namespace: String,
    #[command(flatten)]
    compatibility: Compatibility,
    #[command(flatten)]
    logging: Logging,
}

/// Serves the webhook until asked to end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    args.logging.init()?;
    let (mut program, ready) = Program::start(args.metrics_addr, "certificate of the webhook").await?;
    let client = Client::try_default().await.context("no way to reach the Kubernetes API")?;
    let origin = Origin::of(args.manage_certificates, &args.linkerd_namespace, &args.tls_dir);
    let drain = program.drain();
    let webhook = Webhook::start(&PROFILES, args.addr, origin, &client, &program.metrics, ready, drain.clone())?;
    let judge = Judge::new(judge, &program.metrics);
    program.work(webhook.serve(judge, drain)).await.transpose()?;
    program.end().await;
    Ok(())
}

/// Whether a profile can be stored.
pub(crate) fn judge(question: &Question) -> Judgement {
    let (group, kind) = question.kind();
    if (group, kind) != ("linkerd.io", "ServiceProfile") {
        return Err(format!("{kind} of group {group:?} is not judged here: this is the webhook of ServiceProfiles"));
    }
    if question.object.is_null() {
        return Err("there is no object to judge".to_owned());
    }
    let profile: Profile = serde_path_to_error::deserialize(&question.object).map_err(|error| unreadable(&error))?;
    subdomain(question.name())?;
    let spec = profile.spec.unwrap_or_default();
    for (i, route) in spec.routes.iter().flatten().enumerate() {
        let field = format!("spec.routes[{i}]");
        route_fits(route.as_ref().ok_or_else(|| format!("{field}: it is null; remove it"))?, &field)?;
    }
    if spec.opaque_ports.is_some() {
        return Err("spec.opaquePorts: not supported; annotate the Service with config.linkerd.io/opaque-ports".to_owned());
    }
    spec.retry_budget.as_ref().map_or(Ok(()), budget)?;
    Ok(Vec::new())
}

fn unreadable(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let path = error.path().to_string();
    let remedy = match path.contains("condition.not") {
        true => "write it inside of all or any: `all: [{not: {...}}]`",
        false => "write it as the schema says (kubectl explain serviceprofile.spec)",
    };
    format!("{path}: {}; {remedy}", error.inner())
}

/// An object's name here becomes a part of an authority.
fn subdomain(name: &str) -> Result<(), String> {
    match homarus_kube::names::is_subdomain(name) {
        true => Ok(()),
        false => Err(format!("metadata.name: {name:?} is no DNS name; name it after the Service: web.shop.svc.cluster.local")),
    }
}

fn route_fits(route: &Route, field: &str) -> Result<(), String> {
    if route.name.as_deref().unwrap_or_default().is_empty() {
        return Err(format!("{field}.name: it is missing; metrics are told apart by it"));
    }
    let condition = route.condition.as_ref();
    request_fits(condition.ok_or_else(|| format!("{field}.condition: it is missing; say which requests are meant"))?, field)?;
    if let Some(timeout) = &route.timeout {
        duration(timeout, &format!("{field}.timeout"))?;
    }
    for (i, class) in route.response_classes.iter().flatten().enumerate() {
        let field = format!("{field}.responseClasses[{i}]");
        let condition = class.as_ref().and_then(|class| class.condition.as_ref());
        response_fits(
            condition.ok_or_else(|| format!("{field}.condition: it is missing; say which responses are meant"))?,
            &field,
        )?;
    }
    Ok(())
}

fn request_fits(condition: &RequestMatch, field: &str) -> Result<(), String> {
    let field = format!("{field}.condition");
    let RequestMatch { all, any, not, path_regex, method } = condition;
    let says = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if all.is_none() && any.is_none() && not.is_none() && !says(path_regex) && !says(method) {
        return Err(format!("{field}: it is empty; give pathRegex, method, all, any or not"));
    }
    let many = all.iter().chain(any).flatten();
    for child in many {
        request_fits(child.as_ref().ok_or_else(|| format!("{field}: a condition in it is null; remove it"))?, &field)?;
    }
    not.as_ref().map_or(Ok(()), |not| request_fits(not, &field))
}

fn response_fits(condition: &ResponseMatch, field: &str) -> Result<(), String> {
    let field = format!("{field}.condition");
    let ResponseMatch { all, any, not, status } = condition;
    if all.is_none() && any.is_none() && not.is_none() && status.is_none() {
        return Err(format!("{field}: it is empty; give status, all, any or not"));
    }
    if let Some(status) = status {
        let (min, max) = (status.min.unwrap_or(0), status.max.unwrap_or(0));
        if [min, max].into_iter().any(|code| code != 0 && !(100..600).contains(&code)) {
            return Err(format!("{field}.status: {min} to {max} is no range of statuses; use 100 to 599"));
        }
        if max != 0 && max < min {
            return Err(format!("{field}.status: max {max} is less than min {min}; swap them"));
        }
    }
    for child in all.iter().chain(any).flatten() {
        response_fits(child.as_ref().ok_or_else(|| format!("{field}: a condition in it is null; remove it"))?, &field)?;
    }
    not.as_ref().map_or(Ok(()), |not| response_fits(not, &field))
}

fn budget(budget: &RetryBudget) -> Result<(), String> {
    if budget.retry_ratio.is_some_and(|ratio| ratio < 0.0) {
        return Err("spec.retryBudget.retryRatio: it is negative; 0.2 adds at most a fifth to the load".to_owned());
    }
    match budget.ttl.as_deref().unwrap_or_default() {
        "" => Err("spec.retryBudget.ttl: it is missing; say how long requests count, like 10s".to_owned()),
        ttl => duration(ttl, "spec.retryBudget.ttl"),
    }
}

/// A duration as Go reads it, which may be negative there.
fn duration(text: &str, field: &str) -> Result<(), String> {
    let read = parse_go(text.strip_prefix('-').unwrap_or(text));
    read.map(drop).map_err(|error| format!("{field}: {text:?}: {error}; write it like 300ms or 1m30s"))
}

#[cfg(test)]
mod tests;
