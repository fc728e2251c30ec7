//! The published bit budget: how much information leaves a site with everything an agent says, and how much of it a task
//! can choose.
//!
//! Three numbers are kept apart. *Carried* bits are what the format has room for: summed from the descriptor, they bound
//! even an agent that was taken over. *Echoed* bits are those of them that only say back what the orchestrator chose.
//! *Free* bits are those that an honest agent lets a task choose: how it ends, how long it takes, what the host's
//! numbers do meanwhile, and when all of that is told.

use std::time::Duration;

use serde::Serialize;

use crate::limits::{
    CATALOGUE_ENTRIES, CERTIFICATE_BYTES, CHALLENGE_BYTES, CSR_BYTES, HEARTBEAT_INTERVAL,
    INVENTORY_PAGE, SIGNATURE_BYTES, STRICT_GRID, STRICT_HEALTH, TOKEN_BYTES,
};
use crate::message::Reporting;
use crate::outcome::Outcome;
use crate::strict;
use crate::wire::{budget, budget_of};

/// Whose choice a value is, as long as the agent is what it was built as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Chosen {
    /// The orchestrator's: it is said back as it was told.
    Orchestrator,
    /// Nobody's: a counter, or what the agent was built as.
    Agent,
    /// The site's: its host, its catalogue, what its people decided.
    Site,
    /// Nobody's again: it follows from what events say.
    Events,
    /// A task can move it.
    Task,
}

/// Whose choice the field of a message is; `None` for what is no message of its own.
#[must_use]
pub fn chosen(message: &str, field: &str) -> Option<Chosen> {
    use Chosen::{Agent, Events, Orchestrator, Site, Task};
    Some(match (message, field) {
        ("Hello", "last_recovery" | "last_command_seq" | "session_nonce") => Orchestrator,
        (
            "Hello",
            "protocol_min" | "protocol_max" | "build_major" | "build_minor" | "build_patch"
            | "schema_hash",
        ) => Agent,
        ("Hello", "incarnation" | "slots" | "sandbox" | "containment" | "limits" | "reporting") => {
            Site
        }
        ("Catalogue", "version" | "entries") => Site,
        (
            "CatalogueEntry",
            "hash" | "retry_safe" | "on_disconnect" | "stop_after_s" | "grace_s",
        ) => Site,
        ("Inventory", "items" | "end") => Events,
        ("InventoryItem", "attempt" | "run" | "task" | "fence") => Orchestrator,
        ("InventoryItem", "event_seq") => Agent,
        ("InventoryItem", "state" | "report") => Events,
        ("Event", "attempt") => Orchestrator,
        ("Event", "event_seq") => Agent,
        ("Event", "state" | "report") => Task,
        ("Heartbeat", "seq") => Agent,
        ("Heartbeat", "lease_echo") => Orchestrator,
        ("Heartbeat", "slots_free" | "running" | "queued" | "refusals") => Events,
        (
            "Heartbeat",
            "paused"
            | "draining"
            | "observe"
            | "hold"
            | "uptime_s"
            | "certificate_days_left"
            | "ledger_percent",
        ) => Site,
        (
            "Heartbeat",
            "cpu_percent" | "memory_percent" | "disk_percent" | "load_percent" | "pressure_percent"
            | "log_percent",
        ) => Task,
        ("Trigger", "trigger") => Site,
        ("Trigger", "event_seq") => Agent,
        ("Ack", "command_seq") => Orchestrator,
        _ => return None,
    })
}

/// The messages that have a line of their own, in the order in which a connection says them.
const MESSAGES: [&str; 9] = [
    "Hello",
    "Catalogue",
    "CatalogueEntry",
    "Inventory",
    "InventoryItem",
    "Ack",
    "Event",
    "Heartbeat",
    "Trigger",
];

/// One message: what it has room for, and what a task can choose of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MessageLine {
    /// Its name. Lists are counted without their items, which are messages of their own.
    pub message: &'static str,
    /// Bits that it has room for.
    pub carried: u32,
    /// Those of them that say back what the orchestrator chose.
    pub echoed: u32,
    /// Bits of the fields that a task can move.
    pub free: u32,
    /// The same with strict reporting.
    pub free_strict: f64,
}

/// What a task can choose of all that is said of its attempt, in bits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Free {
    /// By which states are told, and by the report of its end.
    pub content: f64,
    /// By when they are told.
    pub moments: f64,
    /// By what the host's numbers do meanwhile.
    pub host: f64,
}

impl Free {
    /// All of it.
    #[must_use]
    pub fn all(self) -> f64 {
        self.content + self.moments + self.host
    }
}

/// An attempt that may run for so long.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AttemptLine {
    /// Seconds from its assignment to its end.
    pub lifetime_s: u64,
    /// With normal reporting.
    pub normal: Free,
    /// With strict reporting.
    pub strict: Free,
    /// What is to be added to the last one where the task can have the agent, or its connection, begin anew; see
    /// [`anew`].
    pub anew_strict: f64,
}

/// Something that happens, and the bits that it has room for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CarriedLine {
    /// What.
    pub what: &'static str,
    /// Bits.
    pub carried: u64,
}

/// An identity call's request, which is bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IdentityLine {
    /// Which request.
    pub request: &'static str,
    /// Bytes of all its fields, at most.
    pub bytes: usize,
    /// Bits, the lengths included.
    pub carried: u32,
}

/// The whole budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Published {
    /// Each message.
    pub messages: Vec<MessageLine>,
    /// What is said when.
    pub carried: Vec<CarriedLine>,
    /// What a task can choose of what is said of its attempt.
    pub attempts: Vec<AttemptLine>,
    /// The identity calls.
    pub identity: Vec<IdentityLine>,
}

/// The budget as it is published.
#[must_use]
pub fn published() -> Published {
    let lifetimes = [60, 3600, 24 * 3600];
    Published {
        messages: MESSAGES.map(message_line).to_vec(),
        carried: carried(),
        attempts: lifetimes.map(attempt_line).to_vec(),
        identity: identity(),
    }
}

fn message_line(message: &'static str) -> MessageLine {
    let fields = || budget().iter().filter(|line| line.message == message);
    let sum = |whose: Chosen| {
        let those = fields().filter(|line| chosen(message, line.field) == Some(whose));
        those.map(|line| line.max_bits).sum::<u32>()
    };
    let free = fields().filter(|line| chosen(message, line.field) == Some(Chosen::Task));
    let free_strict = free
        .filter_map(|line| strict_values(message, line.field))
        .map(bits)
        .fold(0.0, std::ops::Add::add);
    MessageLine {
        message,
        carried: bits_of(message).saturating_sub(items(message)),
        echoed: sum(Chosen::Orchestrator),
        free: sum(Chosen::Task),
        free_strict,
    }
}

fn bits_of(message: &str) -> u32 {
    budget_of(message).unwrap_or(0)
}

/// The bits of all items that a message can have.
fn items(message: &str) -> u32 {
    let (of, most) = match message {
        "Catalogue" => ("CatalogueEntry", CATALOGUE_ENTRIES),
        "Inventory" => ("InventoryItem", INVENTORY_PAGE),
        _ => return 0,
    };
    bits_of(of).saturating_mul(u32::try_from(most).unwrap_or(u32::MAX))
}

/// How many values are left of a field with strict reporting.
fn strict_values(message: &str, field: &str) -> Option<u64> {
    match (message, field) {
        ("Event", "state") => Some(states()),
        // None, or one of each.
        ("Event", "report") => Some(1 + reports_strict()),
        ("Heartbeat", "load_percent") => Some(number(strict::LOADS.len())),
        ("Heartbeat", _) => Some(number(strict::SHARES.len())),
        _ => None,
    }
}

fn states() -> u64 {
    4
}

fn reports_strict() -> u64 {
    number(Outcome::all().len()) * 2 * number(strict::durations().count())
}

/// What an attempt has room for, what an hour does, what a connection does.
fn carried() -> Vec<CarriedLine> {
    let bits = |message: &str| u64::from(bits_of(message));
    let one = |message: &str| bits(message).saturating_sub(u64::from(items(message)));
    let beats = 3600 / HEARTBEAT_INTERVAL.as_secs();
    let line = |what, carried| CarriedLine { what, carried };
    vec![
        line(
            "an attempt that is refused: its command's acknowledgement, one event",
            bits("Ack") + bits("Event"),
        ),
        line(
            "an attempt that runs: its command's acknowledgement, an event each for starting, running and over",
            bits("Ack") + 3 * bits("Event"),
        ),
        line(
            "each time that a reconnect says it again: one item of the inventory",
            bits("InventoryItem"),
        ),
        line("an idle hour: 360 heartbeats", beats * bits("Heartbeat")),
        line(
            "a connection that holds nothing, without its catalogue: hello, an empty inventory",
            bits("Hello") + one("Inventory"),
        ),
        line(
            "the catalogue, when it is announced: of a site with 20 entries",
            one("Catalogue") + 20 * bits("CatalogueEntry"),
        ),
        line(
            "the catalogue, when it is announced: as large as one can be",
            bits("Catalogue"),
        ),
    ]
}

fn identity() -> Vec<IdentityLine> {
    let requests = ["EnrolRequest", "RenewRequest", "RecoverRequest"];
    let line = |request| {
        let fields = budget().iter().filter(|line| line.message == request);
        IdentityLine {
            request,
            bytes: fields.map(|line| field_bytes(line.field)).sum(),
            carried: bits_of(request),
        }
    };
    requests.map(line).to_vec()
}

fn field_bytes(field: &str) -> usize {
    match field {
        "token" => TOKEN_BYTES,
        "csr" => CSR_BYTES,
        "certificate" => CERTIFICATE_BYTES,
        "challenge" => CHALLENGE_BYTES,
        "proof" => SIGNATURE_BYTES,
        _ => size_of::<u64>(),
    }
}

fn attempt_line(lifetime_s: u64) -> AttemptLine {
    let lifetime = Duration::from_secs(lifetime_s);
    AttemptLine {
        lifetime_s,
        normal: free(Reporting::Normal, lifetime),
        strict: free(Reporting::Strict, lifetime),
        anew_strict: anew(lifetime),
    }
}

/// What a task can choose besides, in bits, if it can end connections or the agent's process again and again: with strict
/// reporting a connection begins at each moment of the grid, or none does. What is said on it by then is counted in
/// [`free`], since the moments are the same; the last ones are those in which its end is told after all.
#[must_use]
pub fn anew(lifetime: Duration) -> f64 {
    let lifetime = lifetime.as_millis() / STRICT_GRID.as_millis();
    as_float(
        u64::try_from(lifetime)
            .unwrap_or(u64::MAX)
            .saturating_add(4),
    )
}

/// What a task can choose of all that is said of an attempt whose end comes at most so long after its assignment: an
/// upper bound, in bits.
#[must_use]
pub fn free(reporting: Reporting, lifetime: Duration) -> Free {
    // Whether it was told to be starting, and to be running, before it was told to be over.
    let told = 2.0;
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    match reporting {
        Reporting::Normal => {
            let beats = ms(lifetime) / ms(HEARTBEAT_INTERVAL) + 1;
            Free {
                content: told + f64::from(bits_of("Report")),
                // That it runs, and that it is over, each in some millisecond.
                moments: 2.0 * bits(ms(lifetime) + 1),
                host: as_float(beats) * as_float(host_bits_normal()),
            }
        }
        Reporting::Strict => {
            // With a heartbeat, on whichever connection: an inventory has the same moments.
            let moments = ms(lifetime) / ms(STRICT_GRID) + 2;
            let looks = ms(lifetime) / ms(STRICT_HEALTH) + 2;
            Free {
                content: told + bits(reports_strict()),
                moments: 2.0 * bits(moments),
                host: as_float(looks) * host_bits_strict(),
            }
        }
    }
}

fn host_fields() -> impl Iterator<Item = (&'static str, u32)> {
    let fields = budget().iter().filter(|line| line.message == "Heartbeat");
    fields
        .filter(|line| chosen(line.message, line.field) == Some(Chosen::Task))
        .map(|line| (line.field, line.max_bits))
}

fn host_bits_normal() -> u64 {
    host_fields().map(|(_, bits)| u64::from(bits)).sum()
}

fn host_bits_strict() -> f64 {
    let values = host_fields().filter_map(|(field, _)| strict_values("Heartbeat", field));
    values.map(bits).sum()
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// What one of so many values says.
#[must_use]
pub fn bits(values: u64) -> f64 {
    as_float(values.max(1)).log2()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a count, or a number of bits of which three digits are shown"
)]
fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_every_field_that_an_agent_sends_it_is_known_whose_choice_it_is() {
        // Parts of others, a choice between messages, and the frame.
        let parts = [
            "Id",
            "RecoveryEpoch",
            "Report",
            "InventoryEnd",
            "UpMessage",
            "FromAgent",
        ];
        for line in budget() {
            let is_part = parts.contains(&line.message) || line.message.ends_with("Request");
            let whose = chosen(line.message, line.field);
            assert_eq!(whose.is_none(), is_part, "{}.{}", line.message, line.field);
            assert_eq!(is_part, !MESSAGES.contains(&line.message), "{line:?}");
        }
    }

    #[test]
    fn what_a_task_can_move_has_a_number_of_values_with_strict_reporting_too() {
        for line in budget() {
            let free = chosen(line.message, line.field) == Some(Chosen::Task);
            let values = free
                .then(|| strict_values(line.message, line.field))
                .flatten();
            assert_eq!(values.is_some(), free, "{line:?}");
            assert!(
                bits(values.unwrap_or(1)) <= f64::from(line.max_bits),
                "{line:?}"
            );
        }
    }

    #[test]
    fn free_is_never_more_than_carried_and_strict_never_more_than_normal() {
        for line in published().messages {
            assert!(line.echoed + line.free <= line.carried, "{line:?}");
            assert!(line.free_strict <= f64::from(line.free), "{line:?}");
        }
        for line in published().attempts {
            let (normal, strict) = (line.normal, line.strict);
            assert!(strict.content < normal.content && strict.moments < normal.moments);
            assert!(strict.host < normal.host, "{line:?}");
        }
    }

    #[test]
    fn the_numbers_that_people_quote() {
        let strict = free(Reporting::Strict, Duration::from_secs(3600));
        assert!(strict.content < 13.0 && strict.moments < 20.0, "{strict:?}");
        assert!(strict.all() < 200.0, "{strict:?}");
        let normal = free(Reporting::Normal, Duration::from_secs(3600));
        assert!(
            normal.content >= 70.0 && normal.host >= 16_000.0,
            "{normal:?}"
        );
    }
}
