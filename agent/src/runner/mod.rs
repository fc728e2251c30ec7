//! The runner: decides through the pure core, records through the store, and does what results. The only process of
//! the agent that knows what is said to the orchestrator, and the only one that writes journal and ledger.

mod begin;
mod beneath;
mod certificate;
mod durable;
mod gate;
mod hour;
mod keepers;
mod link;
pub(crate) mod link_process;
mod local;
mod measure;
mod observe;
mod outcome;
mod outgoing;
mod purge;
mod recovery;
mod resting;
mod retention;
mod secrets;
mod steady;
mod store;
mod tasks;
pub(crate) mod trial;
mod walls;
mod watch;
mod workspace;

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use outpost_agent_core::event::{Event, Site, Speech};
use outpost_agent_core::{Agent, SessionPhase};
use outpost_agent_keeper::exec::{Leash, SelfExec};
use outpost_agent_keeper::failpoint;
use outpost_agent_keeper::memory;
use outpost_agent_keeper::process::boot_time_us;
use outpost_driver::{Core as _, Micros, Turn, turn};
use outpost_proto::ids::Conn;
use outpost_proto::message::{Health, Reporting};
use tokio::sync::{mpsc, oneshot};

use crate::ahead;
use crate::audit::Audit;
use crate::catalogue::{self, Catalogue};
use crate::health::Sampler;
use crate::life::{self, Life};
use crate::metrics::Shared;
use crate::refusals::Refusals;
use crate::sandbox::{Reached, Required};
use crate::seal::SiteKeys;
use crate::state_dir::{Identity, StateDir};
use certificate::Certificate;
use durable::Synced;
use link::LinkJob;
use outgoing::Outgoing;
use retention::Held;
use secrets::Granted;
use steady::Steady;
pub(crate) use store::wall_us;
use store::{AgentStore, Encoded};
use tasks::{Current, Tasks};
pub(crate) use walls::here as separation;

pub use begin::run;
pub use local::{Ask, Status, ask};
pub(crate) use purge::{Purged, ask as ask_to_purge, attempts_of};
pub use retention::Keep;

/// Events that wait for the runner's loop; senders wait when it is full.
const INBOX: usize = 1024;
/// Events decided and committed together at most.
const BURST: usize = 1024;
/// Between two samples of the host's numbers: well below the heartbeat's interval, so that each carries fresh ones.
const SAMPLE: Duration = Duration::from_secs(4);

/// How `outpost-agent run` was told to run.
#[derive(Debug)]
pub struct Options {
    /// The state directory.
    pub state: PathBuf,
    /// The catalogue's directory.
    pub catalogue: PathBuf,
    /// How many attempts run at once.
    pub slots: u16,
    /// URL of an HTTP CONNECT proxy.
    pub proxy: Option<String>,
    /// Connect and record, run nothing.
    pub observe: bool,
    /// How much is said upstream.
    pub reporting: Reporting,
    /// Where metrics are served, if they are; a loopback address.
    pub metrics: Option<std::net::SocketAddr>,
    /// What stays on disk of what is over.
    pub keep: Keep,
    /// Audit mode: where the secrets of connections go.
    pub audit: Option<Audit>,
    /// The least that the sandbox of the network processes may be.
    pub sandbox: Required,
    /// With what logs and outputs are encrypted, if they are, and how long after a run's last task.
    pub site_keys: Option<Arc<SiteKeys>>,
    /// How long a run rests before its files are encrypted.
    pub seal_runs_after: Duration,
    /// How sub-processes are started.
    pub exec: SelfExec,
    /// In `dev` and `demo`: its end ends everything.
    pub leash: Option<RawLeash>,
}

/// The leash's descriptor number, taken over by the runner.
#[derive(Debug, Clone, Copy)]
pub struct RawLeash(pub std::os::fd::RawFd);

/// What reaches the runner's loop.
pub(crate) enum Happened {
    /// For the core.
    Core(Event),
    /// Link's certificate, at its start and after each change.
    Certificate {
        certificate: Certificate,
        spiffe_id: String,
        /// Whether link has just stored it.
        renewed: bool,
    },
    /// What the server of a stream presented, DER, leaf first: as link says, to be judged here.
    Server { conn: Conn, chain: Vec<Vec<u8>> },
    /// Until when the certificates of a stream hold, in seconds since 1970.
    Ends { conn: Conn, at_s: u64 },
    /// Why the orchestrator cannot be reached, for `status`.
    Trouble(String),
    /// The files of an attempt's run are open: it can start.
    Opened {
        assign: Box<outpost_proto::message::Assign>,
        lease_until_boot_us: u64,
    },
    /// A person wants everything of a run to go.
    Purge(purge::Wanted),
    /// The secrets of an attempt that is to start were fetched, or cannot be had.
    Granted(Box<Granted>),
    /// What an observed instruction would have found of its secrets.
    Observed(Box<observe::Observed>),
    /// Retention asks what must stay.
    Held(oneshot::Sender<Held>),
    /// Retention has counted what there is.
    Kept { bytes: u64, attempts: u64 },
    /// A command from this site.
    Local(Ask, oneshot::Sender<Status>),
}

fn now() -> Micros {
    Micros(boot_time_us())
}

/// Everything the loop owns.
struct Runner {
    core: Agent,
    store: AgentStore,
    encoded: Encoded,
    tasks: Tasks,
    outgoing: Outgoing,
    current: Current,
    sampler: Sampler,
    /// How much of what may be kept of logs is kept.
    log_percent: Rc<Cell<u8>>,
    catalogue_dir: PathBuf,
    audit: Option<Audit>,
    certificate: Certificate,
    trouble: Option<String>,
    /// The same, and when it was told, until it is known whether a session was lost by it.
    fresh_trouble: Option<(u64, String)>,
    numbers: Shared,
    keep: Keep,
    identity: Identity,
    /// What follows from speaking itself: the first events of the next turn.
    pending: Vec<Event>,
    /// Whether there is room on disk, as the core was told last.
    room: bool,
    /// Remembers that this process did not last, until it has.
    steady: Steady,
    /// How link is confined.
    sandbox: Reached,
    living: link_process::Living,
    /// The names of the site's keys, the one that encrypts first.
    site_keys: Vec<String>,
    /// The present life, until the state directory remembers it.
    life: Option<(StateDir, Life)>,
    /// What was refused, for this site's people.
    refusals: Refusals,
    /// Who asked in this turn: they are told what is so after it.
    asked: Vec<oneshot::Sender<Status>>,
}

impl Runner {
    async fn run(
        mut self,
        mut happened: mpsc::Receiver<Happened>,
        leash: Option<Leash>,
    ) -> anyhow::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut sample = tokio::time::interval(SAMPLE);
        let leash = leash.map(watch::watch).transpose()?;
        let mut burst = Vec::with_capacity(BURST);
        let mut events = Vec::with_capacity(BURST);
        let mut stopping = false;
        loop {
            events.append(&mut self.pending);
            let deadline = if events.is_empty() {
                self.core.next_deadline()
            } else {
                Some(now())
            };
            tokio::select! {
                biased;
                // The leash first: its end is the end.
                () = over(leash.as_ref()) => {
                    self.steady.ends();
                    return Ok(());
                }
                _ = terminate.recv() => stop(&mut events, &mut stopping)?,
                _ = interrupt.recv() => stop(&mut events, &mut stopping)?,
                _ = hangup.recv() => self.reload(&mut events),
                // Then fresh numbers, so that a heartbeat in this turn carries them.
                _ = sample.tick() => {
                    events.extend(self.certificate.event(false, boot_time_us(), wall_us()));
                    events.push(Event::Health(self.health()));
                    let room = self.store.has_room() && self.sampler.has_room(self.room);
                    events.extend(self.room_is(room));
                    self.steady.lived();
                    self.tasks.let_go();
                    if self.tasks.rests() {
                        memory::let_go();
                    }
                }
                // Then the disk: what waited for it leaves at once.
                synced = self.outgoing.synced() => {
                    self.synced(&synced.context("syncing journal and ledger")?);
                    if self.pending.is_empty() {
                        continue;
                    }
                }
                // Then what happened, as much of it as there is.
                count = happened.recv_many(&mut burst, BURST), if self.outgoing.has_room() => {
                    anyhow::ensure!(count > 0, "the runner's inbox is closed");
                }
                // Then the core's own timers: whatever happened may have moved them.
                () = sleep_until(deadline) => {}
                // Last what is made ready for what is to come.
                () = at(self.tasks.may_prepare()) => {
                    self.tasks.prepare();
                    continue;
                }
            }
            for happened in burst.drain(..) {
                self.happened(happened, &mut events);
            }
            let done = self.turn(&events).await?;
            self.answer();
            self.remember_trouble(&events);
            events.clear();
            if done {
                self.steady.ends();
                return self.last_words().await;
            }
        }
    }

    /// On a full disk the earlier life stays on record until there is room: to be found again means nothing worse than
    /// to be reported as interrupted again.
    fn remember(&mut self, state: StateDir, life: Life) -> anyhow::Result<()> {
        match life::remember(state.path(), &life) {
            Err(error) if ahead::is_full(&error) => self.life = Some((state, life)),
            remembered => remembered.context("remembering which life this is")?,
        }
        Ok(())
    }

    fn synced(&mut self, synced: &Synced) {
        self.numbers.borrow_mut().synced(synced.took);
        self.store.synced(synced.mark);
        failpoint::reach("runner-synced");
        self.outgoing.flush(&mut self.pending);
    }

    /// A caller that went away needs no answer.
    fn answer(&mut self) {
        for asked in std::mem::take(&mut self.asked) {
            drop(asked.send(self.status()));
        }
    }

    /// What was decided last leaves before the process does.
    async fn last_words(mut self) -> anyhow::Result<()> {
        while !self.outgoing.is_empty() {
            let synced = self.outgoing.synced().await;
            self.synced(&synced.context("syncing journal and ledger")?);
        }
        self.outgoing.end().await;
        Ok(())
    }

    /// What ended a stream is remembered as trouble, unless another stream stands in its place.
    fn remember_trouble(&mut self, events: &[Event]) {
        let closed = events.iter().any(|e| matches!(e, Event::Closed { .. }));
        if closed
            && let Some((at_us, why)) = self.fresh_trouble.take()
            && self.core.view().session != Some(SessionPhase::Ready)
        {
            self.numbers.borrow_mut().trouble(at_us, &why);
        }
    }

    fn happened(&mut self, happened: Happened, events: &mut Vec<Event>) {
        match happened {
            Happened::Core(event) => {
                if let Event::Frame { conn, messages } = &event {
                    failpoint::reach("runner-received");
                    messages
                        .iter()
                        .for_each(|message| self.store.note(conn.0, message));
                }
                if let Event::Keeper { attempt, said } = &event {
                    self.tasks.said(*attempt, *said);
                }
                if let Event::Opened { .. } = &event {
                    self.trouble = None;
                    self.numbers.borrow_mut().connected(wall_us());
                    if self.certificate.has_ended(wall_us()) {
                        tracing::warn!(
                            "the orchestrator takes a certificate that has ended by this host's clock: the clock is ahead"
                        );
                    }
                }
                events.push(event);
            }
            Happened::Certificate {
                certificate,
                spiffe_id,
                renewed,
            } => {
                if !spiffe_id.is_empty() && spiffe_id != self.identity.spiffe_id {
                    tracing::error!(
                        spiffe_id,
                        expected = self.identity.spiffe_id,
                        "the certificate is another agent's"
                    );
                }
                self.certificate = certificate;
                let event = self.certificate.event(renewed, boot_time_us(), wall_us());
                events.extend(event);
                events.push(Event::Health(self.health()));
            }
            Happened::Server { conn, chain } => self.store.server(conn.0, chain),
            Happened::Ends { conn, at_s } => {
                let at = certificate::on_boot_clock(at_s, boot_time_us(), wall_us());
                events.push(Event::Ends { conn, at });
            }
            Happened::Trouble(why) => {
                self.fresh_trouble = Some((wall_us(), why.clone()));
                self.trouble = Some(why);
            }
            Happened::Kept { bytes, attempts } => {
                let mut numbers = self.numbers.borrow_mut();
                (numbers.logs_bytes, numbers.logs_attempts) = (bytes, attempts);
            }
            Happened::Opened {
                assign,
                lease_until_boot_us,
            } => events.extend(self.opened(&assign, lease_until_boot_us)),
            Happened::Purge(wanted) => wanted.answer(&self.core, &self.tasks, &mut self.refusals),
            Happened::Granted(granted) => events.extend(self.granted(*granted)),
            Happened::Observed(observed) => self.note_observed(&observed),
            // Whoever asked and went away needs no answer.
            Happened::Held(ask) => drop(ask.send(Held::by(&self.core))),
            Happened::Local(ask, answer) => {
                match ask {
                    Ask::Status => {}
                    Ask::Pause => events.push(Event::Site(Site::Pause)),
                    Ask::Resume => events.push(Event::Site(Site::Resume)),
                    Ask::Drain => events.push(Event::Site(Site::Drain)),
                    Ask::Reload => self.reload(events),
                }
                self.asked.push(answer);
            }
        }
    }

    /// One turn of the driver; answers whether the process may end.
    async fn turn(&mut self, events: &[Event]) -> anyhow::Result<bool> {
        let mut speech = Vec::new();
        self.store.alone(self.tasks.runs_nothing());
        let turn = turn(&mut self.core, &mut self.store, now(), events, |said| {
            speech.push(said)
        })
        .await?;
        if let Turn::NotCommitted(why) = turn {
            tracing::error!("nothing was said, because nothing could be recorded: {why}");
        } else if let Some((state, life)) = self.life.take() {
            self.remember(state, life)?;
        }
        // Starts first: a free slot waits for nothing else of this turn.
        let (starts, others): (Vec<_>, Vec<_>) = speech
            .into_iter()
            .partition(|said| matches!(said, Speech::Start { .. }));
        failpoint::reach("runner-committed");
        let mut done = false;
        for said in starts.into_iter().chain(others) {
            done |= self.speak(said);
        }
        self.outgoing.flush(&mut self.pending);
        if !self.store.has_room() {
            let full = self.room_is(false);
            self.pending.extend(full);
        }
        Ok(done)
    }

    /// Whether there is room on disk for more work: told when it changes.
    fn room_is(&mut self, room: bool) -> Option<Event> {
        if self.room == room {
            return None;
        }
        self.room = room;
        if room {
            tracing::info!("there is room on disk again: work is taken");
        } else {
            tracing::error!(
                "too little room on disk: new work is refused; what runs goes on and is reported"
            );
        }
        Some(Event::Room(room))
    }

    fn speak(&mut self, speech: Speech) -> bool {
        match speech {
            Speech::Dial { conn } => self.hand_over(LinkJob::Dial(conn)),
            Speech::Send { conn, .. } => {
                // The store put exactly these bytes into the ledger, in this order.
                let frame = self.encoded.borrow_mut().pop_front();
                if let Some(frame) = frame {
                    self.hand_over(LinkJob::Frame(conn, frame));
                }
            }
            Speech::Hangup { conn } => self.hand_over(LinkJob::Hangup(conn)),
            Speech::MakeCsr => self.hand_over(LinkJob::MakeCsr),
            Speech::Renew { conn, .. } => {
                let request = self.encoded.borrow_mut().pop_front();
                if let Some(request) = request {
                    self.hand_over(LinkJob::Renew(conn, request));
                }
            }
            Speech::Prove {
                session_nonce,
                challenge,
            } => self.hand_over(LinkJob::Prove(session_nonce, challenge.into())),
            Speech::Recover { conn, request } => {
                let bytes = self.encoded.borrow_mut().pop_front();
                if let Some(bytes) = bytes {
                    self.hand_over(if request.answer.is_none() {
                        LinkJob::Recover(conn, bytes)
                    } else {
                        LinkJob::RecoverOn(conn, bytes)
                    });
                }
            }
            Speech::Start {
                assign,
                lease_until,
                behind,
            } => self.start(&assign, lease_until, behind),
            Speech::TakeBack { attempt } => self.tasks.take_back(attempt),
            Speech::Cancel { attempt } => self.tasks.cancel(attempt),
            Speech::InTouch => self.tasks.in_touch(),
            Speech::Discard { attempt } => {
                self.steady.ends();
                self.tasks.discard(attempt);
            }
            Speech::Refused {
                attempt: _,
                refusal,
                assign,
                why,
            } => self.refused(&assign, refusal, &why),
            Speech::Alarm(alarm) => {
                tracing::error!(?alarm, "the orchestrator did what no honest one does");
                self.numbers.borrow_mut().alarms += 1;
            }
            Speech::Done => return true,
        }
        false
    }

    /// Lines something up for link, behind the disk.
    fn hand_over(&mut self, job: LinkJob) {
        self.outgoing.push(self.store.mark(), job);
    }

    fn health(&mut self) -> Health {
        Health {
            certificate_days_left: self.certificate.days_left(wall_us()),
            ledger_percent: self.store.ledger_percent(),
            log_percent: self.log_percent.get(),
            ..self.sampler.sample()
        }
    }

    /// Reads the catalogue again; one that is not accepted changes nothing.
    fn reload(&mut self, events: &mut Vec<Event>) {
        match catalogue::load(&self.catalogue_dir, &self.identity.spiffe_id) {
            Ok(catalogue) => {
                let catalogue: Arc<Catalogue> = Arc::new(catalogue);
                tracing::info!(entries = catalogue.entries().count(), version = %catalogue.version(), "catalogue reloaded");
                self.current.replace(Arc::clone(&catalogue));
                self.tasks.reloaded();
                events.push(Event::Catalogue(catalogue));
                let mut numbers = self.numbers.borrow_mut();
                numbers.catalogue_read_us = wall_us();
                numbers.catalogue_refused = None;
            }
            Err(error) => {
                tracing::error!("{error}\nthe catalogue in force stays");
                self.numbers.borrow_mut().catalogue_refused = Some(error.to_string());
            }
        }
    }

    fn status(&self) -> Status {
        let (ledger_bytes, ledger_limit_bytes) = self.store.ledger_bytes();
        let disk = local::Disk {
            ledger_bytes,
            ledger_limit_bytes,
            journal_bytes: self.store.journal_bytes(),
            logs_limit_bytes: self.keep.logs_bytes,
        };
        let about = local::About {
            identity: &self.identity,
            certificate_not_after_s: self.certificate.not_after_s,
            audit: self.audit.as_ref().map(Audit::path),
            sandbox: &self.sandbox,
            network: self.living.now(),
            site_keys: &self.site_keys,
            trouble: self.trouble.clone(),
            catalogue: &self.current.borrow(),
            disk,
            numbers: &self.numbers.borrow(),
        };
        local::status(&self.core, &about)
    }
}

/// The first request to stop reports what is known and leaves the tasks to their keepers; the second ends at once.
fn stop(events: &mut Vec<Event>, stopping: &mut bool) -> anyhow::Result<()> {
    anyhow::ensure!(
        !*stopping,
        "stopped a second time: ended at once, tasks go on under their keepers"
    );
    *stopping = true;
    tracing::info!("stopping: reporting what is known; tasks go on under their keepers");
    events.push(Event::Site(Site::Stop));
    Ok(())
}

async fn over(leash: Option<&tokio::io::unix::AsyncFd<Leash>>) {
    let Some(leash) = leash else {
        return std::future::pending().await;
    };
    loop {
        let Ok(mut ready) = leash.readable().await else {
            return;
        };
        if leash.get_ref().is_over() {
            return;
        }
        ready.clear_ready();
    }
}

async fn at(when: Option<std::time::Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Micros>) {
    match deadline {
        Some(deadline) => tokio::time::sleep(Duration::from_micros(deadline.since(now()))).await,
        None => std::future::pending().await,
    }
}
