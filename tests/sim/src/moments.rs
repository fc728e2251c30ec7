//! Faults at a step of the protocol: armed at some time, they wait for their message and come just before, with or just
//! after it, at the end that sends it or at the end that hears it.

use outpost_proto::message::{AttemptState, Directive, DownMessage, UpMessage};
use serde::{Deserialize, Serialize};

use crate::coverage::Cell;
use crate::disk::CommitFault;
use crate::faults::Fault;
use crate::network::Direction;
use crate::plan::Planned;
use crate::queue::{At, MINUTE, SECOND};
use crate::trace::note;
use crate::world::{Happening, World};

/// A message as a step of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names of the wire's messages")]
pub enum Message {
    Hello,
    Catalogue,
    Inventory,
    Running,
    Finished,
    Heartbeat,
    Taken,
    Welcome,
    Assign,
    Keep,
    Cancel,
    Forget,
    Reconciled,
    Lease,
    Durable,
}

/// All of them, in the order of a session.
pub(crate) const MESSAGES: [Message; 15] = [
    Message::Hello,
    Message::Welcome,
    Message::Catalogue,
    Message::Inventory,
    Message::Keep,
    Message::Cancel,
    Message::Forget,
    Message::Reconciled,
    Message::Heartbeat,
    Message::Lease,
    Message::Assign,
    Message::Taken,
    Message::Running,
    Message::Finished,
    Message::Durable,
];

impl Message {
    pub(crate) fn direction(self) -> Direction {
        match self {
            Message::Hello
            | Message::Catalogue
            | Message::Inventory
            | Message::Running
            | Message::Finished
            | Message::Heartbeat
            | Message::Taken => Direction::Up,
            Message::Welcome
            | Message::Assign
            | Message::Keep
            | Message::Cancel
            | Message::Forget
            | Message::Reconciled
            | Message::Lease
            | Message::Durable => Direction::Down,
        }
    }

    pub(crate) fn is_up(self, message: &UpMessage) -> bool {
        let is = match message {
            UpMessage::Hello(_) => Message::Hello,
            UpMessage::Catalogue(_) => Message::Catalogue,
            UpMessage::Inventory(_) => Message::Inventory,
            UpMessage::Event(event) => match event.state {
                AttemptState::Finished(_) => Message::Finished,
                AttemptState::Assigned | AttemptState::Starting | AttemptState::Running => {
                    Message::Running
                }
            },
            UpMessage::Heartbeat(_) => Message::Heartbeat,
            UpMessage::Trigger { .. } => return false,
            UpMessage::Ack(_) => Message::Taken,
        };
        is == self
    }

    pub(crate) fn is_down(self, message: &DownMessage) -> bool {
        match message {
            DownMessage::Welcome(_) => self == Message::Welcome,
            DownMessage::Assign(_) => self == Message::Assign,
            DownMessage::Directive { directive, .. } => match directive {
                Directive::Keep(_) => self == Message::Keep,
                Directive::Cancel(_) => self == Message::Cancel,
                Directive::Forget(_) => self == Message::Forget,
                Directive::Reconciled => self == Message::Reconciled,
                Directive::Drain
                | Directive::Cordon
                | Directive::Uncordon
                | Directive::Receipt(_)
                | Directive::RenewNow => false,
            },
            DownMessage::Granted(granted) => match self {
                Message::Lease => granted.lease.is_some(),
                Message::Durable => granted.highest_event_seq.0 > 0,
                Message::Hello
                | Message::Catalogue
                | Message::Inventory
                | Message::Running
                | Message::Finished
                | Message::Heartbeat
                | Message::Taken
                | Message::Welcome
                | Message::Assign
                | Message::Keep
                | Message::Cancel
                | Message::Forget
                | Message::Reconciled => false,
            },
        }
    }
}

/// When, on the way of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// Its sender decided to say it; the turn is not committed.
    Decided,
    /// Its sender's turn is durable; it is never said.
    Committed,
    /// It is said, and lost with what happens.
    Sent,
    /// It has arrived; nobody has looked at it.
    Arrived,
    /// The turn that hears it is not committed.
    Heard,
    /// The turn that hears it is durable; nothing is said.
    Kept,
}

/// All of them, in their order.
pub(crate) const MOMENTS: [Moment; 6] = [
    Moment::Decided,
    Moment::Committed,
    Moment::Sent,
    Moment::Arrived,
    Moment::Heard,
    Moment::Kept,
];

/// A step of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct When {
    /// At this message.
    pub message: Message,
    /// In this moment of its way.
    pub moment: Moment,
}

impl When {
    /// Whether this fault can come then.
    pub(crate) fn allows(self, fault: Fault) -> bool {
        let up = self.message.direction() == Direction::Up;
        let moment = self.moment;
        // Where the turn is, at the end of the sender and of who hears it.
        let of_turn = |by_agent: bool| match moment {
            Moment::Decided | Moment::Committed => up == by_agent,
            Moment::Heard | Moment::Kept => up != by_agent,
            Moment::Sent | Moment::Arrived => false,
        };
        match fault {
            Fault::Cut1s | Fault::Cut5s | Fault::Cut60s | Fault::Cut5min => {
                matches!(moment, Moment::Sent | Moment::Arrived)
            }
            Fault::Cut24h | Fault::BlackHole | Fault::StaleFrames => moment == Moment::Sent,
            Fault::BlackHoleUp => moment == if up { Moment::Sent } else { Moment::Arrived },
            Fault::BlackHoleDown => moment == if up { Moment::Arrived } else { Moment::Sent },
            Fault::Replay | Fault::AgentStall | Fault::Suspend | Fault::CenterStall => {
                moment == Moment::Arrived
            }
            // The turn that hears it is decided, and goes on to its commit when the process does.
            Fault::ReplicaStop => moment == Moment::Arrived && up,
            Fault::AgentCrash | Fault::PowerCut => {
                of_turn(true) || (moment == Moment::Arrived && !up)
            }
            Fault::Clone => moment == Moment::Arrived,
            Fault::AgentCommitFails => of_turn(true),
            Fault::AgentDiskFull => {
                of_turn(true) && matches!(moment, Moment::Decided | Moment::Heard)
            }
            Fault::CenterCrash => of_turn(false) || (moment == Moment::Arrived && up),
            Fault::CenterCommitFails => of_turn(false),
            Fault::CenterDiskFull => {
                of_turn(false) && matches!(moment, Moment::Decided | Moment::Heard)
            }
            Fault::Cut
            | Fault::CutUnnoticed
            | Fault::Partition
            | Fault::AcksLost
            | Fault::Delay
            | Fault::Refuse
            | Fault::AgentStop
            | Fault::AgentDrain
            | Fault::AgentPause
            | Fault::AgentSpeechCut
            | Fault::AgentClock
            | Fault::Reload
            | Fault::KeeperKill
            | Fault::Snapshot
            | Fault::PutBack
            | Fault::CenterSpeechCut
            | Fault::CenterClock
            | Fault::WallJump
            | Fault::Backup
            | Fault::Restore
            | Fault::Cheat => false,
        }
    }
}

/// The faults that wait for their message, by when they do.
#[derive(Debug, Default)]
pub(crate) struct Traps {
    armed: Vec<Planned>,
}

/// A fault that comes in the commit of a turn with this message.
#[derive(Debug, Clone)]
pub(crate) struct Sprung {
    pub(crate) planned: Planned,
    pub(crate) fault: CommitFault,
}

impl Traps {
    pub(crate) fn arm(&mut self, planned: Planned) {
        self.armed.push(planned);
    }

    pub(crate) fn disarm(&mut self) {
        self.armed.clear();
    }

    /// Those that wait for a turn that is about to say something, for the store to look at.
    pub(crate) fn of_speaker(&self, direction: Direction) -> Vec<Planned> {
        let deciding = |planned: &&Planned| {
            planned.when.is_some_and(|when| {
                when.message.direction() == direction
                    && matches!(when.moment, Moment::Decided | Moment::Committed)
            })
        };
        self.armed.iter().filter(deciding).cloned().collect()
    }

    /// Takes the first that waits for this.
    fn take(&mut self, is: impl Fn(Message) -> bool, moments: &[Moment]) -> Option<Planned> {
        let waits = |planned: &Planned| {
            planned
                .when
                .is_some_and(|when| moments.contains(&when.moment) && is(when.message))
        };
        let found = self.armed.iter().position(waits)?;
        Some(self.armed.remove(found))
    }

    pub(crate) fn remove(&mut self, planned: &Planned) {
        if let Some(found) = self.armed.iter().position(|armed| armed == planned) {
            self.armed.remove(found);
        }
    }
}

/// How a commit goes wrong for a fault of this kind.
pub(crate) fn in_commit(planned: &Planned) -> CommitFault {
    let applied = planned
        .when
        .is_some_and(|when| matches!(when.moment, Moment::Committed | Moment::Kept));
    let failing = [Fault::AgentCommitFails, Fault::CenterCommitFails];
    CommitFault {
        applied,
        fatal: !failing.contains(&planned.fault),
    }
}

impl World {
    fn cover(&mut self, planned: &Planned) {
        if let Some(when) = planned.when {
            self.coverage.hit(Cell::Message(planned.fault, when));
            note!(self, "{:?} at {when:?}", planned.fault);
        }
    }

    /// A frame is about to be put on its way; whether it is lost.
    pub(crate) fn traps_when_sent(&mut self, link: u64, is: impl Fn(Message) -> bool) -> bool {
        let Some(planned) = self.traps.take(is, &[Moment::Sent]) else {
            return false;
        };
        let Some(site) = self.network.links.get(&link).map(|link| link.site) else {
            self.traps.arm(planned);
            return false;
        };
        self.cover(&planned);
        let up = planned
            .when
            .is_none_or(|when| when.message.direction() == Direction::Up);
        self.with_own_dice(planned.draw, |world| {
            if planned.fault == Fault::StaleFrames {
                let lasts = world.dice.span(SECOND, 5 * MINUTE);
                let direction = if up { Direction::Up } else { Direction::Down };
                world.trace.count(Fault::StaleFrames.kind().name);
                world.hold_back(link, direction, lasts);
            } else {
                let of_link = planned.fault.is_of_a_link().then_some(link);
                world.fault(planned.fault, site, of_link);
            }
        });
        // What was held back, or goes into a hole, is still handed to the network.
        planned.fault.is_cut_off()
    }

    /// A frame has arrived.
    pub(crate) fn traps_when_arrived(&mut self, link: u64, is: impl Fn(Message) -> bool) {
        let moments = [Moment::Arrived, Moment::Heard, Moment::Kept];
        let Some(planned) = self.traps.take(is, &moments) else {
            return;
        };
        let Some((site, direction)) = self.network.links.get(&link).and_then(|link| {
            let when = planned.when?;
            Some((link.site, when.message.direction()))
        }) else {
            return;
        };
        let arrived = planned
            .when
            .is_some_and(|when| when.moment == Moment::Arrived);
        if !arrived {
            // The turn that hears it is the next one of who got it.
            let pressing = Some(Sprung {
                fault: in_commit(&planned),
                planned,
            });
            match direction {
                Direction::Up => self.center.disk.trouble.pressing = pressing,
                Direction::Down => self.sites[site].disk.trouble.pressing = pressing,
            }
            return;
        }
        self.cover(&planned);
        self.center.aimed = self.serving(link);
        self.with_own_dice(planned.draw, |world| {
            let of_link = planned.fault.is_of_a_link().then_some(link);
            world.fault(planned.fault, site, of_link);
        });
        self.center.aimed = None;
    }

    /// The replica at the other end of a stream.
    fn serving(&self, link: u64) -> Option<usize> {
        let number = self.network.links.get(&link)?.center_process?;
        self.center.seat(number).map(|seat| seat.replica)
    }

    /// A turn's commit went wrong as planned: what else belongs to it. Gives whether the host lost power.
    pub(crate) fn sprung(&mut self, site: Option<usize>, sprung: &Sprung) -> bool {
        let planned = &sprung.planned;
        self.traps.remove(planned);
        self.cover(planned);
        let name = planned.fault.kind().name;
        self.trace.count(name);
        let until = self.with_outage(planned.draw);
        if planned.fault == Fault::AgentDiskFull
            && let Some(site) = site
        {
            self.sites[site].disk.trouble.full_until = until;
        }
        if planned.fault == Fault::CenterDiskFull {
            self.center.disk.trouble.full_until = until;
        }
        planned.fault == Fault::PowerCut
    }

    fn with_outage(&mut self, draw: u64) -> At {
        let mut until = self.now;
        self.with_own_dice(draw, |world| until += world.outage());
        until
    }

    /// A site is cut off from now on: its streams end, and no other can be made.
    pub(crate) fn isolate(&mut self, site: usize, lasts: At) {
        let left = self.plan.quiet_from.saturating_sub(self.now).max(SECOND);
        let lasts = lasts.min(left);
        self.network.refuse(site, self.now + lasts);
        let of_site = |link: &u64| {
            let link = self.network.links.get(link);
            link.is_some_and(|link| link.site == site)
        };
        let links: Vec<u64> = self
            .network
            .open_links()
            .into_iter()
            .filter(of_site)
            .collect();
        for link in links {
            self.cut(link, 10 * SECOND);
        }
    }

    /// The newest frame of each direction comes again, hours later at most, on its connection of then.
    pub(crate) fn replay(&mut self, link: u64) {
        let Some(known) = self.network.links.get(&link) else {
            return;
        };
        let (up, down) = (known.up.newest.clone(), known.down.newest.clone());
        let (site, process, conn) = (known.site, known.process, known.conn);
        self.cut(link, SECOND);
        for (direction, frames) in [(Direction::Up, up), (Direction::Down, down)] {
            for bytes in frames {
                for _ in 0..2 {
                    let longest = if self.plan.long {
                        20 * 60 * MINUTE
                    } else {
                        4 * MINUTE
                    };
                    let at = self.now + self.dice.span(2 * SECOND, longest);
                    self.queue.put(
                        at,
                        Happening::Replayed {
                            link,
                            of: (site, process, conn),
                            direction,
                            bytes: bytes.clone(),
                        },
                    );
                }
            }
        }
    }
}
