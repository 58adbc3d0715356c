//! Requests and responses of the webhook, by owner, namespace and the annotations that were seen.

use std::collections::{BTreeMap, HashSet};

use homarus_daemon::metrics::Metrics;
use homarus_kube::annotations;
use homarus_kube::injection::Outcome;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Label sets that are kept apart; beyond, annotations are no longer told apart, as their values are free text.
const MAX_LABEL_SETS: usize = 2_000;
/// The longest value of a label.
const MAX_VALUE_BYTES: usize = 128;

type Labels = Vec<(String, String)>;

#[derive(Clone, Debug, Default)]
struct Bounded(Family<Labels, Counter>);

/// The webhook's counters.
#[derive(Debug)]
pub(super) struct Admissions {
    requests: Bounded,
    responses: Bounded,
    known: Mutex<HashSet<Labels>>,
}

/// What an admission was about.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    pub(super) owner_kind: &'a str,
    pub(super) namespace: &'a str,
    /// The annotations that counted: the object's, and the namespace's where it has none.
    pub(super) annotations: &'a BTreeMap<String, String>,
}

impl Admissions {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let (requests, responses) = (Bounded::default(), Bounded::default());
        metrics.register(|registry| {
            let help = "A counter for number of admission requests to proxy injector";
            registry.register("proxy_inject_admission_requests", help, requests.0.clone());
            let help = "A counter for number of admission responses from proxy injector";
            registry.register("proxy_inject_admission_responses", help, responses.0.clone());
        });
        Self { requests, responses, known: Mutex::default() }
    }

    pub(super) fn requested(&self, about: About<'_>, outcome: &Outcome) {
        self.count(&self.requests, about, vec![("annotation_at", outcome.annotated_at().as_str().to_owned())]);
    }

    /// An injected pod, or one that was left alone for reasons (without reasons if it was patched otherwise).
    pub(super) fn responded(&self, about: About<'_>, outcome: &Outcome) {
        let skip = outcome.patch.is_empty();
        let reasons = outcome.decision.skips.iter().map(|skip| skip.as_str()).collect::<Vec<_>>().join(",");
        let labels = vec![
            ("annotation_at", outcome.annotated_at().as_str().to_owned()),
            ("skip", skip.to_string()),
            ("skip_reason", reasons),
        ];
        self.count(&self.responses, about, labels);
    }

    fn count(&self, counter: &Bounded, about: About<'_>, more: Vec<(&'static str, String)>) {
        let mut labels: Labels =
            vec![("owner_kind".to_owned(), about.owner_kind.to_owned()), ("namespace".to_owned(), about.namespace.to_owned())];
        labels.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let plain = labels.len();
        for annotation in annotations::ALL.iter().filter(|annotation| annotation.in_metrics) {
            let value = about.annotations.get(annotation.name).map(|value| shortened(value)).unwrap_or_default();
            labels.push((annotation.metric_label(), value));
        }
        let mut known = self.known.lock();
        if !known.contains(&labels) {
            if known.len() < MAX_LABEL_SETS {
                known.insert(labels.clone());
            } else {
                labels.iter_mut().skip(plain).for_each(|(_, value)| value.clear());
            }
        }
        drop(known);
        counter.0.get_or_create(&labels).inc();
    }
}

fn shortened(value: &str) -> String {
    let mut end = value.len().min(MAX_VALUE_BYTES);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value[..end].to_owned()
}
