//! The network between sites and orchestrator: streams of ordered frames with latency, and everything that goes wrong
//! with them. Nothing here looks into a frame.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use outpost_agent_core::event::{Down, Event as SiteEvent};
use outpost_agent_core::record::AttemptRecord;
use outpost_orchestrator_core::event::Event as CenterEvent;
use outpost_proto::ids::Conn;
use outpost_proto::message::{AttemptState, DownMessage};
use outpost_proto::wire;

use crate::directed::OnItsWay;
use crate::invariants::{Checked, broken};
use crate::moments::Message;
use crate::queue::{At, MS, SECOND};
use crate::renewal::Letter;
use crate::trace::{fnv, note};
use crate::world::{Happening, World};

/// A stream without a first frame for so long is ended by the orchestrator's port.
const FIRST_FRAME: At = 10 * SECOND;

/// So many of a direction's last frames may come again.
const REPLAYED: usize = 3;

/// One stream and its two ends. Its number is the orchestrator's connection number.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) site: usize,
    /// The agent's process that dialled.
    pub(crate) process: u64,
    /// The agent's number for it.
    pub(crate) conn: Conn,
    /// The key of the certificate that was presented.
    pub(crate) key: String,
    /// When that certificate ends, in microseconds since 1970.
    not_after: u64,
    /// Where it was dialled to, and the orchestrator's process that accepted it.
    replica: usize,
    pub(crate) center_process: Option<u64>,
    latency: (At, At),
    pub(crate) up: Lane,
    pub(crate) down: Lane,
    pub(crate) site_open: bool,
    pub(crate) center_open: bool,
    greeted: bool,
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// When the newest packet arrives: later ones never overtake it.
    last: At,
    /// Nothing more is carried.
    hole: bool,
    /// Nothing at all arrives any more.
    dead: bool,
    /// Nothing arrives before.
    held_until: At,
    /// The last frames that were put on their way.
    pub(crate) newest: VecDeque<Rc<[u8]>>,
}

/// What travels.
#[derive(Debug, Clone)]
pub(crate) enum Packet {
    Opened,
    Frame(Rc<[u8]>),
    Letter(Letter),
    Closed(Down),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Up,
    Down,
}

/// All streams, and how the network is now.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pub(crate) links: BTreeMap<u64, Link>,
    pub(crate) next: u64,
    /// Per site: no connection can be made before.
    pub(crate) refused_until: BTreeMap<usize, At>,
    /// Per site: until then every frame that acknowledges an outcome is lost.
    pub(crate) acks_lost: BTreeMap<usize, At>,
    /// Shortest and longest way of a packet in this simulation.
    pub(crate) latency: (At, At),
}

impl Network {
    pub(crate) fn open_links(&self) -> Vec<u64> {
        let open = self
            .links
            .iter()
            .filter(|(_, link)| link.site_open || link.center_open);
        open.map(|(id, _)| *id).collect()
    }

    /// No connection of this site can be made before.
    pub(crate) fn refuse(&mut self, site: usize, until: At) {
        let refused = self.refused_until.entry(site).or_insert(until);
        *refused = (*refused).max(until);
    }

    /// The stream of this site's process with the agent's number.
    pub(crate) fn of_site(&self, site: usize, process: u64, conn: Conn) -> Option<u64> {
        let same = |link: &Link| (link.site, link.process, link.conn) == (site, process, conn);
        self.links
            .iter()
            .find(|(_, link)| same(link))
            .map(|(id, _)| *id)
    }
}

impl World {
    /// An agent dials.
    pub(crate) fn dial(&mut self, site: usize, process: u64, conn: Conn) {
        let refused = self
            .network
            .refused_until
            .get(&site)
            .is_some_and(|until| *until > self.now);
        let wrong = self.sites[site].wall_ahead_s != 0;
        let ended = self.has_certificate_ended(site);
        let replica = self.some_replica();
        let absent = |world: &Self| world.center.replicas[replica].me.is_none();
        if refused || wrong || ended || (!self.plan.played && absent(self)) {
            self.trace.count("connection refused");
            let at = self.now + self.dice.span(MS, 3 * SECOND);
            // By a clock that is wrong, no certificate holds.
            let why = if wrong {
                Down::Refused
            } else if ended && !refused {
                Down::Expired
            } else {
                Down::Unreachable
            };
            return self.queue.put(
                at,
                Happening::NotConnected {
                    site,
                    process,
                    conn,
                    why,
                },
            );
        }
        let (low, high) = self.network.latency;
        let near = self.dice.between(low, high);
        self.network.next += 1;
        let id = self.network.next;
        let link = Link {
            site,
            process,
            conn,
            key: self.sites[site].identity.key_hash(),
            not_after: self.certificate_ends(site),
            replica,
            center_process: None,
            latency: (near, near * 2),
            up: Lane::default(),
            down: Lane::default(),
            site_open: true,
            center_open: false,
            greeted: false,
        };
        self.network.links.insert(id, link);
        note!(self, "s{site} dials {conn} as link {id}");
        self.carry(id, Direction::Up, Packet::Opened);
    }

    /// Puts a packet on its way.
    pub(crate) fn carry(&mut self, id: u64, direction: Direction, packet: Packet) {
        let Some(link) = self.network.links.get_mut(&id) else {
            return;
        };
        let takes = self.dice.between(link.latency.0, link.latency.1);
        let lane = link.lane(direction);
        if lane.hole || lane.dead {
            return self.trace.count("packet into a black hole");
        }
        let at = (self.now + takes).max(lane.held_until).max(lane.last);
        lane.last = at;
        if let (Packet::Frame(bytes), Some(minutes)) = (&packet, &mut self.minutes) {
            match minutes.on_its_way(link.site, direction, bytes) {
                OnItsWay::Arrives => {}
                OnItsWay::Lost => return,
                OnItsWay::Twice => {
                    let (link, packet) = (id, packet.clone());
                    let again = Happening::Packet {
                        link,
                        direction,
                        packet,
                    };
                    self.queue.put(at, again);
                }
            }
        }
        let Some(link) = self.network.links.get_mut(&id) else {
            return;
        };
        let lane = link.lane(direction);
        if let Packet::Frame(bytes) = &packet {
            lane.newest.push_back(Rc::clone(bytes));
            if lane.newest.len() > REPLAYED {
                lane.newest.pop_front();
            }
        }
        self.queue.put(
            at,
            Happening::Packet {
                link: id,
                direction,
                packet,
            },
        );
    }

    pub(crate) fn arrived(&mut self, id: u64, direction: Direction, packet: Packet) -> Checked {
        let Some(link) = self.network.links.get_mut(&id) else {
            return Ok(());
        };
        if link.lane(direction).dead {
            self.trace.count("packet lost with its connection");
            return Ok(());
        }
        match direction {
            Direction::Up if self.plan.played => self.arrived_at_scene(id, packet),
            Direction::Up => self.arrived_up(id, packet),
            Direction::Down => self.arrived_down(id, packet),
        }
    }

    /// The stream was made: to the core that owns the agent's tenant, or to nobody.
    fn opened(&mut self, id: u64) {
        let Some(link) = self.network.links.get(&id) else {
            return;
        };
        let (site, replica) = (link.site, link.replica);
        let identity = &self.sites[site].identity;
        let opened = identity.opened(Conn(id), &link.key, link.not_after);
        let Some(number) = self.center.seat_at(replica, &identity.tenant) else {
            let host = &self.center.replicas[replica];
            let (lives, awake) = (host.me.is_some(), host.is_awake(self.now));
            if awake {
                self.trace
                    .count("replica that is not the owner turned an agent away");
            }
            // What stands still is connected to all the same, and never answers.
            let later = if lives && !awake { FIRST_FRAME } else { 0 };
            return self.end_site_side(id, Down::Unreachable, later);
        };
        if let Some(link) = self.network.links.get_mut(&id) {
            link.center_process = Some(number);
            link.center_open = true;
        }
        self.queue
            .put(self.now + FIRST_FRAME, Happening::Greeting { link: id });
        self.center_hears(number, opened);
        self.carry(id, Direction::Down, Packet::Opened);
    }

    fn arrived_up(&mut self, id: u64, packet: Packet) -> Checked {
        let process = self
            .network
            .links
            .get(&id)
            .and_then(|link| link.center_process);
        let seat = process.and_then(|number| self.center.seat(number));
        let running = seat.map(|seat| seat.number);
        let owner = seat.is_some_and(|seat| self.center.is_owner(seat));
        let Some(link) = self.network.links.get_mut(&id) else {
            return Ok(());
        };
        let site = link.site;
        let current = running.filter(|_| link.center_open);
        match packet {
            Packet::Opened => self.opened(id),
            Packet::Frame(bytes) => {
                let Some(number) = current else {
                    self.trace.count("frame for a former orchestrator process");
                    return Ok(());
                };
                link.greeted = true;
                if !link.site_open {
                    self.trace.count("frame of a connection its agent gave up");
                }
                let newest = &mut self.sites[site].newest;
                if id >= *newest && owner {
                    *newest = id;
                    self.sites[site].heard = Some(self.now);
                }
                note!(self, "link {id} up {:x}", fnv(0, &bytes));
                let mut messages = wire::decode_up(&bytes)
                    .map_err(|error| broken("an honest agent's frame is understood", error))?;
                self.cheat(site, &mut messages);
                let heard = messages.clone();
                if let Some(minutes) = &mut self.minutes {
                    minutes.center_heard(self.now, site, id, &messages);
                }
                let conn = Conn(id);
                self.center_hears(number, CenterEvent::Frame { conn, messages });
                let is = |message: Message| heard.iter().any(|sent| message.is_up(sent));
                self.traps_when_arrived(id, is);
            }
            Packet::Letter(letter) if current.is_some() => self.letter_up(id, &letter),
            Packet::Letter(_) => {}
            Packet::Closed(_) => self.end_center_side(id),
        }
        Ok(())
    }

    fn arrived_down(&mut self, id: u64, packet: Packet) -> Checked {
        let Some(link) = self.network.links.get(&id) else {
            return Ok(());
        };
        let (site, process, conn, open) = (link.site, link.process, link.conn, link.site_open);
        match packet {
            Packet::Opened => self.site_hears(site, process, SiteEvent::Opened { conn }),
            Packet::Frame(bytes) => {
                if !open {
                    self.trace.count("frame for a connection its agent gave up");
                }
                note!(self, "link {id} down {:x}", fnv(0, &bytes));
                let messages = wire::decode_down(&bytes).map_err(|error| {
                    broken("an honest orchestrator's frame is understood", error)
                })?;
                self.observe_down(site, process, conn, &messages)?;
                let heard = messages.clone();
                if let Some(minutes) = &mut self.minutes {
                    minutes.agent_heard(self.now, site, conn, &messages);
                }
                self.site_hears(site, process, SiteEvent::Frame { conn, messages });
                if self.sites[site].runs(process) && open {
                    let is = |message: Message| heard.iter().any(|sent| message.is_down(sent));
                    self.traps_when_arrived(id, is);
                }
            }
            Packet::Letter(letter) if open => self.letter_down(site, process, &letter),
            Packet::Letter(_) => {}
            Packet::Closed(why) => self.site_side_ended(id, why),
        }
        Ok(())
    }

    /// The agent's end is gone; the agent hears of it at once.
    pub(crate) fn site_side_ended(&mut self, id: u64, why: Down) {
        let Some(link) = self.network.links.get_mut(&id) else {
            return;
        };
        if !std::mem::take(&mut link.site_open) {
            return;
        }
        let (site, process, conn) = (link.site, link.process, link.conn);
        note!(self, "link {id} ends at s{site}: {why:?}");
        self.site_hears(site, process, SiteEvent::Closed { conn, why });
        self.forget(id);
    }

    /// The orchestrator's end is gone; it hears of it at once.
    pub(crate) fn end_center_side(&mut self, id: u64) {
        let Some(link) = self.network.links.get_mut(&id) else {
            return;
        };
        let open = std::mem::take(&mut link.center_open);
        let lives = |number: &u64| self.center.seat(*number).is_some();
        if let Some(number) = link.center_process.filter(lives).filter(|_| open) {
            note!(self, "link {id} ends at the orchestrator");
            self.center_hears(number, CenterEvent::Closed { conn: Conn(id) });
        }
        self.forget(id);
    }

    fn forget(&mut self, id: u64) {
        let now = self.now;
        let over = |link: &Link| {
            !link.site_open && !link.center_open && link.up.last <= now && link.down.last <= now
        };
        if self.network.links.get(&id).is_some_and(over) {
            self.network.links.remove(&id);
        }
    }

    /// The agent ends the stream, or its process is gone; what it sent before still arrives.
    pub(crate) fn hang_up(&mut self, id: u64, in_order: bool) {
        let Some(link) = self
            .network
            .links
            .get_mut(&id)
            .filter(|link| link.site_open)
        else {
            return;
        };
        link.site_open = false;
        if in_order && !link.up.hole {
            self.carry(id, Direction::Up, Packet::Closed(Down::Ended));
        } else {
            let at = self.now + self.dice.between(20 * SECOND, 80 * SECOND);
            self.queue.put(at, Happening::CenterSideEnds { link: id });
        }
    }

    /// The orchestrator ends the stream; what it sent before still arrives.
    pub(crate) fn close(&mut self, conn: Conn, why: Down) {
        let id = conn.0;
        self.carry(id, Direction::Down, Packet::Closed(why));
        self.end_center_side(id);
    }

    /// These processes of the orchestrator are gone: their kernel says so, or nobody does.
    pub(crate) fn all_closed(&mut self, processes: &[u64], silent: bool) {
        for id in self.network.open_links() {
            let Some(link) = self.network.links.get_mut(&id) else {
                continue;
            };
            if !link
                .center_process
                .is_some_and(|number| processes.contains(&number))
            {
                continue;
            }
            link.center_open = false;
            if silent || link.down.hole {
                let later = self.dice.between(20 * SECOND, 80 * SECOND);
                self.end_site_side(id, Down::Unreachable, later);
            } else {
                self.carry(id, Direction::Down, Packet::Closed(Down::Unreachable));
            }
        }
    }

    fn end_site_side(&mut self, link: u64, why: Down, later: At) {
        self.queue
            .put(self.now + later, Happening::SiteSideEnds { link, why });
    }

    /// Nothing came on a new stream for too long.
    pub(crate) fn greeting_due(&mut self, id: u64) {
        if self
            .network
            .links
            .get(&id)
            .is_some_and(|link| !link.greeted && link.center_open)
        {
            self.trace.count("stream without a first frame");
            self.close(Conn(id), Down::Unreachable);
        }
    }

    // --- what goes wrong

    /// Both directions end now; each end hears of it some time later.
    pub(crate) fn cut(&mut self, id: u64, notice_us: At) {
        let Some(link) = self.network.links.get_mut(&id) else {
            return;
        };
        (link.up.dead, link.down.dead) = (true, true);
        let later = self.dice.between(0, notice_us);
        self.end_site_side(id, Down::Unreachable, later);
        let at = self.now + self.dice.between(0, notice_us);
        self.queue.put(at, Happening::CenterSideEnds { link: id });
    }

    /// One direction, or both, carries nothing more; in the end the stream is cut.
    pub(crate) fn black_hole(&mut self, id: u64, up: bool, down: bool, lasts: At) {
        let Some(link) = self.network.links.get_mut(&id) else {
            return;
        };
        link.up.hole |= up;
        link.down.hole |= down;
        self.queue
            .put(self.now + lasts, Happening::Cut { link: id });
    }

    /// What is sent this way from now on arrives late; the agent gives the stream up soon, so that its next one is there
    /// first.
    pub(crate) fn hold_back(&mut self, id: u64, direction: Direction, lasts: At) {
        let Some(link) = self
            .network
            .links
            .get_mut(&id)
            .filter(|link| link.site_open)
        else {
            return;
        };
        link.lane(direction).held_until = self.now + lasts;
        let later = self.dice.span(MS, 60 * SECOND);
        self.queue
            .put(self.now + later, Happening::GiveUp { link: id });
    }

    /// What is sent on this stream arrives late, in both directions, and nothing else is wrong with it.
    pub(crate) fn delay(&mut self, id: u64, lasts: At) {
        if let Some(link) = self.network.links.get_mut(&id) {
            link.up.held_until = self.now + lasts;
            link.down.held_until = self.now + lasts;
        }
    }

    /// Whether this frame acknowledges an outcome while such frames are lost: its stream is, too.
    pub(crate) fn is_acknowledgement_lost(&mut self, conn: Conn, messages: &[DownMessage]) -> bool {
        let Some(site) = self.network.links.get(&conn.0).map(|link| link.site) else {
            return false;
        };
        let until = self.network.acks_lost.get(&site);
        if until.is_none_or(|until| *until <= self.now) {
            return false;
        }
        let tells = [Message::Forget, Message::Durable];
        let told = |sent: &DownMessage| tells.iter().any(|message| message.is_down(sent));
        let ended = |held: &AttemptRecord| matches!(held.state, AttemptState::Finished(_));
        let waits = self.sites[site].disk.snapshot().attempts.iter().any(ended);
        if !waits || !messages.iter().any(told) {
            return false;
        }
        self.trace.count("acknowledgement of an outcome lost");
        self.cut(conn.0, SECOND);
        true
    }

    /// A frame of an earlier connection comes again: whoever hears it has let go of that connection.
    pub(crate) fn replayed(
        &mut self,
        id: u64,
        (site, process, conn): (usize, u64, Conn),
        direction: Direction,
        bytes: &[u8],
    ) -> Checked {
        let link = self.network.links.get(&id);
        if link.is_some_and(|link| link.site_open || link.center_open) {
            return Ok(());
        }
        self.trace.count("frame of an old connection came again");
        match direction {
            Direction::Up => {
                let messages = wire::decode_up(bytes)
                    .map_err(|error| broken("an honest agent's frame is understood", error))?;
                let conn = Conn(id);
                let tenant = &self.sites[site].identity.tenant;
                if let Some(number) = self.center.owner_of(tenant) {
                    self.center_hears(number, CenterEvent::Frame { conn, messages });
                }
            }
            Direction::Down => {
                let messages = wire::decode_down(bytes).map_err(|error| {
                    broken("an honest orchestrator's frame is understood", error)
                })?;
                self.site_hears(site, process, SiteEvent::Frame { conn, messages });
            }
        }
        Ok(())
    }

    /// The agent's own network process lost the stream; the orchestrator learns it behind everything still on the way.
    pub(crate) fn give_up(&mut self, id: u64) {
        if self
            .network
            .links
            .get(&id)
            .is_some_and(|link| link.site_open)
        {
            self.carry(id, Direction::Up, Packet::Closed(Down::Ended));
            self.site_side_ended(id, Down::Unreachable);
        }
    }
}

impl Link {
    fn lane(&mut self, direction: Direction) -> &mut Lane {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}
