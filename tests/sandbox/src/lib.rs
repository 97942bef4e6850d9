//! The sandbox suite's table: what each component's process can do, cell by cell, in a text that is reviewed.
//!
//! A line is an attempt, a column a component. Two blanks or more end a cell; a line in brackets heads a group; `#` begins
//! a comment.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Outcomes by attempt and component, in the order they were added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Row>,
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    group: String,
    attempt: String,
    outcomes: Vec<String>,
}

/// A cell that is not as expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The attempt; empty when the columns differ.
    pub attempt: String,
    /// The component.
    pub component: String,
    /// What the reviewed table says; `None`: nothing.
    pub expected: Option<String>,
    /// What happened; `None`: it was not tried.
    pub found: Option<String>,
}

impl Table {
    /// An empty table with a column for each of these.
    pub fn new(columns: Vec<String>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a line; `outcomes` has one word for each column.
    pub fn add(&mut self, group: &str, attempt: &str, outcomes: Vec<String>) {
        self.rows.push(Row { group: group.to_owned(), attempt: attempt.to_owned(), outcomes });
    }

    /// The text, with `heading` as its comment.
    pub fn text(&self, heading: &str) -> String {
        let mut text = String::new();
        for line in heading.lines() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}", format!("# {line}").trim_end());
        }
        let first = self.rows.iter().map(|row| row.attempt.chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, name)| {
                let cells = self.rows.iter().map(|row| row.outcomes[at].chars().count());
                cells.chain([name.chars().count()]).max().unwrap_or_default()
            })
            .collect();
        let line = |first_cell: &str, cells: &[String]| {
            let mut line = format!("{first_cell:first$}");
            for (cell, width) in cells.iter().zip(&widths) {
                let _ = write!(line, "  {cell:width$}");
            }
            line.truncate(line.trim_end().len());
            line + "\n"
        };
        text.push('\n');
        text += &line("attempt", &self.columns);
        let mut group = "";
        for row in &self.rows {
            if row.group != group {
                group = &row.group;
                let _ = write!(text, "\n[{group}]\n");
            }
            text += &line(&row.attempt, &row.outcomes);
        }
        text
    }

    /// Reads the text; the error names the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut table: Option<Self> = None;
        let mut group = String::new();
        for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line.trim_end())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                name.clone_into(&mut group);
                continue;
            }
            let mut cells =
                line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned);
            let attempt = cells.next().unwrap_or_default();
            let outcomes: Vec<String> = cells.collect();
            match &mut table {
                None => table = Some(Self::new(outcomes)),
                Some(table) if outcomes.len() == table.columns.len() => {
                    table.add(&group, &attempt, outcomes);
                }
                Some(table) => {
                    let (has, wants) = (outcomes.len(), table.columns.len());
                    return Err(format!("line {number}: {attempt:?} has {has} cells, not {wants}"));
                }
            }
        }
        table.ok_or_else(|| "there is no line with the names of the columns".to_owned())
    }

    /// Every cell that is not as `expected`; a column that only one of them has is one difference.
    pub fn differences(&self, expected: &Self) -> Vec<Difference> {
        let columns = |a: &Self, b: &Self| -> Vec<String> {
            a.columns.iter().filter(|column| !b.columns.contains(column)).cloned().collect()
        };
        let (new, gone) = (columns(self, expected), columns(expected, self));
        let whole = |component: &String, here: bool| Difference {
            attempt: String::new(),
            component: component.clone(),
            expected: (!here).then(|| "a column".to_owned()),
            found: here.then(|| "a column".to_owned()),
        };
        let mut differences: Vec<Difference> = new
            .iter()
            .map(|name| whole(name, true))
            .chain(gone.iter().map(|name| whole(name, false)))
            .collect();

        let (found, expected) = (self.cells(), expected.cells());
        let in_both = |component: &str| !new.iter().chain(&gone).any(|column| column == component);
        let mut keys: Vec<_> = found.keys().chain(expected.keys()).filter(|key| in_both(key.1)).collect();
        keys.sort_unstable();
        keys.dedup();
        differences.extend(keys.into_iter().filter(|key| found.get(*key) != expected.get(*key)).map(|key| {
            Difference {
                attempt: key.0.to_owned(),
                component: key.1.to_owned(),
                expected: expected.get(key).map(|outcome| (*outcome).to_owned()),
                found: found.get(key).map(|outcome| (*outcome).to_owned()),
            }
        }));
        differences
    }

    fn cells(&self) -> BTreeMap<(&str, &str), &str> {
        self.rows
            .iter()
            .flat_map(|row| {
                let cells = self.columns.iter().zip(&row.outcomes);
                cells.map(|(column, outcome)| ((row.attempt.as_str(), column.as_str()), outcome.as_str()))
            })
            .collect()
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = |outcome: &Option<String>| outcome.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(f, "{}: ", self.component)?;
        if !self.attempt.is_empty() {
            write!(f, "{}: ", self.attempt)?;
        }
        write!(f, "expected {}, got {}", word(&self.expected), word(&self.found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(outcome: &str) -> Table {
        let mut table = Table::new(vec!["store".into(), "hub".into()]);
        table.add("files", "read own state", vec!["allowed".into(), "allowed".into()]);
        table.add("network", "open a socket", vec![outcome.into(), "allowed".into()]);
        table
    }

    #[test]
    fn text_is_read_back_as_it_was_written() {
        let text = table("ENOSYS").text("A heading\nof two lines");
        assert!(
            text.starts_with("# A heading\n# of two lines\n\nattempt         store    hub\n\n[files]\n"),
            "{text}"
        );
        assert_eq!(Table::parse(&text), Ok(table("ENOSYS")));
    }

    #[test]
    fn difference_names_its_cell() {
        let differences = table("allowed").differences(&table("ENOSYS"));
        assert_eq!(differences.len(), 1);
        assert_eq!(differences[0].to_string(), "store: open a socket: expected ENOSYS, got allowed");
        assert_eq!(table("x").differences(&table("x")), []);
    }

    #[test]
    fn missing_and_new_attempts_are_differences() {
        let mut more = table("x");
        more.add("files", "write own state", vec!["allowed".into(), "EROFS".into()]);
        let words: Vec<String> = more.differences(&table("x")).iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "hub: write own state: expected nothing, got EROFS",
                "store: write own state: expected nothing, got allowed"
            ]
        );
        assert_eq!(table("x").differences(&more).len(), 2);
    }

    #[test]
    fn new_component_is_one_difference() {
        let mut with = Table::new(vec!["store".into(), "hub".into(), "mesh".into()]);
        with.add("files", "read own state", vec!["allowed".into(); 3]);
        let mut without = Table::new(vec!["store".into(), "hub".into()]);
        without.add("files", "read own state", vec!["allowed".into(); 2]);
        let words = |a: &Table, b: &Table| -> Vec<String> {
            a.differences(b).iter().map(ToString::to_string).collect()
        };
        assert_eq!(words(&with, &without), ["mesh: expected nothing, got a column"]);
        assert_eq!(words(&without, &with), ["mesh: expected a column, got nothing"]);
    }

    #[test]
    fn line_with_too_few_cells_is_named() {
        let error = Table::parse("attempt  a  b\n\nx y  allowed").expect_err("one cell");
        assert_eq!(error, "line 3: \"x y\" has 1 cells, not 2");
        assert!(Table::parse("# nothing\n").is_err());
    }
}
