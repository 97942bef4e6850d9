//! Durations in Go's notation (`1m30s`, `100ms`), as Kubernetes configuration writes them.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// Serde adapter: `#[serde(with = "duration")]`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text)
        .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a duration such as 10s or 1m30s")))
}

/// Writes whole seconds; only used to find unknown keys.
pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{}s", duration.as_secs_f64()))
}

/// Go's `time.ParseDuration` without signs and without units below a millisecond. At most a year.
fn parse(text: &str) -> Option<Duration> {
    const YEAR: f64 = 366.0 * 86_400.0;
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (!text.is_empty() && seconds <= YEAR).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_parse() {
        assert_eq!(parse("10s"), Some(Duration::from_secs(10)));
        assert_eq!(parse("5m0s"), Some(Duration::from_mins(5)));
        assert_eq!(parse("1h2m3.5s"), Some(Duration::from_millis(3_723_500)));
        assert_eq!(parse("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(parse("0"), Some(Duration::ZERO));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for bad in ["", "10", "s", "-1s", "1d", "1.2.3s", "9999999h", "10ss"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
