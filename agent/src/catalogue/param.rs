//! What one parameter of an entry accepts.

use outpost_proto::message::ParamValue;
use outpost_proto::units::is_date;
use regex_lite::Regex;

use super::file::{KEYS_BY_KIND, RawParam};
use super::suggest::did_you_mean;

/// Bytes of a text parameter unless the entry says less.
const TEXT_BYTES: u32 = 256;
/// What `kind` can be.
pub(super) const KINDS: &[&str] = &["flag", "int", "enum", "date", "text"];
/// Most bytes an entry can allow.
const TEXT_BYTES_MAX: u32 = 4096;

/// A parameter of an entry.
#[derive(Debug, Clone)]
pub struct Param {
    /// What it accepts.
    pub kind: Kind,
    /// Used when none is given; without it the parameter is required.
    pub default: Option<ParamValue>,
}

/// What a parameter accepts.
#[derive(Debug, Clone)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number between two bounds, both included.
    Int {
        /// Lowest.
        min: i64,
        /// Highest.
        max: i64,
    },
    /// One of these texts.
    Enum(Vec<String>),
    /// `YYYY-MM-DD`.
    Date,
    /// Text that matches as a whole.
    Text {
        /// Must match the whole value; `None` only with `dangerous`.
        pattern: Option<Regex>,
        /// Most bytes.
        max_length: u32,
        /// Whether it may begin with `-`, and so be taken for an option.
        leading_dash: bool,
    },
}

impl Param {
    /// Instead of one with a mistake, so that the rest of its entry can be looked at.
    pub(super) const STAND_IN: Self = Self {
        kind: Kind::Flag,
        default: None,
    };

    /// From the file, or what is wrong with it.
    pub(super) fn new(raw: RawParam) -> Result<Self, String> {
        let kind = kind_of(&raw)?;
        let default = raw.default.map(value_of).transpose()?;
        if let Some(value) = &default {
            kind.accept(value)
                .map_err(|why| format!("its default {why}"))?;
        }
        Ok(Self { kind, default })
    }
}

fn kind_of(raw: &RawParam) -> Result<Kind, String> {
    check_keys(raw)?;
    match raw.kind.as_str() {
        "flag" => Ok(Kind::Flag),
        "date" => Ok(Kind::Date),
        "int" => match (raw.min, raw.max) {
            (Some(min), Some(max)) if min <= max => Ok(Kind::Int { min, max }),
            _ => Err("kind `int` needs `min` and `max`, with min ≤ max".to_owned()),
        },
        "enum" => {
            let values = raw.values.clone().unwrap_or_default();
            if values.is_empty() || values.iter().any(|value| value.contains('\0')) {
                return Err(
                    "kind `enum` needs `values` with at least one text, none with a NUL".to_owned(),
                );
            }
            Ok(Kind::Enum(values))
        }
        "text" => text_kind(raw),
        other => Err(format!(
            "`{other}` is no kind: use flag, int, enum, date or text{}",
            did_you_mean(other, KINDS.iter().copied())
        )),
    }
}

/// Refuses keys that mean nothing for the kind: whoever wrote them expects something of them.
fn check_keys(raw: &RawParam) -> Result<(), String> {
    let Some((kind, allowed, _)) = KEYS_BY_KIND.iter().find(|(kind, ..)| *kind == raw.kind) else {
        return Ok(());
    };
    let given = [
        ("min", raw.min.is_some()),
        ("max", raw.max.is_some()),
        ("values", raw.values.is_some()),
        ("pattern", raw.pattern.is_some()),
        ("max_length", raw.max_length.is_some()),
        ("allow_leading_dash", raw.allow_leading_dash),
    ];
    let odd = given
        .iter()
        .find(|(key, given)| *given && !allowed.contains(key));
    odd.map_or(Ok(()), |(key, _)| {
        Err(format!("`{key}` means nothing for kind `{kind}`"))
    })
}

fn text_kind(raw: &RawParam) -> Result<Kind, String> {
    let max_length = raw.max_length.unwrap_or(TEXT_BYTES);
    if max_length > TEXT_BYTES_MAX {
        return Err(format!("`max_length` can be {TEXT_BYTES_MAX} at most"));
    }
    // Anchored here, so that a pattern without anchors does not accept a text that merely contains a match.
    let whole = raw
        .pattern
        .as_ref()
        .map(|pattern| Regex::new(&format!("^(?:{pattern})$")));
    let pattern = whole
        .transpose()
        .map_err(|error| format!("its pattern cannot be used: {error}"))?;
    Ok(Kind::Text {
        pattern,
        max_length,
        leading_dash: raw.allow_leading_dash,
    })
}

fn value_of(value: toml::Value) -> Result<ParamValue, String> {
    match value {
        toml::Value::Boolean(flag) => Ok(ParamValue::Flag(flag)),
        toml::Value::Integer(integer) => Ok(ParamValue::Integer(integer)),
        toml::Value::String(text) => Ok(ParamValue::Text(text)),
        toml::Value::Float(_)
        | toml::Value::Datetime(_)
        | toml::Value::Array(_)
        | toml::Value::Table(_) => {
            Err("its default must be true, false, a whole number or a text".to_owned())
        }
    }
}

impl Kind {
    /// Whether a value is accepted; if not, why, without the value itself: it may be a secret by mistake.
    ///
    /// # Errors
    /// The reason, to follow the parameter's name in a sentence.
    pub fn accept(&self, value: &ParamValue) -> Result<(), String> {
        match (self, value) {
            (Self::Flag, ParamValue::Flag(_)) => Ok(()),
            (Self::Int { min, max }, ParamValue::Integer(n)) if (min..=max).contains(&n) => Ok(()),
            (Self::Enum(values), ParamValue::Text(text)) if values.contains(text) => Ok(()),
            (Self::Date, ParamValue::Text(text)) if is_date(text) => Ok(()),
            (
                Self::Text {
                    pattern,
                    max_length,
                    leading_dash,
                },
                ParamValue::Text(text),
            ) => accept_text(text, pattern.as_ref(), *max_length, *leading_dash),
            (Self::Flag | Self::Int { .. } | Self::Enum(_) | Self::Date | Self::Text { .. }, _) => {
                Err(format!("is not {}", self.expected()))
            }
        }
    }

    /// What would be accepted, in words.
    #[must_use]
    pub fn expected(&self) -> String {
        match self {
            Self::Flag => "true or false".to_owned(),
            Self::Int { min, max } => format!("a whole number from {min} to {max}"),
            Self::Enum(values) => format!("one of {}", values.join(", ")),
            Self::Date => "a date as YYYY-MM-DD".to_owned(),
            Self::Text {
                pattern: Some(pattern),
                max_length,
                ..
            } => {
                format!("a text of at most {max_length} bytes that matches {pattern}")
            }
            Self::Text {
                pattern: None,
                max_length,
                ..
            } => format!("a text of at most {max_length} bytes"),
        }
    }
}

fn accept_text(
    text: &str,
    pattern: Option<&Regex>,
    max_length: u32,
    leading_dash: bool,
) -> Result<(), String> {
    if text.len() > max_length as usize {
        return Err(format!("is longer than {max_length} bytes"));
    }
    if text.contains('\0') {
        return Err("contains a NUL".to_owned());
    }
    if text.starts_with('-') && !leading_dash {
        return Err(
            "begins with `-` and could be taken for an option (see allow_leading_dash)".to_owned(),
        );
    }
    match pattern {
        Some(pattern) if !pattern.is_match(text) => Err(format!("does not match {pattern}")),
        Some(_) | None => Ok(()),
    }
}

impl Param {
    /// A value as a person types it: what it means for this parameter. What cannot be meant is left a text, which is
    /// then refused in the usual words.
    #[must_use]
    pub fn typed(&self, text: &str) -> ParamValue {
        let value = match &self.kind {
            Kind::Flag => text.parse().ok().map(ParamValue::Flag),
            Kind::Int { .. } => text.parse().ok().map(ParamValue::Integer),
            Kind::Enum(_) | Kind::Date | Kind::Text { .. } => None,
        };
        value.unwrap_or_else(|| ParamValue::Text(text.to_owned()))
    }
}

/// A value as one argument or environment value, verbatim.
pub(super) fn as_text(value: &ParamValue) -> String {
    match value {
        ParamValue::Flag(flag) => flag.to_string(),
        ParamValue::Integer(integer) => integer.to_string(),
        ParamValue::Text(text) => text.clone(),
    }
}
