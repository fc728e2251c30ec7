//! The catalogue: whether it would be accepted, and whether what it names is there.

use std::path::Path;

use super::Findings;
use crate::catalogue::{self, Catalogue};

const CHECK: &str = "catalogue";

/// Looks at the files and at what they name; answers the catalogue, if it would be accepted.
pub(super) fn look(dir: &Path, found: &mut Findings) -> Option<Catalogue> {
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
            found.ok(CHECK, format!("{entries} entries in {dir}"));
        }
        if !survey.remarks.is_empty() {
            let says = format!("{} remarks about what entries allow", survey.remarks.len());
            found.warning(CHECK, says, "outpost-agent catalogue lint shows them");
        }
    }
    survey.catalogue
}
