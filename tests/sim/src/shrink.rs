//! Makes a seed that breaks an invariant smaller: fewer faults, fewer wants, as long as the same invariant breaks.

use crate::plan::Script;
use crate::{Options, play};

/// Most simulations that one seed is made smaller with.
const TRIES: u32 = 600;

/// Gives what is left of a script that breaks an invariant; `None` when it breaks none. The invariant that what is left
/// breaks is the one that the whole breaks.
#[must_use]
pub fn shrink(script: &Script, options: Options) -> Option<Script> {
    let whole = play(script, options);
    let (sentence, what) = whole.broken?;
    let mut smaller = Smaller {
        script: Script {
            why: format!("{sentence}: {}", in_short(&what)),
            faults: Some(whole.faults),
            wants: Some((0..whole.wants).collect()),
            ..script.clone()
        },
        sentence,
        options,
        tries: 0,
    };
    smaller.fewer_faults();
    smaller.fewer_wants(whole.wants);
    smaller.fewer_faults();
    Some(smaller.script)
}

fn in_short(what: &str) -> String {
    let words: Vec<&str> = what.split_whitespace().collect();
    words.join(" ").chars().take(160).collect()
}

struct Smaller {
    script: Script,
    sentence: &'static str,
    options: Options,
    tries: u32,
}

impl Smaller {
    /// Takes this instead, if it breaks the same invariant.
    fn instead(&mut self, script: Script) -> bool {
        if self.tries >= TRIES {
            return false;
        }
        self.tries += 1;
        let broken = play(&script, self.options).broken;
        let same = broken.is_some_and(|(sentence, _)| sentence == self.sentence);
        if same {
            self.script = script;
        }
        same
    }

    /// Leaves out faults, many at once first.
    fn fewer_faults(&mut self) {
        let mut part = self.script.faults.as_ref().map_or(0, Vec::len);
        while part > 0 {
            let mut from = 0;
            while let Some(faults) = self.script.faults.clone()
                && from < faults.len()
            {
                let until = (from + part).min(faults.len());
                let fewer = [&faults[..from], &faults[until..]].concat();
                let script = Script {
                    faults: Some(fewer),
                    ..self.script.clone()
                };
                if !self.instead(script) {
                    from = until;
                }
            }
            part /= 2;
        }
    }

    /// Leaves out what people want, many at once first.
    fn fewer_wants(&mut self, wants: u32) {
        let mut part = wants;
        while part > 0 {
            let mut from = 0;
            while from < wants {
                let until = (from + part).min(wants);
                let mut script = self.script.clone();
                let wants = script.wants.get_or_insert_default();
                wants.retain(|want| !(from..until).contains(want));
                if script != self.script {
                    self.instead(script);
                }
                from = until;
            }
            part /= 2;
        }
    }
}
