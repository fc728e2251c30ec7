//! The TOML form of `secrets.toml`, before anything of it is believed; schema and reference are made from these types.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

/// The site's secrets (`secrets.toml`, beside the directory `catalogue.d`): where each comes from. It holds no value. An
/// entry of the catalogue is handed a secret only where it is granted by name.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Outpost secrets file")]
pub(super) struct File {
    /// Where tasks' secrets that are files lie: a directory on a file system in memory (tmpfs). Without it `/dev/shm`,
    /// `$XDG_RUNTIME_DIR` or `/run`, whichever is one and can be written.
    pub(super) files_in: Option<String>,
    /// The secrets, by name: 1 to 63 of a-z, 0-9, `-`, `_`, with a letter or digit at both ends.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, RawSource>")]
    pub(super) secret: BTreeMap<Spanned<String>, RawSource>,
}

/// Where a secret comes from: exactly one of `file`, `env`, `command`, `credential` and `vault`. It is fetched anew for
/// each attempt that is granted it. At most 64 KiB; an empty one is an error.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Secret")]
pub(super) struct RawSource {
    /// For people at the site.
    #[serde(default)]
    #[expect(dead_code, reason = "for people who read the file")]
    pub(super) description: String,
    /// A file's absolute path. Nobody but root and the agent's account may be able to change it, along the whole path.
    pub(super) file: Option<String>,
    /// A variable of the agent's own environment.
    pub(super) env: Option<String>,
    /// Program (an absolute path) and arguments that print the value; never through a shell. It runs as the agent's
    /// account, in `/`, with an empty environment, for 10 seconds at most; what it writes to standard error is thrown
    /// away.
    pub(super) command: Option<Vec<String>>,
    /// With `command`: constants for its environment.
    #[serde(default)]
    pub(super) command_env: BTreeMap<String, String>,
    /// The name of a systemd credential (`LoadCredential=` or `LoadCredentialEncrypted=` of the agent's unit).
    pub(super) credential: Option<String>,
    /// A field of a secret in a Vault server's KV version 2 store.
    pub(super) vault: Option<RawVault>,
    /// With `file`, `command` or `credential`: whether a line end that closes the value belongs to it. Without this, one
    /// is taken off.
    #[serde(default)]
    pub(super) keep_newline: bool,
}

/// With which identity and from where: `[secret.NAME.vault]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Vault")]
pub(super) struct RawVault {
    /// The server: `https://HOST[:PORT]`; `http://` only to a loopback address, such as Vault Agent's.
    pub(super) address: String,
    /// Where the KV version 2 store is mounted.
    #[serde(default = "mount")]
    pub(super) mount: String,
    /// The secret's path in the store.
    pub(super) path: String,
    /// Which of its fields.
    pub(super) field: String,
    /// The namespace, on servers that have some.
    pub(super) namespace: Option<String>,
    /// PEM file with the certificates of those who may have issued the server's. Required with `https`.
    pub(super) ca_file: Option<String>,
    /// A file with a token: this, or `approle`.
    pub(super) token_file: Option<String>,
    /// Log in with an AppRole.
    pub(super) approle: Option<RawAppRole>,
}

/// An AppRole: `approle = { role_id_file = "…", secret_id_file = "…" }`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "AppRole")]
pub(super) struct RawAppRole {
    /// A file with the role's id.
    pub(super) role_id_file: String,
    /// A file with the secret id.
    pub(super) secret_id_file: String,
    /// Where the method is mounted.
    #[serde(default = "approle")]
    pub(super) mount: String,
}

fn mount() -> String {
    "secret".to_owned()
}

fn approle() -> String {
    "approle".to_owned()
}

/// The JSON Schema (draft 2020-12) of `secrets.toml`.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(File).to_value()
}

/// The reference's chapter about `secrets.toml`. `section` writes one table of keys under a heading.
pub(crate) fn reference(
    text: &mut String,
    section: impl Fn(&mut String, &str, &serde_json::Value),
) {
    let schema = schema();
    let of = |name: &str| &schema["$defs"][name];
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "\n# Secrets: secrets.toml\n\n[secrets.md](../secrets.md) tells how they reach a task.\n"
    );
    section(text, "## The file", &schema);
    section(text, "## Secret: `[secret.NAME]`", of("Secret"));
    section(text, "## Vault: `[secret.NAME.vault]`", of("Vault"));
    section(text, "## AppRole: `approle = { … }`", of("AppRole"));
}
