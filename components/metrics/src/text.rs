//! Prometheus' text exposition format, version 0.0.4.

use std::fmt::Write as _;
use std::time::Duration;

/// The format's own media type; a scraper that is told another refuses the answer.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's numbers mean, in the words of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only rises, until the process it counts in is replaced.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets, a sum and a count.
    Histogram,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The samples of one family, being written.
#[derive(Debug)]
pub(crate) struct Samples {
    name: &'static str,
    text: String,
}

/// Names and values of labels, in the order in which they are written.
pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Samples {
    /// One whole number.
    pub(crate) fn add(&mut self, labels: Labels<'_>, value: u64) {
        self.line("", labels, None, &value.to_string());
    }

    /// One number of `10^-digits` units: what is counted in nanoseconds is shown in seconds without rounding.
    pub(crate) fn add_decimal(&mut self, labels: Labels<'_>, value: u64, digits: u32) {
        self.line("", labels, None, &decimal(value, digits));
    }

    /// A histogram. `counts` has one number per bucket of `bounds` and one for all above them, not cumulative; the sum is
    /// in microseconds.
    pub(crate) fn add_histogram(
        &mut self,
        labels: Labels<'_>,
        bounds: &[Duration],
        counts: &[u64],
        sum_us: u64,
    ) {
        let total = counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
        let mut below = 0_u64;
        for (bound, count) in bounds.iter().zip(counts.iter().chain(std::iter::repeat(&0))) {
            below = below.saturating_add(*count);
            self.line("_bucket", labels, Some(&seconds(*bound)), &below.to_string());
        }
        self.line("_bucket", labels, Some("+Inf"), &total.to_string());
        self.line("_sum", labels, None, &decimal(sum_us, 6));
        self.line("_count", labels, None, &total.to_string());
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&str>, value: &str) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let mut separator = '{';
        for (name, label) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
            self.text.push(separator);
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape_label(label, &mut self.text);
            self.text.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
        self.text.push(' ');
        self.text.push_str(value);
        self.text.push('\n');
    }
}

/// Appends a family with its two head lines; one without samples is left out.
pub(crate) fn write_family(
    out: &mut String,
    name: &'static str,
    kind: Kind,
    help: &str,
    samples: impl FnOnce(&mut Samples),
) {
    let mut written = Samples { name, text: String::new() };
    samples(&mut written);
    if written.text.is_empty() {
        return;
    }
    // The help texts are ours and hold neither line ends nor backslashes; a test keeps it so.
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {}", kind.word())
        .expect("writing to a String cannot fail");
    out.push_str(&written.text);
}

/// Backslash, double quote and line end are the three characters a label's value may not hold bare.
fn escape_label(value: &str, out: &mut String) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

fn seconds(time: Duration) -> String {
    decimal(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), 6)
}

/// `value × 10^-digits`, exactly: a float would round large counters.
fn decimal(value: u64, digits: u32) -> String {
    let unit = 10_u64.pow(digits);
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let width = digits as usize;
    format!("{whole}.{}", format!("{rest:0width$}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

    fn written(samples: impl FnOnce(&mut Samples)) -> String {
        let mut text = String::new();
        write_family(&mut text, "m", Kind::Counter, "Help.", samples);
        text
    }

    #[test]
    fn family_has_its_head_lines_before_its_samples() {
        let text = written(|samples| samples.add(&[("a", "x"), ("b", "y")], 7));
        assert_eq!(text, "# HELP m Help.\n# TYPE m counter\nm{a=\"x\",b=\"y\"} 7\n");
    }

    #[test]
    fn family_without_samples_is_left_out() {
        assert_eq!(written(|_| {}), "");
    }

    #[test]
    fn sample_without_labels_has_no_braces() {
        assert!(written(|samples| samples.add(&[], 1)).ends_with("\nm 1\n"));
    }

    #[test]
    fn label_that_could_end_its_quotes_is_escaped() {
        let text = written(|samples| samples.add(&[("a", "\"} 1\n\\")], 1));
        assert!(text.ends_with("m{a=\"\\\"} 1\\n\\\\\"} 1\n"), "{text}");
    }

    #[test]
    fn nanoseconds_are_shown_as_seconds_without_rounding() {
        assert_eq!(decimal(0, 9), "0");
        assert_eq!(decimal(1, 9), "0.000000001");
        assert_eq!(decimal(1_500_000_000, 9), "1.5");
        assert_eq!(decimal(u64::MAX, 9), "18446744073.709551615");
    }

    #[test]
    fn buckets_are_cumulative_and_end_with_all() {
        let text = written(|samples| samples.add_histogram(&[("a", "x")], &BOUNDS, &[2, 3, 4], 2_500_000));
        let samples: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            samples,
            [
                "m_bucket{a=\"x\",le=\"0.1\"} 2",
                "m_bucket{a=\"x\",le=\"1\"} 5",
                "m_bucket{a=\"x\",le=\"+Inf\"} 9",
                "m_sum{a=\"x\"} 2.5",
                "m_count{a=\"x\"} 9",
            ]
        );
    }

    #[test]
    fn server_of_a_version_with_fewer_buckets_is_shown_with_empty_ones() {
        let text = written(|samples| samples.add_histogram(&[], &BOUNDS, &[], 0));
        assert!(text.contains("m_bucket{le=\"1\"} 0\nm_bucket{le=\"+Inf\"} 0\n"), "{text}");
    }
}
