//! The one place that writes to stdout and stderr. Colour, width and the shape of tables are decided here, from what is
//! at the other end: a terminal, or a pipe.

mod live;
mod progress;
mod table;

use std::io::{self, IsTerminal as _, Write as _};

use anstyle::{AnsiColor, Style};
use serde_json::Value;

use crate::args::Format;
use crate::failure::Failure;

pub(crate) use live::Live;
pub(crate) use progress::{Steps, attended};
pub(crate) use table::{Column, Table};

/// Narrower than this nothing is readable.
const NARROWEST: usize = 40;
/// When a terminal does not say.
const USUAL: usize = 80;

/// What is at the other end. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    format: Format,
    terminal: bool,
    /// Whether somebody looks at stderr.
    attended: bool,
    unicode: bool,
}

/// What a piece of text means; colour follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// A title.
    Strong,
    /// Less important.
    Faint,
    /// Went well.
    Good,
    /// Goes on.
    Busy,
    /// Needs a look.
    Warn,
    /// Went badly.
    Bad,
}

impl Tone {
    fn style(self) -> Style {
        let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
        match self {
            Self::Strong => Style::new().bold(),
            Self::Faint => Style::new().dimmed(),
            Self::Good => colour(AnsiColor::Green),
            Self::Busy => colour(AnsiColor::Cyan),
            Self::Warn => colour(AnsiColor::Yellow),
            Self::Bad => colour(AnsiColor::Red).bold(),
        }
    }

    /// The text in this tone; what is written elsewhere than to a terminal loses it again.
    pub(crate) fn paint(self, text: &str) -> String {
        let style = self.style();
        format!("{style}{text}{style:#}")
    }
}

impl Out {
    /// Looks at stdout and the environment.
    pub(crate) fn new(format: Format) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| {
            let value = std::env::var(name).ok()?;
            (!value.is_empty()).then_some(value)
        });
        let locale = locale.unwrap_or_default().to_uppercase();
        Self {
            format,
            terminal: io::stdout().is_terminal() && !dumb,
            attended: io::stderr().is_terminal() && !dumb,
            unicode: locale.contains("UTF-8") || locale.contains("UTF8"),
        }
    }

    /// Whether results go to programs.
    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Whether lines can be drawn again in place.
    pub(crate) fn is_live(self) -> bool {
        self.terminal && self.format == Format::Table
    }

    /// Whether a line about progress, drawn in place on stderr, is seen by anybody.
    pub(crate) fn is_attended(self) -> bool {
        self.attended
    }

    /// Asks for a yes; without a terminal to ask on, `insist` names the option that says it beforehand.
    ///
    /// # Errors
    /// The answer is no, or there is nobody to ask.
    pub(crate) fn confirm(self, question: &str, insist: &str) -> Result<(), Failure> {
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Err(Failure::Usage(format!(
                "{question} There is no terminal to ask on: pass {insist} to say yes"
            )));
        }
        let mut terminal = anstream::stderr().lock();
        let _ = write!(terminal, "{} [y/N] ", clean(question));
        let _ = terminal.flush();
        let mut answer = String::new();
        io::stdin()
            .read_line(&mut answer)
            .map_err(Failure::file("standard input"))?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Failure::Interrupted("nothing was done".to_owned())),
        }
    }

    /// Whether the other end shows more than ASCII.
    pub(crate) fn is_unicode(self) -> bool {
        self.unicode
    }

    /// Columns of the terminal, asked anew each time; `None` when piped.
    pub(crate) fn width(self) -> Option<usize> {
        self.terminal.then(|| size().0.max(NARROWEST))
    }

    /// Rows of the terminal.
    pub(crate) fn height(self) -> usize {
        size().1
    }

    /// One line on stdout. A reader that went away is no error of ours.
    pub(crate) fn line(self, text: &str) {
        let _ = writeln!(anstream::stdout().lock(), "{text}");
    }

    /// One line on stderr.
    pub(crate) fn note(self, text: &str) {
        let _ = writeln!(anstream::stderr().lock(), "{text}");
    }

    /// A value as JSON.
    pub(crate) fn json(self, value: &Value) {
        self.line(&format!("{value:#}"));
    }

    /// Rows under a header: aligned on a terminal, separated by tabs when piped.
    pub(crate) fn table(self, table: &Table) {
        for line in table.lines(self.width()) {
            self.line(&line);
        }
    }

    /// The value for programs, or what `show` makes of it for people.
    pub(crate) fn either(self, value: &Value, show: impl FnOnce(Self)) {
        if self.is_json() {
            self.json(value)
        } else {
            show(self)
        }
    }

    /// What went wrong, where, and what to do next.
    pub(crate) fn failure(self, failure: &Failure) {
        if matches!(failure, Failure::Different) {
            return;
        }
        if self.is_json() {
            self.note(&failure.json().to_string());
            return;
        }
        let kind = match failure.code() {
            Some(code) => format!("error[{}]", clean(code)),
            None => "error".to_owned(),
        };
        self.note(&format!(
            "{}: {}",
            Tone::Bad.paint(&kind),
            clean(&failure.to_string())
        ));
        if let Some(place) = failure.place() {
            self.note(&format!("  {} {}", Tone::Faint.paint("-->"), clean(&place)));
        }
        if let Some(help) = failure.help() {
            let help = clean(&help);
            self.note(&format!("  {} {help}", Tone::Faint.paint("help:")));
        }
    }
}

/// Text from elsewhere, without anything that would steer a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// Columns and rows of the terminal.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 => (size.ws_col.into(), usize::from(size.ws_row).max(5)),
        Ok(_) | Err(_) => (USUAL, 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_cannot_steer_the_terminal() {
        assert_eq!(
            clean("a\u{1b}[2Jb\rc\u{9b}d"),
            "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d"
        );
    }
}
