//! What would have become of an attempt at an agent that only observes: what is asked at a start is asked, and nothing is
//! started, fetched or used up. Of its secrets it is seen whether they are there, beside the runner's loop; what cannot
//! be known without having them is said.

use outpost_proto::message::Assign;
use outpost_proto::outcome::Refusal;

use super::Runner;
use super::gate::{Approval, approved, within_windows};
use crate::approvals::Approvals;
use crate::catalogue::Catalogue;
use crate::secrets::Seen;

/// An instruction that was observed, and what was found.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(super) assign: Assign,
    at_us: u64,
    why: String,
    hindrances: Vec<String>,
    untried: Vec<String>,
}

impl Observed {
    /// What its secrets would have been like.
    pub(super) fn saw(&mut self, seen: Seen) {
        self.hindrances.extend(seen.missing);
        self.untried.extend(seen.untried);
    }

    /// The reason for the site, with what would have kept the attempt from beginning, and what is not known.
    fn words(&self) -> String {
        let mut words = self.why.clone();
        for (what, all) in [
            ("nor would it have begun", &self.hindrances),
            ("not tried", &self.untried),
        ] {
            if !all.is_empty() {
                words.extend(["; ", what, ": ", &all.join("; ")]);
            }
        }
        words
    }
}

impl Runner {
    /// Keeps what would have become of an instruction, once that is known.
    pub(super) fn observed(&mut self, assign: &Assign, why: &str, at_us: u64) {
        let catalogue = self.current.borrow().clone();
        let observed = Observed {
            assign: assign.clone(),
            at_us,
            why: why.to_owned(),
            hindrances: hindrances(&catalogue, &self.approvals(), assign, at_us),
            untried: Vec::new(),
        };
        let entry = catalogue.entry(&assign.entry);
        if entry.is_none_or(|entry| entry.secrets.is_empty()) {
            return self.note_observed(&observed);
        }
        if let Err(mut observed) = self.tasks.look(Box::new(observed), &catalogue) {
            let why = "its secrets were not looked for, because too much came at once";
            observed.untried.push(why.to_owned());
            self.note_observed(&observed);
        }
    }

    pub(super) fn note_observed(&mut self, observed: &Observed) {
        let (assign, at_us) = (&observed.assign, observed.at_us);
        self.noted(assign, Refusal::Observe, &observed.words(), at_us);
    }
}

fn hindrances(
    catalogue: &Catalogue,
    approvals: &Approvals,
    assign: &Assign,
    now_us: u64,
) -> Vec<String> {
    let (Some(entry), Ok(plan)) = (catalogue.entry(&assign.entry), catalogue.plan(assign)) else {
        return Vec::new();
    };
    let asked = [
        within_windows(entry, now_us),
        approved(entry, approvals, assign, Approval::Looked, now_us),
        catalogue.verify(entry, &plan),
    ];
    asked.into_iter().filter_map(Result::err).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use outpost_proto::ids::{AttemptId, CommandSeq, Fence, RunId, TaskIndex};

    use super::*;
    use crate::approvals;
    use crate::catalogue::load;

    fn catalogue(dir: &std::path::Path, lines: &str) -> Catalogue {
        let user = if rustix::process::geteuid().is_root() {
            "user = \"nobody\"\n"
        } else {
            ""
        };
        let text = format!("[entry.a]\n{user}{lines}\n");
        std::fs::write(dir.join("a.toml"), text).unwrap();
        load(dir, "s").unwrap()
    }

    fn assign(catalogue: &Catalogue) -> Assign {
        Assign {
            attempt: AttemptId(1),
            run: RunId(2),
            task: TaskIndex(0),
            fence: Fence(1),
            command_seq: CommandSeq(1),
            entry: "a".parse().unwrap(),
            catalogue_version: catalogue.version(),
            parameters: Vec::new(),
            deadline_ms: None,
            task_name: "t".parse().unwrap(),
            workflow_name: "w".parse().unwrap(),
        }
    }

    /// An instruction costs nothing upstream, and each look may hold a thread for as long as a file system does.
    #[tokio::test]
    async fn so_many_are_looked_for_at_a_time_and_who_comes_later_is_told() {
        let dir = crate::testing::tempdir().unwrap();
        let catalogue = catalogue(dir.path(), "argv = [\"/bin/true\"]");
        let observed = || {
            Box::new(Observed {
                assign: assign(&catalogue),
                at_us: 1,
                why: String::new(),
                hindrances: Vec::new(),
                untried: Vec::new(),
            })
        };
        let set = tokio::task::LocalSet::new();
        set.run_until(async {
            let (inbox, mut happened) = tokio::sync::mpsc::channel(200);
            let granting = super::super::secrets::Granting::new(inbox);
            let looked = (0..200).filter(|_| granting.look(observed(), &catalogue).is_ok());
            let looked = looked.count();
            assert!((1..=64).contains(&looked), "{looked}");
            for _ in 0..looked {
                assert!(happened.recv().await.is_some());
            }
            assert!(granting.look(observed(), &catalogue).is_ok());
        })
        .await;
    }

    fn with_more(catalogue: &Catalogue, approvals: &Approvals, at_us: u64) -> String {
        let assign = assign(catalogue);
        let hindrances = hindrances(catalogue, approvals, &assign, at_us);
        let observed = Observed {
            assign,
            at_us,
            why: "observe mode".to_owned(),
            hindrances,
            untried: Vec::new(),
        };
        observed.words()
    }

    #[test]
    fn what_its_secrets_would_have_been_like_is_said_behind_the_rest() {
        let dir = crate::testing::tempdir().unwrap();
        let catalogue = catalogue(dir.path(), "argv = [\"/bin/true\"]");
        let mut observed = Observed {
            assign: assign(&catalogue),
            at_us: 5,
            why: "observe mode".to_owned(),
            hindrances: vec!["a".to_owned()],
            untried: Vec::new(),
        };
        observed.saw(Seen {
            missing: vec!["b".to_owned()],
            untried: vec!["c".to_owned(), "d".to_owned()],
        });
        let words = observed.words();
        assert_eq!(
            words,
            "observe mode; nor would it have begun: a; b; not tried: c; d"
        );
        observed.hindrances.clear();
        assert_eq!(observed.words(), "observe mode; not tried: c; d");
    }

    #[test]
    fn what_would_have_kept_it_from_beginning_is_said_and_nothing_is_used_up() {
        let dir = crate::testing::tempdir().unwrap();
        let state = crate::testing::tempdir().unwrap();
        let approvals = Approvals::of(state.path());
        let said = |lines: &str, now_us: u64| {
            let catalogue = catalogue(dir.path(), lines);
            with_more(&catalogue, &approvals, now_us)
        };
        assert_eq!(said("argv = [\"/bin/true\"]", 5), "observe mode");
        let guarded = "argv = [\"/bin/true\"]\nneeds_approval = true";
        assert_eq!(
            said(guarded, 5),
            "observe mode; nor would it have begun: entry `a` needs an approval and has none: outpost-agent approve a"
        );
        let approval = approvals::Approval {
            entry: "a".to_owned(),
            parameters: BTreeMap::new(),
            left: 1,
            until_us: 100,
        };
        approvals.add(approval, 5).unwrap();
        for _ in 0..3 {
            assert_eq!(said(guarded, 5), "observe mode");
        }
        let program = dir.path().join("program");
        std::fs::write(&program, "\x7fELF").unwrap();
        let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&program, mode(0o777)).unwrap();
        let open = format!("argv = [\"{}\"]", program.display());
        let told = said(&open, 5);
        assert!(
            told.starts_with("observe mode; nor would it have begun: ")
                && told.contains("can be written by others"),
            "{told}"
        );
    }

    #[test]
    fn what_was_asked_about_begins_soon_or_not_at_all() {
        use super::super::gate::until;
        let dir = crate::testing::tempdir().unwrap();
        let lines = |lines: &str| format!("argv = [\"/bin/true\"]\n{lines}");
        for guarded in ["needs_approval = true", "windows = [\"00:00-24:00\"]"] {
            let catalogue = catalogue(dir.path(), &lines(guarded));
            let entry = catalogue.entries().next().unwrap();
            assert_eq!(until(entry, 60_000_000, 5), 10_000_005, "{guarded}");
            assert_eq!(until(entry, 7, 5), 7, "nor beyond its lease");
        }
        let catalogue = catalogue(dir.path(), &lines("max_parallel = 1"));
        let entry = catalogue.entries().next().unwrap();
        assert_eq!(until(entry, 60_000_000, 5), 60_000_000);
    }

    #[test]
    fn a_window_that_is_closed_is_said() {
        let dir = crate::testing::tempdir().unwrap();
        let approvals = Approvals::of(dir.path());
        let catalogue = catalogue(
            dir.path(),
            "argv = [\"/bin/true\"]\nwindows = [\"00:00-00:01\"]\nneeds_approval = true",
        );
        // Of two moments that are twelve hours apart at least one is outside of a minute, in whatever zone.
        let told =
            [0, 12 * 3600 * 1_000_000_u64].map(|now_us| with_more(&catalogue, &approvals, now_us));
        assert!(
            told.iter()
                .any(|told| told.contains("may start at 00:00-00:01 by this site's clock")),
            "{told:?}"
        );
        assert!(told.iter().all(|told| told.contains("needs an approval")));
    }
}
