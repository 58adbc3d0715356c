//! Metrics without a cost on the path that they measure.
//!
//! A handle ([`Counter`], [`Gauge`], [`Histogram`]) is made once, for a connection, route or endpoint, with its labels
//! rendered then. Each worker has cells of its own, so adding is a load and a store, not a locked operation; the admin
//! thread adds the workers' cells up when it is asked. A series without a handle is dropped some time after its last
//! change. The number of series of a family is bounded: labels come from outside.
//!
//! Families are declared beside what they measure, as `static` [`Family`] values.

use crate::net::Instant;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Series of one family, at most; more are counted in `homarus_metrics_dropped_total` and not shown.
const MAX_SERIES: usize = 20_000;

/// A metric family: a name, and what its samples are.
#[derive(Debug)]
pub struct Family {
    /// The name as it is declared; counters of the second half get `_total` when sampled.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// What the samples are.
    pub kind: Kind,
    /// Which half of the exposition it stands in, and where (proxy-traffic §7.1).
    pub half: Half,
}

/// What the samples of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down; workers have parts of it, which are added up.
    Gauge,
    /// Goes up and down; workers know the same of it, and the highest is shown.
    Common,
    /// Counts values up to each of some bounds.
    Histogram {
        /// The bounds, ascending.
        bounds: &'static [Bound],
        /// What a raw value is divided by to have the family's unit: values are counted as whole numbers, durations as
        /// microseconds.
        scale: u64,
    },
}

/// An upper bound of a bucket: how it is printed, and as a raw value.
pub type Bound = (&'static str, u64);

/// Microseconds of a family in seconds.
pub const SECONDS: u64 = 1_000_000;
/// Microseconds of a family in milliseconds.
pub const MILLISECONDS: u64 = 1_000;

/// Where a family stands in the exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Half {
    /// The older families of inbound traffic, without OpenMetrics suffixes.
    Inbound,
    /// The older families of outbound traffic.
    Outbound,
    /// The older families of endpoints and of the process as a whole.
    Legacy,
    /// OpenMetrics: counters are sampled with `_total`.
    Open,
}

/// Rendered labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels(String);

impl Labels {
    /// No labels.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a label.
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        let comma = if self.0.is_empty() { "" } else { "," };
        // Writing to a String can't fail.
        let _ = write!(self.0, "{comma}{name}=\"");
        let _ = write!(Escape(&mut self.0), "{value}");
        self.0.push('"');
        self
    }

    /// Adds all labels of another set.
    pub fn and(mut self, other: &Self) -> Self {
        if !self.0.is_empty() && !other.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(&other.0);
        self
    }

    /// The labels, without braces.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Escapes label values: backslash, quote and line feed.
struct Escape<'a>(&'a mut String);

impl Write for Escape<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

/// The cells of one series in one worker: one for counters and gauges, the buckets and the sum for histograms.
type Cells = Arc<[AtomicU64]>;

/// Adds to a cell that only this thread writes.
fn bump(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
}

/// A count.
#[derive(Clone, Debug)]
pub struct Counter(Cells);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        bump(&self.0[0], n);
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug)]
pub struct Gauge(Cells);

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        bump(&self.0[0], 1);
    }

    /// Takes one away.
    pub fn dec(&self) {
        bump(&self.0[0], u64::MAX);
    }

    /// Sets the value.
    pub fn set(&self, value: i64) {
        self.0[0].store(value as u64, Relaxed);
    }
}

/// Counts values in buckets.
#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: &'static [Bound],
    /// One per bound, one for what is above them all, and the sum of raw values.
    cells: Cells,
}

impl Histogram {
    /// Counts a duration.
    pub fn time(&self, value: Duration) {
        self.value(u64::try_from(value.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts a raw value.
    pub fn value(&self, raw: u64) {
        let bucket = self.bounds.iter().position(|(_, bound)| raw <= *bound);
        bump(&self.cells[bucket.unwrap_or(self.bounds.len())], 1);
        bump(&self.cells[self.bounds.len() + 1], raw);
    }
}

/// All series of the process. Clones share them; each belongs to one thread, its shard.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    shard: usize,
    families: Arc<Mutex<BTreeMap<Half, Vec<FamilyState>>>>,
}

#[derive(Debug)]
struct FamilyState {
    family: &'static Family,
    series: BTreeMap<Labels, Series>,
    dropped: u64,
}

#[derive(Debug)]
struct Series {
    shards: Vec<(usize, Cells)>,
    used: Instant,
    seen: u64,
}

impl Registry {
    /// The registry as one thread sees it: its cells are its own.
    pub fn shard(&self, shard: usize) -> Self {
        Self { shard, families: self.families.clone() }
    }

    /// A counter; the same labels give the same count.
    pub fn counter(&self, family: &'static Family, labels: Labels) -> Counter {
        Counter(self.cells(family, labels, 1))
    }

    /// A gauge.
    pub fn gauge(&self, family: &'static Family, labels: Labels) -> Gauge {
        Gauge(self.cells(family, labels, 1))
    }

    /// A histogram.
    pub fn histogram(&self, family: &'static Family, labels: Labels) -> Histogram {
        let bounds = match family.kind {
            Kind::Histogram { bounds, .. } => bounds,
            Kind::Counter | Kind::Gauge | Kind::Common => &[],
        };
        Histogram { bounds, cells: self.cells(family, labels, bounds.len() + 2) }
    }

    fn cells(&self, family: &'static Family, labels: Labels, n: usize) -> Cells {
        let fresh = || -> Cells { (0..n).map(|_| AtomicU64::new(0)).collect() };
        let mut families = self.families.lock();
        let half = families.entry(family.half).or_default();
        let index = match half.iter().position(|f| std::ptr::eq(f.family, family)) {
            Some(index) => index,
            None => {
                half.push(FamilyState { family, series: BTreeMap::new(), dropped: 0 });
                half.sort_by_key(|f| f.family.name);
                half.iter().position(|f| std::ptr::eq(f.family, family)).unwrap_or_default()
            }
        };
        let state = &mut half[index];
        if state.series.len() >= MAX_SERIES && !state.series.contains_key(&labels) {
            state.dropped += 1;
            return fresh();
        }
        let series = state.series.entry(labels).or_insert_with(|| Series { shards: Vec::new(), used: crate::net::now(), seen: 0 });
        if let Some((_, cells)) = series.shards.iter().find(|(shard, _)| *shard == self.shard) {
            return cells.clone();
        }
        let cells = fresh();
        series.shards.push((self.shard, cells.clone()));
        cells
    }

    /// Drops series that nobody holds and that have not changed for `idle`.
    pub fn expire(&self, idle: Duration) {
        let now = crate::net::now();
        for state in self.families.lock().values_mut().flatten() {
            state.series.retain(|_, series| {
                let sum = (0..).map_while(|i| series.sum(i)).fold(0, u64::wrapping_add);
                let held = series.shards.iter().any(|(_, cells)| Arc::strong_count(cells) > 1);
                if sum != series.seen || held {
                    (series.seen, series.used) = (sum, now);
                }
                now.duration_since(series.used) <= idle
            });
        }
    }

    /// Writes all families as text (Prometheus exposition format 0.0.4, with OpenMetrics' names in the second half).
    pub fn render(&self, out: &mut String) {
        for state in self.families.lock().values().flatten() {
            state.render(out);
        }
    }

    /// Series that were refused because their family was full.
    pub fn dropped(&self) -> u64 {
        self.families.lock().values().flatten().map(|f| f.dropped).sum()
    }
}

impl Series {
    /// Cell `i`, added up over all workers.
    fn sum(&self, i: usize) -> Option<u64> {
        self.shards.iter().filter_map(|(_, cells)| cells.get(i)).map(|c| c.load(Relaxed)).reduce(u64::wrapping_add)
    }

    /// The highest value that a worker has.
    fn highest(&self) -> i64 {
        self.shards.iter().filter_map(|(_, cells)| cells.first()).map(|c| c.load(Relaxed) as i64).max().unwrap_or(0)
    }
}

impl FamilyState {
    fn render(&self, out: &mut String) {
        if self.series.is_empty() {
            return;
        }
        let Family { name, help, kind, half } = self.family;
        let (period, total) = match (half, kind) {
            (Half::Open, Kind::Counter) => (".", "_total"),
            (Half::Open, _) => (".", ""),
            _ => ("", ""),
        };
        let kind_name = match kind {
            Kind::Counter => "counter",
            Kind::Gauge | Kind::Common => "gauge",
            Kind::Histogram { .. } => "histogram",
        };
        let _ = write!(out, "# HELP {name} {help}{period}\n# TYPE {name} {kind_name}\n");
        if let (Half::Open, Some(unit)) = (half, unit(name)) {
            let _ = writeln!(out, "# UNIT {name} {unit}");
        }
        for (labels, series) in &self.series {
            match kind {
                Kind::Counter => sample(out, name, total, labels, None, series.sum(0).unwrap_or(0)),
                Kind::Gauge => sample(out, name, "", labels, None, series.sum(0).unwrap_or(0) as i64),
                Kind::Common => sample(out, name, "", labels, None, series.highest()),
                Kind::Histogram { bounds, scale } => render_histogram(out, name, labels, series, bounds, *scale),
            }
        }
    }
}

/// The unit that a name ends with, if it has one (OpenMetrics).
pub(super) fn unit(name: &str) -> Option<&'static str> {
    ["seconds", "bytes"].into_iter().find(|unit| name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')))
}

fn render_histogram(out: &mut String, name: &str, labels: &Labels, series: &Series, bounds: &[Bound], scale: u64) {
    let mut count = 0;
    for (i, le) in bounds.iter().map(|(text, _)| *text).chain(["+Inf"]).enumerate() {
        count += series.sum(i).unwrap_or(0);
        sample(out, name, "_bucket", labels, Some(le), count);
    }
    let sum = series.sum(bounds.len() + 1).unwrap_or(0);
    sample(out, name, "_sum", labels, None, sum as f64 / scale as f64);
    sample(out, name, "_count", labels, None, count);
}

fn sample(out: &mut String, name: &str, suffix: &str, labels: &Labels, le: Option<&str>, value: impl fmt::Display) {
    out.push_str(name);
    out.push_str(suffix);
    match (labels.as_str(), le) {
        ("", None) => {}
        ("", Some(le)) => {
            let _ = write!(out, "{{le=\"{le}\"}}");
        }
        (labels, None) => {
            let _ = write!(out, "{{{labels}}}");
        }
        (labels, Some(le)) => {
            let _ = write!(out, "{{{labels},le=\"{le}\"}}");
        }
    }
    let _ = writeln!(out, " {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    static REQUESTS: Family = Family { name: "request_total", help: "Requests", kind: Kind::Counter, half: Half::Legacy };
    static SIZES: Family = Family {
        name: "sizes",
        help: "Sizes",
        kind: Kind::Histogram { bounds: &[("0.001", 1_000), ("0.1", 100_000)], scale: SECONDS },
        half: Half::Open,
    };

    #[test]
    fn workers_are_added_up() {
        let registry = Registry::default();
        let labels = || Labels::new().with("a", "x\"y\n");
        let (one, two) = (registry.shard(1).counter(&REQUESTS, labels()), registry.shard(2).counter(&REQUESTS, labels()));
        one.inc();
        two.add(2);
        let histogram = registry.histogram(&SIZES, Labels::new());
        histogram.time(Duration::from_micros(1_000));
        histogram.time(Duration::from_secs(1));
        let mut out = String::new();
        registry.render(&mut out);
        let want = "# HELP request_total Requests\n# TYPE request_total counter\nrequest_total{a=\"x\\\"y\\n\"} 3\n\
                    # HELP sizes Sizes.\n# TYPE sizes histogram\nsizes_bucket{le=\"0.001\"} 1\nsizes_bucket{le=\"0.1\"} 1\n\
                    sizes_bucket{le=\"+Inf\"} 2\nsizes_sum 1.001\nsizes_count 2\n";
        assert_eq!(out, want);
    }

    #[test]
    fn series_without_a_handle_expire() {
        let registry = Registry::default();
        let kept = registry.counter(&REQUESTS, Labels::new().with("k", 1));
        drop(registry.counter(&REQUESTS, Labels::new().with("k", 2)));
        std::thread::sleep(Duration::from_millis(2));
        registry.expire(Duration::from_millis(1));
        let mut out = String::new();
        registry.render(&mut out);
        assert!(out.contains("k=\"1\"") && !out.contains("k=\"2\""), "{out}");
        kept.inc();
    }

    #[test]
    fn a_family_is_bounded() {
        let registry = Registry::default();
        for i in 0..MAX_SERIES + 5 {
            registry.counter(&REQUESTS, Labels::new().with("i", i)).inc();
        }
        assert_eq!(registry.dropped(), 5);
    }
}
