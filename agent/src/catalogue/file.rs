//! The TOML form of a catalogue file, before anything of it is believed. The JSON Schema and the reference are made
//! from these very types: a key that the parser knows is a key that they describe.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_json::json;
use toml::Spanned;

use super::grant::DELIVERIES;
use super::param::KINDS;

/// What a name looks like, as a pattern for editors; `EntryName` and `ParamName` decide.
const NAME: &str = r"^(?!.*\.\.)[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$";
/// What the name of an environment variable looks like; `OUTPOST_` is the agent's own.
const ENV_NAME: &str = "^(?!OUTPOST_)[A-Za-z_][A-Za-z0-9_]*$";
const SECRET_NAME: &str = "^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$";
const DURATION: &str = "^[0-9]+(ms|s|m|h|d)$";
const SIZE: &str = "^[0-9]+(B|KiB|MiB|GiB)$";

/// One file of a site's catalogue (`catalogue.d/*.toml`): what the orchestrator may have run here, and with which
/// parameters. All files are read together; the catalogue is accepted as a whole or not at all.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Outpost catalogue file")]
pub(super) struct File {
    /// The entries, by name: 1 to 63 of a-z, 0-9, `-`, `_`, `.`, with a letter or digit at both ends. Workflows name
    /// an entry in a task's `entry`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, RawEntry>", extend("propertyNames" = json!({ "pattern": NAME })))]
    pub(super) entry: BTreeMap<Spanned<String>, RawEntry>,
}

/// Something that may run here: `[entry.NAME]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Entry")]
pub(super) struct RawEntry {
    /// For people at the site; it never leaves it.
    #[serde(default)]
    pub(super) description: String,
    /// Program and arguments. The program is an absolute path or begins with `{catalogue}/`, the directory of this
    /// file. `{param.NAME}` is replaced by a parameter's value, `{{` and `}}` stand for braces. Each element is passed
    /// as one argument, never through a shell. A script names its interpreter in front:
    /// `["/bin/sh", "/opt/job.sh"]`.
    #[schemars(
        length(min = 1, max = 256),
        extend("prefixItems" = json!([{ "pattern": r"^(/|\{catalogue\}/)" }]))
    )]
    pub(super) argv: Vec<String>,
    /// The account it runs as. Where the agent runs as root: `outpost-task` unless it is named, and required on a host
    /// without that account; elsewhere it can only be the agent's own.
    pub(super) user: Option<String>,
    /// Where it runs: an absolute path. Without it, an empty directory of its own that goes away with the attempt.
    #[schemars(regex(pattern = r"^/"))]
    pub(super) workdir: Option<String>,
    /// Directories and files that it can change although they lie where tasks under the agent's own account can change
    /// nothing: in that account's home and runtime directory. Absolute paths that are there. Where the agent runs as root,
    /// permissions alone decide.
    #[serde(default)]
    #[schemars(inner(regex(pattern = r"^/")))]
    pub(super) writes: Vec<String>,
    /// Whether it can reach services of this host by sockets with a name (`AF_UNIX`), which tasks under the agent's own
    /// account cannot: whoever speaks to such a service of the account can have it run things outside of all walls. Where
    /// the agent runs as root, permissions alone decide.
    #[serde(default)]
    pub(super) unix_sockets: bool,
    /// Whether it can use what the kernel keeps for an account: System V shared memory, semaphores and message queues,
    /// POSIX message queues, and keys. Tasks under the agent's own account cannot: they would reach those of other programs
    /// and tasks of the account, and leave theirs behind. Where the agent runs as root, permissions alone decide.
    #[serde(default)]
    pub(super) ipc: bool,
    /// Constants added to its environment. Nothing of the agent's own environment is passed on by itself.
    #[serde(default)]
    #[schemars(extend("propertyNames" = json!({ "pattern": ENV_NAME })))]
    pub(super) env: BTreeMap<String, String>,
    /// Parameters handed over in its environment: variable name = parameter name.
    #[serde(default)]
    #[schemars(extend("propertyNames" = json!({ "pattern": ENV_NAME })))]
    pub(super) env_params: BTreeMap<String, String>,
    /// Variables of the agent's own environment that are passed on.
    #[serde(default)]
    #[schemars(inner(regex(pattern = ENV_NAME)))]
    pub(super) inherit_env: Vec<String>,
    /// How long one attempt may run; then it is ended. At most 30d.
    #[schemars(regex(pattern = DURATION), extend("default" = "1h"))]
    pub(super) timeout: Option<String>,
    /// From the request to end (TERM) to the end by force (KILL). At most 4095s; rounded up to whole seconds.
    #[schemars(regex(pattern = DURATION), extend("default" = "10s"))]
    pub(super) grace: Option<String>,
    /// Whether running it a second time is harmless. Only then is an attempt whose end is not known run again.
    #[serde(default)]
    pub(super) retry_safe: bool,
    /// What becomes of it while the orchestrator is out of reach: `continue`, or `stop_after` and a duration.
    #[schemars(
        regex(pattern = "^(continue|stop_after [0-9]+(ms|s|m|h|d))$"),
        extend("default" = "continue")
    )]
    pub(super) on_disconnect: Option<String>,
    /// How many attempts of it run at once. Without it, as many as the agent has slots.
    #[schemars(range(min = 1))]
    pub(super) max_parallel: Option<u16>,
    /// How many starts of it in an hour; more are refused, and asked for again more and more seldom, for eight days
    /// at least. Without it there is no limit.
    pub(super) max_per_hour: Option<u32>,
    /// When it may start, by the site's own clock and zone: days, times or both, such as `mon-fri 20:00-06:00`. A start
    /// outside of all of them is refused, and asked for again more and more seldom, at last every quarter of an hour, for
    /// eight days at least; what runs goes on. Without it, always.
    #[serde(default)]
    pub(super) windows: Vec<String>,
    /// Whether each start needs a person's approval at this site: `outpost-agent approve`. Without one it is refused.
    #[serde(default)]
    pub(super) needs_approval: bool,
    /// Bytes of output that are kept: beginning and end stay, the middle goes. 4KiB to 16GiB.
    #[schemars(regex(pattern = SIZE), extend("default" = "16MiB"))]
    pub(super) log_max: Option<String>,
    /// Whether the exit code is reported to the orchestrator.
    #[serde(default)]
    pub(super) report_exit_code: bool,
    /// Whether the number that the task writes as `count=N` into `$OUTPOST_OUT` is reported (0 to 65534).
    #[serde(default)]
    pub(super) report_count: bool,
    /// Waives the linter's objections: free text without a pattern, programs that run what they are given, and scripts
    /// as programs, which need not be out of others' reach then.
    #[serde(default)]
    pub(super) dangerous: bool,
    /// The site's secrets that it is handed, by their names in `secrets.toml`: `secret.NAME = { as = "fd" }`. At most 16.
    #[serde(default)]
    #[schemars(extend("propertyNames" = json!({ "pattern": SECRET_NAME })))]
    pub(super) secret: BTreeMap<String, RawGrant>,
    /// What the orchestrator can give it: `[entry.NAME.param.PARAMETER]`. Everything else is refused.
    #[serde(default)]
    #[schemars(extend("propertyNames" = json!({ "pattern": NAME })))]
    pub(super) param: BTreeMap<String, RawParam>,
}

/// One secret that an entry is handed. Its value is fetched when an attempt starts; it is never an argument.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Grant")]
pub(super) struct RawGrant {
    /// How: `fd`, an open descriptor (from 3 on) whose number `OUTPOST_SECRET_NAME_FD` holds; `file`, a file in memory
    /// that only the task's user can read, whose path `OUTPOST_SECRET_NAME_FILE` holds; `env`, the variable
    /// `OUTPOST_SECRET_NAME` itself, which every process of the task's user can read in `/proc`.
    #[serde(rename = "as")]
    #[schemars(extend("enum" = DELIVERIES))]
    pub(super) delivery: String,
    /// Another name for the variable, for a program that looks for one.
    #[schemars(regex(pattern = ENV_NAME))]
    pub(super) variable: Option<String>,
}

/// One parameter of an entry.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Parameter", transform = keys_by_kind)]
pub(super) struct RawParam {
    /// What it accepts: `flag` (true or false), `int` (needs `min` and `max`), `enum` (needs `values`), `date`
    /// (YYYY-MM-DD), `text`.
    #[schemars(extend("enum" = KINDS))]
    pub(super) kind: String,
    /// `int`: the lowest value.
    pub(super) min: Option<i64>,
    /// `int`: the highest value.
    pub(super) max: Option<i64>,
    /// `enum`: the texts that are accepted.
    #[schemars(length(min = 1))]
    pub(super) values: Option<Vec<String>>,
    /// `text`: a regular expression that the whole value must match. Without it the entry must be `dangerous`.
    pub(super) pattern: Option<String>,
    /// `text`: most bytes. At most 4096.
    #[schemars(range(max = 4096), extend("default" = 256))]
    pub(super) max_length: Option<u32>,
    /// `text`: whether a value may begin with `-`, and so be taken for an option.
    #[serde(default)]
    pub(super) allow_leading_dash: bool,
    /// The value when none is given. Without it the parameter is required.
    #[serde(default)]
    #[schemars(with = "serde_json::Value", extend("type" = ["boolean", "integer", "string"]))]
    pub(super) default: Option<toml::Value>,
}

/// Which keys mean something for which kind; the others are refused there.
pub(super) const KEYS_BY_KIND: &[(&str, &[&str], &[&str])] = &[
    ("flag", &[], &[]),
    ("int", &["min", "max"], &["min", "max"]),
    ("enum", &["values"], &["values"]),
    ("date", &[], &[]),
    (
        "text",
        &["pattern", "max_length", "allow_leading_dash"],
        &[],
    ),
];
const KEYS: &[&str] = &["min", "max", "values", "pattern", "max_length"];

fn keys_by_kind(schema: &mut Schema) {
    let rule = |(kind, allowed, required): &(&str, &[&str], &[&str])| {
        let refused = KEYS.iter().filter(|key| !allowed.contains(key));
        let refused = refused.map(|key| ((*key).to_owned(), json!(false)));
        json!({
            "if": { "properties": { "kind": { "const": kind } } },
            "then": {
                "properties": refused.collect::<serde_json::Map<_, _>>(),
                "required": required,
            },
        })
    };
    let rules = KEYS_BY_KIND.iter().map(rule).collect::<Vec<_>>();
    schema.insert("allOf".to_owned(), json!(rules));
}
