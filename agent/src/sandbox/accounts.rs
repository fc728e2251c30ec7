//! The accounts that link and dial become when the agent is root, and the key directory that then is link's.
//!
//! A host that has the accounts `outpost-link` and `outpost-dial` says so; elsewhere, as in most container images, two
//! numbers are used that no account has.
#![expect(unsafe_code, reason = "asks the C library whose number a number is")]

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

use outpost_agent_link::sandbox::Account;
use rustix::fs::{AtFlags, FileType, Gid, Uid};
use rustix::thread::CapabilitySet;

use crate::users;

/// Names that a site can give to accounts.
const LINK: &str = "outpost-link";
const DIAL: &str = "outpost-dial";
/// Users and groups for hosts without these accounts. Neither Debian nor systemd gives them away (systemd's
/// UIDS-GIDS: 60706 to 61183 is nobody's).
const LINK_NUMBER: u32 = 60_917;
const DIAL_NUMBER: u32 = 60_918;
/// Bytes for one entry of the account database.
const BUFFER: usize = 16 * 1024;

/// Without these root cannot give the key directory away, become another account, or end what runs as one.
const NEEDED: [(CapabilitySet, &str); 5] = [
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
    (CapabilitySet::CHOWN, "CAP_CHOWN"),
    (CapabilitySet::KILL, "CAP_KILL"),
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
];

/// Whether the key directory may be given to link's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyDirectory {
    /// By whoever holds the state directory's lock.
    MayChange,
    /// A look changes nothing.
    StaysAsItIs,
}

/// Whom link and dial become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accounts {
    link: Option<Account>,
    dial: Option<Account>,
    why_none: Option<String>,
}

impl Accounts {
    /// For an agent with this key directory, which is made link's if need be.
    pub(crate) fn find(key_dir: &Path, may: KeyDirectory) -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self {
                link: None,
                dial: None,
                why_none: None,
            };
        }
        let found = able().and_then(|()| {
            let link = account(LINK, LINK_NUMBER)?;
            let dial = account(DIAL, DIAL_NUMBER)?;
            give(key_dir, link, may)?;
            Ok((link, dial))
        });
        match found {
            Ok((link, dial)) => Self {
                link: Some(link),
                dial: Some(dial),
                why_none: None,
            },
            Err(why) => Self::none(&why),
        }
    }

    /// For an agent that is root and must stay so.
    pub(super) fn none(why: &str) -> Self {
        Self {
            link: None,
            dial: None,
            why_none: Some(why.to_owned()),
        }
    }

    /// Link's; `None`: the runner's own.
    pub(crate) fn link(&self) -> Option<Account> {
        self.link
    }

    /// Dial's.
    pub(crate) fn dial(&self) -> Option<Account> {
        self.dial
    }

    /// Why root has no account for them.
    pub(super) fn why_none(&self) -> Option<&str> {
        self.why_none.as_deref()
    }
}

fn able() -> Result<(), String> {
    let sets = rustix::thread::capabilities(None);
    let held = sets.map_err(|error| format!("root's capabilities cannot be read: {error}"))?;
    let missing = NEEDED
        .iter()
        .filter(|(capability, _)| !held.effective.contains(*capability))
        .map(|(_, name)| *name)
        .collect::<Vec<_>>();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("root lacks {} here", missing.join(", ")))
    }
}

/// The account of this name, or the number that is nobody's.
fn account(name: &str, number: u32) -> Result<Account, String> {
    match users::by_name(name) {
        Ok(user) if user.uid == 0 => Err(format!("the account {name} is root's own")),
        Ok(user) => Ok(Account {
            uid: user.uid,
            gid: user.gid,
        }),
        Err(_) if is_taken(number) => Err(format!(
            "user or group {number} is somebody's: make the account {name} (useradd --system {name})"
        )),
        Err(_) => Ok(Account {
            uid: number,
            gid: number,
        }),
    }
}

/// Whether a user or a group has this number.
fn is_taken(number: u32) -> bool {
    let mut buffer = vec![0 as libc::c_char; BUFFER];
    // SAFETY: all-zero structs are valid values of the C types; they are only written to by the calls.
    let (mut user, mut group) = unsafe {
        (
            std::mem::zeroed::<libc::passwd>(),
            std::mem::zeroed::<libc::group>(),
        )
    };
    let mut found_user = std::ptr::null_mut();
    let mut found_group = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call, and the length is the buffer's own.
    unsafe {
        libc::getpwuid_r(
            number,
            &raw mut user,
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut found_user,
        );
    }
    // SAFETY: as above; nothing of the first answer is used but whether there was one.
    unsafe {
        libc::getgrgid_r(
            number,
            &raw mut group,
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut found_group,
        );
    }
    !found_user.is_null() || !found_group.is_null()
}

/// Makes the key directory link's: its files first and itself last, so that one of root's holds nothing that anybody
/// else put there, and one that was interrupted is taken up again.
fn give(key_dir: &Path, link: Account, may: KeyDirectory) -> Result<(), String> {
    let owner = match std::fs::symlink_metadata(key_dir) {
        Ok(meta) => Some(meta.uid()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("{}: {error}", key_dir.display())),
    };
    if owner == Some(link.uid) {
        return Ok(());
    }
    if may == KeyDirectory::StaysAsItIs {
        return Err(format!(
            "{} is not link's yet: the next `outpost-agent run` gives it to link",
            key_dir.display()
        ));
    }
    if let Some(owner) = owner.filter(|owner| *owner != 0) {
        return Err(format!(
            "{} belongs to user {owner}: chown -R {} it",
            key_dir.display(),
            link.uid
        ));
    }
    hand_over(key_dir, link).map_err(|error| {
        format!(
            "{} cannot be given to user {}: {error}",
            key_dir.display(),
            link.uid
        )
    })
}

fn hand_over(key_dir: &Path, link: Account) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(key_dir)?;
    let flags = rustix::fs::OFlags::RDONLY
        | rustix::fs::OFlags::DIRECTORY
        | rustix::fs::OFlags::NOFOLLOW
        | rustix::fs::OFlags::CLOEXEC;
    let dir = rustix::fs::open(key_dir, flags, rustix::fs::Mode::empty())?;
    let (user, group) = (Some(Uid::from_raw(link.uid)), Some(Gid::from_raw(link.gid)));
    for entry in rustix::fs::Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        // Only what an agent put there: plain files with one name.
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1 {
            rustix::fs::chownat(&dir, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    rustix::fs::fchown(&dir, user, group)?;
    Ok(rustix::fs::fsync(&dir)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_numbers_are_nobodys_and_roots_is_not() {
        assert!(is_taken(0));
        assert!(!is_taken(LINK_NUMBER) && !is_taken(DIAL_NUMBER));
        assert_eq!(
            account("no-such-account-here", LINK_NUMBER),
            Ok(Account {
                uid: LINK_NUMBER,
                gid: LINK_NUMBER
            })
        );
        let error = account("no-such-account-here", 0).unwrap_err();
        assert!(error.contains("useradd --system no-such-account-here"));
        assert!(account("root", LINK_NUMBER).is_err());
    }

    #[test]
    fn an_ordinary_user_has_no_other_account_and_lacks_none() {
        if rustix::process::geteuid().is_root() {
            return;
        }
        let accounts = Accounts::find(Path::new("/nowhere"), KeyDirectory::MayChange);
        assert_eq!((accounts.link(), accounts.why_none()), (None, None));
    }

    #[test]
    #[ignore = "needs: root"]
    fn a_key_directory_of_root_becomes_links_and_a_look_changes_nothing() {
        let around = crate::testing::tempdir().unwrap();
        let keys = around.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::write(keys.join("agent.key"), "key").unwrap();
        let outside = around.path().join("outside");
        std::fs::write(&outside, "root's").unwrap();
        std::os::unix::fs::symlink(&outside, keys.join("a-link")).unwrap();
        std::fs::hard_link(&outside, keys.join("another-name")).unwrap();
        let owner = |path: &Path| std::fs::symlink_metadata(path).unwrap().uid();

        let looked = Accounts::find(&keys, KeyDirectory::StaysAsItIs);
        assert!(looked.link().is_none() && looked.why_none().unwrap().contains("not link's yet"));
        assert_eq!(owner(&keys), 0);

        let accounts = Accounts::find(&keys, KeyDirectory::MayChange);
        let link = accounts.link().unwrap();
        assert_ne!(accounts.dial().unwrap().uid, link.uid);
        assert_eq!(owner(&keys), link.uid);
        assert_eq!(owner(&keys.join("agent.key")), link.uid);
        assert_eq!(owner(&outside), 0);
        assert_eq!(owner(&keys.join("a-link")), 0);
        assert_eq!(
            Accounts::find(&keys, KeyDirectory::StaysAsItIs).link(),
            Some(link)
        );
        let foreign = around.path().join("foreign");
        std::fs::create_dir(&foreign).unwrap();
        std::os::unix::fs::chown(&foreign, Some(1), None).unwrap();
        let refused = Accounts::find(&foreign, KeyDirectory::MayChange);
        assert!(refused.why_none().unwrap().contains("belongs to user 1"));
    }
}
