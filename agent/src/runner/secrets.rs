//! Attempts that wait for their secrets: fetched beside the loop when the attempt really starts, never before, and gone
//! from this process once its keeper has them. An attempt that is granted some therefore waits at no keeper.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use outpost_agent_core::event::{Event, KeeperSaid, NotStarted};
use outpost_agent_keeper::protocol::StartSpec;
use outpost_agent_keeper::secrets::{self, Bundle, Delivery, Secrets};
use outpost_proto::ids::AttemptId;
use outpost_proto::message::Assign;
use tokio::sync::{Semaphore, mpsc};

use super::Happened;
use super::observe::Observed;
use crate::catalogue::{Catalogue, Entry};
use crate::secrets::{Place, Resolver, Value, look};

/// Of so many observed instructions secrets are looked for at the same time.
const LOOKS: usize = 64;

/// What came of fetching the secrets of an attempt.
pub(crate) struct Granted {
    pub(super) assign: Assign,
    pub(super) lease_until_boot_us: u64,
    /// The catalogue under which it was begun: what it is granted is what was fetched.
    pub(super) catalogue: Arc<Catalogue>,
    /// Why not, in words for the site.
    pub(super) secrets: Result<Secrets, String>,
}

/// Fetches secrets, and knows for whom.
pub(super) struct Granting {
    resolver: Resolver,
    looks: Arc<Semaphore>,
    awaited: BTreeSet<AttemptId>,
    place: Option<Place>,
    inbox: mpsc::Sender<Happened>,
}

impl Granting {
    pub(super) fn new(inbox: mpsc::Sender<Happened>) -> Self {
        Self {
            resolver: Resolver::default(),
            looks: Arc::new(Semaphore::new(LOOKS)),
            awaited: BTreeSet::new(),
            place: None,
            inbox,
        }
    }

    /// Takes away what attempts of an earlier runner left, but for those that run.
    pub(super) fn sweep(
        &mut self,
        state: &Path,
        catalogue: &Catalogue,
        running: &BTreeSet<String>,
    ) {
        if let Some(place) = Place::existing(state, catalogue.secrets().files_in()) {
            place.sweep(|attempt| running.contains(attempt));
            self.place = Some(place);
        }
        self.reloaded(state, catalogue);
    }

    /// Makes the place for files ready if an entry needs one: tasks that begin from now on are kept out of it.
    pub(super) fn reloaded(&mut self, state: &Path, catalogue: &Catalogue) {
        if catalogue.entries().any(wants_files)
            && let Err(why) = self.place(state, catalogue)
        {
            tracing::error!("entries with secrets that are files cannot be started: {why}");
        }
    }

    fn place(&mut self, state: &Path, catalogue: &Catalogue) -> Result<Place, String> {
        let place = Place::open(state, catalogue.secrets().files_in())?;
        self.place = Some(place.clone());
        Ok(place)
    }

    /// Begins to fetch; [`Happened::Granted`] tells how it went.
    ///
    /// # Errors
    /// Why there is nothing to wait for.
    pub(super) fn ask(
        &mut self,
        state: &Path,
        assign: &Assign,
        lease_until_boot_us: u64,
        catalogue: Arc<Catalogue>,
    ) -> Result<(), String> {
        let entry = catalogue.entry(&assign.entry).ok_or("no entry")?;
        let needs_place = wants_files(entry);
        let place = needs_place
            .then(|| self.place(state, &catalogue))
            .transpose()?;
        self.awaited.insert(assign.attempt);
        let (resolver, inbox, assign) = (self.resolver.clone(), self.inbox.clone(), assign.clone());
        tokio::task::spawn_local(async move {
            let secrets = match catalogue.entry(&assign.entry) {
                Some(entry) => {
                    fetch(&resolver, &catalogue, entry, place.as_ref(), assign.attempt).await
                }
                None => Err("no entry".to_owned()),
            };
            let granted = Granted {
                assign,
                lease_until_boot_us,
                catalogue,
                secrets,
            };
            inbox.send(Happened::Granted(Box::new(granted))).await.ok();
        });
        Ok(())
    }

    /// Looks whether an instruction that was only observed could have had its secrets; [`Happened::Observed`] tells.
    ///
    /// # Errors
    /// It is given back: there are too many at the moment.
    pub(super) fn look(
        &self,
        mut observed: Box<Observed>,
        catalogue: &Catalogue,
    ) -> Result<(), Box<Observed>> {
        let Ok(turn) = Arc::clone(&self.looks).try_acquire_owned() else {
            return Err(observed);
        };
        let entry = catalogue.entry(&observed.assign.entry);
        let grants = entry.iter().flat_map(|entry| &entry.secrets);
        let names = grants.map(|grant| grant.secret.clone()).collect();
        let (sources, inbox) = (Arc::clone(catalogue.secrets()), self.inbox.clone());
        tokio::task::spawn_local(async move {
            observed.saw(look(sources, names).await);
            inbox.send(Happened::Observed(observed)).await.ok();
            drop(turn);
        });
        Ok(())
    }

    /// Whether the attempt is still wanted; it waits no more.
    pub(super) fn arrived(&mut self, attempt: AttemptId) -> bool {
        self.awaited.remove(&attempt)
    }

    /// Lets go of an attempt that shall not begin; whether it waited here.
    pub(super) fn cancel(&mut self, attempt: AttemptId) -> bool {
        let waited = self.awaited.remove(&attempt);
        if waited {
            let inbox = self.inbox.clone();
            tokio::task::spawn_local(async move {
                let said = KeeperSaid::NotStarted(NotStarted::Cancelled);
                let event = Event::Keeper { attempt, said };
                inbox.send(Happened::Core(event)).await.ok();
            });
        }
        waited
    }

    /// The attempt is over: what a keeper that was killed left goes.
    pub(super) fn over(&self, attempt: AttemptId) {
        if let Some(place) = &self.place {
            place.forget(attempt);
        }
    }

    /// Keeps the task out of other tasks' files and out of the sources, where it runs under the agent's own account.
    pub(super) fn enclose(&self, spec: &mut StartSpec, catalogue: &Catalogue) {
        enclose(spec, catalogue, self.place.as_ref());
    }
}

/// See [`Granting::enclose`]. `place`: where files of the agent's other tasks are.
pub(super) fn enclose(spec: &mut StartSpec, catalogue: &Catalogue, place: Option<&Place>) {
    let Some(wall) = &mut spec.wall else { return };
    let sources = catalogue.secrets().private();
    let place = place.map(|place| place.dir().to_owned());
    let closed = sources.into_iter().chain(place);
    // What is not there needs no wall.
    let closed = closed.filter_map(|path| path.canonicalize().ok());
    wall.closed.extend(closed);
    let own = spec
        .secrets
        .as_ref()
        .and_then(|secrets| secrets.dir.clone());
    wall.open.extend(own);
}

fn wants_files(entry: &Entry) -> bool {
    let mut grants = entry.secrets.iter();
    grants.any(|grant| grant.delivery == Delivery::File)
}

/// The place for an entry's secrets that are files, if it has some.
///
/// # Errors
/// A sentence when there is none.
pub(super) fn place_for(
    entry: &Entry,
    catalogue: &Catalogue,
    state: &Path,
) -> Result<Option<Place>, String> {
    let open = || Place::open(state, catalogue.secrets().files_in());
    wants_files(entry).then(open).transpose()
}

/// What the entry is granted, with the values sealed.
///
/// # Errors
/// A sentence that names the secret and nothing of its value.
pub(super) async fn fetch(
    resolver: &Resolver,
    catalogue: &Catalogue,
    entry: &Entry,
    place: Option<&Place>,
    attempt: AttemptId,
) -> Result<Secrets, String> {
    let names = entry.secrets.iter().map(|grant| &grant.secret);
    let names = names.collect::<Vec<_>>();
    let values = resolver.resolve(catalogue.secrets(), &names).await;
    let values = values.map_err(|why| why.to_string())?;
    let values = Bundle::seal(values.iter().map(Value::bytes));
    let values = values.map_err(|error| format!("its secrets cannot be passed on: {error}"))?;
    let grants = entry.secrets.iter().map(|grant| secrets::Grant {
        name: grant.secret.to_string(),
        variable: grant.variable.clone(),
        delivery: grant.delivery,
    });
    Ok(Secrets {
        grants: grants.collect(),
        dir: place.map(|place| place.attempt(attempt)),
        values,
    })
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
