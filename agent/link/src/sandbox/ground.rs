//! Landlock: which files and ports a process reaches.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::{Mode, OFlags};

use super::{Cap, Way, libraries};

/// The newest ABI whose rules were tried here.
const NEWEST: ABI = ABI::V7;
/// The first ABI with rules for TCP.
pub(super) const TCP_RULES: u8 = 4;
/// Where resolvers answer over TCP when an answer is too long for a datagram.
const DOMAIN: u16 = 53;

/// What resolving a name reads besides libraries: all of it is there for everybody to read.
const RESOLVING: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/networks",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
];

/// Why files and ports are not walled off.
#[derive(Debug, thiserror::Error)]
pub(super) enum GroundError {
    #[error("Landlock refuses its rules")]
    Rules(#[from] RulesetError),
    #[error("Landlock is in force in part only")]
    Partly,
}

/// One place and what may be done there.
struct Place<'a> {
    fd: Held<'a>,
    rights: BitFlags<AccessFs>,
}

enum Held<'a> {
    Own(OwnedFd),
    Lent(BorrowedFd<'a>),
}

/// Everything that stays within reach.
pub(super) struct Ground<'a> {
    places: Vec<Place<'a>>,
    /// TCP ports to connect to.
    ports: Vec<u16>,
}

impl<'a> Ground<'a> {
    /// The files of the key directory: read, written anew, renamed. No other file, no port.
    pub(super) fn link(key_dir: Option<BorrowedFd<'a>>) -> Self {
        let rights = AccessFs::ReadFile
            | AccessFs::ReadDir
            | AccessFs::WriteFile
            | AccessFs::MakeReg
            | AccessFs::RemoveFile;
        let places = key_dir.into_iter().map(|fd| Place {
            fd: Held::Lent(fd),
            rights,
        });
        #[cfg(debug_assertions)]
        let places = places.chain(failpoints(rights | AccessFs::Truncate));
        Self {
            places: places.collect(),
            ports: Vec::new(),
        }
    }

    /// What resolving needs, if there is a name, and the one port.
    pub(super) fn dial(way: Way) -> Self {
        let mut ground = Self {
            places: Vec::new(),
            ports: vec![way.port],
        };
        if way.resolves {
            ground.ports.push(DOMAIN);
            let files = RESOLVING.iter().map(Path::new);
            let files = files.filter_map(|path| place(path.as_os_str(), AccessFs::ReadFile.into()));
            let below = AccessFs::ReadFile | AccessFs::ReadDir;
            let libraries = libraries::directories().into_iter();
            let libraries = libraries.filter_map(|dir| place(dir.as_os_str(), below));
            ground.places.extend(files.chain(libraries));
        }
        ground
    }

    /// Everything else is out of reach from here on. Answers which ABI's rules are in force; 0: none.
    pub(super) fn enter(&self, cap: Cap) -> Result<u8, GroundError> {
        let asked = if cap.landlock_abi >= number(NEWEST) {
            NEWEST
        } else {
            ABI::from(i32::from(cap.landlock_abi))
        };
        if asked == ABI::Unsupported {
            return Ok(0);
        }
        let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(asked))?;
        if asked >= ABI::V4 {
            ruleset = ruleset.handle_access(AccessNet::from_all(asked))?;
        }
        if asked >= ABI::V6 {
            ruleset = ruleset.scope(Scope::from_all(asked))?;
        }
        let mut created = ruleset.create()?;
        for Place { fd, rights } in &self.places {
            let fd = match fd {
                Held::Own(fd) => fd.as_fd(),
                Held::Lent(fd) => fd.as_fd(),
            };
            created = created.add_rule(PathBeneath::new(fd, *rights))?;
        }
        if asked >= ABI::V4 {
            for port in &self.ports {
                created = created.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
            }
        }
        let reached = created.restrict_self()?;
        let LandlockStatus::Available { effective_abi, .. } = reached.landlock else {
            return Ok(0);
        };
        let abi = asked.min(effective_abi);
        match reached.ruleset {
            RulesetStatus::FullyEnforced => Ok(number(abi)),
            // An older kernel knows less than was asked for, and enforces what it knows.
            RulesetStatus::PartiallyEnforced if abi < asked => Ok(number(abi)),
            RulesetStatus::PartiallyEnforced => Err(GroundError::Partly),
            RulesetStatus::NotEnforced => Ok(0),
        }
    }
}

fn number(abi: ABI) -> u8 {
    u8::try_from(abi as i32).unwrap_or(u8::MAX)
}

/// A place that is there; what is not there needs no rule.
fn place<'a>(path: &OsStr, rights: BitFlags<AccessFs>) -> Option<Place<'a>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    // A file knows fewer rights than a directory.
    let is_dir = File::from(fd.try_clone().ok()?).metadata().ok()?.is_dir();
    let rights = if is_dir {
        rights
    } else {
        rights & AccessFs::from_file(NEWEST)
    };
    Some(Place {
        fd: Held::Own(fd),
        rights,
    })
}

/// Where a test holds this process.
#[cfg(debug_assertions)]
fn failpoints<'a>(rights: BitFlags<AccessFs>) -> Option<Place<'a>> {
    place(&std::env::var_os(outpost_failpoint::VARIABLE)?, rights)
}
