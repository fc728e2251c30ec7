//! `check`: everything that must be right before `run` works. Each finding says what was looked at, what is wrong with
//! which thing, and what to do about it. A check changes nothing and leaves nothing behind, neither on disk nor in the
//! ledger.

mod connection;
mod host;
mod site;
mod state;

use std::path::Path;
use std::process::ExitCode;

use outpost_agent_keeper::exec::SelfExec;
use outpost_proto::message::Reporting;
use serde::Serialize;

use crate::cli::Form;
use crate::output;
use crate::runner::link_process::{LinkSetup, Living};
use crate::sandbox::{Accounts, KeyDirectory, Required};

/// What a command line says about the set-up.
pub(crate) struct Setup<'a> {
    pub(crate) state: &'a Path,
    pub(crate) catalogue: &'a Path,
    pub(crate) proxy: Option<String>,
    pub(crate) reporting: Reporting,
    pub(crate) audit: Option<crate::audit::Audit>,
    pub(crate) sandbox: Required,
    pub(crate) exec: SelfExec,
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    Ok,
    /// It works and may not be what is wanted.
    Warning,
    /// `run` does not work, or entries do not.
    Failure,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

/// Everything found, shown as it comes.
struct Findings {
    form: Form,
    all: Vec<Finding>,
}

impl Findings {
    fn ok(&mut self, check: &'static str, says: impl Into<String>) {
        self.add(check, Level::Ok, says.into(), None);
    }

    fn warning(&mut self, check: &'static str, says: impl Into<String>, fix: impl Into<String>) {
        self.add(check, Level::Warning, says.into(), Some(fix.into()));
    }

    fn failure(&mut self, check: &'static str, says: impl Into<String>, fix: impl Into<String>) {
        self.add(check, Level::Failure, says.into(), Some(fix.into()));
    }

    fn add(&mut self, check: &'static str, level: Level, says: String, fix: Option<String>) {
        let fix = fix.filter(|fix| !fix.is_empty());
        if self.form == Form::Table {
            let word = match level {
                Level::Ok => "ok  ",
                Level::Warning => "warn",
                Level::Failure => "FAIL",
            };
            output::line(format_args!("{word}  {check:<12} {says}"));
            if let Some(fix) = &fix {
                output::line(format_args!("      {:<12} fix: {fix}", ""));
            }
        }
        self.all.push(Finding {
            check,
            level,
            says,
            fix,
        });
    }

    fn count(&self, level: Level) -> usize {
        self.all.iter().filter(|found| found.level == level).count()
    }
}

/// Looks at everything; fails when something keeps `run` or an entry from working.
pub(crate) fn check(setup: Setup<'_>, form: Form) -> anyhow::Result<ExitCode> {
    let mut found = Findings {
        form,
        all: Vec::new(),
    };
    let state = state::look(setup.state, &mut found);
    let catalogue = site::look(setup.catalogue, setup.reporting, &mut found);
    host::look(&mut found);
    host::separation(&mut found);
    if let Some(state) = &state {
        state::space(state, &mut found);
        state::reachable(state, catalogue.as_ref(), &mut found);
        host::containment(state, &mut found);
        state::lock(state, &mut found);
    }
    if let Some((state, identity)) = state.and_then(|state| state::identity(state, &mut found)) {
        let link = LinkSetup {
            audit: setup.audit,
            accounts: Accounts::find(&state.keys(), KeyDirectory::StaysAsItIs),
            // What is less than is asked for is a finding.
            least: Required::Best.least(),
            living: Living::default(),
            exec: setup.exec,
            leash: None,
            key_dir: state.keys(),
            address: identity.orchestrator.clone(),
            proxy: setup.proxy,
            pin: None,
        };
        super::block_on(async {
            connection::look(&link, &identity, setup.sandbox, &mut found).await;
            Ok(())
        })?;
    }
    let failures = found.count(Level::Failure);
    match form {
        Form::Json => output::json(&serde_json::json!({
            "ok": failures == 0,
            "findings": found.all,
        })),
        Form::Table => output::line(format_args!(
            "{} ok, {} warnings, {failures} failures",
            found.count(Level::Ok),
            found.count(Level::Warning)
        )),
    }
    Ok(if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
