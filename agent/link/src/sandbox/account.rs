//! Another account, and no privileges: what a process is allowed by who it is.

use rustix::process::{DumpableBehavior, Gid, Uid, geteuid, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

/// An account that a network process becomes; it has no other groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its number, never 0.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
}

/// Why the process is still what it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum AccountError {
    #[error("the agent is root, and there is no other account for this process")]
    None,
    #[error("user {uid} cannot be become")]
    Refused { uid: u32, source: rustix::io::Errno },
}

/// Becomes the account, for good, and drops what root could have given to a later program.
///
/// Single-threaded processes only: these calls change the calling thread.
pub(super) fn become_account(account: Option<Account>) -> Result<(), AccountError> {
    // Works for root only, and only as long as it is: an ordinary user's set of what could be had is of no use to it.
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if remove_capability_from_bounding_set(one).is_err() {
            break;
        }
    }
    let Some(Account { uid, gid }) = account else {
        return if geteuid().is_root() {
            Err(AccountError::None)
        } else {
            Ok(())
        };
    };
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&[])
        .and_then(|()| set_thread_res_gid(group, group, group))
        .and_then(|()| set_thread_res_uid(user, user, user))
        .map_err(|source| AccountError::Refused { uid, source })
}

/// No capabilities, no way to new ones, no core dumps and no tracing by others.
pub(super) fn give_up_privileges() -> rustix::io::Result<()> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    clear_ambient_capability_set()?;
    set_capabilities(None, none)?;
    set_no_new_privs(true)?;
    // After the account: changing it sets this anew.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}
