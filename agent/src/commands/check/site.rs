//! The catalogue: whether it would be accepted, and whether what it names is there.

use std::path::Path;

use outpost_proto::message::Reporting;

use super::Findings;
use crate::catalogue::{self, Catalogue, Entry};

const CHECK: &str = "catalogue";

/// Looks at the files and at what they name; answers the catalogue, if it would be accepted.
pub(super) fn look(dir: &Path, reporting: Reporting, found: &mut Findings) -> Option<Catalogue> {
    let survey = catalogue::survey(dir, "");
    for problem in &survey.problems {
        found.failure(CHECK, problem.to_string(), "");
    }
    for problem in &survey.broken {
        found.failure(CHECK, problem.to_string(), "");
    }
    if let Some(catalogue) = &survey.catalogue {
        let entries = catalogue.entries().count();
        let dir = survey.dir.display();
        if entries == 0 {
            let fix = "write what may run here into NAME.toml in that directory; outpost-agent reference catalogue";
            found.warning(CHECK, format!("{dir} has no entries: nothing can run"), fix);
        } else if survey.broken.is_empty() {
            let entries = crate::output::count(entries, "entry");
            found.ok(CHECK, format!("{entries} in {dir}"));
        }
        secrets(catalogue, found);
        opted_in(catalogue, reporting, found);
        if !survey.remarks.is_empty() {
            let says = format!("{} remarks about what entries allow", survey.remarks.len());
            found.warning(CHECK, says, "outpost-agent catalogue lint shows them");
        }
    }
    survey.catalogue
}

/// What entries want to have told and a strict site does not tell.
fn opted_in(catalogue: &Catalogue, reporting: Reporting, found: &mut Findings) {
    const CHECK: &str = "reporting";
    match reporting {
        Reporting::Normal => return,
        Reporting::Strict => {}
    }
    let wants = |entry: &&Entry| entry.report_exit_code || entry.report_count;
    let names = catalogue.entries().filter(wants);
    let names = names.map(|entry| entry.name.as_str()).collect::<Vec<_>>();
    if names.is_empty() {
        found.ok(
            CHECK,
            "strict: outcomes, and steps, every ten seconds at most",
        );
        return;
    }
    let says = format!(
        "strict: neither exit codes nor counts are told, which these entries opted in to: {}",
        names.join(", ")
    );
    let fix = "take report_exit_code and report_count out of them; what needs a count upstream does not work here";
    found.warning(CHECK, says, fix);
}

/// What those secrets can be asked for that an entry is granted: whether they can be had, from here.
fn secrets(catalogue: &Catalogue, found: &mut Findings) {
    const CHECK: &str = "secrets";
    let granted = catalogue.entries().flat_map(|entry| &entry.secrets);
    let names = granted.map(|grant| grant.secret.clone());
    let names = names.collect::<std::collections::BTreeSet<_>>();
    if names.is_empty() {
        return;
    }
    let names = names.into_iter().collect::<Vec<_>>();
    let tried = crate::commands::secrets::try_all(catalogue.secrets(), &names);
    let failed = tried.iter().filter_map(|(_, tried)| tried.as_ref().err());
    let failed = failed.collect::<Vec<_>>();
    for why in &failed {
        let fix =
            "outpost-agent secrets test, in the agent's own environment, tells when it is mended";
        found.failure(CHECK, (*why).clone(), fix);
    }
    if failed.is_empty() {
        let count = names.len();
        found.ok(
            CHECK,
            format!("{count} of those that entries are granted, each of which can be had"),
        );
    }
}
