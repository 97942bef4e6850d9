//! Printing that a closed pipe does not turn into a panic, and text that cannot drive a terminal.

mod live;
mod table;

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

pub(crate) use live::live;
pub(crate) use table::{Cell, Table};

/// What a piece of text tells the eye.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Look {
    #[default]
    Plain,
    Strong,
    Good,
    Warning,
    Bad,
    Faint,
}

/// Whether colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paint(bool);

impl Paint {
    #[cfg(test)]
    pub(crate) const NONE: Self = Self(false);

    /// On a terminal that can, unless the user does not want it: see <https://no-color.org>.
    pub(crate) fn of_stdout() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        Self(io::stdout().is_terminal() && set("NO_COLOR").is_none() && !dumb)
    }

    /// The text, which must be harmless, in its look.
    pub(crate) fn text(self, look: Look, text: &str) -> String {
        let code = match look {
            _ if !self.0 || text.is_empty() => return text.to_owned(),
            Look::Plain => return text.to_owned(),
            Look::Strong => "1",
            Look::Good => "32",
            Look::Warning => "33",
            Look::Bad => "31",
            Look::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Whether a person looks at our output as it comes.
pub(crate) fn on_terminal() -> bool {
    io::stdout().is_terminal()
}

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

/// Harmless text of at most `most` characters, for what comes from outside and of which the beginning is enough.
pub(crate) fn brief(text: &str, most: usize) -> String {
    cut(text.trim(), most)
}

/// As [`brief`], with the space around it.
fn cut(text: &str, most: usize) -> String {
    let mut letters = text.chars();
    let mut safe = harmless(&letters.by_ref().take(most).collect::<String>());
    if letters.next().is_some() {
        safe.push('…');
    }
    safe
}

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
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

/// Time a processor spent: `0.31s`, then as [`span`].
pub(crate) fn cpu_time(nanoseconds: u64) -> String {
    let hundredths = nanoseconds / 10_000_000;
    if hundredths < 6000 {
        return format!("{}.{:02}s", hundredths / 100, hundredths % 100);
    }
    span(hundredths / 100)
}

/// KiB as a person reads them: `812 KiB`, `4.2 MiB`.
pub(crate) fn size(kib: u64) -> String {
    let (unit, name) = match kib {
        0..1024 => return format!("{kib} KiB"),
        1024..1_048_576 => (1024, "MiB"),
        _ => (1_048_576, "GiB"),
    };
    let tenths = u128::from(kib) * 10 / unit;
    if tenths.is_multiple_of(10) && tenths >= 100 {
        return format!("{} {name}", tenths / 10);
    }
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// `1 023`: digits in threes, with a space that no line breaks at.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{a0}');
        }
        text.push(digit);
    }
    text
}

/// `1 warning`, `2 warnings`.
pub(crate) fn plural(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
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
    fn outside_text_is_cut() {
        assert_eq!(brief(" abc\n", 3), "abc");
        assert_eq!(brief("abcd", 3), "abc…");
        assert_eq!(brief("a\nb", 3), "a\\nb");
    }

    #[test]
    fn spans_have_two_units() {
        assert_eq!([span(0), span(59), span(725)], ["0s", "59s", "12m 5s"]);
        assert_eq!([span(3 * 3600 + 61), span(86_400 * 3 + 4 * 3600)], ["3h 1m", "3d 4h"]);
    }

    #[test]
    fn processor_time_is_finer_while_it_is_short() {
        assert_eq!(
            [cpu_time(0), cpu_time(312_000_000), cpu_time(725_000_000_000)],
            ["0.00s", "0.31s", "12m 5s"]
        );
    }

    #[test]
    fn sizes_have_one_decimal() {
        assert_eq!(
            [size(0), size(1023), size(4301), size(20_480), size(65_536), size(3 << 19)],
            ["0 KiB", "1023 KiB", "4.2 MiB", "20 MiB", "64 MiB", "1.5 GiB"]
        );
        assert_eq!(size(2048), "2.0 MiB");
        assert!(size(u64::MAX).ends_with(" GiB"));
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(
            [count(0), count(999), count(1023), count(1_234_567)],
            ["0", "999", "1\u{a0}023", "1\u{a0}234\u{a0}567"]
        );
    }

    #[test]
    fn colours_are_left_out_where_nobody_sees_them() {
        assert_eq!(Paint(true).text(Look::Bad, "x"), "\x1b[31mx\x1b[0m");
        assert_eq!(Paint::NONE.text(Look::Bad, "x"), "x");
        assert_eq!(Paint(true).text(Look::Bad, ""), "");
    }

    #[test]
    fn closed_pipe_is_recognised_under_context() {
        let error = anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(nobody_reads(&error));
        assert!(!nobody_reads(&anyhow::anyhow!("other")));
    }
}
