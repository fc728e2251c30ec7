//! `site-key`: making the key with which a site encrypts what lies on its disk, and naming those it has.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use crate::cli::Form;
use crate::output;
use crate::seal::{KeyArgs, make};

pub(crate) fn new(out: &Path, form: Form) -> anyhow::Result<ExitCode> {
    let id = make(out)?;
    match form {
        Form::Json => output::json(&json!({ "key_id": id.to_string(), "file": out })),
        Form::Table => {
            output::line(format_args!("site key {id} is in {}", out.display()));
            output::note(
                "keep a copy of it elsewhere: without it nothing that was encrypted with it can be read again\nnext: outpost-agent run --site-key-file FILE",
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn list(keys: &KeyArgs, form: Form) -> anyhow::Result<ExitCode> {
    let ids = keys.load()?.map(|keys| keys.ids()).unwrap_or_default();
    let ids = ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    match form {
        Form::Json => output::json(&json!({ "key_ids": ids })),
        Form::Table if ids.is_empty() => output::note("no site key is given"),
        Form::Table => ids.iter().enumerate().for_each(|(at, id)| {
            let use_of = if at == 0 {
                "encrypts and opens"
            } else {
                "opens"
            };
            output::line(format_args!("{id}  {use_of}"));
        }),
    }
    Ok(ExitCode::SUCCESS)
}
