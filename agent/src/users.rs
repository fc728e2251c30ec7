//! Accounts of this host, as the system's own name service knows them.
#![expect(
    unsafe_code,
    reason = "getpwnam_r, getpwuid_r and getgrouplist are C functions; the name service has no other door"
)]

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::catalogue::RunAs;

/// Bytes for one account's strings; the largest that glibc's own sources need is far below.
const BUFFER: usize = 64 * 1024;
/// Groups of one account.
const GROUPS: usize = 1024;

/// The account of tasks that are given no other, where the agent runs as root.
pub const TASK_ACCOUNT: &str = "outpost-task";

/// The account of tasks that are given no other: never root, whatever this host calls so.
///
/// # Errors
/// A sentence when there is none.
pub fn for_tasks() -> Result<RunAs, String> {
    never_root(by_name(TASK_ACCOUNT).map_err(|why| format!("`{TASK_ACCOUNT}`: {why}"))?)
}

fn never_root(account: RunAs) -> Result<RunAs, String> {
    if account.uid == 0 || account.gid == 0 || account.groups.contains(&0) {
        return Err(format!("`{}` is root, or of root's group", account.name));
    }
    Ok(account)
}

/// Looks an account up.
///
/// # Errors
/// A sentence that says what to do when there is none.
pub fn by_name(name: &str) -> Result<RunAs, String> {
    let c_name = CString::new(name).map_err(|_| "an account name has no NUL".to_owned())?;
    let (uid, gid) = account(&c_name)
        .map_err(|error| format!("the account cannot be looked up: {error}"))?
        .ok_or_else(|| {
            "there is no such account on this host: make it, or name another".to_owned()
        })?;
    let groups = groups_of(&c_name, gid)
        .map_err(|error| format!("its groups cannot be looked up: {error}"))?;
    Ok(RunAs {
        name: name.to_owned(),
        uid,
        gid,
        groups,
    })
}

/// Where an account's own files are, as the name service has it; `None` when it does not know the account.
#[must_use]
pub fn home_of(uid: u32) -> Option<PathBuf> {
    let mut buffer = vec![0 as libc::c_char; BUFFER];
    // SAFETY: an all-zero passwd is a valid value of the C struct; it is only read after the call filled it.
    let mut passwd = unsafe { std::mem::zeroed::<libc::passwd>() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call, and the length is the buffer's own.
    let code = unsafe {
        libc::getpwuid_r(
            uid,
            &raw mut passwd,
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut found,
        )
    };
    if code != 0 || found.is_null() || passwd.pw_dir.is_null() {
        return None;
    }
    // SAFETY: the call left a C string there, in the buffer, which is alive.
    let home = unsafe { CStr::from_ptr(passwd.pw_dir) };
    let home = PathBuf::from(OsStr::from_bytes(home.to_bytes()));
    home.is_absolute().then_some(home)
}

fn account(name: &CString) -> io::Result<Option<(u32, u32)>> {
    let mut buffer = vec![0 as libc::c_char; BUFFER];
    // SAFETY: an all-zero passwd is a valid value of the C struct; it is only read after the call filled it.
    let mut passwd = unsafe { std::mem::zeroed::<libc::passwd>() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call, and the length is the buffer's own.
    let code = unsafe {
        libc::getpwnam_r(
            name.as_ptr(),
            &raw mut passwd,
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut found,
        )
    };
    match code {
        0 if found.is_null() => Ok(None),
        0 => Ok(Some((passwd.pw_uid, passwd.pw_gid))),
        libc::ENOENT | libc::ESRCH => Ok(None),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

fn groups_of(name: &CString, gid: u32) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; GROUPS];
    let mut count = libc::c_int::try_from(GROUPS).unwrap_or(libc::c_int::MAX);
    // SAFETY: the buffer has room for `count` ids.
    let code =
        unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
    if code < 0 {
        return Err(io::Error::other(format!(
            "it is in more than {GROUPS} groups"
        )));
    }
    groups.truncate(usize::try_from(count).unwrap_or(0));
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_of_tasks_has_nothing_of_roots() {
        let judged = |uid, gid, groups: &[u32]| {
            never_root(RunAs {
                name: "t".to_owned(),
                uid,
                gid,
                groups: groups.to_vec(),
            })
        };
        assert!(judged(7, 7, &[7, 8]).is_ok());
        for (uid, gid, groups) in [(0, 7, &[7][..]), (7, 0, &[7]), (7, 7, &[7, 0])] {
            let why = judged(uid, gid, groups).unwrap_err();
            assert!(why.contains("`t` is root"), "{why}");
        }
    }

    #[test]
    fn root_is_known_everywhere_and_a_made_up_name_nowhere() {
        let root = by_name("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        assert!(
            by_name("no-such-account-here")
                .unwrap_err()
                .contains("no such account")
        );
    }
}
