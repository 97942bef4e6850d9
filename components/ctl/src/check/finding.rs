//! One finding.

use serde::Serialize;
use std::fmt::Write as _;

use crate::output::{Look, Paint, brief};

/// Longest part of a finding, characters: outside text in it was cut before, or is cut here.
const LONGEST: usize = 400;

/// How bad it is, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Ok,
    /// Nothing is known: it takes root to see. Does not count for the exit code.
    Unseen,
    /// Works less well, or less safely.
    Warning,
    /// Does not work.
    Error,
}

/// What was found, why it matters, and the command that mends it. The latter two are empty where all is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    /// Subject and check: stays the same from release to release.
    pub(crate) id: &'static str,
    pub(crate) severity: Severity,
    pub(crate) found: String,
    pub(crate) why: String,
    pub(crate) fix: String,
}

impl Finding {
    fn new(id: &'static str, severity: Severity, found: &str, why: &str, fix: &str) -> Self {
        let brief = |text| brief(text, LONGEST);
        Self { id, severity, found: brief(found), why: brief(why), fix: brief(fix) }
    }

    pub(crate) fn ok(id: &'static str, found: impl AsRef<str>) -> Self {
        Self::new(id, Severity::Ok, found.as_ref(), "", "")
    }

    pub(crate) fn unseen(id: &'static str, found: impl AsRef<str>) -> Self {
        Self::new(id, Severity::Unseen, found.as_ref(), "", "sudo edgectl check, or sudo cloudctl check")
    }

    pub(crate) fn warning(
        id: &'static str,
        found: impl AsRef<str>,
        why: impl AsRef<str>,
        fix: impl AsRef<str>,
    ) -> Self {
        Self::new(id, Severity::Warning, found.as_ref(), why.as_ref(), fix.as_ref())
    }

    pub(crate) fn error(
        id: &'static str,
        found: impl AsRef<str>,
        why: impl AsRef<str>,
        fix: impl AsRef<str>,
    ) -> Self {
        Self::new(id, Severity::Error, found.as_ref(), why.as_ref(), fix.as_ref())
    }

    /// One line, and two more where something is to be done. `width` is that of the longest id.
    pub(crate) fn write(&self, out: &mut String, width: usize, paint: Paint) {
        /// The longest word for a severity, and the gap after it.
        const WORD: usize = 9;
        let (word, look) = match self.severity {
            Severity::Ok => ("ok", Look::Good),
            Severity::Unseen => ("unseen", Look::Faint),
            Severity::Warning => ("warning", Look::Warning),
            Severity::Error => ("error", Look::Bad),
        };
        let pad = " ".repeat(WORD - word.len());
        let _ = writeln!(out, "{}{pad}{:width$}  {}", paint.text(look, word), self.id, self.found);
        if self.severity > Severity::Unseen {
            let indent = " ".repeat(WORD + width + 2);
            let _ = writeln!(out, "{indent}{} {}", paint.text(Look::Faint, "why:"), self.why);
            let _ = writeln!(out, "{indent}{} {}", paint.text(Look::Strong, "fix:"), self.fix);
        }
    }
}

/// What of the machine could be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen<T> {
    Yes(T),
    /// There is none.
    Absent,
    /// It takes other rights to see it.
    Hidden,
    /// It is there and cannot be used: why.
    Damaged(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_text_is_bounded_and_harmless() {
        let finding = Finding::error("x", "\x1b[2J".repeat(1000), "", "");
        assert!(finding.found.chars().count() <= LONGEST * 6 && !finding.found.contains('\x1b'));
        assert!(finding.found.ends_with('…'));
    }
}
