//! `check`: everything that must be right before `run` works, each failure with its mending.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use outpost_agent_keeper::containment;
use outpost_agent_keeper::exec::SelfExec;
use outpost_agent_link::ipc::{FromLink, ToLink};
use serde::Serialize;

use crate::cli::Form;
use crate::runner::link_process::LinkSetup;
use crate::runner::wall_us;
use crate::state_dir::{Identity, StateDir};
use crate::{catalogue, output};

/// How long the connection may take.
const CONNECT: Duration = Duration::from_secs(25);
/// The one connection of a check.
const CONN: u64 = 1;

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    ok: bool,
    says: String,
}

pub(crate) fn check(
    state: &Path,
    catalogue_dir: &Path,
    proxy: Option<String>,
    exec: SelfExec,
    form: Form,
) -> anyhow::Result<ExitCode> {
    let mut findings = Vec::new();
    let mut found = |what, result: Result<String, String>| {
        let ok = result.is_ok();
        let says = result.unwrap_or_else(|why| why);
        if form == Form::Table {
            output::line(format_args!(
                "{}  {what:<12} {says}",
                if ok { "ok  " } else { "FAIL" }
            ));
        }
        findings.push(Finding { what, ok, says });
        ok
    };
    let opened = StateDir::open(state).map_err(|error| error.to_string());
    let state = opened.as_ref().ok().cloned();
    found(
        "state",
        opened.map(|state| state.path().display().to_string()),
    );
    let identity = state
        .as_ref()
        .and_then(|state| state.identity().ok().flatten());
    let enrolled = identity
        .as_ref()
        .map(|identity| format!("agent {} of tenant {}", identity.agent, identity.tenant));
    found(
        "enrolment",
        enrolled.ok_or_else(|| "not enrolled: outpost-agent enrol --token-file FILE".to_owned()),
    );
    let loaded = catalogue::load(catalogue_dir, "").map_err(|error| error.to_string());
    found(
        "catalogue",
        loaded.map(|loaded| {
            format!(
                "{} entries in {}",
                loaded.entries().count(),
                catalogue_dir.display()
            )
        }),
    );
    if let Some(state) = &state {
        found(
            "containment",
            Ok(format!("{:?}", containment::probe(state.path())).to_lowercase()),
        );
    }
    if let (Some(state), Some(identity)) = (state, identity) {
        let setup = LinkSetup {
            exec,
            leash: None,
            key_dir: state.keys(),
            address: identity.orchestrator.clone(),
            proxy,
            pin: None,
        };
        let (certificate, connection) =
            super::block_on(async { Ok(connect(&setup, &identity).await) })?;
        found("certificate", certificate);
        found("clock", clock(&connection));
        found(
            "connection",
            connection.map(|()| format!("{} accepts this agent", identity.orchestrator)),
        );
    }
    if form == Form::Json {
        output::json(&findings);
    }
    let all_well = findings.iter().all(|finding| finding.ok);
    Ok(if all_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Certificate and connection, tried through a link and a dial of its own.
async fn connect(
    setup: &LinkSetup,
    identity: &Identity,
) -> (Result<String, String>, Result<(), String>) {
    let link = match setup.start() {
        Ok(link) => link,
        Err(error) => return (Err(format!("{error:#}")), Err("not tried".to_owned())),
    };
    let ready = match link.socket.recv().await {
        Ok(Some(FromLink::Ready {
            certificate_not_after_s,
            spiffe_id,
        })) => (certificate_not_after_s, spiffe_id),
        Ok(_) | Err(_) => {
            return (
                Err("the key directory cannot be used; see the line above".to_owned()),
                Err("not tried".to_owned()),
            );
        }
    };
    let certificate = certificate(ready.0, &ready.1, identity);
    let reached = tokio::time::timeout(CONNECT, reach(setup, &link)).await;
    let reached =
        reached.unwrap_or_else(|_| Err(format!("no answer within {} s", CONNECT.as_secs())));
    (certificate, reached)
}

fn certificate(not_after_s: u64, spiffe_id: &str, identity: &Identity) -> Result<String, String> {
    let now_s = wall_us() / 1_000_000;
    if not_after_s == 0 {
        return Err("there is none: enrol again with --force and a new token".to_owned());
    }
    if spiffe_id != identity.spiffe_id {
        return Err(format!(
            "it is {spiffe_id}'s, not {}'s: enrol again with --force",
            identity.spiffe_id
        ));
    }
    let Some(left_s) = not_after_s.checked_sub(now_s) else {
        return Err("it has expired: enrol again with --force and a new token (or this host's clock is ahead)".to_owned());
    };
    Ok(format!(
        "{spiffe_id}, ends in {} h {} min",
        left_s / 3600,
        left_s % 3600 / 60
    ))
}

async fn reach(
    setup: &LinkSetup,
    link: &crate::runner::link_process::LinkProcess,
) -> Result<(), String> {
    let text = |error: outpost_agent_link::ipc::IpcError| error.to_string();
    link.socket
        .send(&ToLink::Open { conn: CONN })
        .await
        .map_err(text)?;
    let end = link.dial_end().map_err(|error| error.to_string())?;
    setup
        .dial(&end, CONN)
        .await
        .map_err(|why| format!("{} cannot be reached: {why}", setup.address))?;
    loop {
        match link.socket.recv().await.map_err(text)? {
            // Closed again before a word is said: this check is no session and leaves nothing in the ledger.
            Some(FromLink::Opened { .. }) => return Ok(()),
            Some(FromLink::Closed { reason, text, .. }) => return Err(format!("{reason}: {text}")),
            Some(_) => {}
            None => return Err("the link process ended; its log says why".to_owned()),
        }
    }
}

/// Certificates are what the wall clock matters for, and a handshake that names time is the evidence at hand.
fn clock(connection: &Result<(), String>) -> Result<String, String> {
    match connection {
        Err(why) if why.contains("expired") => {
            Err("a certificate looks expired: compare this host's clock (date -u) with the orchestrator's".to_owned())
        }
        Err(why) if why.contains("not valid yet") => {
            Err("a certificate looks not valid yet: compare this host's clock (date -u) with the orchestrator's".to_owned())
        }
        Ok(()) => Ok("within what certificates allow".to_owned()),
        Err(_) => Ok("nothing speaks against it; the connection was not far enough to tell".to_owned()),
    }
}
