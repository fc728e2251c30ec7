//! What a leak test found: for people, for programs, and for a file in a cabinet.

use serde::Serialize;

use super::mark::{Form, Mark};
use super::search::Looked;
use super::unseen;

/// How a canary came to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The orchestrator asked for it, as for any task.
    Instructed,
    /// Here and now, without an orchestrator.
    Tried,
}

/// One canary, and what its own log holds: the positive control.
#[derive(Debug, Clone, Serialize)]
pub struct Canary {
    /// Its entry.
    pub entry: String,
    /// How it came to run.
    pub how: How,
    /// Its attempt, if it was an instruction's.
    pub attempt: Option<String>,
    /// How it ended, if it was tried.
    pub outcome: Option<String>,
    /// Where the mark must be.
    pub log: Looked,
}

/// A place where the mark must not be.
#[derive(Debug, Clone, Serialize)]
pub struct Looking {
    /// What kind of place.
    pub place: String,
    /// Which.
    pub what: String,
    /// What was found; `None` when it could not be looked at.
    pub looked: Option<Looked>,
    /// Why it was not looked at.
    pub not_looked: Option<String>,
    /// It was named to be looked at.
    #[serde(skip)]
    is_wanted: bool,
}

impl Looking {
    pub(super) fn at(place: &str, what: String, looked: Looked) -> Self {
        Self {
            place: place.to_owned(),
            what,
            looked: Some(looked),
            not_looked: None,
            is_wanted: true,
        }
    }

    pub(super) fn not_at(place: &str, what: String, why: &str) -> Self {
        Self {
            place: place.to_owned(),
            what,
            looked: None,
            not_looked: Some(why.to_owned()),
            is_wanted: false,
        }
    }

    /// The same of a place that somebody asked to look at.
    pub(super) fn in_vain(place: &str, what: String, why: &str) -> Self {
        Self {
            is_wanted: true,
            ..Self::not_at(place, what, why)
        }
    }

    /// Whether a part of it was not searched, or all of it though it was asked for.
    #[must_use]
    pub fn is_in_part(&self) -> bool {
        match &self.looked {
            Some(looked) => !looked.not_searched.is_empty(),
            None => self.is_wanted,
        }
    }
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The mark is where it must be and nowhere else.
    NothingFound,
    /// It is where it must not be.
    Found,
    /// The search did not even find what it must, or could not search all of what it looked at: nothing is proved.
    Void,
}

/// The whole of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What follows.
    pub verdict: Verdict,
    /// Of this build.
    pub version: &'static str,
    /// Microseconds since 1970.
    pub begun_us: u64,
    /// Microseconds since 1970.
    pub ended_us: u64,
    /// What was looked for.
    pub mark: Mark,
    /// In these forms.
    pub forms: Vec<&'static str>,
    /// Forms that were printed by canaries and not found in their logs: the test is void if there are any.
    pub unseen: Vec<&'static str>,
    /// What ran.
    pub canaries: Vec<Canary>,
    /// What was looked at.
    pub places: Vec<Looking>,
}

impl Report {
    pub(super) fn of(
        mark: Mark,
        begun_us: u64,
        ended_us: u64,
        canaries: Vec<Canary>,
        places: Vec<Looking>,
    ) -> Self {
        let unseen = unseen(&canaries);
        let found = |looking: &Looking| {
            looking
                .looked
                .as_ref()
                .is_some_and(|looked| looked.hits > 0)
        };
        let verdict = if places.iter().any(found) {
            Verdict::Found
        } else if unseen.is_empty()
            && canaries
                .iter()
                .all(|canary| canary.log.not_searched.is_empty())
            && !places.iter().any(Looking::is_in_part)
        {
            Verdict::NothingFound
        } else {
            Verdict::Void
        };
        Self {
            verdict,
            version: env!("CARGO_PKG_VERSION"),
            begun_us,
            ended_us,
            mark,
            forms: Form::ALL.map(Form::name).into(),
            unseen: unseen.into_iter().map(Form::name).collect(),
            canaries,
            places,
        }
    }

    /// How many canaries the orchestrator had run.
    #[must_use]
    pub fn instructed(&self) -> usize {
        let instructed = |canary: &&Canary| canary.how == How::Instructed;
        self.canaries.iter().filter(instructed).count()
    }

    /// Bytes that were looked at where the mark must not be.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let looked = self.places.iter().filter_map(|place| place.looked.as_ref());
        looked.map(|looked| looked.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(places: Vec<Looking>) -> Verdict {
        judged(places, Vec::new())
    }

    /// `unread`: what of the canary's own log could not be searched.
    fn judged(places: Vec<Looking>, unread: Vec<String>) -> Verdict {
        let log = Looked {
            hits: 12,
            forms: Form::ALL.into(),
            not_searched: unread,
            ..Looked::default()
        };
        let canary = Canary {
            entry: "leaktest-spray".to_owned(),
            how: How::Tried,
            attempt: None,
            outcome: None,
            log,
        };
        let mark = Mark::random().unwrap();
        Report::of(mark, 0, 1, vec![canary], places).verdict
    }

    #[test]
    fn what_was_not_searched_is_never_good() {
        let at = |looked| Looking::at("a place", String::new(), looked);
        let not_searched = Looked {
            not_searched: vec!["1 compressed members".to_owned()],
            ..Looked::default()
        };
        let found = Looked {
            hits: 1,
            ..not_searched.clone()
        };
        let nothing = || at(Looked::default());
        assert_eq!(verdict(vec![nothing()]), Verdict::NothingFound);
        assert_eq!(verdict(vec![nothing(), at(not_searched)]), Verdict::Void);
        assert_eq!(verdict(vec![at(found)]), Verdict::Found);
        let named = Looking::in_vain("a place", String::new(), "it is not there");
        assert_eq!(verdict(vec![named]), Verdict::Void);
        let unread = vec!["its key is not here".to_owned()];
        assert_eq!(judged(vec![nothing()], unread), Verdict::Void);
        // Told, and no reason for a verdict: nobody asked for it.
        let memory = Looking::not_at("memory of link", String::new(), "root only");
        assert_eq!(verdict(vec![nothing(), memory]), Verdict::NothingFound);
    }
}
