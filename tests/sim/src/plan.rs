//! What one simulation is like and which faults it has, drawn from its seed; or given, as what is left of a seed that was
//! made smaller.

use std::collections::BTreeSet;
use std::time::Duration;

use outpost_orchestrator_core::Settings;

use serde::{Deserialize, Serialize};

use crate::dice::Dice;
use crate::faults::{Fault, KINDS};
use crate::moments::{MESSAGES, MOMENTS, Message, When};
use crate::queue::{At, MINUTE, MS, SECOND};

const HOUR: At = 60 * MINUTE;
/// Among so many seeds the long ones have had every fault that lasts for a day.
const LONG_AMONG: u64 = 2000;
/// Most faults that wait for a message.
const TRAPS: u64 = 12;

/// What one simulation is like.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// From then on nothing goes wrong any more.
    pub(crate) quiet_from: At,
    pub(crate) longest_outage: At,
    /// Nothing goes wrong at all.
    pub(crate) calm: bool,
    /// It lasts for more than a day, with few sites.
    pub(crate) long: bool,
    /// Some agents do what no honest one does.
    pub(crate) cheats: bool,
    pub(crate) sites: u64,
    pub(crate) tenants: u64,
    pub(crate) certificate_life: At,
    /// Leases outlast the patience with silent agents, and hosts are slow: what a lease still allows decides.
    pub(crate) hurried: bool,
    /// Of the orchestrator, on one database.
    pub(crate) replicas: u64,
    /// Somebody watches and decides, also what is not so urgent.
    pub(crate) person: bool,
    /// How many attempts wait at most at one keeper.
    pub(crate) ahead: u16,
    /// Most tasks are over within moments, and many are wanted at once: what this is drawn from.
    pub(crate) brief: Option<u64>,
    /// Some sites tell little of what they run: which, bit by bit.
    pub(crate) strict: u64,
    /// Speak before the commit, to prove that it is noticed.
    pub(crate) hasty_agent: bool,
    pub(crate) hasty_center: bool,
    /// Nothing is left to chance but what nobody can see: see `scene`.
    pub(crate) directed: bool,
    /// The orchestrator's part is played by the scene.
    pub(crate) played: bool,
}

impl Plan {
    /// The first that a seed's dice say.
    fn is_long(dice: &mut Dice) -> bool {
        dice.percent(3)
    }

    /// What came later is drawn from dice of its own, so that seeds stay what they were.
    pub(crate) fn draw(dice: &mut Dice, more: &mut Dice) -> Self {
        let long = Self::is_long(dice);
        let crowd = !long && dice.percent(15);
        let sites = match (long, crowd) {
            (true, _) => dice.between(1, 2),
            (_, true) => dice.between(7, 20),
            (false, false) => dice.between(1, 6),
        };
        let quiet_from = dice.between(3 * MINUTE, 15 * MINUTE);
        let longest_outage = dice.span(2 * SECOND, 6 * MINUTE);
        let calm = !long && dice.percent(12);
        let several = !long && !calm && more.percent(25);
        let mut plan = Self {
            quiet_from: quiet_from + if long { 24 * HOUR + 10 * MINUTE } else { 0 },
            longest_outage,
            calm,
            long,
            cheats: sites > 1 && dice.percent(10),
            sites,
            tenants: dice.between(1, 5).min(sites),
            certificate_life: dice.span(40 * SECOND, 30 * MINUTE) * if long { 40 } else { 1 },
            hurried: dice.percent(25),
            person: !calm && more.percent(60),
            replicas: if several { more.between(2, 3) } else { 1 },
            ahead: 1,
            brief: None,
            strict: 0,
            hasty_agent: false,
            hasty_center: false,
            directed: false,
            played: false,
        };
        if more.percent(20) {
            plan.ahead = 2;
        }
        plan.brief = (!long && more.percent(40)).then(|| more.next());
        if more.percent(15) {
            plan.strict = more.next();
        }
        plan
    }

    /// Whether this site tells little of what it runs.
    pub(crate) fn is_strict(&self, site: usize) -> bool {
        self.strict >> (site % 64) & 1 == 1
    }

    /// What the operator set.
    pub(crate) fn settings(&self) -> Settings {
        if !self.hurried {
            return Settings::default();
        }
        Settings {
            lease: Duration::from_secs(180),
            lost_after: Duration::from_secs(45),
            restart_grace: Duration::from_secs(1),
            ..Settings::default()
        }
    }

    /// How long a busy host takes for one step of a start, now and then longer than a lease.
    pub(crate) fn start_takes(&self, dice: &mut Dice) -> At {
        if self.directed {
            return MS;
        }
        let slow = dice.percent(if self.hurried { 25 } else { 3 });
        match (slow, self.hurried) {
            (false, _) => dice.span(MS, 20 * MS),
            (true, false) => dice.span(MS, 60 * SECOND),
            (true, true) => dice.between(SECOND, 170 * SECOND),
        }
    }

    /// When the next of the faults that come by themselves comes; a long simulation has them at its two ends.
    fn next(&self, dice: &mut Dice, at: At, longest: At) -> At {
        let next = at + dice.span(200 * MS, longest);
        let (begin, end) = (10 * MINUTE, self.quiet_from.saturating_sub(10 * MINUTE));
        if self.long && next > begin && next < end {
            end
        } else {
            next
        }
    }
}

/// A fault and when it comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Microseconds since the simulation began.
    pub at_us: u64,
    /// What.
    pub fault: Fault,
    /// Not at once, but at the next such step of the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
    /// For everything else about it: which site, how long.
    pub draw: u64,
}

/// One simulation: a seed, or what is left of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// What it showed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Who works with the orchestrator, what they want, how long everything takes.
    pub seed: u64,
    /// What goes wrong; `None`: what the seed draws.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<Vec<Planned>>,
    /// Of what people want, by number, what they still want; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wants: Option<BTreeSet<u32>>,
}

impl Script {
    /// A whole seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self {
            why: String::new(),
            seed,
            faults: None,
            wants: None,
        }
    }

    /// As it is written down: one fault a line.
    ///
    /// # Errors
    /// Never for a script that was drawn or read.
    pub fn text(&self) -> Result<String, serde_json::Error> {
        let why = serde_json::to_string(&self.why)?;
        let mut text = format!("{{\n  \"why\": {why},\n  \"seed\": {}", self.seed);
        if let Some(faults) = &self.faults {
            let lines = faults.iter().map(serde_json::to_string);
            let lines = lines.collect::<Result<Vec<_>, _>>()?.join(",\n    ");
            text += &format!(",\n  \"faults\": [\n    {lines}\n  ]");
        }
        if let Some(wants) = &self.wants {
            text += &format!(",\n  \"wants\": {}", serde_json::to_string(wants)?);
        }
        Ok(text + "\n}\n")
    }
}

/// Every fault at every step of the protocol at which it can come.
pub(crate) fn cells() -> Vec<(Fault, When)> {
    let mut cells = Vec::new();
    for kind in &KINDS {
        for message in MESSAGES {
            for moment in MOMENTS {
                let when = When { message, moment };
                if when.allows(kind.fault) {
                    cells.push((kind.fault, when));
                }
            }
        }
    }
    cells
}

/// Draws which faults come when. Steps of the protocol are gone through seed by seed, so that so many seeds have had all.
pub(crate) fn draw_faults(seed: u64, dice: &mut Dice, plan: &Plan) -> Vec<Planned> {
    if plan.calm {
        return Vec::new();
    }
    let mut planned = by_themselves(dice, plan);
    planned.extend(at_messages(seed, dice, plan));
    planned.sort_by_key(|planned| planned.at_us);
    planned
}

/// Some simulations have one kind of fault only, some have all.
fn by_themselves(dice: &mut Dice, plan: &Plan) -> Vec<Planned> {
    let drawn: Vec<_> = KINDS.iter().filter(|_| dice.percent(50)).collect();
    let cheat = plan.cheats.then_some(Fault::Cheat.kind());
    let others = drawn.into_iter().filter(|kind| kind.fault != Fault::Cheat);
    let kinds: Vec<_> = others.chain(cheat).collect();
    let total: u64 = kinds.iter().map(|kind| kind.weight).sum();
    let longest = dice.span(5 * SECOND, 120 * SECOND);
    let mut planned = Vec::new();
    let mut at = SECOND;
    if total == 0 {
        return planned;
    }
    loop {
        at = plan.next(dice, at, longest);
        if at >= plan.quiet_from {
            break;
        }
        let mut drawn = dice.between(1, total);
        let kind = kinds.iter().find(|kind| {
            let here = drawn <= kind.weight;
            drawn = drawn.saturating_sub(kind.weight);
            here
        });
        planned.extend(kind.map(|kind| Planned {
            at_us: at,
            fault: kind.fault,
            when: None,
            draw: dice.next(),
        }));
    }
    planned
}

fn at_messages(seed: u64, dice: &mut Dice, plan: &Plan) -> Vec<Planned> {
    let (day, others): (Vec<_>, Vec<_>) = cells()
        .into_iter()
        .partition(|(fault, _)| *fault == Fault::Cut24h);
    let mut planned = Vec::new();
    let mut put = |dice: &mut Dice, (fault, when): (Fault, When), until: At| {
        // Few commands are to end something: what comes at one waits for it from early on.
        let early = when.message == Message::Cancel;
        let until = if early { until / 8 } else { until };
        planned.push(Planned {
            at_us: dice.between(SECOND, until),
            fault,
            when: Some(when),
            draw: dice.next(),
        });
    };
    let many = if dice.percent(75) {
        dice.between(1, TRAPS)
    } else {
        0
    };
    for nth in 0..many {
        let nth = seed.wrapping_mul(TRAPS).wrapping_add(nth).wrapping_mul(131);
        let cell = usize::try_from(nth).unwrap_or(0) % others.len().max(1);
        let until = if plan.long {
            10 * MINUTE
        } else {
            plan.quiet_from * 9 / 10
        };
        put(dice, others[cell], until);
    }
    if plan.long {
        // These are few: the ones among so many seeds have them in turn.
        let first = seed - seed % LONG_AMONG;
        let before = (first..seed).filter(|seed| Plan::is_long(&mut Dice::new(*seed)));
        let cell = before.count() % day.len().max(1);
        put(dice, day[cell], 5 * MINUTE);
    }
    planned
}
