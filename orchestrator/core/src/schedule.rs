//! The instants of a schedule: cron expressions on the wall clock of a time zone, and fixed intervals. Pure: the zones'
//! rules are compiled in, nothing reads a clock or a disk. Used by `plan` and by whoever checks a workflow.
//!
//! **When clocks change.** An expression that names hours (its hour field is not every hour) means times on the wall
//! clock, and each such time makes exactly one instant: one that the clock shows twice counts the first time, one that
//! the clock skips counts at the moment after the gap; two that fall on the same moment are one instant. An expression
//! of every hour (`*/15 * * * *`, `0 * * * *`) follows elapsed time: whenever the clock shows a matching minute, twice
//! if it shows it twice, and never a minute it does not show. Intervals know no wall clock at all.

use std::fmt;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp, Unit};

use crate::spec::{ScheduleSpec, When};

mod fields;

/// Shortest and longest interval, in milliseconds: a second and a leap year.
pub const EVERY_MS: (u64, u64) = (1_000, 366 * 24 * 3_600_000);
/// Most runs that `all` makes after an outage.
pub const MISSED_LIMIT: u16 = 100;
/// Bytes of a cron expression.
const EXPRESSION: usize = 256;
/// Nicknames of expressions.
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Why a schedule is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not an expression of five fields.
    #[error("`{expression}` is not a cron expression: {why}")]
    Expression {
        /// As given, cut, control characters replaced.
        expression: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// No such zone.
    #[error(
        "there is no time zone `{0}`: give a name of the IANA database, such as `Europe/Berlin` or `UTC`"
    )]
    Timezone(String),
    /// Too short or too long.
    #[error("an interval of {0} ms: it is at least one second and at most 366 days")]
    Every(u64),
    /// Nothing lies between.
    #[error("it ends before it starts")]
    Backwards,
    /// Out of bounds.
    #[error("missed_limit is {0}: it is 1 to {MISSED_LIMIT}")]
    MissedLimit(u16),
    /// There is no such day, or none between start and end.
    #[error("it never comes to an instant{0}: no such day exists, or none between start and end")]
    Never(String),
}

/// Whether a schedule can be kept.
///
/// # Errors
/// [`ScheduleError`]
pub fn check(spec: &ScheduleSpec) -> Result<(), ScheduleError> {
    let schedule = Schedule::new(spec)?;
    let from = spec.start.unwrap_or(0).saturating_sub(1);
    match schedule.next(from) {
        Some(_) => Ok(()),
        None => Err(ScheduleError::Never(schedule.shown())),
    }
}

/// The first `n` instants after `after`, ascending; fewer when the schedule ends. Microseconds since 1970.
#[must_use]
pub fn upcoming(spec: &ScheduleSpec, after: u64, n: usize) -> Vec<u64> {
    let Ok(schedule) = Schedule::new(spec) else {
        return Vec::new();
    };
    schedule.following(after).take(n).collect()
}

/// A schedule that can be asked for its instants.
#[derive(Clone)]
pub struct Schedule {
    rule: Rule,
    start: u64,
    end: u64,
}

#[derive(Clone)]
enum Rule {
    Cron(Box<Wall>),
    Every { anchor: u64, us: u64 },
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule").finish_non_exhaustive()
    }
}

impl Schedule {
    /// Reads what was applied.
    ///
    /// # Errors
    /// [`ScheduleError`]
    pub fn new(spec: &ScheduleSpec) -> Result<Self, ScheduleError> {
        let (start, end) = (spec.start.unwrap_or(0), spec.end.unwrap_or(u64::MAX));
        if start > end {
            return Err(ScheduleError::Backwards);
        }
        if !(1..=MISSED_LIMIT).contains(&spec.missed_limit) {
            return Err(ScheduleError::MissedLimit(spec.missed_limit));
        }
        let rule = match &spec.when {
            When::Every { ms } if (EVERY_MS.0..=EVERY_MS.1).contains(ms) => Rule::Every {
                anchor: start,
                us: ms * 1000,
            },
            When::Every { ms } => return Err(ScheduleError::Every(*ms)),
            When::Cron { expression } => Rule::Cron(Box::new(Wall {
                cron: parse(expression)?,
                zone: zone(&spec.timezone)?,
            })),
        };
        Ok(Self { rule, start, end })
    }

    /// The first instant later than `after`.
    #[must_use]
    pub fn next(&self, after: u64) -> Option<u64> {
        let after = after.max(self.start.saturating_sub(1));
        let next = match &self.rule {
            Rule::Cron(wall) => wall.next(after)?,
            Rule::Every { anchor, .. } if after < *anchor => *anchor,
            Rule::Every { anchor, us } => {
                let passed = (after - anchor) / us;
                anchor.checked_add((passed + 1).checked_mul(*us)?)?
            }
        };
        (next <= self.end).then_some(next)
    }

    /// The last instant not later than `at`.
    #[must_use]
    pub fn prev(&self, at: u64) -> Option<u64> {
        let at = at.min(self.end);
        let prev = match &self.rule {
            Rule::Cron(wall) => wall.prev(at)?,
            Rule::Every { anchor, us } => anchor + at.checked_sub(*anchor)? / us * us,
        };
        (prev >= self.start.max(1)).then_some(prev)
    }

    /// Every instant later than `after`, one at a time.
    pub fn following(&self, after: u64) -> impl Iterator<Item = u64> {
        std::iter::successors(self.next(after), |last| self.next(*last))
    }

    fn shown(&self) -> String {
        match &self.rule {
            Rule::Cron(wall) => format!(" (`{}`)", wall.cron.as_str()),
            Rule::Every { .. } => String::new(),
        }
    }
}

/// A cron expression on the wall clock of a zone.
#[derive(Clone)]
struct Wall {
    cron: Cron,
    zone: TimeZone,
}

impl Wall {
    fn next(&self, after: u64) -> Option<u64> {
        let after = timestamp(after)?;
        let found = if self.of_every_hour() {
            self.next_shown(after)
        } else {
            self.next_named(after)
        };
        micros(found?)
    }

    fn prev(&self, at: u64) -> Option<u64> {
        let at = timestamp(at)?;
        let found = if self.of_every_hour() {
            self.prev_shown(at)
        } else {
            self.prev_named(at)
        };
        micros(found?)
    }

    fn of_every_hour(&self) -> bool {
        (0..24).all(|hour| self.cron.pattern.hour_match(hour).unwrap_or(false))
    }

    /// The moment that a wall-clock time names: the first of two, the one after a gap.
    fn moment(&self, civil: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(civil);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(civil).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(civil).ok(),
            AmbiguousOffset::Gap { before, .. } => {
                // Read with the offset of before the gap it lies behind its end; the transition is the last before it.
                let inside = before.to_timestamp(civil).ok()?;
                let after = inside.checked_add(SignedDuration::from_nanos(1)).ok()?;
                self.zone
                    .preceding(after)
                    .next()
                    .map(|change| change.timestamp())
            }
        }
    }

    // Moments of named times are in the order of the times: so a search steps through the times.

    fn next_named(&self, after: Timestamp) -> Option<Timestamp> {
        let mut civil = seconds(self.zone.to_datetime(after))?;
        loop {
            civil = self.cron.find_next_occurrence(&civil, false).ok()?;
            let moment = self.moment(civil)?;
            if moment > after {
                return Some(moment);
            }
        }
    }

    fn prev_named(&self, at: Timestamp) -> Option<Timestamp> {
        let mut civil = seconds(self.zone.to_datetime(at))?;
        let mut inclusive = true;
        if let AmbiguousOffset::Fold { before, after } =
            self.zone.to_ambiguous_timestamp(civil).offset()
            && self.zone.to_offset(at) == after
        {
            // Shown for the second time: everything up to the fold's end was shown before.
            let fold = i64::from(before.seconds()) - i64::from(after.seconds());
            civil = civil.checked_add(SignedDuration::from_secs(fold)).ok()?;
        }
        loop {
            civil = self.cron.find_previous_occurrence(&civil, inclusive).ok()?;
            inclusive = false;
            let moment = self.moment(civil)?;
            if moment <= at {
                return Some(moment);
            }
        }
    }

    // What the clock shows is searched from one change of the zone to the next: in between the two clocks run alike.

    fn next_shown(&self, after: Timestamp) -> Option<Timestamp> {
        let (mut from, mut inclusive) = (after, false);
        loop {
            let offset = self.zone.to_offset(from);
            let change = self.zone.following(from).next();
            let change = change.map(|change| change.timestamp());
            let civil = seconds(offset.to_datetime(from))?;
            let civil = self.cron.find_next_occurrence(&civil, inclusive).ok()?;
            let moment = offset.to_timestamp(civil).ok()?;
            match change {
                Some(change) if moment >= change => (from, inclusive) = (change, true),
                Some(_) | None => return Some(moment),
            }
        }
    }

    fn prev_shown(&self, at: Timestamp) -> Option<Timestamp> {
        let tick = SignedDuration::from_nanos(1);
        let mut from = at;
        loop {
            let offset = self.zone.to_offset(from);
            let change = self.zone.preceding(from.checked_add(tick).ok()?).next();
            let change = change.map(|change| change.timestamp());
            let civil = seconds(offset.to_datetime(from))?;
            let civil = self.cron.find_previous_occurrence(&civil, true).ok()?;
            let moment = offset.to_timestamp(civil).ok()?;
            match change {
                Some(change) if moment < change => from = change.checked_sub(tick).ok()?,
                Some(_) | None => return Some(moment),
            }
        }
    }
}

fn parse(expression: &str) -> Result<Cron, ScheduleError> {
    let given = expression.trim();
    let bad = |why: String| ScheduleError::Expression {
        expression: shown(given),
        why,
    };
    if given.len() > EXPRESSION {
        return Err(bad(format!("it has more than {EXPRESSION} bytes")));
    }
    let nickname = NICKNAMES
        .iter()
        .find(|(name, _)| given.eq_ignore_ascii_case(name));
    let full = nickname.map_or(given, |(_, full)| full);
    let fields = full.split_whitespace().count();
    if full.starts_with('@') {
        let names: Vec<&str> = NICKNAMES.iter().map(|(name, _)| *name).collect();
        return Err(bad(format!("the nicknames are {}", names.join(", "))));
    }
    if fields != 5 {
        let hint = if fields == 6 {
            "; seconds are not given: for less than a minute use `every`"
        } else {
            ""
        };
        return Err(bad(format!(
            "it has {fields} fields, not the five minute, hour, day of month, month, day of week{hint}"
        )));
    }
    cron(full).ok_or_else(|| bad(fields::at_fault(full)))
}

/// As the parser has it; what it says of a mistake is for nobody who writes an expression.
fn cron(expression: &str) -> Option<Cron> {
    CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
        .parse(expression)
        .ok()
}

fn zone(name: &str) -> Result<TimeZone, ScheduleError> {
    let known = TimeZoneDatabase::bundled().get(name);
    known.map_err(|_| ScheduleError::Timezone(shown(name)))
}

/// Text that somebody chose, cut and without control characters.
fn shown(text: &str) -> String {
    let shown = text.chars().take(120);
    shown
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A wall-clock time without what is less than a second.
fn seconds(civil: DateTime) -> Option<DateTime> {
    let round = jiff::civil::DateTimeRound::new()
        .smallest(Unit::Second)
        .mode(jiff::RoundMode::Floor);
    civil.round(round).ok()
}

fn timestamp(micros: u64) -> Option<Timestamp> {
    Timestamp::from_microsecond(i64::try_from(micros).ok()?).ok()
}

fn micros(timestamp: Timestamp) -> Option<u64> {
    u64::try_from(timestamp.as_microsecond()).ok()
}

#[cfg(test)]
mod tests;
