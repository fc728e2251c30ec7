//! What is believed of `secrets.toml`: names, and exactly one source for each.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::file::{File, RawSource, RawVault};
use super::{FILE, SOURCES};
use crate::catalogue::{did_you_mean, script_as_command, unchangeable};

/// Bytes of the file.
const FILE_BYTES: u64 = 1 << 20;
/// Arguments of a command.
const ARGUMENTS: usize = 64;

/// A secret's name: 1 to 63 of a-z, 0-9, `-`, `_`, a letter or digit at both ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a part of a variable's: `DB_PASSWORD`.
    #[must_use]
    pub fn in_capitals(&self) -> String {
        self.0.to_ascii_uppercase().replace('-', "_")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let is_name = (1..=63).contains(&bytes.len())
            && bytes
                .iter()
                .all(|b| alphanumeric(b) || matches!(b, b'-' | b'_'))
            && bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric);
        if is_name {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "`{text}` is no secret's name: 1 to 63 of a-z, 0-9, `-`, `_`, with a letter or digit at both ends"
            ))
        }
    }
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub(super) from: Provider,
    pub(super) keep_newline: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Provider {
    File(PathBuf),
    Env(String),
    Command {
        argv: Vec<String>,
        env: BTreeMap<String, String>,
    },
    Credential(String),
    #[cfg_attr(
        not(feature = "vault"),
        expect(dead_code, reason = "made by nothing in a build without the client")
    )]
    Vault(Box<RawVault>),
}

impl fmt::Display for Source {
    /// What a person at the site is told of it: never a value, and of a command the program only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            Provider::File(path) => write!(f, "file {}", path.display()),
            Provider::Env(name) => write!(f, "variable {name} of the agent"),
            Provider::Command { argv, .. } => {
                write!(f, "command {}", argv.first().map_or("", String::as_str))
            }
            Provider::Credential(name) => write!(f, "systemd credential {name}"),
            Provider::Vault(vault) => write!(
                f,
                "Vault {} {}/{} field {}",
                vault.address, vault.mount, vault.path, vault.field
            ),
        }
    }
}

/// The sources of a site.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    file: PathBuf,
    files_in: Option<PathBuf>,
    by_name: BTreeMap<Name, Source>,
}

/// Something wrong in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Bytes from the file's beginning.
    pub offset: Option<usize>,
    /// What is wrong, with which secret, and what would be right.
    pub what: String,
}

impl Problem {
    fn of(what: impl Into<String>) -> Self {
        Self {
            offset: None,
            what: what.into(),
        }
    }
}

impl Sources {
    /// Reads the file beside a catalogue's directory; without one there are no secrets. Answers what it is of, its text,
    /// and all that is wrong with it.
    #[must_use]
    pub fn beside(catalogue: &Path, own_uid: u32) -> (Self, String, Vec<Problem>) {
        let file = catalogue.parent().unwrap_or(catalogue).join(FILE);
        let none = |file: PathBuf, problems| {
            let none = Self {
                file,
                ..Self::default()
            };
            (none, String::new(), problems)
        };
        // A link that leads nowhere is a mistake and no absence.
        if file.symlink_metadata().is_err() {
            return none(file, Vec::new());
        }
        let text = unchangeable(&file, own_uid).and_then(|()| read(&file));
        match text {
            Err(why) => none(file, vec![Problem::of(why)]),
            Ok(text) => {
                let mut problems = Vec::new();
                let sources = Self::parse(file, &text, &mut problems);
                problems.extend(sources.scripts().map(Problem::of));
                (sources, text, problems)
            }
        }
    }

    /// Commands that are scripts under their own names.
    fn scripts(&self) -> impl Iterator<Item = String> {
        self.by_name
            .iter()
            .filter_map(|(name, source)| match &source.from {
                Provider::Command { argv, .. } => {
                    let why = script_as_command(argv)?;
                    Some(format!("secret `{name}`: command: {why}"))
                }
                Provider::File(_)
                | Provider::Env(_)
                | Provider::Credential(_)
                | Provider::Vault(_) => None,
            })
    }

    fn parse(file: PathBuf, text: &str, problems: &mut Vec<Problem>) -> Self {
        let raw = toml::from_str::<File>(text).unwrap_or_else(|error| {
            problems.push(Problem {
                offset: error.span().map(|span| span.start),
                what: error.message().to_owned(),
            });
            File::default()
        });
        let files_in = raw.files_in.map(PathBuf::from);
        if files_in.as_ref().is_some_and(|dir| !dir.is_absolute()) {
            problems.push(Problem::of("files_in: it must be an absolute path"));
        }
        if raw.secret.len() > SOURCES {
            problems.push(Problem::of(format!("it has more than {SOURCES} secrets")));
        }
        let mut by_name = BTreeMap::new();
        for (name, raw) in raw.secret {
            let source = name
                .get_ref()
                .parse::<Name>()
                .and_then(|name| Ok((name, source(raw)?)));
            match source {
                Ok((name, source)) => drop(by_name.insert(name, source)),
                Err(why) => problems.push(Problem {
                    offset: Some(name.span().start),
                    what: format!("secret `{}`: {why}", name.get_ref()),
                }),
            }
        }
        Self {
            file,
            files_in,
            by_name,
        }
    }

    /// Where they are defined, or would be.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Where files of tasks lie, if the site says.
    #[must_use]
    pub fn files_in(&self) -> Option<&Path> {
        self.files_in.as_deref()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Source)> {
        self.by_name.iter()
    }

    /// One of them.
    ///
    /// # Errors
    /// A sentence when there is none.
    pub fn get(&self, name: &Name) -> Result<&Source, String> {
        self.by_name.get(name).ok_or_else(|| {
            let likely = did_you_mean(name.as_str(), self.by_name.keys().map(Name::as_str));
            format!(
                "there is no secret `{name}` in {}{likely}",
                self.file.display()
            )
        })
    }

    /// Files and directories of this host that hold values, or what values can be fetched with: a task of the agent's own
    /// account must not reach them.
    pub(crate) fn private(&self) -> Vec<PathBuf> {
        self.private_with(super::read::credentials().as_deref())
    }

    /// The same where this is the directory of the unit's credentials.
    fn private_with(&self, credentials: Option<&Path>) -> Vec<PathBuf> {
        let of = |source: &Source| match &source.from {
            Provider::File(path) => vec![path.clone()],
            Provider::Credential(_) => credentials.map(Path::to_owned).into_iter().collect(),
            Provider::Vault(vault) => {
                let role = vault.approle.iter();
                let role = role.flat_map(|role| [&role.role_id_file, &role.secret_id_file]);
                let token = vault.token_file.iter();
                token.chain(role).map(PathBuf::from).collect()
            }
            Provider::Env(_) | Provider::Command { .. } => Vec::new(),
        };
        self.by_name.values().flat_map(of).collect()
    }

    /// The secrets that are this variable of the agent's environment.
    pub(crate) fn of_variable<'a>(&'a self, variable: &'a str) -> impl Iterator<Item = &'a Name> {
        self.by_name
            .iter()
            .filter(
                move |(_, source)| matches!(&source.from, Provider::Env(name) if name == variable),
            )
            .map(|(name, _)| name)
    }
}

fn source(raw: RawSource) -> Result<Source, String> {
    let mut found = Vec::new();
    if !raw.command_env.is_empty() && raw.command.is_none() {
        return Err("`command_env` means nothing without `command`".to_owned());
    }
    if raw.keep_newline && raw.file.is_none() && raw.command.is_none() && raw.credential.is_none() {
        return Err("`keep_newline` is for `file`, `command` and `credential`".to_owned());
    }
    found.extend(
        raw.file
            .map(|path| absolute("file", path).map(Provider::File)),
    );
    found.extend(raw.env.map(|name| variable(name).map(Provider::Env)));
    found.extend(raw.command.map(|argv| command(argv, raw.command_env)));
    found.extend(
        raw.credential
            .map(|name| credential(name).map(Provider::Credential)),
    );
    found.extend(raw.vault.map(vault));
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(from), None) => Ok(Source {
            from: from?,
            keep_newline: raw.keep_newline,
        }),
        (None, _) => Err("it has no source: write one of `file`, `env`, `command`, `credential` and `vault`".to_owned()),
        (Some(_), Some(_)) => Err("it has more than one source: keep one of `file`, `env`, `command`, `credential` and `vault`".to_owned()),
    }
}

fn absolute(key: &str, path: String) -> Result<PathBuf, String> {
    let is_path = path.starts_with('/') && !path.contains('\0');
    is_path
        .then(|| PathBuf::from(&path))
        .ok_or_else(|| format!("{key}: `{path}` must be an absolute path"))
}

fn variable(name: String) -> Result<String, String> {
    let is_name = !name.is_empty() && !name.contains(['=', '\0']);
    is_name
        .then_some(name)
        .ok_or_else(|| "env: it is no variable's name".to_owned())
}

fn command(argv: Vec<String>, env: BTreeMap<String, String>) -> Result<Provider, String> {
    let program = argv.first().cloned().unwrap_or_default();
    absolute("command", program)?;
    if argv.len() > ARGUMENTS {
        return Err(format!("command: it can have {ARGUMENTS} elements"));
    }
    let has_nul = |text: &String| text.contains('\0');
    if argv.iter().chain(env.values()).any(has_nul) {
        return Err("command: it contains a NUL".to_owned());
    }
    for name in env.keys() {
        variable(name.clone()).map_err(|_| "command_env: it has a name that is none".to_owned())?;
    }
    Ok(Provider::Command { argv, env })
}

fn credential(name: String) -> Result<String, String> {
    let is_name = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    is_name
        .then_some(name)
        .ok_or_else(|| "credential: it is a name without `/`".to_owned())
}

#[cfg(feature = "vault")]
fn vault(raw: RawVault) -> Result<Provider, String> {
    super::vault::check(&raw).map_err(|why| format!("vault: {why}"))?;
    Ok(Provider::Vault(Box::new(raw)))
}

#[cfg(not(feature = "vault"))]
fn vault(_: RawVault) -> Result<Provider, String> {
    Err("vault: this agent was built without the client for it (feature `vault`)".to_owned())
}

fn read(path: &Path) -> Result<String, String> {
    let size = path.metadata().map_err(|error| error.to_string())?.len();
    if size > FILE_BYTES {
        return Err(format!("it has {size} bytes and can have {FILE_BYTES}"));
    }
    std::fs::read_to_string(path).map_err(|error| format!("it cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Sources, Vec<String>) {
        let mut problems = Vec::new();
        let sources = Sources::parse("/x/secrets.toml".into(), text, &mut problems);
        (sources, problems.into_iter().map(|p| p.what).collect())
    }

    #[test]
    fn each_kind_of_source_is_read_and_told_without_its_arguments() {
        let (sources, problems) = parsed(
            "[secret.a]\nfile = \"/etc/a\"\n[secret.b]\nenv = \"B\"\n[secret.c]\ncommand = [\"/bin/pass\", \"x\"]\n\
             command_env = { HOME = \"/root\" }\nkeep_newline = true\n[secret.d-e]\ncredential = \"d\"\n",
        );
        assert_eq!(problems, [""; 0]);
        let told = sources
            .iter()
            .map(|(name, source)| format!("{name}: {source}"));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                "a: file /etc/a",
                "b: variable B of the agent",
                "c: command /bin/pass",
                "d-e: systemd credential d"
            ]
        );
        assert_eq!("d-e".parse::<Name>().unwrap().in_capitals(), "D_E");
        assert_eq!(sources.of_variable("B").count(), 1);
        // Closed to tasks of the agent's account.
        let credentials = sources.private_with(Some(Path::new("/run/credentials/agent")));
        let closed = ["/etc/a", "/run/credentials/agent"].map(PathBuf::from);
        assert_eq!(credentials, closed);
        assert_eq!(sources.private_with(None), closed[..1]);
        let missing = sources.get(&"aa".parse().unwrap()).unwrap_err();
        assert!(
            missing.contains("no secret `aa` in /x/secrets.toml"),
            "{missing}"
        );
    }

    #[test]
    fn a_file_that_others_can_change_or_that_holds_more_than_anybody_writes_is_not_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = crate::testing::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let own = rustix::process::geteuid().as_raw();
        let problem = |text: &str, mode: u32| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let (sources, _, problems) = Sources::beside(&dir.path().join("catalogue.d"), own);
            (
                sources.iter().count(),
                problems.into_iter().map(|p| p.what).collect::<Vec<_>>(),
            )
        };
        let good = "[secret.a]\nfile = \"/etc/a\"\n";
        assert_eq!(problem(good, 0o644), (1, vec![]));
        let (count, why) = problem(good, 0o666);
        assert!(
            count == 0 && why[0].contains("written by others"),
            "{why:?}"
        );
        let long = format!("{good}#{}\n", "x".repeat(1 << 20));
        let (count, why) = problem(&long, 0o644);
        assert!(count == 0 && why[0].contains("and can have"), "{why:?}");
        let many = (0..=SOURCES).map(|n| format!("[secret.a{n}]\nfile = \"/etc/a\"\n"));
        let (_, why) = problem(&many.collect::<String>(), 0o644);
        assert!(why[0].contains("more than"), "{why:?}");
        let words = vec!["\"x\""; ARGUMENTS].join(", ");
        let (_, why) = problem(
            &format!("[secret.a]\ncommand = [\"/bin/echo\", {words}]\n"),
            0o644,
        );
        assert!(why[0].contains("it can have 64 elements"), "{why:?}");
    }

    #[test]
    fn a_command_that_is_a_script_is_refused_with_what_to_write_as_an_entrys_is() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = crate::testing::tempdir().unwrap();
        let put = |name: &str, text: &str, mode: u32| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path.display().to_string()
        };
        let script = put("fetch", "#!/bin/sh -e\necho value\n", 0o755);
        let own = rustix::process::geteuid().as_raw();
        let problems = |argv: &str| {
            let _ = put(FILE, &format!("[secret.a]\ncommand = [{argv}]\n"), 0o600);
            let (_, _, problems) = Sources::beside(&dir.path().join("catalogue.d"), own);
            problems.into_iter().map(|p| p.what).collect::<Vec<_>>()
        };
        for argv in [
            format!("\"{script}\", \"x\""),
            format!("\"/usr/bin/env\", \"{script}\""),
        ] {
            let problems = problems(&argv);
            assert_eq!(problems.len(), 1, "{argv}: {problems:?}");
            let what = &problems[0];
            assert!(
                what.contains("secret `a`: command: ") && what.contains("is a script"),
                "{what}"
            );
            assert!(
                what.contains("`command = [") && what.contains("\"/bin/sh\", \"-e\""),
                "{what}"
            );
        }
        assert_eq!(
            problems(&format!("\"/bin/sh\", \"-e\", \"{script}\"")),
            [""; 0]
        );
        // What the interpreter reads is looked at as well, each time.
        let argv = ["/bin/sh".to_owned(), script.clone()];
        assert_eq!(crate::catalogue::check_command(&argv, own), Ok(()));
        let _ = put("fetch", "#!/bin/sh -e\necho value\n", 0o777);
        let why = crate::catalogue::check_command(&argv, own).unwrap_err();
        assert!(why.contains("fetch can be written by others"), "{why}");
    }

    #[test]
    fn a_name_is_a_files_name_and_a_part_of_a_variables_and_nothing_else() {
        for good in ["a", "7", "a-b_c", "a__b", &"a".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "a/b",
            "a/../../b",
            "a.b",
            "..",
            "a b",
            "a=b",
            "a\0b",
            "-a",
            "_a",
            "a-",
            "a_",
            "A",
            "aB",
            "\u{e4}",
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[cfg(feature = "vault")]
    #[test]
    fn what_a_server_is_asked_with_is_closed_to_tasks() {
        let vault = "address = \"http://127.0.0.1:1\"\npath = \"p\"\nfield = \"f\"\n";
        let (sources, problems) = parsed(&format!(
            "[secret.a.vault]\n{vault}token_file = \"/etc/token\"\n[secret.b.vault]\n{vault}\
             approle = {{ role_id_file = \"/etc/role\", secret_id_file = \"/etc/id\" }}\n"
        ));
        assert_eq!(problems, [""; 0]);
        let closed = ["/etc/token", "/etc/role", "/etc/id"].map(PathBuf::from);
        assert_eq!(sources.private_with(None), closed);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_no_absence() {
        let dir = crate::testing::tempdir().unwrap();
        let own = rustix::process::geteuid().as_raw();
        let problems = || Sources::beside(&dir.path().join("catalogue.d"), own).2;
        assert_eq!(problems(), []);
        std::os::unix::fs::symlink("none", dir.path().join(FILE)).unwrap();
        assert_eq!(problems().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_told_with_the_secrets_name() {
        for (text, expected) in [
            ("[secret.a]\n", "secret `a`: it has no source"),
            (
                "[secret.a]\nfile = \"x\"\n",
                "secret `a`: file: `x` must be an absolute path",
            ),
            (
                "[secret.a]\nfile = \"/x\"\nenv = \"Y\"\n",
                "more than one source",
            ),
            ("[secret.a]\ncommand = []\n", "must be an absolute path"),
            (
                "[secret.a]\ncommand = [\"pass\"]\n",
                "must be an absolute path",
            ),
            ("[secret.a]\nenv = \"A=B\"\n", "no variable's name"),
            ("[secret.a]\nenv = \"\"\n", "no variable's name"),
            (
                "[secret.a]\nfile = \"/a\\u0000b\"\n",
                "must be an absolute path",
            ),
            (
                "[secret.a]\ncommand = [\"/a\", \"b\\u0000\"]\n",
                "contains a NUL",
            ),
            (
                "[secret.a]\ncommand = [\"/a\"]\ncommand_env = { A = \"\\u0000\" }\n",
                "contains a NUL",
            ),
            (
                "[secret.a]\ncommand = [\"/a\"]\ncommand_env = { \"A=B\" = \"c\" }\n",
                "has a name that is none",
            ),
            (
                "[secret.a]\nenv = \"A\"\nkeep_newline = true\n",
                "`keep_newline` is for",
            ),
            (
                "[secret.a]\nfile = \"/a\"\ncommand_env = { A = \"b\" }\n",
                "without `command`",
            ),
            ("[secret.a]\ncredential = \"../x\"\n", "without `/`"),
            ("[secret.a]\ncredential = \"..\"\n", "without `/`"),
            ("[secret.a]\ncredential = \"\"\n", "without `/`"),
            ("[secret.A]\nfile = \"/x\"\n", "is no secret's name"),
            ("[secret.a]\nvalue = \"x\"\n", "unknown field `value`"),
            (
                "files_in = \"tmp\"\n",
                "files_in: it must be an absolute path",
            ),
        ] {
            let (_, problems) = parsed(text);
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            assert!(problems[0].contains(expected), "{text}: {problems:?}");
        }
    }
}
