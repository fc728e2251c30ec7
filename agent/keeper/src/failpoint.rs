//! Places at which a test can hold or kill a process of the agent: between two steps that must not both be lost.
//!
//! `OUTPOST_FAILPOINTS` names a directory. A process that reaches the place `NAME` looks for the file `NAME` there: if it
//! says `pause`, the file `NAME.reached` (with the process's id) appears and the process goes on once `NAME` is gone; if
//! it says `kill`, the process ends by SIGKILL. Builds with debug assertions have the places, others have none of this.

/// The environment variable that names the directory.
pub const VARIABLE: &str = "OUTPOST_FAILPOINTS";

/// A place in the code. Does nothing unless a test wants something here.
#[inline]
pub fn reach(name: &str) {
    #[cfg(debug_assertions)]
    wanted::reach(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod wanted {
    use std::path::Path;
    use std::time::Duration;

    const LOOK_AGAIN: Duration = Duration::from_millis(1);

    pub(super) fn reach(name: &str) {
        let Some(dir) = std::env::var_os(super::VARIABLE) else {
            return;
        };
        let place = Path::new(&dir).join(name);
        let Ok(wish) = std::fs::read_to_string(&place) else {
            return;
        };
        match wish.trim() {
            "kill" => {
                // Whoever gets this far must not be counted as stopped here.
                let _ = std::fs::write(place.with_extension("reached"), own_id());
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::KILL,
                );
            }
            "pause" => {
                let _ = std::fs::write(place.with_extension("reached"), own_id());
                while place.exists() {
                    std::thread::sleep(LOOK_AGAIN);
                }
            }
            _ => {}
        }
    }

    fn own_id() -> String {
        std::process::id().to_string()
    }
}
