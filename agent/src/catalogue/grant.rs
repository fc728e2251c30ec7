//! A secret that an entry is handed: which one, how, and under which variable.

use std::collections::BTreeMap;

use outpost_agent_keeper::secrets::Delivery;

use super::entry::{is_env_name, no_env_name};
use super::file::RawGrant;
use super::suggest::did_you_mean;
use crate::secrets::Name;

/// What `as` can be.
pub(super) const DELIVERIES: &[&str] = &["fd", "file", "env"];

/// A secret that an entry is handed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Which.
    pub secret: Name,
    /// How.
    pub delivery: Delivery,
    /// The variable that says where it is, or holds it.
    pub variable: String,
}

impl Grant {
    pub(super) fn new(name: &str, raw: RawGrant) -> Result<Self, String> {
        let secret = name.parse::<Name>()?;
        let capitals = secret.in_capitals();
        let (delivery, usual) = match raw.delivery.as_str() {
            "fd" => (Delivery::Fd, format!("OUTPOST_SECRET_{capitals}_FD")),
            "file" => (Delivery::File, format!("OUTPOST_SECRET_{capitals}_FILE")),
            "env" => (Delivery::Env, format!("OUTPOST_SECRET_{capitals}")),
            other => {
                return Err(format!(
                    "`{other}` is no way to hand it over: use fd, file or env{}",
                    did_you_mean(other, DELIVERIES.iter().copied())
                ));
            }
        };
        let variable = match raw.variable {
            Some(variable) if is_env_name(&variable) => variable,
            Some(variable) => return Err(no_env_name(&variable)),
            None => usual,
        };
        Ok(Self {
            secret,
            delivery,
            variable,
        })
    }
}

/// Variables that would be set twice: under which key, and why that is refused.
pub(super) fn twice<'a>(
    grants: &'a [Grant],
    others: &[(&'static str, &'a String)],
) -> impl Iterator<Item = (String, String)> + 'a {
    let mut taken = BTreeMap::new();
    for (key, name) in others {
        taken.insert(name.as_str(), (*key).to_owned());
    }
    grants.iter().filter_map(move |grant| {
        let key = format!("secret.{}", grant.secret);
        let earlier = taken.insert(&grant.variable, key.clone())?;
        let why = format!(
            "the variable {} is taken by `{earlier}`: give this one another with `variable`",
            grant.variable
        );
        Some((key, why))
    })
}
