//! Lines that are drawn again in place: up over the last drawing, each line anew, what is left below cleared.
//!
//! The terminal may change its size between two drawings and break earlier lines over several rows; how many rows they
//! take now is computed from how long they were.

use std::io::Write as _;

use super::Out;

/// The lines drawn last. Dropping it leaves them on the screen and gives the cursor back.
#[derive(Debug)]
pub(crate) struct Live {
    out: Out,
    drawn: Vec<usize>,
}

impl Live {
    /// Nothing drawn yet; the cursor is hidden from now on.
    pub(crate) fn new(out: Out) -> Self {
        let mut terminal = anstream::stdout().lock();
        let _ = write!(terminal, "\x1b[?25l");
        Self {
            out,
            drawn: Vec::new(),
        }
    }

    /// Draws these lines where the last ones were. They are cut to the terminal's width, and to its height from the
    /// top, so that the newest and lowest stay in view.
    pub(crate) fn draw(&mut self, lines: &[String]) {
        let width = self.out.width().unwrap_or(super::USUAL);
        let room = self.out.height().saturating_sub(1).max(1);
        let skipped = lines.len().saturating_sub(room);
        let mut text = up(&self.drawn, width);
        self.drawn.clear();
        for line in &lines[skipped..] {
            let (cut, length) = cut(line, width.saturating_sub(1));
            text.push_str(&cut);
            text.push_str("\x1b[0m\x1b[K\r\n");
            self.drawn.push(length);
        }
        text.push_str("\x1b[J");
        let mut terminal = anstream::stdout().lock();
        let _ = terminal.write_all(text.as_bytes());
        let _ = terminal.flush();
    }

    /// Takes the lines away again.
    pub(crate) fn clear(&mut self) {
        self.draw(&[]);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut terminal = anstream::stdout().lock();
        let _ = write!(terminal, "\x1b[?25h");
        let _ = terminal.flush();
    }
}

/// Moves to the first row of lines of these lengths.
fn up(drawn: &[usize], width: usize) -> String {
    let rows: usize = drawn
        .iter()
        .map(|length| length.div_ceil(width).max(1))
        .sum();
    if rows == 0 {
        "\r".to_owned()
    } else {
        format!("\x1b[{rows}A\r")
    }
}

/// The line cut to so many visible characters, and how many it has. Escape sequences of colour take no room.
fn cut(line: &str, width: usize) -> (String, usize) {
    let (mut text, mut length, mut inside) = (String::new(), 0, false);
    for c in line.chars() {
        match (inside, c) {
            (false, '\x1b') => inside = true,
            (true, 'm') => inside = false,
            (true, _) => {}
            (false, _) if length == width => continue,
            (false, _) => length += 1,
        }
        text.push(c);
    }
    (text, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_takes_no_room_and_is_never_cut() {
        assert_eq!(
            cut("\x1b[31mabcdef\x1b[0m", 3),
            ("\x1b[31mabc\x1b[0m".to_owned(), 3)
        );
        assert_eq!(cut("ab", 3), ("ab".to_owned(), 2));
    }

    #[test]
    fn a_narrower_terminal_has_broken_the_lines_over_more_rows() {
        assert_eq!(up(&[70, 10, 0], 80), "\x1b[3A\r");
        assert_eq!(up(&[70, 10, 0], 40), "\x1b[4A\r");
        assert_eq!(up(&[], 40), "\r");
    }
}
