//! Tables: aligned, and as wide as the terminal at most; separated by tabs when piped.
//!
//! On a narrow terminal ids are cut to a beginning that every command takes for the whole; then whole columns go, the
//! least important first, because an id that is broken over two lines cannot be copied. What is left is wrapped.

use comfy_table::{CellAlignment, ContentArrangement, Table as Layout, presets};

use super::{Tone, clean};

/// Blanks between two columns.
const GAP: usize = 2;
/// Digits of an id that is cut: as random ones they are unique.
const ID: usize = 12;
/// A column of prose is wrapped before it makes other columns go.
const PROSE: usize = 24;

/// A column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    /// 0 stays in any case; the highest goes first.
    rank: u8,
    right: bool,
    prose: bool,
    id: bool,
}

impl Column {
    /// A column that goes when those of lower rank have no room beside it; rank 0 stays.
    pub(crate) const fn new(title: &'static str, rank: u8) -> Self {
        Self {
            title,
            rank,
            right: false,
            prose: false,
            id: false,
        }
    }

    /// Of ids, of which a beginning is enough.
    pub(crate) const fn id(self) -> Self {
        Self { id: true, ..self }
    }

    /// Of numbers.
    pub(crate) const fn right(self) -> Self {
        Self {
            right: true,
            ..self
        }
    }

    /// Of sentences, which may be wrapped.
    pub(crate) const fn prose(self) -> Self {
        Self {
            prose: true,
            ..self
        }
    }
}

/// Columns and rows.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    /// Said instead of a table without rows.
    empty: &'static str,
}

impl Table {
    /// Without rows yet; `empty` is said when it stays so.
    pub(crate) fn new(columns: &[Column], empty: &'static str) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
            empty,
        }
    }

    /// One more row: one cell per column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(
            cells
                .iter()
                .map(|cell| clean(cell).replace(['\t', '\n'], " "))
                .collect(),
        );
    }

    /// As lines, for a terminal of this width or for a pipe.
    pub(crate) fn lines(&self, width: Option<usize>) -> Vec<String> {
        let Some(width) = width else {
            let titles = self
                .columns
                .iter()
                .map(|column| column.title.to_lowercase());
            let header = titles.collect::<Vec<_>>().join("\t");
            return std::iter::once(header)
                .chain(self.rows.iter().map(|row| row.join("\t")))
                .collect();
        };
        if self.rows.is_empty() {
            return vec![self.empty.to_owned()];
        }
        let table = self.without_empty();
        let whole: Vec<usize> = (0..table.columns.len()).collect();
        if table.columns.iter().any(|column| column.id) && !table.fits(&whole, width) {
            return table.cut().fitted(width);
        }
        table.fitted(width)
    }

    /// Without columns that say nothing in any row.
    fn without_empty(&self) -> Self {
        let says = |at: &usize| self.rows.iter().any(|row| !row[*at].is_empty());
        let stays = |at: &usize| self.columns[*at].rank == 0 || says(at);
        let kept: Vec<usize> = (0..self.columns.len()).filter(stays).collect();
        let row = |row: &Vec<String>| kept.iter().map(|at| row[*at].clone()).collect();
        Self {
            columns: kept.iter().map(|at| self.columns[*at]).collect(),
            rows: self.rows.iter().map(row).collect(),
            empty: self.empty,
        }
    }

    /// With ids cut to their beginnings.
    fn cut(&self) -> Self {
        let mut table = self.clone();
        for (at, column) in table
            .columns
            .iter_mut()
            .enumerate()
            .filter(|(_, column)| column.id)
        {
            column.id = false;
            for row in &mut table.rows {
                if let Some(cell) = row.get_mut(at) {
                    *cell = cell.chars().take(ID).collect();
                }
            }
        }
        table
    }

    fn fitted(&self, width: usize) -> Vec<String> {
        let kept = self.kept(width);
        let mut lines = self.layout(&kept, width);
        if kept.len() < self.columns.len() {
            let gone = (0..self.columns.len()).filter(|at| !kept.contains(at));
            let gone = gone.map(|at| self.columns[at].title.to_lowercase());
            let gone = wrapped("no room for: ", &gone.collect::<Vec<_>>(), width);
            lines.extend(gone.iter().map(|line| Tone::Faint.paint(line)));
        }
        lines
    }

    /// Which columns have room.
    fn kept(&self, width: usize) -> Vec<usize> {
        let mut kept: Vec<usize> = (0..self.columns.len()).collect();
        while !self.fits(&kept, width) {
            let last = kept
                .iter()
                .enumerate()
                .max_by_key(|(_, at)| self.columns[**at].rank);
            match last {
                Some((place, at)) if self.columns[*at].rank > 0 => kept.remove(place),
                Some(_) | None => break,
            };
        }
        kept
    }

    fn fits(&self, columns: &[usize], width: usize) -> bool {
        columns
            .iter()
            .map(|at| self.needs(*at) + GAP)
            .sum::<usize>()
            <= width + GAP
    }

    fn needs(&self, at: usize) -> usize {
        let widest = self.rows.iter().map(|row| row[at].chars().count());
        let widest = widest
            .chain([self.columns[at].title.len()])
            .max()
            .unwrap_or(0);
        if self.columns[at].prose {
            widest.min(PROSE)
        } else {
            widest
        }
    }

    fn layout(&self, kept: &[usize], width: usize) -> Vec<String> {
        let mut layout = Layout::new();
        layout
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(u16::try_from(width).unwrap_or(u16::MAX))
            .set_header(kept.iter().map(|at| self.columns[*at].title));
        for row in &self.rows {
            layout.add_row(kept.iter().map(|at| row[*at].as_str()));
        }
        for (place, at) in kept.iter().enumerate() {
            let Some(column) = layout.column_mut(place) else {
                continue;
            };
            let gap = if place == 0 { 0 } else { GAP };
            column.set_padding((u16::try_from(gap).unwrap_or(0), 0));
            if self.columns[*at].right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let lines = layout
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect::<Vec<_>>();
        lines
            .iter()
            .enumerate()
            .map(|(at, line)| {
                if at == 0 {
                    Tone::Faint.paint(line)
                } else {
                    line.clone()
                }
            })
            .collect()
    }
}

/// Words behind a beginning, separated by commas, in lines of this width at most.
fn wrapped(begin: &str, words: &[String], width: usize) -> Vec<String> {
    let mut lines = vec![begin.to_owned()];
    for (at, word) in words.iter().enumerate() {
        let more = if at + 1 < words.len() { ", " } else { "" };
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last + word.chars().count() + 1 > width {
            lines.push(" ".repeat(begin.len()));
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(word);
            line.push_str(more);
        }
    }
    lines
        .iter()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let columns = [
            Column::new("RUN", 0).id(),
            Column::new("WORKFLOW", 1),
            Column::new("STATE", 0),
            Column::new("TOOK", 3).right(),
            Column::new("WHY", 2).prose(),
        ];
        let mut table = Table::new(&columns, "no runs");
        let cells = |cells: [&str; 5]| cells.map(str::to_owned).to_vec();
        let id = "0123456789abcdef0123456789abcdef";
        table.row(cells([
            id,
            "host-report",
            "succeeded",
            "1.2 s",
            "everything that it needs is there, and more",
        ]));
        table.row(cells([id, "a", "failed", "12 min", "short\u{1b}[31m"]));
        table
    }

    fn plain(lines: &[String]) -> Vec<String> {
        lines
            .iter()
            .map(|line| anstream::adapter::strip_str(line).to_string())
            .collect()
    }

    #[test]
    fn every_width_is_kept_to_and_ids_are_never_broken() {
        for width in [44, 60, 80, 100, 200] {
            let lines = plain(&table().lines(Some(width)));
            assert!(
                lines.iter().all(|line| line.chars().count() <= width),
                "{width}: {lines:#?}"
            );
            let id = lines[1].split(' ').next().unwrap();
            let whole = "0123456789abcdef0123456789abcdef";
            assert!(id == whole || id == &whole[..ID], "{lines:#?}");
            assert_eq!(id == whole, width >= 100, "{lines:#?}");
            assert!(
                lines.iter().any(|line| line.contains("succeeded")),
                "{lines:#?}"
            );
        }
    }

    #[test]
    fn a_narrow_terminal_loses_the_least_important_columns_and_is_told() {
        let lines = plain(&table().lines(Some(60)));
        insta::assert_snapshot!(lines.join("\n"), @r"
        RUN           WORKFLOW     STATE
        0123456789ab  host-report  succeeded
        0123456789ab  a            failed
        no room for: took, why
        ");
    }

    #[test]
    fn a_pipe_gets_every_column_separated_by_tabs() {
        let lines = table().lines(None);
        assert_eq!(lines[0], "run\tworkflow\tstate\ttook\twhy");
        assert!(
            lines.iter().all(|line| line.split('\t').count() == 5),
            "{lines:#?}"
        );
        assert_eq!(
            Table::new(&[Column::new("RUN", 0)], "no runs").lines(None),
            ["run"]
        );
        assert_eq!(
            Table::new(&[Column::new("RUN", 0)], "no runs").lines(Some(80)),
            ["no runs"]
        );
    }
}
