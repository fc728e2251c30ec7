//! The wall around a task that runs under the agent's own account, where nothing else keeps it from the agent's files,
//! its other tasks and its processes: Landlock rules, made by the keeper and put in force by the task's own process
//! between fork and exec.
//!
//! Landlock knows what is allowed and not what is forbidden. So everything is allowed that lies beside the way to what is
//! closed: each entry of `/`, of the directory below it on that way, and so on. What follows from it: on the way itself
//! a task can make no files, and where the way leads to something closed not list it either; what comes to be there during
//! its life is closed to it. Beside the way within a directory that is kept as it is, things can be read and not changed.
//! What a task starts inherits all of this. Nothing here restricts TCP; for what else Landlock leaves open see `calls`.

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, Scope,
};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, StatxFlags};
use rustix::io::Errno;

use crate::protocol::Wall;
use crate::sys;

/// The newest rules that are asked for; an older kernel gets those that it knows.
const NEWEST: ABI = ABI::V7;
/// From this version on a task cannot signal what is outside of its wall.
const SIGNALS_FROM: ABI = ABI::V6;
/// Bytes of directory entries read at a time.
const ENTRIES_BYTES: usize = 8 * 1024;

/// What keeps a task of the agent's own account apart from it, on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separation {
    /// Files, memory and signals: Landlock of this version, 6 or newer.
    Whole(u32),
    /// Files and memory; a task can end any process of the account, the agent's too: Landlock of this version, 1 to 5.
    NoSignals(u32),
    /// Nothing: this kernel has no Landlock, or has it switched off.
    Missing,
}

impl Separation {
    /// What there is here.
    #[must_use]
    pub fn probe() -> Self {
        match sys::landlock_version() {
            0 => Self::Missing,
            version if i64::from(version) >= SIGNALS_FROM as i64 => Self::Whole(version),
            version => Self::NoSignals(version),
        }
    }
}

/// Why there is no wall where there should be one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WallError {
    /// A directory on the way cannot be looked at.
    #[error("`{}` cannot be looked at: {source}", path.display())]
    Look {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not take the rules.
    #[error("the rules are not taken: {0}")]
    Rules(#[from] RulesetError),
}

/// What lies beside the way of the last wall, held open: most tasks of a keeper have the same, and looking is what a wall
/// costs.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    closed: Vec<PathBuf>,
    read_only: Vec<PathBuf>,
    kept: Vec<PathBuf>,
    places: Vec<(OwnedFd, Access)>,
    /// The directories on the way, and as of when they were looked at; `None`: it may have changed since all the same.
    way: Vec<(OwnedFd, Option<Changed>)>,
}

/// What a task may do in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    All,
    Read,
}

/// When a directory's entries changed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Changed(i64, u32);

impl Changed {
    fn of(dir: BorrowedFd<'_>) -> io::Result<Self> {
        let stat = rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::CTIME)?;
        Ok(Self(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec))
    }

    /// The same, if the next change surely gets another time.
    fn for_good(dir: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        // Before the look: what comes later is not given an earlier time.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        let now = Self(now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0));
        Ok(Self::of(dir)?.if_before(now))
    }

    /// The clock that changes are timed by stands still for some milliseconds: two within these have the same time.
    fn if_before(self, now: Self) -> Option<Self> {
        (self < now).then_some(self)
    }
}

/// Makes the rules; `None` where the kernel has no Landlock. They are put in force by [`sys::restrict_self`].
pub(crate) fn build(wall: &Wall, beside: &mut Beside) -> Result<Option<OwnedFd>, WallError> {
    build_up_to(wall, beside, NEWEST)
}

fn build_up_to(
    wall: &Wall,
    beside: &mut Beside,
    newest: ABI,
) -> Result<Option<OwnedFd>, WallError> {
    if sys::landlock_version() == 0 {
        return Ok(None);
    }
    if !beside.is_of(wall) {
        *beside = Beside::look(wall)?;
    }
    let all = AccessFs::from_all(newest);
    let mut ruleset = Ruleset::default().handle_access(all)?;
    if newest >= SIGNALS_FROM {
        ruleset = ruleset.scope(Scope::from_all(newest))?;
    }
    let mut ruleset = ruleset.create()?;
    for (place, access) in &beside.places {
        let access = match access {
            Access::All => all,
            Access::Read => AccessFs::from_read(newest),
        };
        (&mut ruleset).add_rule(PathBeneath::new(place, access))?;
    }
    for path in &wall.open {
        let place = rustix::fs::open(path, PLACE, Mode::empty());
        let place = place.map_err(|errno| look(path)(errno.into()))?;
        (&mut ruleset).add_rule(PathBeneath::new(place, all))?;
    }
    Ok(ruleset.into())
}

/// A place that rules are about.
const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn open(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

fn look(path: &Path) -> impl FnOnce(io::Error) -> WallError {
    let path = path.to_owned();
    move |source| WallError::Look { path, source }
}

impl Beside {
    /// Whether this is what lies beside the way of a wall now.
    fn is_of(&self, wall: &Wall) -> bool {
        let mut way = self.way.iter();
        !self.way.is_empty()
            && self.closed == wall.closed
            && self.read_only == wall.read_only
            && self.kept == wall.kept
            && way.all(|(dir, then)| {
                then.is_some_and(|then| Changed::of(dir.as_fd()).is_ok_and(|now| now == then))
            })
    }

    fn look(wall: &Wall) -> Result<Self, WallError> {
        let mut beside = Self {
            closed: wall.closed.clone(),
            read_only: wall.read_only.clone(),
            kept: wall.kept.clone(),
            ..Self::default()
        };
        let root = Path::new("/");
        beside.walk(open(CWD, c"/").map_err(look(root))?, root, Access::All)?;
        Ok(beside)
    }

    /// Takes in what lies in a directory on the way, but for what is on the way itself.
    fn walk(&mut self, dir: OwnedFd, at: &Path, access: Access) -> Result<(), WallError> {
        // Before its entries: what comes later is looked at again.
        let changed = Changed::for_good(dir.as_fd()).map_err(look(at))?;
        if !self.closed.iter().any(|path| path.starts_with(at)) {
            self.take(dir.as_fd(), at, c".", Access::Read)?;
        }
        let ways = self.ways(at);
        let mut buffer = [MaybeUninit::uninit(); ENTRIES_BYTES];
        let mut entries = RawDir::new(&dir, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|errno| look(at)(errno.into()))?;
            let name = entry.file_name();
            let is_way = ways.iter().any(|way| way.as_bytes() == name.to_bytes());
            // Where a link leads is allowed by its own place, or is not.
            let is_skipped =
                matches!(name.to_bytes(), b"." | b"..") || entry.file_type() == FileType::Symlink;
            if !is_way && !is_skipped {
                self.take(dir.as_fd(), at, name, access)?;
            }
        }
        for way in &ways {
            self.go_on(dir.as_fd(), at, way, access)?;
        }
        self.way.push((dir, changed));
        Ok(())
    }

    /// The names in this directory that lead to something closed, or are that.
    fn ways(&self, at: &Path) -> Vec<OsString> {
        let paths = self.closed.iter().chain(&self.read_only).chain(&self.kept);
        let below = paths.filter_map(|path| path.strip_prefix(at).ok());
        let mut names: Vec<_> = below
            .filter_map(|rest| Some(rest.iter().next()?.to_owned()))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn go_on(
        &mut self,
        dir: BorrowedFd<'_>,
        at: &Path,
        way: &OsStr,
        access: Access,
    ) -> Result<(), WallError> {
        let path = at.join(way);
        if self.closed.contains(&path) {
            return Ok(());
        }
        let name = [way.as_bytes(), b"\0"].concat();
        let Ok(name) = CStr::from_bytes_with_nul(&name) else {
            return Ok(());
        };
        let is_way = self.closed.iter().any(|closed| closed.starts_with(&path));
        let is_kept = self.kept.contains(&path);
        if self.read_only.contains(&path) || (is_kept && !is_way) {
            return self.take(dir, at, name, Access::Read);
        }
        let access = if is_kept { Access::Read } else { access };
        match open(dir, name) {
            Ok(next) => self.walk(next, &path, access),
            // Nobody gets there by this way.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // It may be passed and not listed: then what lies beside the way is not known, and is closed.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let next = rustix::fs::openat(dir, name, PLACE, Mode::empty());
                let next = next.map_err(|errno| look(&path)(errno.into()))?;
                let ways = self.ways(&path);
                let mut ways = ways.iter();
                ways.try_for_each(|way| self.go_on(next.as_fd(), &path, way, access))
            }
            Err(error) => Err(look(&path)(error)),
        }
    }

    /// One that went away meanwhile, or that this account cannot reach, needs no rule.
    fn take(
        &mut self,
        dir: BorrowedFd<'_>,
        at: &Path,
        name: &CStr,
        access: Access,
    ) -> Result<(), WallError> {
        match rustix::fs::openat(dir, name, PLACE, Mode::empty()) {
            Ok(place) => self.places.push((place, access)),
            Err(Errno::NOENT | Errno::ACCESS | Errno::PERM) => {}
            Err(errno) => return Err(look(at)(errno.into())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beside_the_way_is_looked_at_again_only_when_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let way = dir.path().canonicalize().unwrap().join("way");
        std::fs::create_dir_all(way.join("closed")).unwrap();
        std::fs::create_dir(way.join("before")).unwrap();
        let wall = Wall {
            closed: vec![way.join("closed")],
            read_only: Vec::new(),
            open: Vec::new(),
            kept: Vec::new(),
            unix_sockets: false,
            ipc: false,
        };
        let looked = || {
            let mut beside = Beside::look(&wall).unwrap();
            let whole_way = beside.way.len();
            // What is above the test's own directories is everybody's, and changes when others like.
            beside.way.truncate(2);
            (beside, whole_way)
        };
        let below = |beside: &Beside| beside.places.len();
        let since = std::time::Instant::now();
        let (beside, whole_way) = loop {
            let (beside, whole_way) = looked();
            if beside.is_of(&wall) {
                break (beside, whole_way);
            }
            assert!(since.elapsed().as_secs() < 60, "it is never the same");
        };
        assert!(Beside::default().way.is_empty() && !Beside::default().is_of(&wall));
        let other = Wall {
            closed: vec![way.clone()],
            ..wall.clone()
        };
        assert!(!beside.is_of(&other));
        // What is held for one wall is not another's, which has more or less in it.
        assert!(beside.is_of(&wall));
        let mut other = wall.clone();
        other.read_only.push(way.join("before"));
        assert!(!beside.is_of(&other));
        let mut other = wall.clone();
        other.kept.push(way.join("before"));
        assert!(!beside.is_of(&other));
        std::fs::create_dir(way.join("after")).unwrap();
        assert!(!beside.is_of(&wall));
        let again = Beside::look(&wall).unwrap();
        assert!(below(&again) > 0 && again.way.len() == whole_way);
        // However soon one change comes after the other.
        for number in 0..50 {
            std::fs::create_dir(way.join(format!("{number} before"))).unwrap();
            let (beside, _) = looked();
            std::fs::create_dir(way.join(format!("{number} after"))).unwrap();
            assert!(!beside.is_of(&wall), "{number}");
        }
    }

    #[test]
    fn a_time_that_the_next_change_may_have_too_says_nothing() {
        let changed = Changed(7, 4_000_000);
        assert_eq!(changed.if_before(Changed(7, 4_000_000)), None);
        assert_eq!(changed.if_before(Changed(7, 3_999_999)), None);
        assert_eq!(changed.if_before(Changed(7, 8_000_000)), Some(changed));
        assert_eq!(changed.if_before(Changed(8, 0)), Some(changed));
    }

    #[test]
    fn every_version_of_landlock_gets_the_rules_that_it_knows() {
        let dir = tempfile::tempdir().unwrap();
        let wall = Wall {
            closed: vec![dir.path().canonicalize().unwrap()],
            read_only: Vec::new(),
            open: Vec::new(),
            kept: Vec::new(),
            unix_sockets: false,
            ipc: false,
        };
        let mut beside = Beside::default();
        let here = sys::landlock_version() > 0;
        for newest in [
            ABI::V1,
            ABI::V2,
            ABI::V3,
            ABI::V4,
            ABI::V5,
            ABI::V6,
            ABI::V7,
        ] {
            let built = build_up_to(&wall, &mut beside, newest).unwrap();
            assert_eq!(built.is_some(), here, "{newest:?}");
        }
    }
}
