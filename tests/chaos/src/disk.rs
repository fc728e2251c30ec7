//! A disk that can be filled up and freed again: a small file system of its own in place of a directory.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use outpost_e2e::process::run;
use rustix::io::Errno;

/// A mounted file system; unmounted when this is dropped.
#[derive(Debug)]
pub struct Small {
    dir: PathBuf,
}

impl Small {
    /// Mounts one of so many MiB in place of `dir`, which nobody uses now, with everything that was in it.
    ///
    /// # Panics
    /// When it cannot be mounted: only root can.
    #[must_use]
    pub fn in_place_of(dir: &Path, mib: u32) -> Self {
        let aside = dir.with_extension("aside");
        std::fs::rename(dir, &aside).expect("our own directory");
        std::fs::create_dir(dir).expect("our own directory");
        let size = format!("size={mib}m,mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "outpost-chaos"]);
        mount.arg(dir);
        let _ = run(mount).ok();
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(aside.join(".")).arg(dir);
        let _ = run(copy).ok();
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Takes every byte that is left.
    ///
    /// # Panics
    /// When something else than a full disk stops it.
    pub fn fill(&self) {
        let filler = std::fs::File::create(self.dir.join("filler"));
        let mut filler = filler.expect("a file of our own");
        for size in [1 << 16, 1 << 9, 1] {
            let bytes = vec![0; size];
            let full = std::iter::repeat_with(|| filler.write_all(&bytes)).find_map(Result::err);
            let number = full.and_then(|error| error.raw_os_error());
            assert_eq!(number, Some(Errno::NOSPC.raw_os_error()));
        }
    }

    /// Gives it back.
    ///
    /// # Panics
    /// When it was not taken.
    pub fn free(&self) {
        std::fs::remove_file(self.dir.join("filler")).expect("it was filled");
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
