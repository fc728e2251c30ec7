//! `approve`: a person at the site lets an entry start that needs it, so often and for so long.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use outpost_proto::message::ParamValue;
use outpost_proto::name::{EntryName, ParamName};

use crate::approvals::{Approval, Approvals};
use crate::catalogue::{self, Entry};
use crate::cli::Form;
use crate::output;
use crate::runner::wall_us;
use crate::state_dir::StateDir;

/// What is to be approved, or taken back.
pub(crate) struct Wanted {
    pub(crate) entry: String,
    pub(crate) times: u32,
    pub(crate) within: Duration,
    pub(crate) params: Vec<String>,
    pub(crate) withdraw: bool,
}

pub(crate) fn approve(
    state: &Path,
    catalogue: &Path,
    wanted: Option<Wanted>,
    form: Form,
) -> anyhow::Result<ExitCode> {
    let state = StateDir::open(state)?;
    let approvals = Approvals::of(state.path());
    let now = wall_us();
    if let Some(wanted) = wanted {
        let name = wanted.entry.parse::<EntryName>()?;
        if wanted.withdraw {
            let count = approvals.withdraw(name.as_str(), now);
            let count = count.context("taking back what is approved")?;
            output::note(format_args!("{name}: {count} taken back"));
        } else {
            let catalogue = catalogue::load(catalogue, "")?;
            let entry = catalogue.entry(&name).with_context(|| {
                format!(
                    "the catalogue has no entry `{name}`: outpost-agent catalogue list shows them"
                )
            })?;
            let approval = approval(entry, &wanted, now)?;
            approvals.add(approval, now).context("approving it")?;
        }
    }
    let list = approvals.list(now).context("reading what is approved")?;
    match form {
        Form::Json => output::json(&list),
        Form::Table if list.is_empty() => output::note("nothing is approved"),
        Form::Table => list
            .iter()
            .for_each(|approval| output::line(words(approval, now))),
    }
    Ok(ExitCode::SUCCESS)
}

fn approval(entry: &Entry, wanted: &Wanted, now: u64) -> anyhow::Result<Approval> {
    if !entry.needs_approval {
        bail!(
            "entry `{}` needs no approval: it has no needs_approval = true",
            entry.name
        );
    }
    let mut parameters = BTreeMap::new();
    for text in &wanted.params {
        let (name, value) = text
            .split_once('=')
            .with_context(|| format!("`{text}` is no parameter: write --param NAME=VALUE"))?;
        let name = name.parse::<ParamName>()?;
        let param = entry.params.get(&name);
        let param =
            param.with_context(|| format!("entry `{}` has no parameter `{name}`", entry.name))?;
        let value = param.typed(value);
        let accepted = param.kind.accept(&value);
        accepted.map_err(|why| anyhow::anyhow!("parameter `{name}` {why}"))?;
        let text = match value {
            ParamValue::Flag(flag) => flag.to_string(),
            ParamValue::Integer(integer) => integer.to_string(),
            ParamValue::Text(text) => text,
        };
        parameters.insert(name.to_string(), text);
    }
    let within = u64::try_from(wanted.within.as_micros()).unwrap_or(u64::MAX);
    Ok(Approval {
        entry: entry.name.to_string(),
        parameters,
        left: wanted.times,
        until_us: now.saturating_add(within),
    })
}

fn words(approval: &Approval, now: u64) -> String {
    let minutes = approval.until_us.saturating_sub(now).div_ceil(60_000_000);
    let starts = if approval.left == 1 {
        "start"
    } else {
        "starts"
    };
    let with = approval
        .parameters
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let with = with.collect::<Vec<_>>().join(", ");
    let with = if with.is_empty() {
        String::new()
    } else {
        format!(" with {with}")
    };
    format!(
        "{}: {} {starts}{with}, for {minutes} more minutes",
        approval.entry, approval.left
    )
}
