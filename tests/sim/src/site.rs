//! One site: a host with a clock that drifts, a state directory, keepers, and the agent's process with its real core.

use std::collections::BTreeMap;
use std::rc::Rc;

use outpost_agent_core::event::{Event, Site as SiteWants, Speech};
use outpost_agent_core::{Agent, Found, Settings, unsettled};
use outpost_driver::{Core, Micros, Turn};
use outpost_proto::ids::{AttemptId, Conn, EventSeq, Incarnation};
use outpost_proto::message::{Directive, DownMessage, Reporting, UpMessage};
use outpost_proto::wire;

use crate::clones::HostSnapshot;
use crate::disk::SiteDisk;
use crate::driver::take_turn;
use crate::identity::Identity;
use crate::invariants::{Checked, broken};
use crate::keeper::Keeper;
use crate::moments::Message;
use crate::network::{Direction, Packet};
use crate::queue::{At, BootClock, MS, SECOND};
use crate::scene::Host;
use crate::shop;
use crate::trace::note;
use crate::world::{Happening, World};

/// One site.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) identity: Identity,
    pub(crate) enrolled: bool,
    pub(crate) slots: u16,
    pub(crate) clock: BootClock,
    pub(crate) drift_ppm: i64,
    pub(crate) incarnation: Incarnation,
    pub(crate) catalogue: u32,
    pub(crate) disk: SiteDisk,
    pub(crate) keepers: BTreeMap<AttemptId, Keeper>,
    pub(crate) process: Option<Process>,
    pub(crate) processes: u64,
    /// The next turn's speech is cut short by the end of the process.
    pub(crate) cut_speech: bool,
    /// What the simulation itself knows of the present session.
    pub(crate) session: Option<Session>,
    /// Its newest stream on which a frame arrived at the orchestrator, and when one did last.
    pub(crate) newest: u64,
    pub(crate) heard: Option<At>,
    /// When its orchestrator took in what it said last, whatever became of the stream since.
    pub(crate) spoke: Option<At>,
    /// Without faults: it was in touch.
    pub(crate) met: bool,
    /// How far its wall clock is ahead.
    pub(crate) wall_ahead_s: i64,
    /// Everything on it stands still until then.
    pub(crate) suspended_until: At,
    /// It is out of service for good.
    pub(crate) gone: bool,
    /// What it can be put back to.
    pub(crate) snapshot: Option<Box<HostSnapshot>>,
    /// It is not honest, and what it makes of its next frame.
    pub(crate) cheats: bool,
    pub(crate) next_lie: Option<u64>,
    /// As a scene wants it.
    pub(crate) host: Option<Box<Host>>,
}

/// The agent's process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) number: u64,
    pub(crate) core: Agent,
    pub(crate) inbox: Vec<Event>,
    turn_at: At,
    /// It was stopped, or waits after a failed commit.
    pub(crate) not_before: At,
    /// It tells little, and whether it is about to end.
    pub(crate) strict: bool,
    pub(crate) stops: bool,
}

/// A session as the network saw it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) conn: Conn,
    /// When its Hello was said.
    pub(crate) since: At,
    ready: bool,
    acknowledged: EventSeq,
    sent: BTreeMap<u32, u64>,
    /// End of the lease on the host's clock.
    until: u64,
}

impl Session {
    /// Up to where its events are durable upstream, if it has reconciled.
    pub(crate) fn acknowledged(&self) -> Option<EventSeq> {
        self.ready.then_some(self.acknowledged)
    }
}

impl Site {
    /// A host on which nothing was installed or ran yet: `clock` and how far it drifts.
    pub(crate) fn new(
        identity: Identity,
        slots: u16,
        (clock, drift_ppm): (BootClock, i64),
        incarnation: Incarnation,
    ) -> Self {
        Self {
            identity,
            enrolled: false,
            slots,
            clock,
            drift_ppm,
            incarnation,
            catalogue: 1,
            disk: SiteDisk::default(),
            keepers: BTreeMap::new(),
            process: None,
            processes: 0,
            cut_speech: false,
            session: None,
            newest: 0,
            heard: None,
            spoke: None,
            met: false,
            wall_ahead_s: 0,
            suspended_until: 0,
            gone: false,
            snapshot: None,
            cheats: false,
            next_lie: None,
            host: None,
        }
    }

    /// The catalogue that it has now.
    fn rules(&self) -> Event {
        let sells = self.host.as_deref().map(|host| &host.sells[..]);
        Event::Catalogue(shop::rules(self.catalogue, &self.identity.spiffe_id, sells))
    }

    fn settings(&self, ahead: u16, reporting: Reporting) -> Settings {
        if let Some(host) = &self.host {
            return Settings {
                wall_offset_s: self.wall_offset_s(),
                ..host.settings(self.incarnation)
            };
        }
        Settings {
            ahead,
            reporting,
            schema_hash: outpost_proto::wire::schema_hash(),
            drain_limit: std::time::Duration::from_secs(120),
            wall_offset_s: self.wall_offset_s(),
            ..Settings::new(self.incarnation, self.slots)
        }
    }

    /// Whether this process of its agent lives.
    pub(crate) fn runs(&self, process: u64) -> bool {
        self.process
            .as_ref()
            .is_some_and(|living| living.number == process)
    }

    /// When its process has something to do.
    pub(crate) fn wakes(&self) -> Option<At> {
        let process = self.process.as_ref()?;
        let inbox = (!process.inbox.is_empty()).then_some(process.turn_at);
        let deadline = process.core.next_deadline().map(|at| self.clock.when(at.0));
        Some(
            inbox
                .into_iter()
                .chain(deadline)
                .min()?
                .max(process.not_before),
        )
    }
}

impl World {
    /// The init system starts the agent, if it is enrolled and not running.
    pub(crate) fn start_site(&mut self, index: usize) {
        let site = &self.sites[index];
        if site.process.is_some() || !site.enrolled || site.gone {
            return;
        }
        if let Some(at) = self.asleep_until(index) {
            return self.queue.put(at, Happening::StartSite { site: index });
        }
        let host = site.host.as_deref();
        let strict = host.map_or(self.plan.is_strict(index), |host| host.strict);
        let reporting = if strict {
            Reporting::Strict
        } else {
            Reporting::Normal
        };
        let settings = site.settings(self.plan.ahead, reporting);
        let snapshot = site.disk.snapshot();
        let found: BTreeMap<AttemptId, Found> = unsettled(&snapshot, &settings)
            .into_iter()
            .map(|attempt| (attempt, self.look(index, attempt)))
            .collect();
        if let Some(minutes) = &mut self.minutes {
            minutes
                .looked
                .insert(index, found.keys().copied().collect());
        }
        let now = Micros(self.sites[index].clock.shows(self.now));
        let (life_us, until) = self.certificate_of(index);
        let core = Agent::new(settings, self.dice.seed(), now, snapshot, found.clone());
        let site = &mut self.sites[index];
        site.processes += 1;
        site.disk.process = site.processes;
        site.disk.trouble.pressing = None;
        site.cut_speech = false;
        site.process = Some(Process {
            number: site.processes,
            core,
            inbox: vec![site.rules(), Event::Certificate { life_us, until }],
            turn_at: self.now + MS,
            not_before: 0,
            strict,
            stops: false,
        });
        note!(self, "s{index} starts, {} attempts begun", found.len());
        for attempt in found.into_keys() {
            self.adopt(index, attempt);
        }
    }

    /// Something for the agent's core, if that process still lives.
    pub(crate) fn site_hears(&mut self, index: usize, process: u64, event: Event) {
        let longest = if self.plan.directed { 50 } else { 3 * MS };
        let takes = self.dice.between(50, longest);
        let site = &mut self.sites[index];
        if let Event::Closed { conn, .. } = &event
            && site.processes == process
        {
            site.session.take_if(|session| session.conn == *conn);
        }
        let Some(living) = site
            .process
            .as_mut()
            .filter(|living| living.number == process)
        else {
            return;
        };
        if living.inbox.is_empty() {
            living.turn_at = self.now + takes;
        }
        living.inbox.push(event);
    }

    /// The site itself wants something of its agent.
    pub(crate) fn site_wants(&mut self, index: usize, wants: SiteWants) {
        let site = &mut self.sites[index];
        if let Some(process) = &mut site.process {
            process.stops |= matches!(wants, SiteWants::Stop | SiteWants::Drain);
        }
        let process = site.processes;
        self.site_hears(index, process, Event::Site(wants));
    }

    pub(crate) fn reload_catalogue(&mut self, index: usize) {
        let site = &mut self.sites[index];
        site.catalogue += 1;
        let (process, rules) = (site.processes, site.rules());
        self.site_hears(index, process, rules);
    }

    /// Takes note of what a frame grants before the core sees it.
    pub(crate) fn observe_down(
        &mut self,
        index: usize,
        process: u64,
        conn: Conn,
        messages: &[DownMessage],
    ) -> Checked {
        let site = &mut self.sites[index];
        let current = |session: &&mut Session| session.conn == conn && site.processes == process;
        let Some(session) = site.session.as_mut().filter(current) else {
            return Ok(());
        };
        let before = session.ready;
        for message in messages {
            match message {
                DownMessage::Granted(granted) => {
                    let sent = granted
                        .lease
                        .and_then(|(seq, ms)| Some((session.sent.get(&seq.0)?, ms)));
                    session.acknowledged = session.acknowledged.max(granted.highest_event_seq);
                    if let Some((sent, lease_ms)) = sent {
                        session.until = session.until.max(sent + u64::from(lease_ms) * MS);
                    }
                }
                DownMessage::Directive { directive, .. } => {
                    session.ready |= *directive == Directive::Reconciled;
                }
                DownMessage::Welcome(_) | DownMessage::Assign(_) => {}
            }
        }
        if session.ready && !before {
            return self.invariant_a_second_holder_is_found_out(index);
        }
        Ok(())
    }

    /// One turn of the agent.
    pub(crate) fn site_turn(&mut self, index: usize) -> Checked {
        let hasty = self.plan.hasty_agent;
        let waiting = self.traps.of_speaker(Direction::Up);
        let site = &mut self.sites[index];
        (site.disk.trouble.now, site.disk.trouble.waiting) = (self.now, waiting);
        site.disk.trouble.full_is_fatal = true;
        let Some(process) = site.process.as_mut() else {
            return Ok(());
        };
        let events = std::mem::take(&mut process.inbox);
        let shown = site.clock.shows(self.now);
        let ledger = Rc::clone(&site.disk.ledger);
        let before = ledger.borrow().len();
        let mut said = Vec::new();
        let speak = |speech| said.push((speech, ledger.borrow().len()));
        let stores = (&mut process.core, &mut site.disk);
        let turned = take_turn(stores, Micros(shown), &events, speak, hasty);
        if let Some(why) = &site.disk.refused {
            return Err(broken("an honest agent's frame can be encoded", why));
        }
        note!(
            self,
            "s{index} turn: {} in, {} out",
            events.len(),
            said.len()
        );
        let cut = !said.is_empty() && turned.is_ok() && std::mem::take(&mut site.cut_speech);
        if cut {
            said.truncate(self.dice.below(said.len()));
        }
        let sprung = site.disk.trouble.sprung.take();
        let no_power = sprung.is_some_and(|sprung| self.sprung(Some(index), &sprung));
        self.site_speaks(index, shown, before, said)?;
        self.check_site(index, turned == Ok(Turn::Spoken))?;
        match turned {
            Ok(Turn::Spoken) if cut => {
                self.trace.count("agent crash in mid-speech");
                self.crash_site(index);
            }
            Ok(Turn::Spoken) => {
                self.invariant_nothing_waits_at_a_keeper_that_may_not_begin(index)?;
            }
            Ok(Turn::NotCommitted(_)) => {
                self.trace.count("agent commit failed");
                self.again_at_site(index, events);
            }
            Err(_) if no_power => self.power_cut(index),
            Err(_) => {
                self.trace.count("agent crash in commit");
                self.crash_site(index);
            }
        }
        Ok(())
    }

    /// What keepers and site said in a turn that was not committed is shown again; the connection is not.
    fn again_at_site(&mut self, index: usize, events: Vec<Event>) {
        let waits = self.dice.span(MS, SECOND);
        let now = self.now;
        let Some(process) = self.sites[index].process.as_mut() else {
            return;
        };
        let again = |event: &Event| match event {
            Event::Keeper { .. }
            | Event::Catalogue(_)
            | Event::Site(_)
            | Event::Health(_)
            | Event::Room(_) => true,
            Event::Opened { .. }
            | Event::Closed { .. }
            | Event::Frame { .. }
            | Event::Certificate { .. }
            | Event::Csr(_)
            | Event::Renewed { .. }
            | Event::NotRenewed
            | Event::Proof(_)
            | Event::Challenged { .. }
            | Event::NotRecovered { .. }
            | Event::Ends { .. } => false,
        };
        let newer = std::mem::take(&mut process.inbox);
        process.inbox = events.into_iter().filter(again).chain(newer).collect();
        process.turn_at = now;
        process.not_before = now + waits;
    }

    fn site_speaks(
        &mut self,
        index: usize,
        shown: u64,
        mut frame: usize,
        said: Vec<(Speech, usize)>,
    ) -> Checked {
        let number = self.sites[index].processes;
        for (speech, recorded) in said {
            if let Some(minutes) = &mut self.minutes {
                minutes.agent_said(self.now, index, &speech);
            }
            match speech {
                Speech::Dial { conn } => {
                    if self.lease_of(index).is_some() {
                        self.trace.count("stream made beside one that works");
                    }
                    self.dial(index, number, conn);
                }
                Speech::Send { conn, messages } => {
                    let same = |bytes: &[u8]| {
                        wire::decode_up(bytes).is_ok_and(|recorded| recorded == messages)
                    };
                    let bytes = self.recorded(index, frame, recorded, conn, same)?;
                    frame += 1;
                    self.invariant_a_strict_site_tells_little(index, conn, shown, &messages)?;
                    self.beats(index, conn, shown, &messages);
                    if let Some(link) = self.network.of_site(index, number, conn) {
                        let is = |message: Message| messages.iter().any(|sent| message.is_up(sent));
                        if !self.traps_when_sent(link, is) {
                            self.carry(link, Direction::Up, Packet::Frame(bytes));
                        }
                    }
                }
                Speech::MakeCsr => self.make_csr(index, number),
                // Certificates end in scenes only.
                Speech::Prove {
                    session_nonce,
                    challenge,
                } => self.prove(index, session_nonce, challenge),
                Speech::Recover { conn, request } => {
                    let same = |bytes: &[u8]| {
                        wire::RecoverRequest::decode(bytes).is_ok_and(|said| said == *request)
                    };
                    self.recorded(index, frame, recorded, conn, same)?;
                    frame += 1;
                    self.ask_to_recover(index, conn, *request);
                }
                Speech::Renew { conn, csr } => {
                    let same = |bytes: &[u8]| {
                        wire::RenewRequest::decode(bytes).is_ok_and(|request| request.csr == csr)
                    };
                    let bytes = self.recorded(index, frame, recorded, conn, same)?;
                    frame += 1;
                    self.ask_to_renew(index, conn, &csr, bytes);
                }
                Speech::Hangup { conn } => {
                    self.sites[index]
                        .session
                        .take_if(|session| session.conn == conn);
                    if let Some(link) = self.network.of_site(index, number, conn) {
                        self.hang_up(link, true);
                    }
                }
                Speech::Start {
                    assign,
                    lease_until,
                    behind,
                } => {
                    self.may_start(index, &assign, shown, lease_until.0)?;
                    match behind {
                        Some(first) => self.hand_over(index, *assign, lease_until.0, first)?,
                        None => self.start_task(index, *assign, lease_until.0)?,
                    }
                }
                Speech::TakeBack { attempt } => self.take_back(index, attempt)?,
                Speech::Cancel { attempt } => self.cancel_task(index, attempt),
                Speech::InTouch => self.in_touch(index),
                Speech::Discard { attempt } => self.discard(index, attempt)?,
                Speech::Refused { .. } => self.trace.count("assignment refused by its site"),
                Speech::Alarm(_) if self.sites[index].cheats || self.is_forged(index) => {}
                Speech::Alarm(alarm) => {
                    return Err(broken(
                        "an honest orchestrator raises no alarm",
                        format!("{alarm:?}"),
                    ));
                }
                Speech::Done => {
                    self.trace.count("agent ended in good order");
                    self.end_process(index, true);
                    self.queue
                        .put(self.now + SECOND, Happening::StartSite { site: index });
                }
            }
        }
        Ok(())
    }

    fn beats(&mut self, index: usize, conn: Conn, shown: u64, messages: &[UpMessage]) {
        if let Some(UpMessage::Hello(_)) = messages.first() {
            self.sites[index].session = Some(Session {
                conn,
                since: self.now,
                ready: false,
                acknowledged: EventSeq(0),
                sent: BTreeMap::new(),
                until: 0,
            });
        }
        let Some(session) = self.sites[index]
            .session
            .as_mut()
            .filter(|session| session.conn == conn)
        else {
            return;
        };
        for message in messages {
            if let UpMessage::Heartbeat(heartbeat) = message {
                session.sent.insert(heartbeat.seq.0, shown);
            }
        }
    }

    /// End of the lease of the present session on the host's clock, if work may be taken on it.
    pub(crate) fn lease_of(&self, index: usize) -> Option<u64> {
        let session = self.sites[index].session.as_ref()?;
        session.ready.then_some(session.until)
    }

    fn end_process(&mut self, index: usize, in_order: bool) {
        let site = &mut self.sites[index];
        site.process = None;
        site.session = None;
        let number = site.processes;
        self.nobody_waits_any_more(index);
        let of_it = |id: &u64| {
            let link = self.network.links.get(id);
            link.is_some_and(|link| (link.site, link.process) == (index, number))
        };
        let links: Vec<u64> = self
            .network
            .open_links()
            .into_iter()
            .filter(of_it)
            .collect();
        for link in links {
            self.hang_up(link, in_order);
        }
    }

    /// kill -9 of the agent; keepers live on, and what was written is there.
    pub(crate) fn crash_site(&mut self, index: usize) {
        if self.sites[index].process.is_none() {
            return;
        }
        note!(self, "s{index} crashes");
        self.end_process(index, true);
        let down = self.dice.span(100 * MS, self.plan.longest_outage);
        self.queue
            .put(self.now + down, Happening::StartSite { site: index });
    }

    /// The host loses power and comes back: every process is gone, and what was not synced.
    pub(crate) fn power_cut(&mut self, index: usize) {
        note!(self, "s{index} loses power");
        self.end_process(index, false);
        let site = &mut self.sites[index];
        let kept = self.dice.below(site.disk.unsynced_bursts() + 1);
        site.disk.power_cut(kept);
        self.new_life(index);
        let down = self.dice.span(SECOND, self.plan.longest_outage);
        self.queue
            .put(self.now + down, Happening::StartSite { site: index });
    }

    /// Another incarnation: nothing of the former one runs.
    pub(crate) fn new_life(&mut self, index: usize) {
        let site = &mut self.sites[index];
        site.incarnation = Incarnation(self.dice.next());
        site.clock = BootClock::new(self.now, site.drift_ppm);
        site.suspended_until = 0;
        site.keepers.clear();
    }
}
