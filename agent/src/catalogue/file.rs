//! The TOML form of a catalogue file, before anything of it is believed.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) entry: BTreeMap<Spanned<String>, RawEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEntry {
    #[serde(default)]
    pub(super) description: String,
    pub(super) argv: Vec<String>,
    pub(super) user: Option<String>,
    pub(super) workdir: Option<String>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) env_params: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) inherit_env: Vec<String>,
    pub(super) timeout: Option<String>,
    pub(super) grace: Option<String>,
    #[serde(default)]
    pub(super) retry_safe: bool,
    pub(super) on_disconnect: Option<String>,
    pub(super) max_parallel: Option<u16>,
    pub(super) max_per_hour: Option<u32>,
    pub(super) log_max: Option<String>,
    #[serde(default)]
    pub(super) report_exit_code: bool,
    #[serde(default)]
    pub(super) report_count: bool,
    #[serde(default)]
    pub(super) dangerous: bool,
    #[serde(default)]
    pub(super) param: BTreeMap<String, RawParam>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawParam {
    pub(super) kind: String,
    pub(super) min: Option<i64>,
    pub(super) max: Option<i64>,
    pub(super) values: Option<Vec<String>>,
    pub(super) pattern: Option<String>,
    pub(super) max_length: Option<u32>,
    #[serde(default)]
    pub(super) allow_leading_dash: bool,
    pub(super) default: Option<toml::Value>,
}
