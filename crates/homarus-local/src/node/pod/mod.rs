//! What a pod needs next: pure decisions, without processes, sockets or a clock.
//!
//! [`Machine`](machine::Machine) takes what happened and the time, and says what to do; `work` does it and tells
//! what happened. The rules are the kubelet's (Kubernetes 1.34), among them: containers start in order, each after
//! the start hook of the one before; sidecars (KEP-753) are started before what follows them and stopped last, in
//! reverse; back-off doubles from 10 s to 5 min; probes count by their thresholds.
//!
//! Deliberately absent: resource limits, ephemeral containers, container restart rules.

pub(crate) mod backoff;
pub(crate) mod machine;
pub(crate) mod plan;
pub(crate) mod probe;
pub(crate) mod status;
mod stop;
#[cfg(test)]
mod tests;
