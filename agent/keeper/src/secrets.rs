//! Secrets on their way to a task: the bundle that carries the values beside a packet, and what the keeper makes of it.
//!
//! The runner seals values into a file that exists in memory only and passes its descriptor beside the packet that asks
//! for a start; the packet itself says which secrets there are and never what they are. The spawner passes the
//! descriptor on and never reads it. The keeper reads it once it has made the claim, hands each secret over as its
//! grant says, and wipes its copies. What lies in files goes away with the attempt. Nothing here is ever logged.

use std::ffi::CString;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::protocol::{StartSpec, UserIds};

/// Most secrets of one attempt.
pub const MOST: usize = 16;
/// Most bytes of one value.
pub const VALUE_BYTES: usize = 64 * 1024;
/// The first number under which a task finds a secret's descriptor.
pub const FIRST_FD: RawFd = 3;
/// Descriptors that a child still needs are above all those that a task gets.
const ABOVE: RawFd = 32;

/// How a task gets a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// An open descriptor, whose number the variable holds.
    Fd,
    /// A file that only the task's user can read, whose path the variable holds.
    File,
    /// The variable itself.
    Env,
}

/// One secret of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its name: of the file, where it is one.
    pub name: String,
    /// The environment variable that says where it is, or holds it.
    pub variable: String,
    /// How it is handed over.
    pub delivery: Delivery,
}

/// The secrets of one attempt. What is serialised says which; the values are in a descriptor that goes beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Secrets {
    /// At most [`MOST`], in the order of the values.
    pub grants: Vec<Grant>,
    /// The directory of this attempt's own for those that are files, on a file system in memory. Its parent is there.
    #[serde(default)]
    pub dir: Option<PathBuf>,
    /// The values.
    #[serde(skip)]
    pub values: Bundle,
}

impl PartialEq for Secrets {
    /// Values are never compared.
    fn eq(&self, other: &Self) -> bool {
        self.grants == other.grants && self.dir == other.dir
    }
}

impl Eq for Secrets {}

/// Values, in a sealed file without a name.
#[derive(Clone, Default)]
pub struct Bundle(Option<Arc<OwnedFd>>);

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Bundle(…)"
        } else {
            "Bundle()"
        })
    }
}

/// Why secrets were not handed over. Nothing of a value is in it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The start came without the values, or with others than it names.
    #[error("the values of its secrets did not come with it")]
    Missing,
    /// One cannot be handed over.
    #[error("the secret `{name}` cannot be handed over")]
    HandOver {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Bundle {
    /// Seals values, each of at most [`VALUE_BYTES`], in the order of their grants.
    ///
    /// # Errors
    /// When there is no memory or descriptor left, or a value is too long.
    pub fn seal<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> io::Result<Self> {
        let mut file = memory_file()?;
        for value in values {
            let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
            if value.len() > VALUE_BYTES {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            file.write_all(&len.to_be_bytes())?;
            file.write_all(value)?;
        }
        seal(&file)?;
        Ok(Self(Some(Arc::new(file.into()))))
    }

    /// The descriptor, to be sent beside the packet.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    fn read(&self, count: usize) -> io::Result<Vec<Zeroizing<Vec<u8>>>> {
        let fd = self.fd().ok_or(io::ErrorKind::NotFound)?;
        let mut file = File::from(fd.try_clone_to_owned()?);
        file.seek(SeekFrom::Start(0))?;
        let one = |_| {
            let mut len = [0; 4];
            file.read_exact(&mut len)?;
            let len = u32::from_be_bytes(len) as usize;
            if len > VALUE_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut value = Zeroizing::new(vec![0; len]);
            file.read_exact(&mut value)?;
            Ok(value)
        };
        (0..count).map(one).collect()
    }
}

impl Secrets {
    /// Takes over the descriptor that came beside the packet.
    pub(crate) fn came_with(&mut self, fd: Option<OwnedFd>) {
        self.values = Bundle(fd.map(Arc::new));
    }
}

/// The descriptor that belongs beside a packet with this spec.
pub(crate) fn beside(spec: &StartSpec) -> Option<BorrowedFd<'_>> {
    spec.secrets
        .as_ref()
        .and_then(|secrets| secrets.values.fd())
}

/// Gives a spec that has just arrived the values that came beside it.
pub(crate) fn join(spec: &mut StartSpec, fd: Option<OwnedFd>) {
    if let Some(secrets) = &mut spec.secrets {
        secrets.came_with(fd);
    }
}

/// What a task is given: made before its first process, dropped when that has executed its program.
#[derive(Default)]
pub(crate) struct Handed {
    fds: Vec<OwnedFd>,
    env: Vec<CString>,
}

/// The files of an attempt; dropping them takes them away.
#[derive(Default)]
pub(crate) struct Files(Option<PathBuf>);

impl Drop for Files {
    fn drop(&mut self) {
        if let Some(dir) = self.0.take() {
            remove(&dir);
        }
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        for text in self.env.drain(..) {
            text.into_bytes_with_nul().zeroize();
        }
    }
}

impl Handed {
    /// Makes what a task of this spec is given. `files`: what it leaves on disk, however this ends.
    pub(crate) fn make(spec: &StartSpec, files: &mut Files) -> Result<Self, SecretError> {
        let mut handed = Self::default();
        let Some(secrets) = &spec.secrets else {
            return Ok(handed);
        };
        if secrets.grants.len() > MOST {
            return Err(SecretError::Missing);
        }
        let values = secrets.values.read(secrets.grants.len());
        let values = values.map_err(|_| SecretError::Missing)?;
        for (grant, value) in secrets.grants.iter().zip(values) {
            let dir = secrets.dir.as_deref();
            handed
                .add(grant, &value, dir, spec.user.as_ref(), files)
                .map_err(|source| SecretError::HandOver {
                    name: grant.name.clone(),
                    source,
                })?;
        }
        Ok(handed)
    }

    fn add(
        &mut self,
        grant: &Grant,
        value: &[u8],
        dir: Option<&Path>,
        user: Option<&UserIds>,
        files: &mut Files,
    ) -> io::Result<()> {
        match grant.delivery {
            Delivery::Fd => {
                let number = FIRST_FD + i32::try_from(self.fds.len()).unwrap_or(0);
                self.fds.push(descriptor(value, user)?);
                self.set(grant, number.to_string().as_bytes())
            }
            Delivery::File => {
                let dir = dir.ok_or_else(|| io::Error::other("there is no directory for it"))?;
                let path = file(dir, &grant.name, value, user, files)?;
                self.set(grant, path.as_os_str().as_bytes())
            }
            Delivery::Env => self.set(grant, value),
        }
    }

    fn set(&mut self, grant: &Grant, value: &[u8]) -> io::Result<()> {
        // With room for the final NUL: a buffer that grows would leave a copy behind.
        let mut text = Vec::with_capacity(grant.variable.len() + value.len() + 2);
        text.extend_from_slice(grant.variable.as_bytes());
        text.push(b'=');
        text.extend_from_slice(value);
        let text = CString::new(text).map_err(|error| {
            error.into_vec().zeroize();
            io::Error::other("it has a NUL byte, which a variable cannot hold")
        })?;
        self.env.push(text);
        Ok(())
    }

    /// Adds the variables to a list that ends with a null pointer.
    pub(crate) fn add_to(&self, envp: &mut Vec<*const libc::c_char>) {
        let end = envp.pop();
        envp.extend(self.env.iter().map(|text| text.as_ptr()));
        envp.extend(end);
    }

    /// The descriptors that the task gets from [`FIRST_FD`] on.
    pub(crate) fn fds(&self) -> &[OwnedFd] {
        &self.fds
    }
}

/// Gives a child that is about to execute its program the descriptors; asks for no memory. Whatever else lies at those
/// numbers is lost, so this comes last.
pub(crate) fn give(fds: &[OwnedFd]) -> io::Result<()> {
    for (number, fd) in (FIRST_FD..).zip(fds) {
        crate::sys::put(fd.as_fd(), number)?;
    }
    Ok(())
}

/// The same descriptor at a number that [`give`] leaves alone.
pub(crate) fn out_of_the_way(fd: OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, ABOVE)?)
}

fn memory_file() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(rustix::fs::memfd_create(c"outpost-secret", flags)?.into())
}

/// From now on nobody changes what is in it.
fn seal(file: &File) -> io::Result<()> {
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    Ok(rustix::fs::fcntl_add_seals(file, all)?)
}

/// A descriptor to read a value from, at its beginning; the task's user may also open it by its name in `/dev/fd`.
fn descriptor(value: &[u8], user: Option<&UserIds>) -> io::Result<OwnedFd> {
    let mut file = memory_file()?;
    file.write_all(value)?;
    file.seek(SeekFrom::Start(0))?;
    seal(&file)?;
    own(&file, user)?;
    out_of_the_way(file.into())
}

/// Readable by the task's user and nobody else.
fn own(file: &File, user: Option<&UserIds>) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(0o400))?;
    match user {
        Some(user) => std::os::unix::fs::fchown(file, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}

/// Writes a value into a file of the attempt's own directory.
fn file(
    dir: &Path,
    name: &str,
    value: &[u8],
    user: Option<&UserIds>,
    files: &mut Files,
) -> io::Result<PathBuf> {
    if files.0.is_none() {
        // The task's user passes through and can list nothing; nobody else can read what it leads to.
        let mode = if user.is_some() { 0o711 } else { 0o700 };
        DirBuilder::new().mode(0o700).create(dir)?;
        files.0 = Some(dir.to_owned());
        std::fs::set_permissions(dir, Permissions::from_mode(mode))?;
    }
    let path = dir.join(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)?;
    file.write_all(value)?;
    own(&file, user)?;
    Ok(path)
}

/// Takes an attempt's directory away; one that is not there is none of this one's business.
pub fn remove(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let _ = std::fs::remove_file(entry.path());
    }
    let _ = std::fs::remove_dir(dir);
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
