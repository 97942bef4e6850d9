//! Printing that a closed pipe does not turn into a panic, and text that cannot drive a terminal.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;

/// Prints text and flushes it: a follower sees each line at once.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// One JSON value on a line.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    Ok(print(&line)?)
}

/// Whether this is the reader of our output going away.
pub(crate) fn nobody_reads(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Text with its control characters escaped; tabs stay.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut safe, letter| {
        if letter.is_control() && letter != '\t' {
            let _ = write!(safe, "{}", letter.escape_default());
        } else {
            safe.push(letter);
        }
        safe
    })
}

/// A span of time in its two largest units: `3d 4h`, `12m 5s`, `8s`.
pub(crate) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// KiB as a person reads them: `812 KiB`, `4.2 MiB`.
pub(crate) fn size(kib: u64) -> String {
    if kib < 1024 {
        return format!("{kib} KiB");
    }
    let tenths = kib * 10 / 1024;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_escaped() {
        assert_eq!(harmless("a\u{1b}[31mred\r\tb"), "a\\u{1b}[31mred\\r\tb");
        assert_eq!(harmless("Grüße"), "Grüße");
    }

    #[test]
    fn spans_have_two_units() {
        assert_eq!([span(0), span(59), span(725)], ["0s", "59s", "12m 5s"]);
        assert_eq!([span(3 * 3600 + 61), span(86_400 * 3 + 4 * 3600)], ["3h 1m", "3d 4h"]);
    }

    #[test]
    fn sizes_have_one_decimal() {
        assert_eq!(
            [size(0), size(1023), size(4301), size(20_480)],
            ["0 KiB", "1023 KiB", "4.2 MiB", "20.0 MiB"]
        );
    }

    #[test]
    fn closed_pipe_is_recognised_under_context() {
        let error = anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(nobody_reads(&error));
        assert!(!nobody_reads(&anyhow::anyhow!("other")));
    }
}
