//! What is known and who asks, counted when somebody scrapes (control-plane §3.2, §7).

use super::Hub;
use homarus_model::facts::{Kind, OwnerKind, RouteGroup, RouteKind};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
};
use std::{
    fmt,
    sync::{Arc, Weak},
};

/// How facts of a kind are counted.
#[derive(Clone, Copy, Debug)]
enum Count {
    /// In all, with the cluster's name.
    Cluster,
    /// By namespace.
    Namespace,
}

/// Counts of one controller.
pub struct Census {
    /// The registry must not keep the hub alive.
    hub: Weak<Hub>,
    facts: &'static [(Kind, &'static str, Count)],
}

/// What the destination controller counts.
const OF_DESTINATION: &[(Kind, &str, Count)] = &[
    (Kind::Pod, "pod_cache_size", Count::Cluster),
    (Kind::Service, "service_cache_size", Count::Cluster),
    (Kind::EndpointSlice, "endpointslices_cache_size", Count::Cluster),
    (Kind::Node, "node_cache_size", Count::Cluster),
    (Kind::Owner(OwnerKind::ReplicaSet), "replicaset_cache_size", Count::Cluster),
    (Kind::Owner(OwnerKind::Job), "job_cache_size", Count::Cluster),
    (Kind::Server, "server_cache_size", Count::Cluster),
    (Kind::ExternalWorkload, "externalworkload_cache_size", Count::Cluster),
    (Kind::ServiceProfile, "serviceprofile_cache_size", Count::Cluster),
];

/// What the policy controller counts.
const OF_POLICY: &[(Kind, &str, Count)] = &[
    (Kind::Pod, "inbound_index_pod_index_size", Count::Namespace),
    (Kind::ExternalWorkload, "inbound_index_external_workload_index_size", Count::Namespace),
    (Kind::Server, "inbound_index_server_index_size", Count::Namespace),
    (Kind::ServerAuthorization, "inbound_index_server_authorization_index_size", Count::Namespace),
    (Kind::AuthorizationPolicy, "inbound_index_authorization_policy_index_size", Count::Namespace),
    (Kind::MeshTlsAuthentication, "inbound_index_meshtls_authentication_index_size", Count::Namespace),
    (Kind::NetworkAuthentication, "inbound_index_network_authentication_index_size", Count::Namespace),
    (Kind::Route(RouteKind::Http(RouteGroup::Policy)), "inbound_index_http_route_index_size", Count::Namespace),
    (Kind::Service, "outbound_index_service_index_size", Count::Cluster),
];

impl Census {
    /// Counts of a destination controller.
    pub fn of_destination(hub: &Arc<Hub>) -> Self {
        Self { hub: Arc::downgrade(hub), facts: OF_DESTINATION }
    }

    /// Counts of a policy controller.
    pub fn of_policy(hub: &Arc<Hub>) -> Self {
        Self { hub: Arc::downgrade(hub), facts: OF_POLICY }
    }
}

impl fmt::Debug for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Census").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// A value and its labels.
type Row = (Vec<(&'static str, String)>, usize);

fn put(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, rows: &[Row]) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let gauge = |value: usize| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    let mut family = encoder.encode_descriptor(name, help, None, gauge(0).metric_type())?;
    for (labels, value) in rows {
        gauge(*value).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}

impl Collector for Census {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(hub) = self.hub.upgrade() else { return Ok(()) };
        for (kind, name, count) in self.facts {
            let counts: Vec<_> = hub.read(|index| index.count(*kind).collect());
            let rows: Vec<Row> = match count {
                Count::Cluster => {
                    let all = counts.iter().map(|(_, n)| n).sum();
                    vec![(vec![("cluster", "local".to_owned())], all)]
                }
                Count::Namespace => counts.into_iter().map(|(ns, n)| (vec![("namespace", ns.to_string())], n)).collect(),
            };
            put(&mut encoder, name, "Objects that are known", &rows)?;
        }
        let asked = hub.asked_endpoints();
        let rows = |value: fn(&super::hub::Asked) -> usize| -> Vec<Row> {
            asked.iter().map(|asked| (asked.labels(), value(asked))).collect()
        };
        put(&mut encoder, "endpoints_subscribers", "Streams of endpoints", &rows(|asked| asked.subscribers))?;
        put(&mut encoder, "endpoints_pods", "Endpoints that are told", &rows(|asked| asked.endpoints.unwrap_or(0)))?;
        put(&mut encoder, "endpoints_exists", "Whether the Service exists", &rows(|asked| asked.endpoints.is_some().into()))
    }
}
