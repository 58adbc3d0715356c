//! `top`: who talks to whom right now, as far as the proxies' counters tell, refreshed in place.
//!
//! A line is what the labels tell apart: a client's identity (inbound) or a destination (outbound), and the route that
//! matched. The busiest come first.

mod lines;

use crate::cluster::Cluster;
use crate::command_line::{Output, Top};
use crate::failure::{Exit, Failure, Outcome};
use crate::resources::{Kind, Target};
use crate::sampler::Sampler;
use crate::terminal;
use crate::workloads::{Member, Workloads};

/// Shows tables until told to end.
pub async fn run(cluster: &Cluster, args: &Top) -> Outcome {
    let targets = Target::read_all(&args.selection.resources)?;
    if let Some(service) = targets.iter().find(|target| target.kind == Kind::Service) {
        return Err(Failure::usage(format!("{service} has no proxy to look at")).remedy("Name a workload, as in `deploy/NAME`."));
    }
    let everywhere = args.selection.all_namespaces || targets.iter().any(|target| target.kind == Kind::Namespace);
    let namespace = (!everywhere).then(|| cluster.namespace(args.selection.namespace.as_deref()));
    let mut sampler = Sampler::new(&cluster.client, 1);
    let mut ticks = tokio::time::interval(args.interval.max(std::time::Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut shown = 0;
    let live = terminal::on_terminal() && args.output == Output::Table;
    if live {
        terminal::clear()?;
    }
    while args.count.is_none_or(|count| shown < count) {
        ticks.tick().await;
        let workloads = Workloads::list(&cluster.client, namespace.as_deref(), args.selection.selector.as_deref()).await?;
        let meant = |member: &&Member| targets.iter().any(|target| member.is_part_of(target.kind, target.name.as_deref()));
        let members: Vec<_> = workloads.0.iter().filter(meant).filter(|member| member.has_running_proxy()).collect();
        if members.is_empty() {
            return Err(nobody(&targets));
        }
        sampler.sample(members.iter().copied()).await;
        let Some(elapsed) = sampler.elapsed() else { continue };
        let lines = lines::lines(&members, args.hide_sources, |namespace, name| sampler.delta(namespace, name));
        let text = match args.output {
            Output::Table => lines::table(&lines, elapsed, args.rows),
            Output::Json => lines::json(&lines, elapsed, args.rows)?,
        };
        if live {
            terminal::repaint(&text)?
        } else {
            terminal::print(&text)?
        }
        shown += 1;
    }
    Ok(Exit::Ok)
}

fn nobody(targets: &[Target]) -> Failure {
    let named: Vec<_> = targets.iter().map(Target::to_string).collect();
    Failure::new(format!("no running proxies in {}", named.join(", ")))
        .remedy("Is the namespace right (-n), and are the workloads in the mesh? `homarus stat --unmeshed` tells.")
}
