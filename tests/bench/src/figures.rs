//! The figures of one run as a table: metric, value, the limit that this run measured, and how they relate.

use serde::Serialize;

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    metric: String,
    value: f64,
    unit: &'static str,
    limit: Option<f64>,
    /// Value over limit.
    ratio: Option<f64>,
}

/// All figures, in the order in which they were measured.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

impl Figures {
    pub(crate) fn add(&mut self, metric: &str, value: f64, unit: &'static str, limit: Option<f64>) {
        self.0.push(Figure {
            metric: metric.to_owned(),
            value,
            unit,
            limit,
            ratio: limit.map(|limit| value / limit),
        });
    }

    pub(crate) fn rows(&self) -> &[Figure] {
        &self.0
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let head = format!(
            "{:<44} {:>12} {:<8} {:>12} {:>7}",
            "metric", "value", "unit", "limit", "ratio"
        );
        let cell = |number: Option<f64>| number.map_or("-".to_owned(), |n| format!("{n:.2}"));
        let line = |row: &Figure| {
            format!(
                "{:<44} {:>12.2} {:<8} {:>12} {:>7}",
                row.metric,
                row.value,
                row.unit,
                cell(row.limit),
                cell(row.ratio)
            )
        };
        std::iter::once(head)
            .chain(self.0.iter().map(line))
            .collect()
    }
}

/// The value below which this share of the samples lies; 0 without samples.
pub(crate) fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index of a list of samples"
    )]
    let at = (last as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples = [3.0, 1.0, 2.0, 5.0, 4.0];
        assert_eq!(quantile(&samples, 0.5), 3.0);
        assert_eq!(quantile(&samples, 0.99), 5.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
