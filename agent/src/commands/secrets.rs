//! `secrets list|test`: where the site's secrets come from, who is granted them, and whether they can be had. No value is
//! ever shown, nor its length.

use std::path::Path;
use std::process::ExitCode;

use crate::catalogue::{self, Catalogue};
use crate::cli::Form;
use crate::output;
use crate::secrets::{Name, Resolver, Source, Sources};

/// The entries that are granted a secret.
fn entries<'a>(catalogue: &'a Catalogue, name: &'a Name) -> Vec<&'a str> {
    let granted = catalogue.entries().filter(move |entry| {
        let mut grants = entry.secrets.iter();
        grants.any(|grant| grant.secret == *name)
    });
    granted.map(|entry| entry.name.as_str()).collect()
}

pub(crate) fn list(dir: &Path, form: Form) -> anyhow::Result<ExitCode> {
    let catalogue = catalogue::load(dir, "")?;
    let secrets = catalogue.secrets();
    match form {
        Form::Json => {
            let row = |(name, source): (&Name, &Source)| {
                serde_json::json!({
                    "secret": name.as_str(),
                    "source": source.to_string(),
                    "entries": entries(&catalogue, name),
                })
            };
            output::json(&secrets.iter().map(row).collect::<Vec<_>>());
        }
        Form::Table => {
            for (name, source) in secrets.iter() {
                let entries = entries(&catalogue, name);
                let granted = if entries.is_empty() {
                    "granted to no entry".to_owned()
                } else {
                    format!("granted to {}", entries.join(", "))
                };
                output::line(format_args!("{name}: {source}; {granted}"));
            }
            if secrets.iter().next().is_none() {
                let file = secrets.file().display();
                output::note(format_args!(
                    "no secrets are defined: {file} would name their sources"
                ));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn test(dir: &Path, names: &[String], form: Form) -> anyhow::Result<ExitCode> {
    let catalogue = catalogue::load(dir, "")?;
    let secrets = catalogue.secrets();
    let names = match names {
        [] => secrets.iter().map(|(name, _)| name.clone()).collect(),
        names => names
            .iter()
            .map(|name| name.parse::<Name>().map_err(anyhow::Error::msg))
            .collect::<Result<Vec<_>, _>>()?,
    };
    let tried = try_all(secrets, &names);
    match form {
        Form::Json => {
            let row = |(name, tried): &(Name, Result<(), String>)| {
                serde_json::json!({
                    "secret": name.as_str(),
                    "ok": tried.is_ok(),
                    "why": tried.as_ref().err(),
                })
            };
            output::json(&tried.iter().map(row).collect::<Vec<_>>());
        }
        Form::Table => tried.iter().for_each(|(name, tried)| match tried {
            Ok(()) => output::line(format_args!("ok    {name}")),
            Err(why) => output::line(format_args!("FAIL  {why}")),
        }),
    }
    let failed = tried.iter().any(|(_, tried)| tried.is_err());
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Fetches each and forgets it; for each that cannot be had, why.
pub(crate) fn try_all(sources: &Sources, names: &[Name]) -> Vec<(Name, Result<(), String>)> {
    let resolver = Resolver::default();
    let one = |name: &Name| {
        let tried = super::block_on(async {
            let got = resolver.resolve(sources, &[name]).await;
            Ok(got.map(drop).map_err(|why| why.to_string()))
        });
        let tried = tried.unwrap_or_else(|error| Err(error.to_string()));
        (name.clone(), tried)
    };
    names.iter().map(one).collect()
}
