//! Whether an entry's secrets could be had, as far as that shows without having them. Called for instructions at an agent
//! that only observes. Opens what would be read and reads nothing of it; runs no program, asks no server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::{Provider, Source};
use super::{Name, Sources, TIMEOUT, VALUE_BYTES, read};
use crate::catalogue::check_command;

/// What was seen, in words for the site.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Which cannot be had, and why.
    pub(crate) missing: Vec<String>,
    /// Of which nobody knows, because only having them would tell.
    pub(crate) untried: Vec<String>,
}

/// Looks for these, on a thread that may block for as long as a file system does; it is waited for no longer than a start
/// would wait.
pub(crate) async fn look(sources: Arc<Sources>, names: Vec<Name>) -> Seen {
    let looks = tokio::task::spawn_blocking(move || all(&sources, &names));
    match tokio::time::timeout(TIMEOUT, looks).await {
        Ok(Ok(seen)) => seen,
        Ok(Err(error)) => untried(error.to_string()),
        Err(_) => untried(format!(
            "looking for its secrets took longer than {} s",
            TIMEOUT.as_secs()
        )),
    }
}

fn untried(why: String) -> Seen {
    Seen {
        untried: vec![why],
        ..Seen::default()
    }
}

fn all(sources: &Sources, names: &[Name]) -> Seen {
    let mut seen = Seen::default();
    for name in names {
        let source = match sources.get(name) {
            Ok(source) => source,
            Err(why) => {
                let why = format!("the secret `{name}` cannot be had: {why}");
                seen.missing.push(why);
                continue;
            }
        };
        match one(source) {
            Ok(None) => {}
            Ok(Some(not)) => seen
                .untried
                .push(format!("the secret `{name}` ({source}): {not}")),
            Err(why) => {
                let why = format!("the secret `{name}` ({source}) cannot be had: {why}");
                seen.missing.push(why);
            }
        }
    }
    seen
}

/// `Some`: why it is not known whether it can be had.
fn one(source: &Source) -> Result<Option<String>, String> {
    match &source.from {
        Provider::File(path) => value(path).map(|()| None),
        Provider::Credential(name) => value(&read::credential_file(name)?).map(|()| None),
        // Taken and let go of.
        Provider::Env(name) => {
            let value = read::env(name)?.checked();
            value.map(|_| None).map_err(str::to_owned)
        }
        Provider::Command { argv, .. } => {
            check_command(argv, rustix::process::geteuid().as_raw())?;
            let program = argv.first().map_or("", String::as_str);
            let may = rustix::fs::access(program, rustix::fs::Access::EXEC_OK);
            may.map_err(|error| format!("it cannot be run: {error}"))?;
            Ok(Some("it was not executed".to_owned()))
        }
        Provider::Vault(vault) => {
            let role = vault.approle.iter();
            let role = role.flat_map(|role| [&role.role_id_file, &role.secret_id_file]);
            let files = vault.ca_file.iter().chain(&vault.token_file).chain(role);
            for file in files.map(PathBuf::from) {
                read::opened(&file).map_err(|why| format!("{}: {why}", file.display()))?;
            }
            Ok(Some("the server was not asked".to_owned()))
        }
    }
}

/// A file that holds a value and could be read.
fn value(path: &Path) -> Result<(), String> {
    let (_, meta) = read::opened(path)?;
    match usize::try_from(meta.len()) {
        Ok(0) => Err("it is empty".to_owned()),
        // With a line's end, which is taken off.
        Ok(bytes) if bytes <= VALUE_BYTES + 2 => Ok(()),
        Ok(_) | Err(_) => Err("it is longer than 64 KiB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str, prepare: impl Fn(&Path)) -> Seen {
        let dir = crate::testing::tempdir().unwrap();
        prepare(dir.path());
        let text = text.replace("DIR", &dir.path().display().to_string());
        std::fs::write(dir.path().join(super::super::FILE), text).unwrap();
        let own = rustix::process::geteuid().as_raw();
        let (sources, _, problems) = Sources::beside(&dir.path().join("catalogue.d"), own);
        assert_eq!(problems, []);
        let names: Vec<Name> = sources.iter().map(|(name, _)| name.clone()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut seen = runtime.block_on(look(Arc::new(sources), names));
        let dir = dir.path().display().to_string();
        for said in seen.missing.iter_mut().chain(&mut seen.untried) {
            *said = said.replace(&dir, "DIR");
        }
        seen
    }

    fn missing(why: &str) -> Seen {
        Seen {
            missing: vec![why.to_owned()],
            ..Seen::default()
        }
    }

    #[test]
    fn a_file_that_can_be_read_is_there_and_any_other_is_named_with_why_not() {
        let file = "[secret.a]\nfile = \"DIR/a\"\n";
        let none = "the secret `a` (file DIR/a) cannot be had:";
        assert_eq!(
            seen(file, |dir| std::fs::write(dir.join("a"), "canary").unwrap()),
            Seen::default()
        );
        let gone = seen(file, |_| {});
        assert!(gone.missing[0].starts_with(none), "{gone:?}");
        assert_eq!(
            seen(file, |dir| std::fs::write(dir.join("a"), "").unwrap()),
            missing(&format!("{none} it is empty"))
        );
        let long = vec![b'x'; VALUE_BYTES + 3];
        assert_eq!(
            seen(file, |dir| std::fs::write(dir.join("a"), &long).unwrap()),
            missing(&format!("{none} it is longer than 64 KiB"))
        );
        let open = seen(file, |dir| {
            std::fs::write(dir.join("a"), "canary").unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            std::fs::set_permissions(dir.join("a"), mode).unwrap();
        });
        assert!(open.missing[0].contains("written by others"), "{open:?}");
    }

    #[test]
    fn a_program_is_not_executed_and_a_server_not_asked_and_both_is_said() {
        let command = "[secret.a]\ncommand = [\"/bin/sh\", \"-c\", \"touch DIR/ran\"]\n";
        let dir = crate::testing::tempdir().unwrap();
        let text = command.replace("DIR/ran", &dir.path().join("ran").display().to_string());
        let said = seen(&text, |_| {});
        assert_eq!(said.missing, [""; 0]);
        assert_eq!(
            said.untried,
            ["the secret `a` (command /bin/sh): it was not executed"]
        );
        assert!(!dir.path().join("ran").exists());
        let put = |mode: u32| {
            seen("[secret.a]\ncommand = [\"DIR/fetch\"]\n", move |dir| {
                let path = dir.join("fetch");
                std::fs::write(&path, "\x7fELF").unwrap();
                let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
                std::fs::set_permissions(&path, mode).unwrap();
            })
        };
        assert!(put(0o757).missing[0].contains("written by others"));
        assert!(put(0o600).missing[0].contains("cannot be run"));
        assert_eq!(put(0o700).missing, [""; 0]);
        let gone = seen("[secret.a]\ncommand = [\"/bin/no-such-program\"]\n", |_| {});
        assert!(gone.untried.is_empty(), "{gone:?}");
        assert!(
            gone.missing[0]
                .starts_with("the secret `a` (command /bin/no-such-program) cannot be had: "),
            "{gone:?}"
        );
    }

    #[cfg(feature = "vault")]
    #[test]
    fn of_a_server_the_files_are_looked_at_that_it_would_be_asked_with() {
        let vault = "[secret.a.vault]\naddress = \"http://127.0.0.1:1\"\npath = \"p\"\nfield = \"f\"\n\
                     token_file = \"DIR/token\"\n";
        let there = seen(vault, |dir| std::fs::write(dir.join("token"), "t").unwrap());
        assert_eq!(there.missing, [""; 0]);
        assert!(
            there.untried[0].ends_with("the server was not asked"),
            "{there:?}"
        );
        let gone = seen(vault, |_| {});
        assert!(gone.missing[0].contains("DIR/token: "), "{gone:?}");
        let with = |file: &str, rest: &str| {
            let text = vault.replace("token_file = \"DIR/token\"", rest);
            let gone = seen(&text, |dir| {
                for name in ["token", "ca", "role", "id"] {
                    std::fs::write(dir.join(name), "t").unwrap();
                }
                std::fs::remove_file(dir.join(file)).unwrap();
            });
            assert!(
                gone.missing[0].contains(&format!("DIR/{file}: ")),
                "{gone:?}"
            );
        };
        with("ca", "ca_file = \"DIR/ca\"\ntoken_file = \"DIR/token\"");
        let role = "approle = { role_id_file = \"DIR/role\", secret_id_file = \"DIR/id\" }";
        with("role", role);
        with("id", role);
    }

    #[test]
    fn variables_and_credentials_that_are_not_there_are_named() {
        let said = seen(
            "[secret.a]\nenv = \"OUTPOST_TEST_NONE\"\n[secret.b]\ncredential = \"c\"\n",
            |_| {},
        );
        assert!(said.missing[0].contains("OUTPOST_TEST_NONE"), "{said:?}");
        assert!(said.missing[1].contains("systemd credential c"), "{said:?}");
        assert!(said.untried.is_empty());
    }
}
