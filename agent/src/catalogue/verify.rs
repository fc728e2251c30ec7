//! Whether what is about to run is what the site put there: the program, the script that an interpreter reads, and the
//! catalogue's own files among its arguments, looked at again before each start.
//!
//! A catalogue is accepted once and its entries start for months. Nobody but the accounts named here can change what
//! passes, or put another file in its place: so that nothing can be exchanged between this look and the start, nor while
//! the interpreter opens its script.

use std::path::Path;

use super::{Catalogue, Entry, Plan};
use super::{paths, script};

impl Catalogue {
    /// Looks at the files of an entry, as they are with this plan's parameters. An entry that says `dangerous` may run a
    /// program that others can change.
    ///
    /// # Errors
    /// Which file is the trouble, and what to do about it.
    pub fn verify(&self, entry: &Entry, plan: &Plan) -> Result<(), String> {
        let own = rustix::process::geteuid().as_raw();
        let of_catalogue = entry.argv.iter().zip(&plan.argv).skip(1);
        for (_, file) in of_catalogue.filter(|(element, _)| element.is_catalogue_file()) {
            looked(Path::new(file), &[0, own])?;
        }
        let Some(program) = plan.argv.first().filter(|_| !entry.dangerous) else {
            return Ok(());
        };
        let owners = owners(entry, own);
        looked(Path::new(program), &owners)?;
        for file in script::run(entry, &self.dir) {
            looked(&file, &owners)?;
        }
        // It may have been put there since the catalogue was read.
        script::objection(entry, &self.dir).map_or(Ok(()), Err)
    }
}

/// Whose the files of an entry may be. What belongs to the account that it runs under gives nobody more than that
/// account has.
pub(super) fn owners(entry: &Entry, own_uid: u32) -> Vec<u32> {
    let user = entry.user.as_ref().map(|user| user.uid);
    [0, own_uid].into_iter().chain(user).collect()
}

/// What is not there is told by who wants to run or read it.
pub(super) fn looked(path: &Path, owners: &[u32]) -> Result<(), String> {
    match paths::check_for(path, owners) {
        Err(_) if path.symlink_metadata().is_err() => Ok(()),
        looked => looked,
    }
}
