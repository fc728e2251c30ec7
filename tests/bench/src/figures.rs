//! The figures as a table: metric, this run, the limit that the same run measured, how they relate, and the goal.

use serde::Serialize;

/// What a figure is to reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// None: it is a limit, or it explains another figure.
    None,
    /// Its ratio to the limit, at least.
    Ratio(f64),
    /// Its value, at most.
    AtMost(f64),
    /// Its ratio to the limit, at most.
    RatioAtMost(f64),
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    limit: Option<f64>,
    /// Value over limit.
    ratio: Option<f64>,
    /// Of the ratio, where there is one, otherwise of the value.
    target: Option<f64>,
    met: Option<bool>,
    #[serde(skip)]
    goal: Goal,
}

impl Figure {
    fn new(name: String, value: f64, unit: &'static str, limit: Option<f64>, goal: Goal) -> Self {
        let ratio = limit.map(|limit| value / limit);
        let (target, met) = match goal {
            Goal::None => (None, None),
            Goal::Ratio(goal) => (Some(goal), ratio.map(|ratio| ratio >= goal)),
            Goal::AtMost(goal) => (Some(goal), Some(value <= goal)),
            Goal::RatioAtMost(goal) => (Some(goal), ratio.map(|ratio| ratio <= goal)),
        };
        Self {
            name,
            value,
            unit,
            limit,
            ratio,
            target,
            met,
            goal,
        }
    }
}

/// All figures, in the order in which they were measured.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

impl Figures {
    pub(crate) fn add(&mut self, name: &str, value: f64, unit: &'static str, goal: Goal) {
        let figure = Figure::new(name.to_owned(), value, unit, None, goal);
        self.0.push(figure);
    }

    pub(crate) fn beside(
        &mut self,
        name: &str,
        value: f64,
        unit: &'static str,
        limit: f64,
        goal: Goal,
    ) {
        let figure = Figure::new(name.to_owned(), value, unit, Some(limit), goal);
        self.0.push(figure);
    }

    /// A value that was added before; 0 if it was not.
    pub(crate) fn value(&self, name: &str) -> f64 {
        let found = self.0.iter().find(|figure| figure.name == name);
        found.map_or(0.0, |figure| figure.value)
    }

    pub(crate) fn rows(&self) -> &[Figure] {
        &self.0
    }

    /// The median of each figure over several runs. A ratio is the median of the runs' own ratios: value and limit of
    /// different moments have nothing to do with each other.
    pub(crate) fn medians(runs: &[Self]) -> Self {
        let Some(first) = runs.first() else {
            return Self::default();
        };
        let median = |figure: &Figure, of: fn(&Figure) -> Option<f64>| {
            let all = runs.iter().flat_map(|run| run.rows());
            let same = all.filter(|other| other.name == figure.name);
            let values = same.filter_map(of).collect::<Vec<_>>();
            (!values.is_empty()).then(|| quantile(&values, 0.5))
        };
        let merged = first.0.iter().map(|figure| {
            let value = median(figure, |figure| Some(figure.value)).unwrap_or(figure.value);
            let limit = median(figure, |figure| figure.limit);
            let mut merged =
                Figure::new(figure.name.clone(), value, figure.unit, limit, figure.goal);
            merged.ratio = median(figure, |figure| figure.ratio);
            merged.met = match (figure.goal, merged.ratio) {
                (Goal::Ratio(goal), Some(ratio)) => Some(ratio >= goal),
                (Goal::RatioAtMost(goal), Some(ratio)) => Some(ratio <= goal),
                (Goal::None | Goal::AtMost(_) | Goal::Ratio(_) | Goal::RatioAtMost(_), _) => {
                    merged.met
                }
            };
            merged
        });
        Self(merged.collect())
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let head = format!(
            "{:<46} {:>10} {:<8} {:>10} {:>6} {:>7}  {}",
            "metric", "this run", "unit", "limit", "ratio", "target", "met"
        );
        let cell = |number: Option<f64>| number.map_or("-".to_owned(), |n| format!("{n:.2}"));
        let line = |row: &Figure| {
            let met = match row.met {
                None => "-",
                Some(true) => "yes",
                Some(false) => "no",
            };
            format!(
                "{:<46} {:>10.2} {:<8} {:>10} {:>6} {:>7}  {met}",
                row.name,
                row.value,
                row.unit,
                cell(row.limit),
                cell(row.ratio),
                cell(row.target)
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

    #[test]
    fn medians_are_taken_of_each_figure_and_of_the_ratios_themselves() {
        let runs = [(10.0, 100.0), (30.0, 40.0), (20.0, 100.0)].map(|(value, limit)| {
            let mut figures = Figures::default();
            figures.beside("rate", value, "1/s", limit, Goal::Ratio(0.15));
            figures.add("time", value, "ms", Goal::AtMost(15.0));
            figures
        });
        let merged = Figures::medians(&runs);
        let [rate, time] = merged.rows() else {
            panic!("{merged:?}");
        };
        assert_eq!(
            (rate.value, rate.ratio, rate.met),
            (20.0, Some(0.2), Some(true))
        );
        assert_eq!(
            (time.value, time.target, time.met),
            (20.0, Some(15.0), Some(false))
        );
    }
}
