//! The example that the demo runs: workflow, catalogue and scripts, embedded, written with strict modes.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use outpost_faults::history::site;

use crate::failure::Failure;

/// The workflow's name.
pub(crate) const NAME: &str = "host-report";
/// What is applied.
pub(crate) const WORKFLOW: &str = include_str!("../../../examples/host-report.yaml");
/// Stands in the catalogue where an entry's `user` belongs when the agent runs as root.
const USER: &str = "#user#";

const CATALOGUE: &str = include_str!("../../../examples/host-report/catalogue.d/host-report.toml");

macro_rules! scripts {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../examples/host-report/catalogue.d/scripts/", $name)))),*]
    };
}

const SCRIPTS: &[(&str, &str)] = scripts![
    "common.sh",
    "describe-kernel.sh",
    "find-special-files.sh",
    "index-files.sh",
    "join-findings.sh",
    "list-accounts.sh",
    "list-packages.sh",
    "list-sockets.sh",
    "measure-directories.sh",
    "open-inventory.sh",
    "snapshot-inventory.sh",
    "write-html-report.sh",
    "write-json-report.sh",
];

/// Writes catalogue and scripts into a new directory. With `user`, every entry runs as that account.
pub(crate) fn install(catalogue: &Path, user: Option<&str>) -> Result<(), Failure> {
    install_with(catalogue, user, "")
}

/// The same, where every script first writes down in `marks` that it was started, and at last how it ends.
pub(super) fn install_counted(
    catalogue: &Path,
    user: Option<&str>,
    marks: &Path,
) -> Result<(), Failure> {
    write(marks, "")?;
    std::fs::set_permissions(marks, Permissions::from_mode(0o666)).map_err(Failure::file(marks))?;
    let counting = format!(
        "\nmarks='{}'\n{}trap 'status=$?; rm -rf \"$scratch\"; mark end \"$status\"' EXIT\n",
        marks.display(),
        site::SHELL
    );
    install_with(catalogue, user, &counting)
}

fn install_with(catalogue: &Path, user: Option<&str>, counting: &str) -> Result<(), Failure> {
    let scripts = catalogue.join("scripts");
    for dir in [catalogue, &scripts] {
        DirBuilder::new()
            .mode(0o755)
            .create(dir)
            .map_err(Failure::file(dir))?;
        std::fs::set_permissions(dir, Permissions::from_mode(0o755)).map_err(Failure::file(dir))?;
    }
    for (name, text) in SCRIPTS {
        // What all scripts begin with.
        let more = if *name == "common.sh" { counting } else { "" };
        write(&scripts.join(name), &format!("{text}{more}"))?;
    }
    write(
        &catalogue.join("host-report.toml"),
        &with_user(CATALOGUE, user),
    )
}

/// Root needs an account for every entry; anybody else runs them as themselves.
fn with_user(catalogue: &str, user: Option<&str>) -> String {
    let line = |line: &str| match (line.trim() == USER, user) {
        (false, _) => Some(format!("{line}\n")),
        (true, Some(user)) => Some(format!("user = \"{user}\"\n")),
        (true, None) => None,
    };
    catalogue.lines().filter_map(line).collect()
}

/// Readable by the account of the tasks, writable by nobody else, whatever this process' mask is.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path);
    let mut file = file.map_err(Failure::file(path))?;
    file.write_all(text.as_bytes())
        .map_err(Failure::file(path))?;
    file.set_permissions(Permissions::from_mode(0o644))
        .map_err(Failure::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_example_is_embedded() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/host-report/catalogue.d");
        let names = |dir: &Path| {
            let names = std::fs::read_dir(dir)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names = names.collect::<Vec<_>>();
            names.sort();
            names
        };
        assert_eq!(names(&dir), ["host-report.toml", "scripts"]);
        assert_eq!(
            names(&dir.join("scripts")),
            SCRIPTS.iter().map(|(name, _)| *name).collect::<Vec<_>>()
        );
    }

    #[test]
    fn as_root_every_entry_has_an_account_and_otherwise_none() {
        let (root, other) = (
            with_user(CATALOGUE, Some("nobody")),
            with_user(CATALOGUE, None),
        );
        let entries = CATALOGUE
            .lines()
            .filter(|line| line.starts_with("[entry.") && !line.contains(".param."))
            .count();
        assert!(entries >= 7);
        assert_eq!(
            root.lines()
                .filter(|line| *line == "user = \"nobody\"")
                .count(),
            entries
        );
        assert!(
            !other
                .lines()
                .any(|line| line.starts_with("user") || line.trim() == USER)
        );
    }
}
