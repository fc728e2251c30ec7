//! Places at which a test can hold or kill a process: between two steps that must not both be lost.
//!
//! `OUTPOST_FAILPOINTS` names a directory. A process that reaches the place `NAME` looks for the file `NAME` there: if it
//! says `pause`, the file `NAME.reached` (with the process's id) appears and the process goes on once `NAME` is gone; if
//! it says `kill`, the process ends by SIGKILL; if it says `once`, the first process to come by takes the file away and
//! ends by SIGKILL; if it says `panic`, the first process to come by takes the file away and panics. Builds with debug assertions have the places, others have none of this.
//! A process that starts another one with an empty environment passes the name on by [`pass_on`].

mod points;

pub use points::{ALL, Point, Process};

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

/// Lets a process that is started with an empty environment know the directory too.
#[inline]
pub fn pass_on(command: &mut std::process::Command) {
    #[cfg(debug_assertions)]
    if let Some(dir) = std::env::var_os(VARIABLE) {
        command.env(VARIABLE, dir);
    }
    #[cfg(not(debug_assertions))]
    let _ = command;
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
        let reached = place.with_extension("reached");
        match wish.trim() {
            "kill" => {
                // Whoever gets this far must not be counted as stopped here.
                let _ = std::fs::write(reached, own_id());
                die();
            }
            // Only one of several takes it.
            "once" if std::fs::rename(&place, &reached).is_ok() => {
                let _ = std::fs::write(reached, own_id());
                die();
            }
            #[expect(clippy::panic, reason = "that is what the test wants")]
            "panic" if std::fs::rename(&place, &reached).is_ok() => panic!("at the place {name}"),
            "pause" => {
                let _ = std::fs::write(reached, own_id());
                while place.exists() {
                    std::thread::sleep(LOOK_AGAIN);
                }
            }
            _ => {}
        }
    }

    fn die() {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }

    fn own_id() -> String {
        std::process::id().to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Names in the sources and names in the list are the same.
    #[test]
    fn every_place_in_the_code_is_in_the_list_and_the_other_way_round() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut found = BTreeSet::new();
        for dir in ["agent", "orchestrator"] {
            collect(&root.join(dir), &mut found);
        }
        let listed = ALL.iter().map(|point| point.name.to_owned());
        assert_eq!(found, listed.collect::<BTreeSet<_>>());
    }

    fn collect(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let names = text.split("failpoint::reach(\"").skip(1);
                found.extend(names.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
        }
    }
}
