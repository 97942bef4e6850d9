//! One measured figure, as a line of JSON or of a table.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A figure beside its goal. Missing the goal is for a reader to judge: it fails nothing.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured: `ipc.rtt.256.p50_us`.
    pub metric: String,
    /// In `unit`.
    pub value: f64,
    /// For the reader.
    pub unit: String,
    /// What is to be reached; `None` where the figure only informs.
    pub goal: Option<f64>,
    /// Whether it is reached. True without a goal.
    pub ok: bool,
}

impl Figure {
    /// A figure without a goal.
    pub fn new(metric: impl Into<String>, value: f64, unit: &str) -> Self {
        // Three decimals are finer than any of these is repeatable.
        let value = (value * 1000.0).round() / 1000.0;
        Self { metric: metric.into(), value, unit: unit.to_owned(), goal: None, ok: true }
    }

    /// Good when it is no more than `goal`.
    #[must_use]
    pub fn at_most(self, goal: f64) -> Self {
        Self { goal: Some(goal), ok: self.value <= goal, ..self }
    }

    /// Good when it is no less than `goal`.
    #[must_use]
    pub fn at_least(self, goal: f64) -> Self {
        Self { goal: Some(goal), ok: self.value >= goal, ..self }
    }

    /// As one line of JSON, fields in the order readers expect.
    pub fn json(&self) -> String {
        // Numbers and text always are JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// As a line of a table.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { metric, value, unit, goal, ok } = self;
        write!(f, "{metric:<44} {value:>14.3} {unit:<12}")?;
        match goal {
            Some(goal) => write!(f, " goal {goal} {}", if *ok { "✓" } else { "✗" }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_the_documented_fields_in_their_order() {
        let figure = Figure::new("ipc.rtt.256.p50_us", 9.876_54, "us").at_most(20.0);
        assert_eq!(
            figure.json(),
            r#"{"metric":"ipc.rtt.256.p50_us","value":9.877,"unit":"us","goal":20.0,"ok":true}"#
        );
        assert_eq!(serde_json::from_str::<Figure>(&figure.json()).expect("read back"), figure);
    }

    #[test]
    fn goal_is_reached_from_its_own_side() {
        assert!(!Figure::new("lost", 1.0, "calls").at_most(0.0).ok);
        assert!(Figure::new("rate", 3e6, "1/s").at_least(3e6).ok);
        assert!(!Figure::new("rate", 2e6, "1/s").at_least(3e6).ok);
        assert!(Figure::new("other", 2e6, "1/s").ok);
    }
}
