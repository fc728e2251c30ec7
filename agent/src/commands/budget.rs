//! `ledger budget` and the documentation's page of the bit budget: the numbers of `outpost_proto::budget` as tables.

use std::fmt::Write as _;

use outpost_proto::budget::{Free, Published, published};

use crate::cli::Form;
use crate::output;

/// A table as people read it.
struct Table {
    title: &'static str,
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

/// Says the budget: tables for people, numbers for programs.
pub(crate) fn show(form: Form) {
    let budget = published();
    match form {
        Form::Json => output::json(&budget),
        Form::Table => {
            let tables = tables(&budget);
            let text = tables.iter().map(plain).collect::<Vec<_>>().join("\n");
            output::text(&text);
        }
    }
}

/// The page, as Markdown.
pub(super) fn page() -> String {
    let tables = tables(&published());
    let mut text = BEFORE.to_owned();
    for table in &tables {
        text.push_str(&markdown(table));
    }
    text.push_str(AFTER);
    text
}

fn tables(budget: &Published) -> Vec<Table> {
    vec![
        messages(budget),
        carried(budget),
        attempts(budget),
        anew(budget),
        identity(budget),
    ]
}

fn messages(budget: &Published) -> Table {
    let rows = budget.messages.iter().map(|line| {
        let numbers = [line.carried, line.echoed, line.free].map(|bits| bits.to_string());
        let strict = one_decimal(line.free_strict);
        std::iter::once(line.message.to_owned())
            .chain(numbers)
            .chain([strict])
            .collect()
    });
    Table {
        title: "Bits of each message",
        columns: vec!["message", "carried", "echoed", "free", "free, strict"],
        rows: rows.collect(),
    }
}

fn carried(budget: &Published) -> Table {
    let rows = budget.carried.iter();
    let rows = rows.map(|line| vec![line.what.to_owned(), line.carried.to_string()]);
    Table {
        title: "Bits of what happens",
        columns: vec!["what", "carried"],
        rows: rows.collect(),
    }
}

fn attempts(budget: &Published) -> Table {
    let mut rows = Vec::new();
    for line in &budget.attempts {
        let kinds = [("normal", line.normal), ("strict", line.strict)];
        for (reporting, free) in kinds {
            let Free {
                content,
                moments,
                host,
            } = free;
            let numbers = [content, moments, host, free.all()].map(one_decimal);
            let first = [lifetime(line.lifetime_s), reporting.to_owned()];
            rows.push(first.into_iter().chain(numbers).collect());
        }
    }
    Table {
        title: "Free bits of an attempt",
        columns: vec![
            "may last",
            "reporting",
            "how it ends",
            "when it is told",
            "the host meanwhile",
            "together",
        ],
        rows,
    }
}

fn anew(budget: &Published) -> Table {
    let rows = budget.attempts.iter().map(|line| {
        let (one, all) = (line.anew_strict, line.strict.all() + line.anew_strict);
        vec![
            lifetime(line.lifetime_s),
            one_decimal(one),
            one_decimal(all),
        ]
    });
    Table {
        title: "Free bits of an attempt that can end connections, strict",
        columns: vec![
            "may last",
            "when they begin anew",
            "together with the above",
        ],
        rows: rows.collect(),
    }
}

fn identity(budget: &Published) -> Table {
    let rows = budget.identity.iter().map(|line| {
        vec![
            line.request.to_owned(),
            line.bytes.to_string(),
            line.carried.to_string(),
        ]
    });
    Table {
        title: "Identity calls",
        columns: vec!["request", "bytes at most", "carried"],
        rows: rows.collect(),
    }
}

fn lifetime(seconds: u64) -> String {
    match seconds {
        3600.. => format!("{} h", seconds / 3600),
        _ => format!("{} min", seconds / 60),
    }
}

/// Rounded up: a budget is never told as less than it is.
fn one_decimal(bits: f64) -> String {
    format!("{:.1}", (bits * 10.0).ceil() / 10.0)
}

fn plain(table: &Table) -> String {
    let width = |at: usize| {
        let cells = table.rows.iter().map(|row| row[at].chars().count());
        cells
            .chain([table.columns[at].len()])
            .max()
            .unwrap_or_default()
    };
    let widths = (0..table.columns.len()).map(width).collect::<Vec<_>>();
    let line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (at, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let gap = if at == 0 { "" } else { "  " };
            // Writing to a string does not fail.
            let _ = if is_number(cell) {
                write!(text, "{gap}{cell:>width$}")
            } else {
                write!(text, "{gap}{cell:<width$}")
            };
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = format!("{}\n", table.title.to_uppercase());
    text.push_str(&line(table.columns.clone()));
    for row in &table.rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

fn is_number(cell: &str) -> bool {
    cell.chars().all(|c| c.is_ascii_digit() || c == '.')
}

fn markdown(table: &Table) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let columns = table.columns.iter().map(|name| (*name).to_owned());
    let mut text = format!("\n## {}\n\n", table.title);
    text.push_str(&line(&columns.collect::<Vec<_>>()));
    text.push_str(&format!("|{}\n", "---|".repeat(table.columns.len())));
    for row in &table.rows {
        text.push_str(&line(row));
    }
    text
}

const BEFORE: &str = "# The bit budget

What can leave a site with everything its agent says, in bits. The numbers are summed from the `max_bits` of the
messages' own description when the agent is built; `outpost-agent ledger budget` prints those of the agent at hand, and
a test holds this page against it.

* **Carried** is what the format has room for. No frame holds more, whoever wrote it: encoder and decoder refuse a value
  beyond its bits, an unknown field, and a second spelling of the same content. It bounds an agent that was taken over.
* **Echoed** are those of the carried bits that say back what the orchestrator chose: ids, fences, numbers of commands.
  An honest agent adds nothing to them. One that was taken over could, and would have its session ended: the
  orchestrator knows what it said.
* **Free** are the bits that an honest agent lets a task choose. This is what a hostile task has to signal with, and
  what the tests measure against.

The rest of the carried bits are counters, and what the site itself is: its host, its catalogue, its people's decisions.
";

const AFTER: &str = "
## How to read them

An attempt says up to three events: that it is starting, that it is running, and how it ended. *How it ends* counts every
outcome, whether anything of it may have run, its duration and, with normal reporting, the exit code and the count if its
entry opted in to them. *When it is told* counts the moments of its being told to be running and to be over: to the
millisecond with normal reporting, which is finer than a network lets anybody see. *The host meanwhile* counts every
value that processor, memory, disk, load, pressure and log space can take in each heartbeat, as if the task moved all of
them at will. How many tasks run and wait follows from the events and is not counted twice.

An attempt that is told again after a reconnect says nothing new but the moment at which that is done. A task should not
be able to choose it; one that can, because it finds a way to have the agent's process or connection end, has one bit for
each ten seconds with strict reporting, in a table of its own: then a connection begins, or none does. With normal
reporting it would have that moment to the millisecond each time, for which no number is published.

## Strict reporting

`outpost-agent run --reporting strict` (or `OUTPOST_AGENT_REPORTING=strict`) leaves a task less:

* No exit code and no count, whatever entries opted in to; `outpost-agent check` names those entries.
* A duration is told as the power of two of milliseconds above it: 1024, 2048, 4096 and so on. It says \"at most so
  long, and more than half of it\", never an exact time; nothing below a second is told apart.
* Events wait for the next heartbeat, and those of one heartbeat are in order of their attempts' ids, not in the order in
  which they happened.
* Heartbeats, the inventory that begins a connection, and the beginning of a connection itself have the same moments:
  each ten seconds of the clock that the kernel keeps since its boot. They are further apart if the orchestrator asks for
  it, and never closer: not if it asks for that, not if it ends stream after stream or keeps the agent waiting for its
  welcome, and not when the agent is killed and started again, which finds the same moments without having stored any.
* Processor, memory, disk, pressure, log and ledger space are told as 50, 80, 95 or 100 percent, whichever is next above;
  load as 100, 200, 400 or 4095 percent of a processor. They are looked at every five minutes of the same clock; until
  the first such moment after its start an agent tells the lowest step of each.

The price is time: each step of a workflow is told up to ten seconds later, so that a chain of ten tasks can take a
hundred seconds longer, and it takes up to twenty seconds after a fault, or after a start, until work is taken again. An
orchestrator that grants leases of less than twice ten seconds will not see its work begun. Acknowledgements of commands
go at once: a task has no part in them. A stop of the agent by the site tells what is known at once.

## What no number here covers

* A task that makes the host so busy that heartbeats are late, or the agent so short of memory that it ends, shows that
  it did: the connection ends at that moment, whatever the agent would say. Nothing that shares a host is free of this;
  give tasks limits of their own.
* What is on the wire beside the frames: TLS and HTTP/2 add lengths and moments of their own, which follow from the
  frames. `outpost-agent ledger verify` accounts for them.
* A task that has the network: what it sends by itself is no business of the agent's.
* The identity calls carry a public key, which its maker can choose: whoever has taken over the process that makes it has
  a few hundred bits each time a certificate is renewed.
* Bits are an upper bound for one attempt. Whoever may run many attempts adds them up; how many may start in an hour is
  the catalogue's `max_per_hour`.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_cell_for_every_column_and_numbers_are_rounded_up() {
        for table in tables(&published()) {
            for row in &table.rows {
                assert_eq!(row.len(), table.columns.len(), "{}", table.title);
            }
        }
        assert_eq!(one_decimal(10.81), "10.9");
        let first = published().messages[0];
        assert_eq!(one_decimal(first.free_strict), "0.0");
    }
}
