//! Histograms of milliseconds, and what is read off them.

use std::collections::BTreeMap;

/// Counts of what was at most as large as a bound; cumulative, as on a page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// By bound, in thousandths: the order of numbers without the trouble of floats.
    buckets: BTreeMap<u64, f64>,
}

/// The bound of the last bucket, which has everything in it.
const INFINITE: u64 = u64::MAX;

/// A place in a distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quantile {
    /// Half of all are faster.
    P50,
    /// One in twenty is slower.
    P95,
    /// One in a hundred is slower.
    P99,
}

impl Quantile {
    fn part(self) -> f64 {
        match self {
            Self::P50 => 0.5,
            Self::P95 => 0.95,
            Self::P99 => 0.99,
        }
    }
}

impl Histogram {
    /// Counts into the bucket of a bound as pages write it; a bound that is none is passed over.
    pub fn add(&mut self, bound: &str, count: f64) {
        let bound = match bound.parse::<f64>() {
            Ok(bound) if bound == f64::INFINITY => INFINITE,
            // Bounds are milliseconds below a minute: the cast can't lose them.
            Ok(bound) if bound >= 0.0 => (bound * 1000.0).round() as u64,
            _ => return,
        };
        *self.buckets.entry(bound).or_default() += count;
    }

    /// Adds up.
    pub fn merge(&mut self, other: &Histogram) {
        for (bound, count) in &other.buckets {
            *self.buckets.entry(*bound).or_default() += count;
        }
    }

    /// Where this part of all ends, in milliseconds, as Prometheus' `histogram_quantile` tells it: straight lines within
    /// buckets; what is beyond the last bound is told as that bound. None without anything counted.
    pub fn quantile(&self, quantile: Quantile) -> Option<f64> {
        let total = *self.buckets.get(&INFINITE)?;
        if total <= 0.0 {
            return None;
        }
        let rank = total * quantile.part();
        let (mut lower, mut below) = (0u64, 0.0);
        for (&bound, &count) in &self.buckets {
            // A counter read between two others may be smaller than the one before.
            let count = count.max(below);
            if count >= rank {
                return Some(match bound {
                    INFINITE => lower as f64,
                    _ if count == below => bound as f64,
                    _ => lower as f64 + (bound - lower) as f64 * (rank - below) / (count - below),
                })
                .map(|thousandths| thousandths / 1000.0);
            }
            (lower, below) = (bound, count);
        }
        Some(lower as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(buckets: &[(&str, f64)]) -> Histogram {
        let mut histogram = Histogram::default();
        for (bound, count) in buckets {
            histogram.add(bound, *count);
        }
        histogram
    }

    #[test]
    fn quantiles_lie_on_straight_lines() {
        let check = |buckets: &[(&str, f64)], quantile, wanted: Option<f64>| {
            assert_eq!(histogram(buckets).quantile(quantile), wanted, "{buckets:?} {quantile:?}");
        };
        check(&[], Quantile::P50, None);
        check(&[("1", 0.0), ("+Inf", 0.0)], Quantile::P50, None);
        check(&[("1", 5.0)], Quantile::P50, None);
        check(&[("1", 10.0), ("2", 10.0), ("+Inf", 10.0)], Quantile::P50, Some(0.5));
        check(&[("1", 0.0), ("2", 100.0), ("+Inf", 100.0)], Quantile::P95, Some(1.95));
        check(&[("10", 0.0), ("20", 50.0), ("30", 100.0), ("+Inf", 100.0)], Quantile::P50, Some(20.0));
        check(&[("10", 0.0), ("20", 50.0), ("+Inf", 100.0)], Quantile::P99, Some(20.0));
        check(&[("0.5", 4.0), ("1", 4.0), ("+Inf", 4.0)], Quantile::P50, Some(0.25));
    }

    #[test]
    fn the_order_of_buckets_is_that_of_numbers() {
        let mut sum = histogram(&[("100", 10.0), ("20", 0.0), ("+Inf", 10.0), ("3", 0.0)]);
        sum.merge(&histogram(&[("3", 10.0), ("20", 10.0), ("100", 10.0), ("+Inf", 10.0)]));
        assert_eq!(sum.quantile(Quantile::P50), Some(3.0));
        sum.add("nonsense", 1.0);
        sum.add("-1", 1.0);
        assert_eq!(sum.quantile(Quantile::P99), Some(98.4));
    }
}
