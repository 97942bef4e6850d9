//! Tables: columns in line, numbers to the right, nothing wider than a live screen.

use super::{Look, Paint, cut};

/// Between columns.
const GAP: &str = "   ";
/// Characters of a field: reasons are as long, what a component says of itself should not be.
const LONGEST: usize = 300;

/// One field. Its text is harmless.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    look: Look,
    right: bool,
}

impl Cell {
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self { text: cut(text.as_ref(), LONGEST), ..Self::default() }
    }

    /// A number: its column stands to the right.
    pub(crate) fn number(text: impl AsRef<str>) -> Self {
        Self { right: true, ..Self::new(text) }
    }

    /// `-` where there is nothing.
    pub(crate) fn or_dash(text: &str) -> Self {
        Self::new(if text.is_empty() { "-" } else { text })
    }

    pub(crate) fn look(self, look: Look) -> Self {
        Self { look, ..self }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// A header and rows of as many cells.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        let strong = |name: &&str| Cell::new(name).look(Look::Strong);
        Self { rows: vec![header.iter().map(strong).collect()] }
    }

    pub(crate) fn row(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// Lines of at most `width` characters.
    pub(crate) fn render(&self, paint: Paint, width: Option<usize>) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let cells_of = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let widths: Vec<usize> =
            (0..columns).map(|column| cells_of(column).map(Cell::width).max().unwrap_or_default()).collect();
        // The header of a column of numbers goes right with them.
        let right: Vec<bool> = (0..columns).map(|column| cells_of(column).any(|cell| cell.right)).collect();

        let mut text = String::new();
        for row in &self.rows {
            let mut left = width.unwrap_or(usize::MAX);
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[column] - cell.width());
                let last = column + 1 == row.len();
                let (before, after) = if right[column] {
                    (pad.as_str(), "")
                } else {
                    ("", if last { "" } else { pad.as_str() })
                };
                for (piece, look) in [(before, Look::Plain), (&cell.text, cell.look), (after, Look::Plain)] {
                    let piece: String = piece.chars().take(left).collect();
                    left -= piece.chars().count();
                    text.push_str(&paint.text(look, &piece));
                }
                if !last {
                    let gap = &GAP[..GAP.len().min(left)];
                    left -= gap.len();
                    text.push_str(gap);
                }
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "N", "TEXT"]);
        table.row(vec![Cell::new("é"), Cell::number("7"), Cell::new("a b")]);
        table.row(vec![Cell::new("longer"), Cell::number("812"), Cell::or_dash("")]);
        table
    }

    #[test]
    fn columns_are_in_line_and_numbers_to_the_right() {
        let text = table().render(Paint::NONE, None);
        assert_eq!(text, "NAME       N   TEXT\né          7   a b\nlonger   812   -\n");
    }

    #[test]
    fn nothing_is_wider_than_the_screen() {
        let text = table().render(Paint::NONE, Some(11));
        assert_eq!(text, "NAME\né\nlonger   81\n");
    }

    #[test]
    fn colour_does_not_count_as_width() {
        let mut table = Table::new(&["A", "B"]);
        table.row(vec![Cell::new("x").look(Look::Good), Cell::new("y")]);
        let text = table.render(Paint(true), Some(5));
        assert!(text.ends_with("\x1b[32mx\x1b[0m   y\n"), "{text:?}");
    }

    #[test]
    fn a_cell_cannot_drive_the_terminal() {
        let mut table = Table::new(&["A"]);
        table.row(vec![Cell::new("\x1b[2J\n")]);
        assert!(!table.render(Paint::NONE, None).contains('\x1b'));
    }
}
