//! Tables, as the programs of Linkerd lay them out, so that scripts which cut columns go on.

use std::fmt::Write as _;

/// Where a cell stands in its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Figures.
    Right,
}

/// The blanks between columns.
const PADDING: usize = 3;

/// A table in the making: every row has as many cells as there are columns.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new<'a>(columns: impl IntoIterator<Item = (&'a str, Align)>) -> Self {
        Self { columns: columns.into_iter().map(|(name, align)| (name.to_owned(), align)).collect(), rows: Vec::new() }
    }

    /// A table of text columns.
    pub fn of_text(columns: &[&str]) -> Self {
        Self::new(columns.iter().map(|name| (*name, Align::Left)))
    }

    /// Adds a row; missing cells stay empty.
    pub fn row(&mut self, mut cells: Vec<String>) {
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Headers and rows, each ending in a newline. No blanks at the start or the end of a line.
    pub fn render(&self) -> String {
        let widths = self.widths();
        let headers: Vec<_> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let mut text = String::new();
        for row in std::iter::once(&headers).chain(&self.rows) {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                let blanks = " ".repeat(widths[i].saturating_sub(width(cell)));
                match self.columns[i].1 {
                    Align::Left => line.extend([cell.as_str(), &blanks]),
                    Align::Right => line.extend([&blanks, cell.as_str()]),
                }
                line.push_str(&" ".repeat(PADDING));
            }
            // Writing into a String can't fail.
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }

    /// As [`render`](Self::render), but with two blanks after every column, the last one too, and columns of at least these
    /// widths: the layout of tables about authorization.
    pub fn render_padded(&self, least: &[usize]) -> String {
        let mut widths = self.widths();
        for (width, least) in widths.iter_mut().zip(least) {
            *width = (*width).max(*least);
        }
        let headers: Vec<_> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let mut text = String::new();
        for row in std::iter::once(&headers).chain(&self.rows) {
            for (i, cell) in row.iter().enumerate() {
                let blanks = " ".repeat(widths[i].saturating_sub(width(cell)));
                match self.columns[i].1 {
                    Align::Left => text.extend([cell.as_str(), &blanks, "  "]),
                    Align::Right => text.extend([&blanks, cell.as_str(), "  "]),
                }
            }
            text.push('\n');
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let of_column = |i: usize| self.rows.iter().map(|row| width(&row[i])).max().unwrap_or(0);
        self.columns.iter().enumerate().map(|(i, (name, _))| width(name).max(of_column(i))).collect()
    }
}

/// How many columns of a terminal a cell takes: names in a cluster are ASCII, our symbols take one column each.
fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_right_and_names_left() {
        let mut table = Table::new([("NAME", Align::Left), ("MESHED", Align::Right), ("SUCCESS", Align::Right)]);
        table.row(vec!["web".into(), "1/1".into(), "94.12%".into()]);
        table.row(vec!["vote-bot".into(), "10/10".into()]);
        assert_eq!(
            table.render(),
            "NAME       MESHED   SUCCESS\n\
             web           1/1    94.12%\n\
             vote-bot    10/10\n"
        );
    }

    #[test]
    fn a_padded_table() {
        let mut table = Table::new([("ROUTE", Align::Left), ("RPS", Align::Right)]);
        table.row(vec!["*".into(), "12.0rps".into()]);
        assert_eq!(table.render_padded(&[6, 3]), "ROUTE       RPS  \n*       12.0rps  \n");
    }

    #[test]
    fn a_table_of_text() {
        let mut table = Table::of_text(&["NAMESPACE", "IP"]);
        assert!(table.is_empty());
        table.row(vec!["a".into(), "10.0.0.1".into()]);
        assert_eq!(table.render(), "NAMESPACE   IP\na           10.0.0.1\n");
    }
}
