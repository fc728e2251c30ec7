//! Getting the runner ready: the state directory, what an earlier runner left, and everything the loop needs.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context as _;
use outpost_agent_core::event::{Event, Rules};
use outpost_agent_core::record::Snapshot;
use outpost_agent_core::{Agent, Found, Settings, unsettled};
use outpost_agent_keeper::containment;
use outpost_agent_keeper::exec::Leash;
use outpost_agent_keeper::process::boot_time_us;
use outpost_proto::ids::AttemptId;
use outpost_proto::message::{Assign, Containment, Level};
use outpost_proto::wire;
use tokio::sync::mpsc;

use super::certificate::Certificate;
use super::link::LinkHandle;
use super::link_process::{LinkProcess, LinkSetup, Living};
use super::outgoing::Outgoing;
use super::resting::Resting;
use super::retention::{self, Keep, Trash};
use super::steady::Steady;
use super::store::AgentStore;
use super::tasks::{Current, Tasks};
use super::{INBOX, Options, RawLeash, Runner, durable, hour, keepers, local, now, wall_us};
use crate::catalogue::{self, Catalogue};
use crate::health::Sampler;
use crate::journal::Journal;
use crate::ledger::{self, Anchor, Ledger, Trust};
use crate::life::{self, Life};
use crate::metrics::{self, Numbers, Shared};
use crate::refusals::Refusals;
use crate::sandbox::{self, Accounts, KeyDirectory, Reached};
use crate::state_dir::{Identity, StateDir, modes};

/// How many attempts wait at a keeper for its present one to be over.
const AHEAD: u16 = 1;

/// Runs the agent until it is stopped, drained, or can no longer be trusted to record what it does.
///
/// # Errors
/// Everything that keeps it from starting, and a journal or ledger that cannot be written.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let state = StateDir::open(&options.state)?;
    let lock = state.lock()?;
    state.migrate(&lock)?;
    crate::enrol::finish(&state).context("completing an enrolment that was interrupted")?;
    let identity = state.identity()?.context(
        "this agent is not enrolled: get a join token from the operator and run `outpost-agent enrol --token-file FILE`",
    )?;
    let catalogue = Arc::new(catalogue::load(&options.catalogue, &identity.spiffe_id)?);
    let (inbox, happened) = mpsc::channel(INBOX);
    let current: Current = Rc::new(RefCell::new(Arc::clone(&catalogue)));

    let leash = options
        .leash
        .map(|RawLeash(fd)| Leash::take(fd))
        .transpose()
        .context("taking the leash over")?;
    let leash_for = |leash: &Option<Leash>| leash.as_ref().map(Leash::try_clone).transpose();
    // A sandbox that is less than what is asked for ends this before anything is touched.
    let setup = link_setup(&options, &state, &identity, leash_for(&leash)?);
    let (setup, first) = setup.first().await?;
    let living = setup.living.clone();
    let numbers = Shared::new(RefCell::new(Numbers::new(wall_us())));
    let (syncs, waits) = durable::start().context("starting the thread that syncs")?;
    let store = open_store(
        (&state, &identity),
        options.keep,
        syncs,
        Rc::clone(&numbers),
    )?;
    let (mut settings, life) = settings(&options, &state)?;
    let sandbox = first_words(&setup, first.as_ref(), &mut settings);
    let steady = Steady::begin(state.path());
    settings.begin_after = steady.wait();
    let snapshot = store.snapshot();
    let trash = clean_up(&state, &snapshot);
    let begun = begun(&snapshot, &settings);
    let found = keepers::find(&state, &begun, &current).await;
    let resting = Resting::new(&state, options.site_keys.clone(), options.seal_runs_after);
    let mut tasks = Tasks::new(
        state.clone(),
        options.exec.clone(),
        leash_for(&leash)?,
        Rc::clone(&current),
        inbox.clone(),
        trash.clone(),
        resting.clone(),
    );
    tasks.tell_in(Rc::clone(&numbers));
    if let Some(audit) = &options.audit {
        tasks.close(audit.path());
    }
    tasks.sweep(&found);
    let adopted = begun
        .into_iter()
        .filter(|assign| found.get(&assign.attempt) == Some(&Found::Running))
        .map(|assign| tasks.adopt(assign))
        .count();
    tracing::info!(
        agent = identity.agent,
        orchestrator = identity.orchestrator,
        entries = catalogue.entries().count(),
        adopted,
        observe = options.observe,
        life_changed = life.changed,
        "agent starts"
    );
    let core = core(&state, &catalogue, settings, snapshot, found)?;
    let link = LinkHandle::start(setup, first, inbox.clone());
    local::serve(&state, inbox.clone())?;
    let log_percent = Rc::new(Cell::new(0));
    if let Some(address) = options.metrics {
        metrics::server::serve(address, inbox.clone()).await?;
    }
    let keep = options.keep;
    tokio::task::spawn_local(resting.keep(inbox.clone()));
    tokio::task::spawn_local(keep_modes(&state, &current, &numbers));
    let kept = retention::keep(state.clone(), keep, trash, inbox, Rc::clone(&log_percent));
    tokio::task::spawn_local(kept);
    let site_keys = key_names(&options);
    let refusals = Refusals::open(state.path());
    let rules: Rules = catalogue;
    let runner = Runner {
        core,
        encoded: store.encoded(),
        store,
        tasks,
        outgoing: Outgoing::new(link, waits),
        current,
        sampler: Sampler::new(state.path()),
        log_percent,
        catalogue_dir: options.catalogue,
        audit: options.audit,
        certificate: Certificate::default(),
        trouble: None,
        fresh_trouble: None,
        numbers,
        keep,
        identity,
        pending: vec![Event::Catalogue(rules)],
        room: true,
        steady,
        sandbox,
        living,
        site_keys,
        life: (!life.known).then_some((state, life.present)),
        refusals,
        asked: Vec::new(),
    };
    let ended = runner.run(happened, leash).await;
    drop(lock);
    ended
}

/// The core, which knows of what began within the last hour.
fn core(
    state: &StateDir,
    catalogue: &Catalogue,
    settings: Settings,
    snapshot: Snapshot,
    found: BTreeMap<AttemptId, Found>,
) -> anyhow::Result<Agent> {
    let begun = hour::begun(state, catalogue, &found, wall_us(), now());
    let mut core = Agent::new(settings, seed()?, now(), snapshot, found);
    for (entry, at) in begun {
        core.began(&entry, at);
    }
    Ok(core)
}

/// Takes away what an earlier runner had no time to. Nothing that fails here is worth not starting for.
fn clean_up(state: &StateDir, snapshot: &Snapshot) -> Trash {
    let trash = Trash::start(state);
    let held = snapshot.attempts.iter().map(|held| held.assign.attempt);
    if let Err(error) = trash.throw_work(&held.collect()) {
        tracing::warn!("working directories of an earlier life stay for now: {error}");
    }
    if let Err(error) = trash.throw_spares() {
        tracing::warn!("directories that nobody uses stay for now: {error}");
    }
    trash
}

/// Sees to it that nobody lets others read the agent's own files.
fn keep_modes(
    state: &StateDir,
    current: &Current,
    numbers: &Shared,
) -> impl Future<Output = ()> + use<> {
    let (current, numbers) = (Rc::clone(current), Rc::clone(numbers));
    let private = move || current.borrow().secrets().private();
    let alarm = move |says: &str| numbers.borrow_mut().trouble(wall_us(), says);
    modes::keep(state.clone(), private, alarm)
}

fn link_setup(
    options: &Options,
    state: &StateDir,
    identity: &Identity,
    leash: Option<Leash>,
) -> LinkSetup {
    LinkSetup {
        exec: options.exec.clone(),
        leash,
        key_dir: state.keys(),
        address: identity.orchestrator.clone(),
        proxy: options.proxy.clone(),
        pin: None,
        audit: options.audit.clone(),
        accounts: Accounts::find(&state.keys(), KeyDirectory::MayChange),
        least: options.sandbox.least(),
        living: Living::default(),
    }
}

/// What is told of link's sandbox, here and upstream. A link that did not start counts as one without any.
fn first_words(setup: &LinkSetup, first: Option<&LinkProcess>, settings: &mut Settings) -> Reached {
    let Some(link) = first else {
        return Reached::default();
    };
    settings.sandbox = sandbox::upstream(link.confinement.level());
    if !super::walls::here().0 {
        // One level is told of both: of link's sandbox and of the wall around tasks.
        settings.sandbox = settings.sandbox.min(Level::Partial);
    }
    let reached = Reached::new(&link.confinement, &setup.accounts);
    if reached.missing.is_empty() {
        tracing::info!("sandbox {}", reached.words());
    } else {
        tracing::warn!("sandbox {}; to mend: {}", reached.words(), reached.fixes());
    }
    reached
}

/// The attempts of this life that an earlier runner began.
fn begun(snapshot: &Snapshot, settings: &Settings) -> Vec<Assign> {
    let begun = unsettled(snapshot, settings)
        .into_iter()
        .collect::<BTreeSet<_>>();
    let held = snapshot.attempts.iter();
    held.filter(|held| begun.contains(&held.assign.attempt))
        .map(|held| held.assign.clone())
        .collect()
}

/// The names of the site's keys; said once, so that whoever looks for a key later finds which one it was.
fn key_names(options: &Options) -> Vec<String> {
    let ids = options.site_keys.iter().flat_map(|keys| keys.ids());
    let names = ids.map(|id| id.to_string()).collect::<Vec<_>>();
    match names.first() {
        Some(name) => tracing::info!("logs and outputs are encrypted with site key {name}"),
        None => tracing::info!("logs and outputs are not encrypted"),
    }
    names
}

fn open_store(
    (state, identity): (&StateDir, &Identity),
    keep: Keep,
    syncs: durable::Syncs,
    numbers: Shared,
) -> anyhow::Result<AgentStore> {
    let journal = Journal::open(state.path())?;
    let limits = ledger::Limits {
        bytes: keep.ledger_bytes,
        keep: keep.ledger,
        dated: keep.dated,
    };
    let mut ledger = Ledger::open(&state.ledger(), limits, wall_us())?;
    ledger.trust(trust(state, identity)?);
    ledger.is_of(ledger::Named::of(&identity.spiffe_id));
    Ok(AgentStore::new(journal, ledger, syncs, numbers))
}

/// Whose receipts count: what enrolment settled. Where an enrolment was cut short after its certificate was stored, and for
/// agents that are older than receipts, link's roots are taken once.
fn trust(state: &StateDir, identity: &Identity) -> anyhow::Result<Trust> {
    let known = Trust::read(&state.ledger())?;
    let domain = |anchor: &Anchor| Anchor::new(&identity.spiffe_id, &anchor.ders());
    if known
        .anchors
        .last()
        .is_some_and(|last| domain(last).as_ref() == Some(last))
    {
        return Ok(known);
    }
    let path = state.keys().join("roots.crt");
    let roots = std::fs::read(&path).ok();
    let roots = roots.and_then(|pem| outpost_certs::pem::certificates(&pem).ok());
    let ders: Vec<Vec<u8>> = roots.iter().flatten().map(|der| der.to_vec()).collect();
    match Anchor::new(&identity.spiffe_id, &ders).filter(|_| !ders.is_empty()) {
        Some(anchor) => Ok(Trust::add(&state.ledger(), anchor)?),
        None => Ok(known),
    }
}

/// The present life, and whether it is another than the one that the state directory remembers.
struct Lives {
    present: Life,
    changed: bool,
    /// Whether the state directory remembers exactly this one.
    known: bool,
}

/// What this host, this life and this build settle.
fn settings(options: &Options, state: &StateDir) -> anyhow::Result<(Settings, Lives)> {
    let life = Life::present(&state.id()?).context("finding out which life this is")?;
    let earlier = life::earlier(state.path()).context("reading which life the last one was")?;
    let mut settings = Settings::new(life.incarnation(), options.slots);
    if let Some(earlier) = &earlier {
        settings.interruption = life.interruption_since(earlier);
    }
    settings.build = crate::build_version();
    settings.schema_hash = wire::schema_hash();
    settings.containment = match containment::probe(state.path()) {
        outpost_agent_keeper::protocol::Containment::Cgroup => Containment::Cgroup,
        outpost_agent_keeper::protocol::Containment::PidNamespace => Containment::PidNamespace,
        outpost_agent_keeper::protocol::Containment::Subreaper => Containment::Subreaper,
    };
    settings.observe = options.observe;
    settings.reporting = options.reporting;
    settings.ahead = AHEAD;
    settings.wall_offset_s = (wall_us().saturating_sub(boot_time_us())) / 1_000_000;
    let known = earlier.as_ref() == Some(&life);
    let lives = Lives {
        changed: earlier.is_some() && !known,
        known,
        present: life,
    };
    Ok((settings, lives))
}

fn seed() -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| anyhow::anyhow!("no randomness from the kernel: {error}"))?;
    Ok(seed)
}
