//! Whether anybody but root and the agent's own account could change a file: looked at along its whole path.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Refuses a file that others could change, or put another in the place of.
///
/// # Errors
/// Which part of the path is the trouble, and what to do about it.
pub(super) fn check(path: &Path, own_uid: u32) -> Result<(), String> {
    let real = path
        .canonicalize()
        .map_err(|error| format!("{}: {error}", path.display()))?;
    for part in real.ancestors() {
        let meta = part
            .metadata()
            .map_err(|error| format!("{}: {error}", part.display()))?;
        if let Some(why) = objection(&meta, own_uid) {
            return Err(format!("{} {why}", part.display()));
        }
    }
    Ok(())
}

fn objection(meta: &Metadata, own_uid: u32) -> Option<String> {
    let owner = meta.uid();
    if owner != 0 && owner != own_uid {
        return Some(format!(
            "belongs to user {owner}: it must belong to root or to the agent's own account (chown)"
        ));
    }
    let others_write = meta.mode() & 0o022 != 0;
    let sticky_of_root = meta.is_dir() && meta.mode() & 0o1000 != 0 && owner == 0;
    if others_write && !sticky_of_root {
        return Some(format!(
            "can be written by others (mode {:o}): chmod go-w",
            meta.mode() & 0o7777
        ));
    }
    None
}
