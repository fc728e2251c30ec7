//! The canaries: catalogue entries whose tasks leave the mark wherever a task can leave anything, and end in every way
//! that a task can end.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::mark::{Form, Mark};

/// What the names of all canaries begin with.
pub const PREFIX: &str = "leaktest-";
/// The workflow that runs them all.
pub const WORKFLOW_NAME: &str = "leaktest";

const SCRIPT: &str = "leaktest.sh";
const CATALOGUE: &str = "leaktest.toml";

/// A canary: its name without [`PREFIX`], what it does, and more lines of its entry.
struct Canary {
    name: &'static str,
    does: &'static str,
    more: &'static str,
}

const CANARIES: [Canary; 5] = [
    Canary {
        name: "spray",
        does: "Leaves the mark in its output, files, names, environment, arguments and outputs, and ends well",
        more: "",
    },
    Canary {
        name: "count",
        does: "Writes the mark where a number is reported",
        more: "report_count = true\n",
    },
    Canary {
        name: "fail",
        does: "Prints a traceback with the mark and ends with an exit code that is reported",
        more: "report_exit_code = true\n",
    },
    Canary {
        name: "signal",
        does: "Says the mark and ends itself by a signal",
        more: "",
    },
    Canary {
        name: "timeout",
        does: "Says the mark and goes on until its time is over",
        // Long enough for a busy machine to say it before.
        more: "timeout = \"2s\"\n",
    },
];

/// The names of all canaries, as the catalogue has them.
pub fn names() -> impl Iterator<Item = String> {
    let names = CANARIES.iter().map(|canary| canary.name);
    let names = names.chain(["start"]);
    names.map(|name| format!("{PREFIX}{name}"))
}

/// The file of the catalogue. With `user`, every entry runs as that account.
#[must_use]
pub fn catalogue(mark: &Mark, user: Option<&str>) -> String {
    let mut toml = String::from(
        "# Canaries of a leak test, written by `outpost-agent leaktest prepare`. They read nothing, and leave a marked\n\
         # string wherever a task can leave any. Remove this file and leaktest.sh when the test is over.\n",
    );
    let user = user.map_or_else(String::new, |user| format!("user = {user:?}\n"));
    let argument = mark.of("argument");
    let environment = mark.of("environment");
    for Canary { name, does, more } in CANARIES {
        let _ = write!(
            toml,
            "\n[entry.{PREFIX}{name}]\n{user}description = \"{does}\"\n\
             argv = [\"/bin/sh\", \"{{catalogue}}/{SCRIPT}\", \"{name}\", \"{argument}\"]\n\
             env = {{ LEAKTEST = \"{environment}\" }}\ngrace = \"1s\"\nlog_max = \"1MiB\"\n{more}"
        );
    }
    let program = mark.of("program");
    let _ = write!(
        toml,
        "\n[entry.{PREFIX}start]\n{user}description = \"Names a program that is not there, with the mark in its name\"\n\
         argv = [\"/nonexistent/{program}\"]\n"
    );
    toml
}

/// The script that all but one of the canaries run.
#[must_use]
pub fn script(mark: &Mark) -> String {
    let text = mark.text();
    let mut forms = String::new();
    for form in Form::ALL {
        let _ = writeln!(
            forms,
            "    printf '{}\\n'",
            octal(&form.dress(&mark.of("stdout")))
        );
    }
    format!(
        r#"# Canaries of a leak test: see leaktest.toml.
mark={text}
case $1 in
spray)
{forms}    echo "$mark.stderr" >&2
    : > "$mark.filename"
    : > "$OUTPOST_RUN_DIR/$mark.filename"
    mkdir -p "$OUTPOST_RUN_DIR/$mark.directory"
    echo "$mark.file" > "$OUTPOST_RUN_DIR/leaktest.txt"
    echo "leaktest=$mark.output" >> "$OUTPOST_OUT"
    /bin/sh -c 'echo "$1 $LEAKTEST"' sh "$mark.argument"
    ;;
count)
    echo "$mark.stdout"
    echo "count=$mark.count" >> "$OUTPOST_OUT"
    ;;
fail)
    echo "Traceback (most recent call last):" >&2
    echo "  File \"/srv/$mark.filename.py\", line 1, in <module>" >&2
    echo "ValueError: $mark.exception" >&2
    exit 87
    ;;
signal)
    echo "$mark.stderr" >&2
    kill -SEGV $$
    ;;
timeout)
    echo "$mark.stdout"
    sleep 60
    ;;
esac
"#
    )
}

/// The workflow: every canary once, none after another.
#[must_use]
pub fn workflow() -> String {
    let mut yaml = format!("name: {WORKFLOW_NAME}\ntasks:\n");
    for name in names() {
        let task = name.trim_start_matches(PREFIX);
        let _ = writeln!(yaml, "  {task}: {{ entry: {name} }}");
    }
    yaml
}

/// Writes both files into a catalogue directory, in place of earlier ones; their paths.
///
/// # Errors
/// When one cannot be written.
pub fn write(dir: &Path, mark: &Mark, user: Option<&str>) -> io::Result<[PathBuf; 2]> {
    let paths = [dir.join(SCRIPT), dir.join(CATALOGUE)];
    // The script first: a reload between the two must not meet entries without it.
    for (path, text) in paths.iter().zip([script(mark), catalogue(mark, user)]) {
        let temp = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&temp)?;
        file.write_all(text.as_bytes())?;
        // Tasks of other accounts read the script, whatever this process' mask is.
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        std::fs::rename(&temp, path)?;
    }
    Ok(paths)
}

/// For `printf` of any shell.
fn octal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:03o}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_with_the_canaries_is_accepted_and_has_them_all() {
        let dir = crate::testing::tempdir().unwrap();
        let mark = Mark::random().unwrap();
        let user = rustix::process::geteuid().is_root().then_some("nobody");
        write(dir.path(), &mark, user).unwrap();
        let catalogue = crate::catalogue::load(dir.path(), "").unwrap();
        let entries = catalogue.entries().map(|entry| entry.name.to_string());
        let mut all: Vec<String> = names().collect();
        all.sort();
        assert!(entries.eq(all));
    }

    #[test]
    fn the_workflow_names_every_canary() {
        let yaml = workflow();
        assert!(names().all(|name| yaml.contains(&format!("{{ entry: {name} }}\n"))));
    }
}
