//! What surrounds the processes of one agent: the network that they are in, and what is loaded into each of them,
//! whatever its environment.
//!
//! The agent is started by a script that enters all that and becomes the agent; whoever the agent starts is inside too.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use outpost_e2e::process::run;

use crate::network::Island;
use crate::preload::{self, Preload};

/// A copy of the machine's `/etc` that names what is to be loaded, for mount namespaces of their own.
#[derive(Debug)]
pub struct Etc(PathBuf);

impl Etc {
    /// Makes one below `dir` for these objects.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn naming(dir: &Path, objects: &[&Preload]) -> Self {
        let etc = dir.join("etc");
        let mut copy = Command::new("cp");
        copy.args(["-a", "/etc"]).arg(&etc);
        let _ = run(copy).ok();
        let lines = objects
            .iter()
            .map(|one| format!("{}\n", one.object().display()));
        let list = etc.join("ld.so.preload");
        std::fs::write(list, lines.collect::<String>()).expect("our own directory");
        let wishes = preload::WISHES.trim_start_matches("/etc/");
        std::fs::create_dir_all(etc.join(wishes)).expect("our own directory");
        Self(etc)
    }
}

/// How the processes of one agent are started.
#[derive(Debug)]
pub struct Wrap {
    script: PathBuf,
    before: String,
}

impl Wrap {
    /// With these wishes in its `/etc`, on an island or not. The script is `script`.
    #[must_use]
    pub fn new(script: &Path, etc: &Etc, wishes: &Path, island: Option<&Island>) -> Self {
        let enter = island.map(|island| format!("{} ", island.enter()));
        let mounts = format!(
            "mount --bind {} /etc && mount --bind {} {}",
            etc.0.display(),
            wishes.display(),
            preload::WISHES
        );
        let before = format!(
            "exec {}unshare --mount sh -c '{mounts} && exec \"$0\" \"$@\"'",
            enter.unwrap_or_default()
        );
        Self {
            script: script.to_owned(),
            before,
        }
    }

    /// Writes the script for this executable; its path.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn around(&self, program: &Path) -> PathBuf {
        let text = format!("#!/bin/sh\n{} {} \"$@\"\n", self.before, program.display());
        let draft = self.script.with_extension("draft");
        std::fs::write(&draft, text).expect("our own directory");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&draft, mode).expect("our own file");
        std::fs::rename(draft, &self.script).expect("our own directory");
        self.script.clone()
    }
}
