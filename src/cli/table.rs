//! Tables, and what a terminal is shown of text that others wrote.

use super::{Outcome, say};

/// Rows whose widths are looked at together: a longer table does not wait for its end.
const BLOCK: usize = 1_000;

/// A table that is printed row by row. The header comes with the first.
pub struct Table {
    widths: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(header: &[&str]) -> Self {
        Self {
            widths: vec![0; header.len()],
            rows: vec![header.iter().map(|&name| name.to_owned()).collect()],
        }
    }

    /// Takes a row, as text that may be anything.
    pub fn row(&mut self, cells: &[&str]) -> Outcome {
        self.rows.push(cells.iter().map(|cell| harmless(cell)).collect());
        if self.rows.len() > BLOCK { self.print() } else { Ok(()) }
    }

    /// Prints what was taken and not printed yet.
    pub fn print(&mut self) -> Outcome {
        for row in &self.rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let lines: Vec<String> = std::mem::take(&mut self.rows).iter().map(|row| self.line(row)).collect();
        if lines.is_empty() { Ok(()) } else { say(lines.join("\n")) }
    }

    fn line(&self, row: &[String]) -> String {
        let mut line = String::new();
        for (width, cell) in self.widths.iter().zip(row) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', 2 + width.saturating_sub(cell.chars().count())));
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// Text without what a terminal takes for orders, or what turns the direction of a line: devices and backends may write anything.
pub fn harmless(text: &str) -> String {
    let is_order = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}');
    text.chars().map(|c| if is_order(c) { '·' } else { c }).collect()
}

/// The beginning of a text, at most so many characters.
pub fn clip(text: &str, characters: usize) -> String {
    if text.chars().count() <= characters {
        return text.to_owned();
    }
    text.chars().take(characters.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut table = Table::new(&["ID", "USER"]);
        table.row(&["a-long-id", "анна"]).unwrap();
        table.row(&["b", "x"]).unwrap();
        table.widths = vec![9, 4];
        let lines: Vec<String> = table.rows.iter().map(|row| table.line(row)).collect();
        assert_eq!(lines, ["ID         USER", "a-long-id  анна", "b          x"]);
    }

    #[test]
    fn no_text_gives_orders_to_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2J\n\u{202e}b電"), "a·[2J··b電");
        assert_eq!((clip("abcdef", 4), clip("жжж", 3)), ("abc…".into(), "жжж".into()));
    }
}
