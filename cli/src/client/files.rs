//! Workflow files: finding them below directories, reading them, and checking them all before anything is asked of a
//! server. Used by `validate`, `apply` and `diff`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use outpost_orchestrator::workflow::{self, Problem};
use outpost_orchestrator_core::spec::WorkflowSpec;

use crate::exit;
use crate::failure::Failure;
use crate::output::{Out, Tone, clean};

/// What the server itself refuses to read more of.
const MOST_YAML: u64 = 256 * 1024;
/// Directories in directories.
const DEEPEST: usize = 32;

/// A file that was read, and what it says.
pub(crate) struct Source {
    /// As it was named, or found.
    pub(crate) path: PathBuf,
    /// What it holds.
    pub(crate) text: String,
    /// What that means, or everything that is wrong with it.
    pub(crate) read: Result<WorkflowSpec, Vec<Problem>>,
}

impl Source {
    /// As people see it.
    pub(crate) fn name(&self) -> String {
        name(&self.path)
    }
}

/// A file that says something.
pub(crate) struct Valid {
    /// As it was named, or found.
    pub(crate) path: PathBuf,
    /// What it holds.
    pub(crate) text: String,
    /// What that means.
    pub(crate) spec: WorkflowSpec,
}

impl Valid {
    /// As people see it.
    pub(crate) fn name(&self) -> String {
        name(&self.path)
    }
}

fn name(path: &Path) -> String {
    if path.as_os_str() == "-" {
        "<stdin>".to_owned()
    } else {
        path.display().to_string()
    }
}

/// Reads the files, and every *.yaml and *.yml below the directories.
///
/// # Errors
/// One cannot be read, is too long, or a directory holds none.
pub(crate) fn read_all(given: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let mut paths = Vec::new();
    for path in given {
        if path.is_dir() {
            let before = paths.len();
            below(path, 0, &mut paths)?;
            if paths.len() == before {
                return Err(Failure::Usage(format!(
                    "there is no *.yaml and no *.yml below {}",
                    path.display()
                )));
            }
        } else {
            paths.push(path.clone());
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    paths.retain(|path| seen.insert(path.clone()));
    paths.into_iter().map(read).collect()
}

/// Files of workflows in a directory and its directories, in the order of their names. Hidden ones and links to
/// directories are passed over.
fn below(dir: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> Result<(), Failure> {
    if depth > DEEPEST {
        return Err(Failure::Usage(format!(
            "{} lies more than {DEEPEST} directories deep",
            dir.display()
        )));
    }
    let entries = std::fs::read_dir(dir).map_err(Failure::file(dir))?;
    let mut entries = entries
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failure::file(dir))?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let kind = entry.file_type().map_err(Failure::file(&path))?;
        if hidden {
            continue;
        }
        if kind.is_dir() {
            below(&path, depth + 1, paths)?;
        } else if path
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml")
            && path.is_file()
        {
            paths.push(path);
        }
    }
    Ok(())
}

fn read(path: PathBuf) -> Result<Source, Failure> {
    let mut bytes = Vec::new();
    let took = if path.as_os_str() == "-" {
        let stdin = std::io::stdin().lock();
        stdin.take(MOST_YAML + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(&path).and_then(|file| file.take(MOST_YAML + 1).read_to_end(&mut bytes))
    };
    took.map_err(Failure::file(&path))?;
    if bytes.len() as u64 > MOST_YAML {
        return Err(Failure::Usage(format!(
            "{} is longer than 256 KiB, the most a workflow may have",
            path.display()
        )));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let whole = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..whole]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        Failure::Usage(format!(
            "{}:{line}: this is no UTF-8; save the file as UTF-8",
            path.display()
        ))
    })?;
    let read = workflow::parse(&text).map_err(|error| error.problems);
    Ok(Source { path, text, read })
}

/// Files that are all good, or all that is wrong with any of them, told on stderr.
///
/// # Errors
/// A file is wrong, or two files are about one workflow.
pub(crate) fn all_valid(sources: Vec<Source>, out: Out) -> Result<Vec<Valid>, Failure> {
    let count = sources.len();
    let (mut valid, mut wrong, mut problems) = (Vec::new(), 0, 0);
    for Source { path, text, read } in sources {
        match read {
            Ok(spec) => valid.push(Valid { path, text, spec }),
            Err(found) => {
                wrong += 1;
                problems += found.len();
                if !out.is_json() {
                    for problem in &found {
                        tell(&name(&path), &text, problem, out);
                    }
                }
            }
        }
    }
    if wrong > 0 {
        return Err(Failure::Told {
            summary: sum(problems, wrong, count),
            status: exit::USAGE,
        });
    }
    let mut by_name: BTreeMap<String, &Valid> = BTreeMap::new();
    for it in &valid {
        if let Some(other) = by_name.insert(it.spec.name.to_string(), it) {
            return Err(Failure::Usage(format!(
                "{} and {} both hold the workflow `{}`; the last one would win: keep one of them",
                other.name(),
                it.name(),
                it.spec.name
            )));
        }
    }
    Ok(valid)
}

/// `3 problems in 2 of 5 files`
pub(crate) fn sum(problems: usize, wrong: usize, files: usize) -> String {
    let many = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    match (wrong, files) {
        (1, 1) => format!("{} in the file", many(problems, "problem")),
        (wrong, files) => format!(
            "{} in {wrong} of {}",
            many(problems, "problem"),
            many(files, "file")
        ),
    }
}

/// Tells a problem on stderr: what, where, the line itself, and what to do.
pub(crate) fn tell(file: &str, text: &str, problem: &Problem, out: Out) {
    out.note(&format!(
        "{}: {}",
        Tone::Bad.paint("error[invalid_workflow]"),
        clean(&problem.message)
    ));
    for line in place(file, text, problem) {
        out.note(&line);
    }
}

/// The lines below a problem's sentence.
fn place(file: &str, text: &str, problem: &Problem) -> Vec<String> {
    let faint = |text: &str| Tone::Faint.paint(text);
    let mut at = clean(file);
    if problem.line > 0 {
        at.push_str(&format!(":{}:{}", problem.line, problem.column));
    }
    if !problem.path.is_empty() {
        at.push_str(&format!(" ({})", clean(&problem.path)));
    }
    let number = usize::try_from(problem.line).unwrap_or(0);
    let shown = number.checked_sub(1).and_then(|at| text.lines().nth(at));
    let margin = number.to_string().len();
    let blank = " ".repeat(margin);
    let mut lines = vec![format!("{blank}{} {at}", faint("-->"))];
    if let Some(shown) = shown {
        let column = usize::try_from(problem.column).unwrap_or(1).max(1);
        let (shown, caret) = excerpt(shown, column - 1);
        lines.push(faint(&format!("{blank} |")));
        lines.push(format!("{} {shown}", faint(&format!("{number} |"))));
        let bar = faint(&format!("{blank} |"));
        let under = " ".repeat(caret);
        lines.push(format!("{bar} {under}{}", Tone::Bad.paint("^")));
    }
    if let Some(help) = &problem.help {
        lines.push(format!("{blank} {} {}", faint("= help:"), clean(help)));
    }
    lines
}

/// The part of a line around a character, without tabs, and the place of the character in it.
fn excerpt(line: &str, at: usize) -> (String, usize) {
    const WIDEST: usize = 100;
    const BEFORE: usize = 40;
    let letters: Vec<char> = clean(&line.replace('\t', " ")).chars().collect();
    let from = if letters.len() > WIDEST {
        at.saturating_sub(BEFORE).min(letters.len())
    } else {
        0
    };
    let to = (from + WIDEST).min(letters.len());
    let mut shown: String = letters[from..to].iter().collect();
    let mut caret = at.saturating_sub(from);
    if from > 0 {
        shown.insert(0, '…');
        caret += 1;
    }
    if to < letters.len() {
        shown.push('…');
    }
    (shown, caret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_below_a_directory_are_found_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("b.yaml", "b"),
            ("a/c.yml", "c"),
            ("a/.hidden.yaml", "x"),
            (".git/d.yaml", "x"),
            ("notes.txt", "x"),
        ] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/loop")).unwrap();
        let found = read_all(&[dir.path().to_owned(), dir.path().join("b.yaml")]).unwrap();
        let texts: Vec<&str> = found.iter().map(|it| it.text.as_str()).collect();
        assert_eq!(texts, ["c", "b"]);
        let empty = tempfile::tempdir().unwrap();
        let failure = read_all(&[empty.path().to_owned()]).err().unwrap();
        assert!(failure.to_string().contains("there is no *.yaml"));
    }

    #[test]
    fn a_problem_is_shown_in_its_line() {
        let problem = Problem {
            line: 12,
            column: 5,
            path: "tasks.a".to_owned(),
            message: "m".to_owned(),
            help: Some("did you mean `entry`?".to_owned()),
        };
        let text = format!("{}    entri: x\n", "\n".repeat(11));
        let lines = place("flow.yaml", &text, &problem);
        let plain: Vec<String> = lines
            .iter()
            .map(|line| anstream::adapter::strip_str(line).to_string())
            .collect();
        insta::assert_snapshot!(plain.join("\n"), @r"
          --> flow.yaml:12:5 (tasks.a)
           |
        12 |     entri: x
           |     ^
           = help: did you mean `entry`?
        ");
    }

    #[test]
    fn of_a_long_line_the_part_around_the_place_is_shown() {
        let line = format!("{}X{}", "a".repeat(300), "b".repeat(300));
        let (shown, caret) = excerpt(&line, 300);
        assert_eq!(shown.chars().nth(caret), Some('X'));
        assert!(shown.chars().count() <= 102);
        assert_eq!(excerpt("ab", 7), ("ab".to_owned(), 7));
    }
}
