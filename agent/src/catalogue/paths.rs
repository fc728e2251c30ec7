//! Whether anybody but root and the agent's own account could change a file, or put another in its place: looked at along
//! its whole path, the links on it and the directories that these lie in included. Of a path that passes, whoever opens it
//! later gets what was looked at.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// As many links on one path as the kernel follows.
const LINKS: usize = 40;

/// Refuses a file that others could change, or put another in the place of.
///
/// # Errors
/// Which part of the path is the trouble, and what to do about it.
pub(crate) fn check(path: &Path, own_uid: u32) -> Result<(), String> {
    check_for(path, &[0, own_uid])
}

/// The same for these owners, of whom root should be one.
///
/// # Errors
/// As [`check`].
pub(super) fn check_for(path: &Path, owners: &[u32]) -> Result<(), String> {
    let whole = std::path::absolute(path).map_err(|error| told(path, &error))?;
    let mut at = PathBuf::from("/");
    let mut rest = parts(&whole);
    let mut links = 0;
    judge(&at, owners)?;
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(part);
        if !judge(&next, owners)?.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        if links > LINKS {
            return Err(format!("{} leads through too many links", path.display()));
        }
        let target = next.read_link().map_err(|error| told(&next, &error))?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        let mut parts = parts(&target);
        parts.append(&mut rest);
        rest = parts;
    }
    Ok(())
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    path.components().filter_map(part).collect()
}

fn told(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn judge(part: &Path, owners: &[u32]) -> Result<Metadata, String> {
    let meta = part
        .symlink_metadata()
        .map_err(|error| told(part, &error))?;
    match objection(&meta, owners) {
        Some(why) => Err(format!("{} {why}", part.display())),
        None => Ok(meta),
    }
}

fn objection(meta: &Metadata, owners: &[u32]) -> Option<String> {
    let owner = meta.uid();
    if !owners.contains(&owner) {
        return Some(format!(
            "belongs to user {owner}: it must belong to root or to the agent's own account (chown)"
        ));
    }
    // Nobody changes a link: it is made anew, by who may write to its directory.
    let others_write = meta.mode() & 0o022 != 0 && !meta.is_symlink();
    let sticky_of_root = meta.is_dir() && meta.mode() & 0o1000 != 0 && owner == 0;
    if others_write && !sticky_of_root {
        return Some(format!(
            "can be written by others (mode {:o}): chmod go-w",
            meta.mode() & 0o7777
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn own() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn open_to_all(path: &Path) {
        set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }

    #[test]
    fn k12_a_link_in_a_directory_of_others_is_refused_wherever_it_leads() {
        let dir = crate::testing::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        std::fs::create_dir(path("theirs")).unwrap();
        symlink(path("file"), path("theirs/hop")).unwrap();
        symlink("theirs/../theirs/hop", path("link")).unwrap();
        assert_eq!(check(&path("link"), own()), Ok(()));
        open_to_all(&path("theirs"));
        // What it leads to in the end is as good as before.
        assert_eq!(check(&path("file"), own()), Ok(()));
        let why = check(&path("link"), own()).unwrap_err();
        assert!(why.contains("theirs can be written by others"), "{why}");
    }

    #[test]
    fn k12_directories_above_and_the_file_itself_count() {
        let dir = crate::testing::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("a/b")).unwrap();
        std::fs::write(path("a/b/file"), "").unwrap();
        for part in ["a", "a/b", "a/b/file"] {
            let before = path(part).metadata().unwrap().permissions();
            assert_eq!(check(&path("a/b/file"), own()), Ok(()));
            open_to_all(&path(part));
            let why = check(&path("a/b/file"), own()).unwrap_err();
            assert!(why.starts_with(path(part).to_str().unwrap()), "{why}");
            set_permissions(path(part), before).unwrap();
        }
        let why = check_for(&path("a"), &[own() + 1]).unwrap_err();
        assert!(why.contains("belongs to user"), "{why}");
    }

    #[test]
    fn k12_what_everybody_writes_and_only_owners_remove_is_roots_or_it_is_refused() {
        let dir = crate::testing::tempdir().unwrap();
        let (own_dir, file) = (dir.path().join("dir"), dir.path().join("file"));
        std::fs::create_dir(&own_dir).unwrap();
        std::fs::write(&file, "").unwrap();
        for path in [&own_dir, &file] {
            set_permissions(path, Permissions::from_mode(0o1777)).unwrap();
        }
        let objected = |path: &Path| objection(&path.metadata().unwrap(), &[0, own(), 61_713]);
        assert!(objected(&file).is_some(), "its content can be changed");
        // Whoever owns a directory removes from it what he likes.
        assert_eq!(objected(&own_dir).is_some(), own() != 0);
        if own() == 0 {
            std::os::unix::fs::chown(&own_dir, Some(61_713), None).unwrap();
            // The owner's change takes no bit away from a directory.
            assert!(objected(&own_dir).is_some());
        }
    }

    #[test]
    fn links_that_lead_nowhere_end() {
        let dir = crate::testing::tempdir().unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        let why = check(&dir.path().join("loop"), own()).unwrap_err();
        assert!(why.contains("too many links"), "{why}");
        symlink("gone", dir.path().join("dangling")).unwrap();
        assert!(check(&dir.path().join("dangling"), own()).is_err());
        assert_eq!(check(&dir.path().join("."), own()), Ok(()));
    }
}
