//! The demo's history: what the scripts wrote down, what the API shows, what the ledger says.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use outpost_agent::ledger::{Reader, explain_entry, verify};
use outpost_faults::history::{History, Ledger, Run, site};
use tokio::time::sleep;

use super::marks;
use crate::client::api::{Items, RunItem};
use crate::client::http::{Ask, Client};
use crate::dev::{Place, pair};
use crate::failure::Failure;

/// Between two looks whether everything has been acknowledged.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Collects it. An end that is in the ledger may still be on its way: it is waited for, within a limit.
pub(super) async fn history(
    place: &Place,
    client: &Client,
    acknowledged: Vec<String>,
    limit: Duration,
) -> Result<History, Failure> {
    let until = Instant::now() + limit;
    loop {
        let history = now(place, client, &acknowledged).await?;
        if outpost_faults::history::check(&history).is_empty() || Instant::now() > until {
            return Ok(history);
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn now(place: &Place, client: &Client, acknowledged: &[String]) -> Result<History, Failure> {
    let path = marks(place.root());
    let text = std::fs::read(&path).map_err(Failure::file(&path))?;
    let (marks, unreadable) = site::parse(&String::from_utf8_lossy(&text));
    let list: Items<RunItem> = client
        .get(&Ask::get(&["runs"]).with("limit", Some("200".to_owned())))
        .await?;
    let mut runs = Vec::new();
    for item in list.items {
        let tree = client.ask(&Ask::get(&["runs", &item.run])).await?;
        runs.extend(Run::from_api(&tree));
    }
    // Every entry of the example is one that may run again.
    let entries = runs
        .iter()
        .flat_map(|run| &run.tasks)
        .map(|task| task.entry.clone());
    let retry_safe = entries.collect::<BTreeSet<_>>();
    Ok(History {
        acknowledged: acknowledged.to_vec(),
        runs,
        site: marks,
        unreadable,
        ledgers: vec![ledger(&place.agent().join("ledger"))],
        retry_safe,
        ..History::default()
    })
}

fn ledger(dir: &Path) -> Ledger {
    let mut ledger = Ledger {
        agent: pair::AGENT.to_owned(),
        ..Ledger::default()
    };
    if let Err(error) = verify(dir).map(drop).and_then(|()| hear(dir, &mut ledger)) {
        ledger.broken = Some(error.to_string());
    }
    ledger
}

fn hear(dir: &Path, ledger: &mut Ledger) -> Result<(), outpost_agent::ledger::LedgerError> {
    let mut reader = Reader::open(dir)?;
    while let Some(entry) = reader.next_entry()? {
        for said in explain_entry(&entry) {
            ledger.hear(&said.words);
        }
    }
    Ok(())
}
