//! The supervisor's own events, in the form components write theirs and through the same sink. A whole formatting
//! library would be a third of this program.

use std::fmt::{Debug, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::annotate::quoted;
use super::{Sink, unix_millis};

/// Sends every event of this process, from INFO up, to `sink`. Once per process.
pub fn install(sink: Sink) {
    // Fails only when a test has installed one before.
    let _ = tracing::subscriber::set_global_default(Own(sink));
}

struct Own(Sink);

impl Subscriber for Own {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::INFO
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let now = timestamp(SystemTime::now());
        let mut line = Members(format!("{{\"timestamp\":\"{now}\",\"level\":\"{}\"", metadata.level()));
        event.record(&mut line);
        let _ = writeln!(line.0, ",\"target\":{}}}", quoted(metadata.target()));
        self.0.write(&line.0);
    }

    // Spans are not used here.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// An unfinished JSON object.
struct Members(String);

impl Members {
    fn add(&mut self, field: &Field, value: &str) {
        let _ = write!(self.0, ",{}:{value}", quoted(field.name()));
    }
}

impl Visit for Members {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, &quoted(&format!("{value:?}")));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, &quoted(value));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, &value.to_string());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, &value.to_string());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, &value.to_string());
    }
}

/// RFC 3339 in UTC with milliseconds.
pub(super) fn timestamp(time: SystemTime) -> String {
    let millis = unix_millis(time.max(UNIX_EPOCH));
    let (days, rest) = (millis / 86_400_000, millis % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute, second, milli) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60, rest % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Year, month and day of a day counted from 1970-01-01. Counts from March, so that the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    // 719 468 days lie between 0000-03-01 and 1970-01-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamps_are_calendar_dates() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_millis(millis)), text);
        }
    }
}
