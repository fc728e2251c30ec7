//! One entry: something that may run at this site, on the site's terms.

use std::collections::BTreeMap;
use std::path::PathBuf;

use outpost_proto::message::OnDisconnect;
use outpost_proto::name::{EntryName, ParamName};
use outpost_proto::units::{duration_ms, size_bytes};

use super::file::{RawEntry, RawGrant};
use super::grant::{self, Grant};
use super::param::Param;
use super::plan::Template;
use super::suggest::did_you_mean;
use super::window::Window;

const TIMEOUT_MS: u64 = 3_600_000;
const TIMEOUT_MS_MAX: u64 = 30 * 86_400_000;
const GRACE_MS: u64 = 10_000;
const GRACE_S_MAX: u64 = 4095;
const STOP_AFTER_S_MAX: u64 = (1 << 20) - 1;
/// The orchestrator is heard every ten seconds when all is well; a shorter wait would end tasks that are in touch.
const STOP_AFTER_S_MIN: u64 = 20;
const LOG_BYTES: u64 = 16 << 20;
const LOG_BYTES_MAX: u64 = 16 << 30;
const ARGV_MAX: usize = 256;

/// A catalogue entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name.
    pub name: EntryName,
    /// For people.
    pub description: String,
    /// Program and arguments.
    pub(super) argv: Vec<Template>,
    /// Whom it runs as; `None`: as the agent itself, which is then not root.
    pub user: Option<RunAs>,
    /// Where it runs; `None`: in the attempt's own directory.
    pub workdir: Option<PathBuf>,
    /// What it can change where tasks of the agent's own account can change nothing else.
    pub writes: Vec<PathBuf>,
    /// Whether it reaches services with named sockets where tasks of the agent's own account do not.
    pub unix_sockets: bool,
    /// Whether it reaches memory, semaphores, queues and keys of the account where tasks of the agent's own do not.
    pub ipc: bool,
    /// Constants added to its environment.
    pub(super) env: BTreeMap<String, String>,
    /// Parameters handed over as environment values.
    pub(super) env_params: BTreeMap<String, ParamName>,
    /// What it gets of the agent's own environment.
    pub inherit_env: Vec<String>,
    /// Milliseconds one attempt may run.
    pub timeout_ms: u64,
    /// Seconds between TERM and KILL.
    pub grace_s: u16,
    /// Whether running it a second time is harmless.
    pub retry_safe: bool,
    /// What becomes of it while the agent is out of touch.
    pub on_disconnect: OnDisconnect,
    /// How many attempts run at once.
    pub max_parallel: Option<u16>,
    /// How many starts in an hour.
    pub max_per_hour: Option<u32>,
    /// When it may start; empty: always.
    pub windows: Vec<Window>,
    /// Whether each start needs a person's approval.
    pub needs_approval: bool,
    /// Bytes of output kept.
    pub log_max_bytes: u64,
    /// Whether its exit code is reported.
    pub report_exit_code: bool,
    /// Whether the number under `count` in its outputs is reported.
    pub report_count: bool,
    /// Whether the linter's objections are waived.
    pub dangerous: bool,
    /// What it can be given.
    pub params: BTreeMap<ParamName, Param>,
    /// The site's secrets that it is handed, by name.
    pub secrets: Vec<Grant>,
}

/// What is wrong with an entry: under which key, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// `argv`, `param.NAME`; empty when it is about the entry itself.
    pub(super) key: String,
    pub(super) why: String,
}

impl Wrong {
    fn new(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            why: why.into(),
        }
    }
}

/// A user of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// As in the file.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

impl Entry {
    /// From the file; all that is wrong with it otherwise. `is_root`: whether the agent runs as root.
    pub(super) fn new(name: &str, raw: RawEntry, is_root: bool) -> Result<Self, Vec<Wrong>> {
        let mut wrong = Vec::new();
        let entry_name = name
            .parse::<EntryName>()
            .map_err(|error| vec![Wrong::new("", error.to_string())])?;
        let mut params = BTreeMap::new();
        for (param, raw) in raw.param {
            let mut say = |why| wrong.push(Wrong::new(format!("param.{param}"), why));
            let name = match param.parse::<ParamName>() {
                Ok(name) => name,
                Err(error) => {
                    say(error.to_string());
                    continue;
                }
            };
            // What refers to a parameter with a mistake is right: one mistake is told once.
            let param = Param::new(raw).unwrap_or_else(|why| {
                say(why);
                Param::STAND_IN
            });
            params.insert(name, param);
        }
        let argv =
            argv(raw.argv, &params).unwrap_or_else(|why| note(&mut wrong, "argv", why, Vec::new()));
        let env_params = env_params(raw.env_params, &params)
            .unwrap_or_else(|why| note(&mut wrong, "env_params", why, BTreeMap::new()));
        let user =
            user(raw.user, is_root).unwrap_or_else(|why| note(&mut wrong, "user", why, None));
        let timeout_ms = within(raw.timeout, TIMEOUT_MS, TIMEOUT_MS_MAX)
            .unwrap_or_else(|why| note(&mut wrong, "timeout", why, TIMEOUT_MS));
        let grace = within(raw.grace, GRACE_MS, GRACE_S_MAX * 1000)
            .unwrap_or_else(|why| note(&mut wrong, "grace", why, GRACE_MS));
        let on_disconnect = on_disconnect(raw.on_disconnect.as_deref())
            .unwrap_or_else(|why| note(&mut wrong, "on_disconnect", why, OnDisconnect::Continue));
        let log_max_bytes = log_max(raw.log_max.as_deref())
            .unwrap_or_else(|why| note(&mut wrong, "log_max", why, LOG_BYTES));
        let workdir = raw.workdir.map(PathBuf::from);
        if workdir.as_ref().is_some_and(|dir| !dir.is_absolute()) {
            wrong.push(Wrong::new("workdir", "it must be an absolute path"));
        }
        let writes = raw.writes.into_iter().map(PathBuf::from);
        let writes = writes.collect::<Vec<_>>();
        if writes.iter().any(|path| !path.is_absolute()) {
            wrong.push(Wrong::new("writes", "each must be an absolute path"));
        }
        let secrets = grants(raw.secret, &mut wrong);
        let windows = raw.windows.iter().map(|text| text.parse::<Window>());
        let windows = windows
            .collect::<Result<Vec<_>, _>>()
            .unwrap_or_else(|why| note(&mut wrong, "windows", why, Vec::new()));
        let names = (raw.env.keys().map(|name| ("env", name)))
            .chain(env_params.keys().map(|name| ("env_params", name)))
            .chain(raw.inherit_env.iter().map(|name| ("inherit_env", name)))
            .collect::<Vec<_>>();
        wrong.extend(grant::twice(&secrets, &names).map(|(key, why)| Wrong::new(key, why)));
        wrong.extend(
            names
                .into_iter()
                .filter(|(_, name)| !is_env_name(name))
                .map(|(key, name)| Wrong::new(key, no_env_name(name))),
        );
        if raw.max_parallel == Some(0) {
            let why = "0 would never let it run; leave the entry out instead";
            wrong.push(Wrong::new("max_parallel", why));
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(Self {
            name: entry_name,
            description: raw.description,
            argv,
            user,
            workdir,
            writes,
            unix_sockets: raw.unix_sockets,
            ipc: raw.ipc,
            env: raw.env,
            env_params,
            inherit_env: raw.inherit_env,
            timeout_ms,
            grace_s: u16::try_from(grace.div_ceil(1000)).unwrap_or(u16::MAX),
            retry_safe: raw.retry_safe,
            on_disconnect,
            max_parallel: raw.max_parallel,
            max_per_hour: raw.max_per_hour,
            windows,
            needs_approval: raw.needs_approval,
            log_max_bytes,
            report_exit_code: raw.report_exit_code,
            report_count: raw.report_count,
            dangerous: raw.dangerous,
            params,
            secrets,
        })
    }
}

/// What it is granted; what is wrong with a grant goes to `wrong`.
fn grants(raw: BTreeMap<String, RawGrant>, wrong: &mut Vec<Wrong>) -> Vec<Grant> {
    if raw.len() > crate::secrets::MOST {
        let why = format!("it can have {} secrets", crate::secrets::MOST);
        wrong.push(Wrong::new("secret", why));
    }
    let mut grants = Vec::new();
    for (name, raw) in raw {
        match Grant::new(&name, raw) {
            Ok(grant) => grants.push(grant),
            Err(why) => wrong.push(Wrong::new(format!("secret.{name}"), why)),
        }
    }
    grants
}

fn note<T>(wrong: &mut Vec<Wrong>, key: &str, why: String, instead: T) -> T {
    wrong.push(Wrong::new(key, why));
    instead
}

pub(super) fn no_env_name(name: &str) -> String {
    if name.starts_with("OUTPOST_") {
        format!("`{name}` is one of the agent's own names (OUTPOST_…): choose another")
    } else {
        format!(
            "`{name}` is no environment name: use letters, digits and `_`, not beginning with a digit"
        )
    }
}

fn argv(raw: Vec<String>, params: &BTreeMap<ParamName, Param>) -> Result<Vec<Template>, String> {
    let [program, ..] = raw.as_slice() else {
        return Err("it needs at least a program".to_owned());
    };
    if program.starts_with('{') && !program.starts_with("{catalogue}/")
        || program.contains("{param.")
    {
        return Err("the program itself cannot be a parameter".to_owned());
    }
    if !program.starts_with('/') && !program.starts_with("{catalogue}/") {
        return Err(format!(
            "`{program}` must be an absolute path, or begin with {{catalogue}}/"
        ));
    }
    if raw.len() > ARGV_MAX {
        return Err(format!(
            "it has {} elements and can have {ARGV_MAX}",
            raw.len()
        ));
    }
    raw.iter()
        .map(|element| Template::new(element, params))
        .collect()
}

fn env_params(
    raw: BTreeMap<String, String>,
    params: &BTreeMap<ParamName, Param>,
) -> Result<BTreeMap<String, ParamName>, String> {
    let one = |(env, param): (String, String)| {
        let name = param
            .parse::<ParamName>()
            .map_err(|error| error.to_string())?;
        if params.contains_key(&name) {
            Ok((env, name))
        } else {
            Err(no_param(&name, params))
        }
    };
    raw.into_iter().map(one).collect()
}

/// In words: a parameter that the entry does not have.
pub(super) fn no_param(name: &ParamName, params: &BTreeMap<ParamName, Param>) -> String {
    let likely = did_you_mean(name.as_str(), params.keys().map(ParamName::as_str));
    format!("there is no parameter `{name}`{likely}")
}

/// As root an entry that does not say whom it runs as runs as the account for tasks, where the host has it; an ordinary
/// agent can only run things as itself.
fn user(name: Option<String>, is_root: bool) -> Result<Option<RunAs>, String> {
    let Some(name) = name else {
        return if is_root {
            let why = |why: String| {
                let account = crate::users::TASK_ACCOUNT;
                format!(
                    "it is missing, and the agent runs as root: name the account this runs as, such as user = \"nobody\", \
                     or make the account for tasks, `useradd --system --shell /usr/sbin/nologin {account}` ({why})"
                )
            };
            crate::users::for_tasks().map(Some).map_err(why)
        } else {
            Ok(None)
        };
    };
    let run_as = crate::users::by_name(&name).map_err(|why| format!("`{name}`: {why}"))?;
    if !is_root && run_as.uid != rustix::process::geteuid().as_raw() {
        return Err(format!(
            "`{name}` is another account than the agent's own, which only root can change to"
        ));
    }
    Ok(is_root.then_some(run_as))
}

fn within(text: Option<String>, default: u64, most: u64) -> Result<u64, String> {
    let Some(text) = text else { return Ok(default) };
    let ms = duration_ms(&text).map_err(|error| error.to_string())?;
    if ms == 0 || ms > most {
        return Err(format!("`{text}` is outside 1ms to {}s", most / 1000));
    }
    Ok(ms)
}

fn on_disconnect(text: Option<&str>) -> Result<OnDisconnect, String> {
    match text {
        None | Some("continue") => Ok(OnDisconnect::Continue),
        Some(text) => {
            let wait = text
                .strip_prefix("stop_after ")
                .ok_or_else(|| {
                    format!("`{text}` is neither \"continue\" nor \"stop_after\" with a duration, such as \"stop_after 5m\"")
                })?;
            let seconds = duration_ms(wait)
                .map_err(|error| error.to_string())?
                .div_ceil(1000);
            if !(STOP_AFTER_S_MIN..=STOP_AFTER_S_MAX).contains(&seconds) {
                return Err(format!(
                    "stop_after can be {STOP_AFTER_S_MIN}s to {STOP_AFTER_S_MAX}s"
                ));
            }
            Ok(OnDisconnect::StopAfter(
                u32::try_from(seconds).unwrap_or(u32::MAX),
            ))
        }
    }
}

fn log_max(text: Option<&str>) -> Result<u64, String> {
    let Some(text) = text else {
        return Ok(LOG_BYTES);
    };
    let bytes = size_bytes(text).map_err(|error| error.to_string())?;
    if (4096..=LOG_BYTES_MAX).contains(&bytes) {
        Ok(bytes)
    } else {
        Err("it can be 4KiB to 16GiB".to_owned())
    }
}

pub(super) fn is_env_name(name: &str) -> bool {
    let first = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    first
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.starts_with("OUTPOST_")
}
