//! `outpost man DIR`: a manual page for every command.

use std::path::Path;

use clap::Command;
use serde_json::json;

use crate::args;
use crate::failure::Failure;
use crate::output::Out;

/// Writes the pages; those that are there are replaced.
pub(super) fn write(dir: &Path, out: Out) -> Result<(), Failure> {
    std::fs::create_dir_all(dir).map_err(Failure::file(dir))?;
    let command = args::command();
    let mut written = Vec::new();
    pages(&command, "outpost", &mut |name, page| {
        let path = dir.join(format!("{name}.1"));
        std::fs::write(&path, page).map_err(Failure::file(&path))?;
        written.push(path);
        Ok(())
    })?;
    out.either(&json!({ "files": written }), |out| {
        out.line(&format!(
            "{} manual pages are in {}; read one with: man -l {}",
            written.len(),
            dir.display(),
            dir.join("outpost.1").display()
        ));
    });
    Ok(())
}

fn pages(
    command: &Command,
    name: &str,
    write: &mut impl FnMut(&str, Vec<u8>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .map_err(|error| Failure::Internal(format!("no manual page of {name}: {error}")))?;
    write(name, page)?;
    for below in command
        .get_subcommands()
        .filter(|it| !it.is_hide_set() && it.get_name() != "help")
    {
        pages(below, &format!("{name}-{}", below.get_name()), write)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_examples() {
        let command = args::command();
        let mut all = std::collections::BTreeMap::new();
        pages(&command, "outpost", &mut |name, page| {
            all.insert(name.to_owned(), String::from_utf8(page).unwrap());
            Ok(())
        })
        .unwrap();
        for name in [
            "outpost",
            "outpost-apply",
            "outpost-agents-drain",
            "outpost-context-add",
        ] {
            assert!(all[name].contains("Examples"), "{name}: {:?}", all.keys());
        }
        assert!(
            !all.keys()
                .any(|name| name.contains("-main") || name.contains("reference"))
        );
    }
}
