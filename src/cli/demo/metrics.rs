//! The server's metrics, as far as the demo reads them (Prometheus' text format).

const POLLS_AVOIDED: &str = "unpoll_polls_avoided_total";
const DECLARED: (&str, &str) = ("baseline", "declared");

/// All samples of one scrape.
#[derive(Debug, Default)]
pub struct Metrics(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Reads a scrape; lines that are no samples are left out.
    pub fn read(text: &str) -> Self {
        Self(
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(Sample::read)
                .collect(),
        )
    }

    /// The polls avoided at the declared interval.
    pub fn polls_avoided(&self) -> Option<f64> {
        self.sum(POLLS_AVOIDED, DECLARED)
    }

    /// Adds those of servers that are no more.
    pub fn add_polls_avoided(&mut self, value: f64) {
        self.0.push(Sample {
            name: POLLS_AVOIDED.to_owned(),
            labels: vec![(DECLARED.0.to_owned(), DECLARED.1.to_owned())],
            value,
        });
    }

    /// The sum over all label sets that have `label`; none when the metric is not there.
    fn sum(&self, name: &str, label: (&str, &str)) -> Option<f64> {
        let values: Vec<f64> = self
            .0
            .iter()
            .filter(|sample| sample.name == name && sample.label(label.0) == Some(label.1))
            .map(|sample| sample.value)
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// A quantile of a histogram over all its label sets, in its unit: the upper bound of the bucket that holds it, so the
    /// true one is at most that.
    pub fn quantile_at_most(&self, histogram: &str, quantile: f64) -> Option<f64> {
        let name = format!("{histogram}_bucket");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for sample in self.0.iter().filter(|sample| sample.name == name) {
            let bound = match sample.label("le")? {
                "+Inf" => f64::INFINITY,
                bound => bound.parse().ok()?,
            };
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += sample.value,
                None => buckets.push((bound, sample.value)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (_, all) = *buckets.last().filter(|(_, all)| *all > 0.0)?;
        buckets.iter().find(|(_, count)| *count >= quantile * all).map(|(bound, _)| *bound)
    }
}

impl Sample {
    fn read(line: &str) -> Option<Self> {
        let (head, value) = line.trim().rsplit_once(' ')?;
        let (name, labels) = head
            .split_once('{')
            .map_or((head, ""), |(name, labels)| (name, labels.trim_end_matches('}')));
        let labels = labels
            .split(',')
            .filter_map(|label| label.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
            .collect();
        Some(Self {
            name: name.to_owned(),
            labels,
            value: value.parse().ok()?,
        })
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = r#"# HELP unpoll_polls_avoided_total Polls.
# TYPE unpoll_polls_avoided_total counter
unpoll_polls_avoided_total{baseline="declared",result="empty"} 90
unpoll_polls_avoided_total{baseline="declared",result="events"} 10.5
unpoll_polls_avoided_total{baseline="efficient",result="empty"} 7
lat_bucket{urgency="high",le="0.001"} 1
lat_bucket{urgency="high",le="0.01"} 2
lat_bucket{urgency="high",le="+Inf"} 2
lat_bucket{urgency="low",le="0.001"} 0
lat_bucket{urgency="low",le="0.01"} 7
lat_bucket{urgency="low",le="+Inf"} 8
empty_bucket{le="+Inf"} 0
"#;

    #[test]
    fn sums_and_quantiles_go_over_all_label_sets() {
        let mut metrics = Metrics::read(SCRAPE);
        assert_eq!(metrics.polls_avoided(), Some(100.5));
        metrics.add_polls_avoided(9.0);
        assert_eq!(metrics.polls_avoided(), Some(109.5));
        let check = |name: &str, quantile, expected| assert_eq!(metrics.quantile_at_most(name, quantile), expected, "{name} {quantile}");
        check("lat", 0.1, Some(0.001));
        check("lat", 0.5, Some(0.01));
        check("lat", 0.99, Some(f64::INFINITY));
        check("empty", 0.5, None);
        check("other", 0.5, None);
        assert_eq!(Metrics::read("").polls_avoided(), None);
    }
}
