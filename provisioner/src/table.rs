//! Aligned columns and colours for people.

use std::fmt::Write;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Bad,
    Warn,
    Hint,
}

impl Tone {
    pub(crate) fn paint(self, text: &str) -> String {
        let code = match self {
            Self::Good => 32,
            Self::Bad => 31,
            Self::Warn => 33,
            Self::Hint => 36,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Rows of cells, each column as wide as its widest cell; the last one is never padded.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Vec<(String, Option<Tone>)>>,
}

impl Table {
    pub(crate) fn with_header(cells: &[&str]) -> Self {
        let mut table = Self::default();
        table.row(cells.iter().map(|cell| ((*cell).to_owned(), None)).collect());
        table
    }

    pub(crate) fn row(&mut self, cells: Vec<(String, Option<Tone>)>) {
        self.rows.push(cells);
    }

    pub(crate) fn render(&self, color: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|(cell, _)| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, tone)) in row.iter().enumerate() {
                let shown = match tone {
                    Some(tone) if color => tone.paint(cell),
                    _ => cell.clone(),
                };
                // Padding counts visible characters only, so it goes on after the colour.
                let padding = if column + 1 < row.len() { widths[column] - cell.chars().count() + 2 } else { 0 };
                let _ = write!(line, "{shown}{:padding$}", "");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_does_not_move_columns() {
        let mut table = Table::with_header(&["NAME", "STATE"]);
        table.row(vec![("a".to_owned(), Some(Tone::Good)), ("up".to_owned(), None)]);
        assert_eq!(table.render(false), "NAME  STATE\na     up\n");
        assert_eq!(table.render(true), "NAME  STATE\n\x1b[32ma\x1b[0m     up\n");
    }
}
