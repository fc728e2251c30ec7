//! The tasks' own account: lines that they append to one file of their site, in the order the kernel put them there.
//!
//! Nothing of the code under test takes part in it. A line is `begin|alive|end ATTEMPT RUN TASK FENCE UPTIME [STATUS]`.

/// What a task says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Its first act.
    Begin,
    /// It goes on.
    Alive,
    /// Its last act, with the status it is about to end with.
    End(u8),
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// What.
    pub what: What,
    /// Of which attempt.
    pub attempt: String,
    /// Of which run.
    pub run: String,
    /// Of which task.
    pub task: String,
    /// What the task was given to fence with.
    pub fence: u64,
    /// Centiseconds since boot.
    pub at_cs: u64,
}

/// The shell functions that write these lines: a script begins with them, and calls `alive` and `over STATUS`. Needs
/// the file's path in `$marks`. No process is started for a line.
pub const SHELL: &str = r#"mark() { read up idle < /proc/uptime; echo "$1 $OUTPOST_ATTEMPT $OUTPOST_RUN $OUTPOST_TASK $OUTPOST_FENCE $up $2" >> "$marks"; }
alive() { mark alive ""; }
over() { mark end "$1"; exit "$1"; }
mark begin ""
"#;

/// Reads the whole file: the lines, and what is no line.
#[must_use]
pub fn parse(text: &str) -> (Vec<Mark>, Vec<String>) {
    let (mut marks, mut unreadable) = (Vec::new(), Vec::new());
    for line in text.lines() {
        match mark(line) {
            Some(mark) => marks.push(mark),
            None => unreadable.push(line.to_owned()),
        }
    }
    (marks, unreadable)
}

fn mark(line: &str) -> Option<Mark> {
    let mut words = line.split_ascii_whitespace();
    let kind = words.next()?;
    let mut next = || words.next().map(str::to_owned);
    let (attempt, run, task) = (next()?, next()?, next()?);
    let fence = next()?.parse().ok()?;
    let (seconds, rest) = next()?
        .split_once('.')
        .map(|(seconds, rest)| (seconds.to_owned(), rest.to_owned()))?;
    let at_cs = seconds.parse::<u64>().ok()? * 100 + rest.parse::<u64>().ok()?;
    let what = match kind {
        "begin" => What::Begin,
        "alive" => What::Alive,
        "end" => What::End(next()?.parse().ok()?),
        _ => return None,
    };
    next().is_none().then_some(Mark {
        what,
        attempt,
        run,
        task,
        fence,
        at_cs,
    })
}
