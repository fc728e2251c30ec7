//! `outpost man DIR`: a manual page for every command.

use std::path::Path;

use clap::Command;
use clap::builder::{Resettable, StyledStr};
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
    // Below the options the writer of pages would fill the lines of examples like a paragraph.
    let without = command
        .clone()
        .after_help(Resettable::<StyledStr>::Reset)
        .after_long_help(Resettable::<StyledStr>::Reset);
    clap_mangen::Man::new(without)
        .render(&mut page)
        .map_err(|error| Failure::Internal(format!("no manual page of {name}: {error}")))?;
    let after = command.get_after_long_help().or(command.get_after_help());
    let after = after.map(|text| sections(&text.to_string()));
    page.extend(after.unwrap_or_default().into_bytes());
    write(name, page)?;
    for below in command
        .get_subcommands()
        .filter(|it| !it.is_hide_set() && it.get_name() != "help")
    {
        pages(below, &format!("{name}-{}", below.get_name()), write)?;
    }
    Ok(())
}

/// Lines that begin a section of their own.
const TITLES: [&str; 2] = ["Examples", "Exit status"];

/// What follows a command's options in its help, as sections whose lines stay as they are.
fn sections(text: &str) -> String {
    let mut page = String::new();
    let mut open = false;
    for line in text.lines() {
        let title = line
            .strip_suffix(':')
            .filter(|title| TITLES.contains(title));
        match title {
            Some(title) => page.push_str(&format!(
                "{}.SH {}\n.nf\n",
                close(open),
                title.to_uppercase()
            )),
            None if !open => page.push_str(".SH NOTES\n.nf\n"),
            None => {}
        }
        if title.is_none() {
            // No line is read as a request, and no hyphen is broken at or made a dash.
            let line = line.replace('\\', "\\e").replace('-', "\\-");
            page.push_str(&format!("\\&{line}\n"));
        }
        open = true;
    }
    page.push_str(close(open));
    page
}

fn close(open: bool) -> &'static str {
    if open { ".fi\n" } else { "" }
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
            assert!(
                all[name].contains(".SH EXAMPLES\n.nf\n\\&  outpost"),
                "{name}: {}",
                all[name]
            );
        }
        assert!(all["outpost"].contains(".SH EXIT STATUS\n.nf\n\\&  0   done"));
        assert!(all["outpost-apply"].contains("\\&  outpost apply \\-f"));
        assert!(
            !all.keys()
                .any(|name| name.contains("-main") || name.contains("reference"))
        );
    }
}
