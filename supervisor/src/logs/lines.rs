//! Bytes to lines, within a bound.

/// A longer line is cut into pieces of this many bytes: what a component writes must not grow the supervisor.
const LONGEST: usize = 16 * 1024;

/// The beginning of a line whose end has not come.
#[derive(Debug, Default)]
pub(super) struct Lines {
    unfinished: Vec<u8>,
}

impl Lines {
    /// Hands over every line that `bytes` complete. Empty lines are skipped; what is not UTF-8 is replaced.
    pub(super) fn feed(&mut self, mut bytes: &[u8], add: &mut impl FnMut(&str)) {
        while !bytes.is_empty() {
            let room = LONGEST - self.unfinished.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                self.unfinished.extend_from_slice(&window[..end]);
                bytes = &bytes[end + 1..];
                self.finish(add);
            } else {
                self.unfinished.extend_from_slice(window);
                bytes = &bytes[window.len()..];
                if self.unfinished.len() == LONGEST {
                    self.finish(add);
                }
            }
        }
    }

    /// What there is of a line.
    pub(super) fn unfinished(&self) -> &[u8] {
        &self.unfinished
    }

    /// Hands over what there is of a line.
    pub(super) fn finish(&mut self, add: &mut impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.unfinished);
        let text = text.trim_end();
        if !text.is_empty() {
            add(text);
        }
        self.unfinished.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        let mut add = |text: &str| found.push(text.to_owned());
        for piece in pieces {
            lines.feed(piece, &mut add);
        }
        lines.finish(&mut add);
        found
    }

    #[test]
    fn line_may_come_in_pieces() {
        assert_eq!(lines(&[b"on", b"e\ntw", b"o\n\r\n\n", b"three"]), ["one", "two", "three"]);
    }

    #[test]
    fn overlong_line_is_cut() {
        let long = vec![b'x'; 2 * LONGEST + 1];
        let lengths: Vec<_> = lines(&[&long]).iter().map(String::len).collect();
        assert_eq!(lengths, [LONGEST, LONGEST, 1]);
    }

    #[test]
    fn bytes_that_are_not_text_are_replaced() {
        assert_eq!(lines(&[b"a\xff\n"]), ["a\u{fffd}"]);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[a-z\n]{0,200}", cut in 0..200_usize) {
            let (first, second) = text.as_bytes().split_at(cut.min(text.len()));
            prop_assert_eq!(lines(&[first, second]), lines(&[text.as_bytes()]));
        }
    }
}
