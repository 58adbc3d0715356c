//! What a proxy counts, as scraped.

/// One scrape.
#[derive(Debug, Clone)]
pub struct Metrics(pub String);

impl Metrics {
    /// The samples of a family that have all of these labels.
    pub fn samples<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.lines().filter_map(move |line| {
            let (key, value) = line.rsplit_once(' ')?;
            let rest = key.strip_prefix(name)?;
            let rest = rest.strip_prefix('{').unwrap_or(rest);
            let ours = key.len() == name.len() || key[name.len()..].starts_with('{');
            let has = |(k, v): &(&str, &str)| has_label(rest, k, v);
            (ours && labels.iter().all(has)).then(|| Some((line, value.parse().ok()?)))?
        })
    }

    /// Their sum.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(name, labels).map(|(_, value)| value).sum()
    }

    /// The lines of a family, for messages.
    pub fn family(&self, name: &str) -> String {
        self.0.lines().filter(|line| line.starts_with(name)).collect::<Vec<_>>().join("\n")
    }
}

fn has_label(labels: &str, key: &str, value: &str) -> bool {
    let wanted = format!("{key}=\"{value}\"");
    labels.match_indices(&wanted).any(|(at, _)| at == 0 || labels[..at].ends_with(','))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_whole_names_and_labels() {
        let text = "a_total{x=\"1\",yx=\"2\"} 3\na_total{x=\"2\"} 4\na_total_more{x=\"1\"} 5\nplain 6\n";
        let metrics = Metrics(text.into());
        assert_eq!(metrics.sum("a_total", &[("x", "1")]), 3.0);
        assert_eq!(metrics.sum("a_total", &[("x", "2")]), 4.0);
        assert_eq!(metrics.sum("a_total", &[]), 7.0);
        assert_eq!(metrics.sum("plain", &[]), 6.0);
        assert_eq!(metrics.sum("absent", &[]), 0.0);
    }
}
