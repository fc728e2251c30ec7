//! A disk that can be filled up and freed again: a small file system of its own in place of a directory.
//!
//! It is full by being no larger than what is in it: nothing is written for that, and what others took before stays
//! theirs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use outpost_e2e::process::run;

/// Others write while it is made full: so often it is tried to find the moment.
const TRIES: u32 = 200;

/// A mounted file system; unmounted when this is dropped.
#[derive(Debug)]
pub struct Small {
    dir: PathBuf,
    mib: u32,
}

impl Small {
    /// Mounts one of so many MiB in place of `dir`, which nobody uses now, with everything that was in it.
    ///
    /// # Panics
    /// When it cannot be mounted: only root can.
    #[must_use]
    pub fn in_place_of(dir: &Path, mib: u32) -> Self {
        let aside = dir.with_extension("aside");
        let mode = std::fs::metadata(dir).expect("our own directory");
        let mode = mode.permissions().mode() & 0o7777;
        std::fs::rename(dir, &aside).expect("our own directory");
        std::fs::create_dir(dir).expect("our own directory");
        let options = format!("size={mib}m,mode={mode:o}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "outpost-chaos"]);
        mount.arg(dir);
        let _ = run(mount).ok();
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(aside.join(".")).arg(dir);
        let _ = run(copy).ok();
        std::fs::remove_dir_all(aside).expect("our own directory");
        Self {
            dir: dir.to_owned(),
            mib,
        }
    }

    /// Leaves no room at all.
    ///
    /// # Panics
    /// When those who write to it leave no moment for that.
    pub fn fill(&self) {
        let filled = (0..TRIES).any(|_| {
            let stat = rustix::fs::statvfs(&self.dir).expect("our own file system");
            let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
            self.resize(used)
        });
        assert!(filled, "{} cannot be made full", self.dir.display());
    }

    /// As much room as before.
    ///
    /// # Panics
    /// When it is not given.
    pub fn free(&self) {
        let bytes = u64::from(self.mib) << 20;
        assert!(self.resize(bytes), "{} stays full", self.dir.display());
    }

    /// `false` when more is in it by now.
    fn resize(&self, bytes: u64) -> bool {
        let mut mount = Command::new("mount");
        let options = format!("remount,size={bytes}");
        mount.args(["-o", &options]).arg(&self.dir);
        run(mount).code == Some(0)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        // Lazily: whoever still ends below it is not waited for.
        umount.arg("-l").arg(&self.dir);
        let _ = run(umount);
    }
}
