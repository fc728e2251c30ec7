//! Fetching the secrets of an attempt: each in its own time, all together in bounded number. Called by the runner beside
//! its loop, by `catalogue try` and by `secrets test`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use super::source::Provider;
use super::{AT_ONCE, Name, Source, Sources, TIMEOUT, Value, command, read};

/// A secret that could not be had; in words for the site, without anything of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    name: Name,
    source: String,
    why: String,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, source, why } = self;
        if source.is_empty() {
            write!(f, "the secret `{name}` cannot be had: {why}")
        } else {
            write!(f, "the secret `{name}` ({source}) cannot be had: {why}")
        }
    }
}

impl std::error::Error for Unresolved {}

/// Fetches, with a bound on how many sources are asked at once.
#[derive(Debug, Clone)]
pub struct Resolver {
    turns: Arc<Semaphore>,
    timeout: Duration,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            timeout: TIMEOUT,
        }
    }
}

impl Resolver {
    /// The values of these secrets, in their order; each is asked for at the same time, as turns allow.
    ///
    /// # Errors
    /// The first that cannot be had.
    pub(crate) async fn resolve(
        &self,
        sources: &Sources,
        names: &[&Name],
    ) -> Result<Vec<Value>, Unresolved> {
        let one = |name: &&Name| {
            let name = (*name).clone();
            let source = sources.get(&name).cloned();
            let resolver = self.clone();
            tokio::spawn(async move {
                let (source, value) = match source {
                    Ok(source) => (source.to_string(), resolver.one(source).await),
                    Err(why) => (String::new(), Err(why)),
                };
                value.map_err(|why| Unresolved { name, source, why })
            })
        };
        let asked = names.iter().map(one).collect::<Vec<_>>();
        let mut values = Vec::with_capacity(asked.len());
        for (asked, name) in asked.into_iter().zip(names) {
            let value = asked.await.unwrap_or_else(|error| {
                Err(Unresolved {
                    name: (*name).clone(),
                    source: String::new(),
                    why: error.to_string(),
                })
            });
            values.push(value?);
        }
        Ok(values)
    }

    async fn one(&self, source: Source) -> Result<Value, String> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|error| error.to_string())?;
        let keeps = source.keep_newline;
        let value = fetch(source, turn, self.timeout).await?;
        let value = if keeps {
            value
        } else {
            value.without_newline()
        };
        value.checked().map_err(str::to_owned)
    }
}

/// `turn` is held until nothing of it is left to do, also when nobody waits for it any more.
async fn fetch(
    source: Source,
    turn: OwnedSemaphorePermit,
    timeout: Duration,
) -> Result<Value, String> {
    match source.from {
        Provider::File(path) => blocking(turn, timeout, move || read::file(&path)).await,
        Provider::Env(name) => blocking(turn, timeout, move || read::env(&name)).await,
        Provider::Credential(name) => {
            blocking(turn, timeout, move || read::credential(&name)).await
        }
        Provider::Command { argv, env } => {
            // It bounds itself, and ends the program.
            let ran = spawn_blocking(move || {
                let _turn = turn;
                command::run(&argv, &env, timeout)
            });
            ran.await.unwrap_or_else(|error| Err(error.to_string()))
        }
        #[cfg(feature = "vault")]
        Provider::Vault(vault) => {
            let _turn = turn;
            let asked = tokio::time::timeout(timeout, super::vault::fetch(&vault));
            asked.await.unwrap_or_else(|_| Err(late(timeout)))
        }
        #[cfg(not(feature = "vault"))]
        Provider::Vault(_) => Err("this agent was built without the client for it".to_owned()),
    }
}

/// On a thread that may block for as long as a file system does; it is waited for no longer than is allowed.
async fn blocking(
    turn: OwnedSemaphorePermit,
    timeout: Duration,
    fetch: impl FnOnce() -> Result<Value, String> + Send + 'static,
) -> Result<Value, String> {
    let asked = spawn_blocking(move || {
        let _turn = turn;
        fetch()
    });
    match tokio::time::timeout(timeout, asked).await {
        Ok(value) => value.unwrap_or_else(|error| Err(error.to_string())),
        Err(_) => Err(late(timeout)),
    }
}

fn late(timeout: Duration) -> String {
    format!("it took longer than {} s", timeout.as_secs())
}

/// What can be said about a source without fetching from it: what will not work on this host, and what is wider than it
/// need be.
pub(crate) fn remark(source: &Source) -> Option<String> {
    match &source.from {
        Provider::File(path) if read::is_open(path) => Some(format!(
            "{} can be read by everybody on this host: chmod o-r",
            path.display()
        )),
        Provider::Command { argv, .. } => {
            let program = std::path::Path::new(argv.first()?);
            let own = rustix::process::geteuid();
            let why = crate::catalogue::check_command(argv, own.as_raw());
            why.err().or_else(|| any_task_can(program, own.is_root()))
        }
        Provider::File(_) | Provider::Env(_) | Provider::Credential(_) | Provider::Vault(_) => None,
    }
}

/// Where task and agent share an account, a command fetches for each of its tasks what it fetches for the agent.
fn any_task_can(program: &std::path::Path, is_root: bool) -> Option<String> {
    (!is_root).then(|| {
        format!(
            "every task runs under the agent's account here and can run {} too, whether or not it is granted this: use \
             `file` or `vault`, whose files are closed to tasks, or run the agent as root",
            program.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> (tempfile::TempDir, Sources) {
        let dir = crate::testing::tempdir().unwrap();
        let text = text.replace("DIR", &dir.path().display().to_string());
        let file = dir.path().join(super::super::FILE);
        std::fs::write(&file, text).unwrap();
        let catalogue = dir.path().join("catalogue.d");
        let own = rustix::process::geteuid().as_raw();
        let (sources, _, problems) = Sources::beside(&catalogue, own);
        assert_eq!(problems, []);
        (dir, sources)
    }

    fn resolve(sources: &Sources, names: &[&str]) -> Result<Vec<Value>, Unresolved> {
        resolve_in(TIMEOUT, sources, names)
    }

    fn resolve_in(
        timeout: Duration,
        sources: &Sources,
        names: &[&str],
    ) -> Result<Vec<Value>, Unresolved> {
        let names = names.iter().map(|name| name.parse::<Name>().unwrap());
        let names = names.collect::<Vec<_>>();
        let names = names.iter().collect::<Vec<_>>();
        let resolver = Resolver {
            timeout,
            ..Resolver::default()
        };
        runtime().block_on(resolver.resolve(sources, &names))
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    const SOON: Duration = Duration::from_millis(50);

    /// A file system that does not answer holds a thread and its turn, and nobody who waits for the value.
    #[test]
    fn one_that_is_stuck_is_not_waited_for_and_has_its_turn_until_it_is_done() {
        // It ends after what it waits for.
        let runtime = runtime();
        let turns = Arc::new(Semaphore::new(1));
        let turn = Arc::clone(&turns).try_acquire_owned().unwrap();
        let (go_on, stuck) = std::sync::mpsc::channel::<()>();
        let why = runtime.block_on(blocking(turn, SOON, move || {
            Err(stuck
                .recv()
                .map_or_else(|gone| gone.to_string(), |()| String::new()))
        }));
        assert!(why.unwrap_err().contains("longer than"));
        assert_eq!(turns.available_permits(), 0);
        drop(go_on);
        drop(runtime.block_on(turns.acquire()).unwrap());
    }

    #[cfg(feature = "vault")]
    #[test]
    fn a_server_that_takes_the_question_and_never_answers_is_not_waited_for() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let (dir, sources) = sources(&format!(
            "[secret.a.vault]\naddress = \"http://{address}\"\npath = \"p\"\nfield = \"f\"\n\
             token_file = \"DIR/token\"\n"
        ));
        std::fs::write(dir.path().join("token"), "t").unwrap();
        let why = resolve_in(SOON, &sources, &["a"]).unwrap_err().to_string();
        assert!(why.contains("longer than"), "{why}");
    }

    #[test]
    fn what_everybody_can_read_and_what_others_could_exchange_is_remarked_upon() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, sources) = sources(
            "[secret.a]\nfile = \"DIR/a\"\n[secret.b]\ncommand = [\"/bin/sh\", \"DIR/a\"]\n",
        );
        let file = dir.path().join("a");
        std::fs::write(&file, "x").unwrap();
        let remarked = |name: &str, mode: u32| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            remark(sources.get(&name.parse().unwrap()).unwrap()).unwrap_or_default()
        };
        assert_eq!(remarked("a", 0o640), "");
        assert!(remarked("a", 0o644).contains("can be read by everybody"));
        assert!(remarked("b", 0o666).contains("written by others"));
        let is_root = rustix::process::geteuid().is_root();
        let shared = remarked("b", 0o600);
        assert_eq!(
            shared.contains("every task runs under the agent's account"),
            !is_root
        );
        assert!(any_task_can(std::path::Path::new("/x"), true).is_none());
        assert!(any_task_can(std::path::Path::new("/x"), false).is_some());
    }

    #[test]
    fn values_come_in_the_order_of_their_names_whoever_is_slow() {
        let text = "[secret.a]\ncommand = [\"/bin/sh\", \"-c\", \"sleep 0.1; echo one\"]\n[secret.b]\nfile = \"DIR/b\"\n\
                    [secret.c]\nfile = \"DIR/b\"\nkeep_newline = true\n";
        let (dir, sources) = sources(text);
        std::fs::write(dir.path().join("b"), "two\n").unwrap();
        let values = resolve(&sources, &["a", "b", "c"]).unwrap();
        let values = values.iter().map(Value::bytes).collect::<Vec<_>>();
        assert_eq!(values, [b"one".as_slice(), b"two", b"two\n"]);
    }

    #[test]
    fn more_than_have_a_turn_get_theirs_after_the_others() {
        // Each tells how many there are while it is one of them.
        let script =
            "cd DIR; mkdir run.$$; ls -d run.* | wc -l >> seen; sleep 0.1; rmdir run.$$; echo one";
        let text = format!("[secret.a]\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\n");
        let (dir, sources) = sources(&text);
        let names = vec!["a"; 3 * AT_ONCE];
        assert_eq!(resolve(&sources, &names).unwrap().len(), names.len());
        let seen = std::fs::read_to_string(dir.path().join("seen")).unwrap();
        let seen = seen
            .lines()
            .map(|line| line.trim().parse::<usize>().unwrap());
        assert!(seen.max().is_some_and(|most| most <= AT_ONCE));
    }

    #[test]
    fn what_fails_is_named_with_its_source_and_without_a_value() {
        let text = "[secret.a]\ncommand = [\"/bin/sh\", \"-c\", \"echo canary; exit 4\"]\n[secret.b]\nfile = \"DIR/b\"\n\
                    [secret.c]\nenv = \"OUTPOST_TEST_NONE\"\n";
        let (dir, sources) = sources(text);
        let why = resolve(&sources, &["a"]).unwrap_err().to_string();
        assert_eq!(
            why,
            "the secret `a` (command /bin/sh) cannot be had: it failed: exit status 4"
        );
        std::fs::write(dir.path().join("b"), "\n").unwrap();
        let why = resolve(&sources, &["b"]).unwrap_err().to_string();
        assert!(why.ends_with("it is empty"), "{why}");
        let why = resolve(&sources, &["c"]).unwrap_err().to_string();
        assert!(why.contains("OUTPOST_TEST_NONE"), "{why}");
        let why = resolve(&sources, &["zz"]).unwrap_err().to_string();
        assert!(why.contains("there is no secret `zz`"), "{why}");
    }
}
