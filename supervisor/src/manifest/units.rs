//! Durations and sizes as a person writes them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// A duration: a whole number and `ms`, `s` or `m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A size in bytes: a whole number, plain or with `K`, `M` or `G` (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

fn span(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    Some(Duration::from_millis(number.checked_mul(match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return None,
    })?))
}

fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    number.checked_mul(match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    })
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        span(&text).map(Self).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is not a duration such as \"500ms\", \"10s\" or \"2m\""))
        })
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        bytes(&text).map(Self).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is not a size such as \"4096\", \"64M\" or \"1G\""))
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis.is_multiple_of(1000) { write!(f, "{}s", millis / 1000) } else { write!(f, "{millis}ms") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(span("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(span("2m"), Some(Duration::from_mins(2)));
        for wrong in ["", "10", "s", "1h", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615m"] {
            assert_eq!(span(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(bytes("64M"), Some(64 << 20));
        assert_eq!(bytes("0"), Some(0));
        for wrong in ["", "M", "1T", "1MB", "18446744073709551615G"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_print_as_they_are_written() {
        assert_eq!(Span(Duration::from_secs(10)).to_string(), "10s");
        assert_eq!(Span(Duration::from_millis(1500)).to_string(), "1500ms");
    }
}
