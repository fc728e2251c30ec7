//! From an accepted assignment to a program with arguments: templates filled in, never split, never near a shell.

use std::collections::BTreeMap;
use std::path::Path;

use outpost_proto::message::{Assign, ParamValue};
use outpost_proto::name::ParamName;

use super::entry::{Entry, no_param};
use super::param::{Param, as_text};
use super::suggest::did_you_mean;

/// One element of `argv`: literal text with places to be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    CatalogueDir,
    Param(ParamName),
}

impl Template {
    /// Parses `{catalogue}`, `{param.NAME}`, `{{` and `}}`; everything else stands for itself.
    pub(super) fn new(text: &str, params: &BTreeMap<ParamName, Param>) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..];
            if let Some(after) = brace
                .strip_prefix("{{")
                .or_else(|| brace.strip_prefix("}}"))
            {
                literal.push_str(&brace[..1]);
                rest = after;
                continue;
            }
            let inner = brace
                .strip_prefix('{')
                .and_then(|inner| inner.split_once('}'));
            let Some((name, after)) = inner else {
                return Err(format!(
                    "`{text}` has a single brace: write {{{{ or }}}} for a literal one"
                ));
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(place(name, params)?);
            rest = after;
        }
        literal.push_str(rest);
        if literal.contains('\0') {
            return Err("it contains a NUL".to_owned());
        }
        if !literal.is_empty() || parts.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self(parts))
    }

    fn fill(&self, dir: &Path, values: &BTreeMap<ParamName, ParamValue>) -> String {
        let part = |part: &Part| match part {
            Part::Literal(text) => text.clone(),
            Part::CatalogueDir => dir.display().to_string(),
            Part::Param(name) => values.get(name).map(as_text).unwrap_or_default(),
        };
        self.0.iter().map(part).collect()
    }

    /// The text with the catalogue's directory filled in, when it has no parameters.
    pub(super) fn fixed(&self, dir: &Path) -> Option<String> {
        let fixed = !self.0.iter().any(|part| matches!(part, Part::Param(_)));
        fixed.then(|| self.fill(dir, &BTreeMap::new()))
    }

    /// As it is written in the catalogue.
    pub(super) fn shown(&self) -> String {
        let part = |part: &Part| match part {
            Part::Literal(text) => text.replace('{', "{{").replace('}', "}}"),
            Part::CatalogueDir => "{catalogue}".to_owned(),
            Part::Param(name) => format!("{{param.{name}}}"),
        };
        self.0.iter().map(part).collect()
    }

    /// Whether it names a file of the catalogue's own directory.
    pub(super) fn is_catalogue_file(&self) -> bool {
        matches!(self.0.first(), Some(Part::CatalogueDir))
    }

    /// Whether it begins with a parameter's value.
    pub(super) fn begins_with_param(&self) -> bool {
        matches!(self.0.first(), Some(Part::Param(_)))
    }

    /// Whether this parameter's value is filled in.
    pub(super) fn names(&self, param: &ParamName) -> bool {
        let mut parts = self.0.iter();
        parts.any(|part| matches!(part, Part::Param(name) if name == param))
    }
}

fn place(name: &str, params: &BTreeMap<ParamName, Param>) -> Result<Part, String> {
    if name == "catalogue" {
        return Ok(Part::CatalogueDir);
    }
    let Some(param) = name.strip_prefix("param.") else {
        return Err(format!(
            "`{{{name}}}` is nothing to fill in: use {{catalogue}} or {{param.NAME}}"
        ));
    };
    let param = param
        .parse::<ParamName>()
        .map_err(|error| error.to_string())?;
    if params.contains_key(&param) {
        Ok(Part::Param(param))
    } else {
        Err(no_param(&param, params))
    }
}

/// What exactly is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Program and arguments, each passed verbatim.
    pub argv: Vec<String>,
    /// What the entry adds to the environment.
    pub env: Vec<(String, String)>,
}

/// Checks the values against the entry's schema and fills them in.
pub(super) fn plan(entry: &Entry, dir: &Path, assign: &Assign) -> Result<Plan, String> {
    let mut values = BTreeMap::new();
    for (name, value) in &assign.parameters {
        let Some(param) = entry.params.get(name) else {
            let known = entry
                .params
                .keys()
                .map(ParamName::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            let has = if known.is_empty() {
                "it has none".to_owned()
            } else {
                format!("it has: {known}")
            };
            let likely = did_you_mean(name.as_str(), entry.params.keys().map(ParamName::as_str));
            return Err(format!(
                "entry `{}` has no parameter `{name}`; {has}{likely}",
                entry.name
            ));
        };
        param
            .kind
            .accept(value)
            .map_err(|why| format!("entry `{}`: parameter `{name}` {why}", entry.name))?;
        values.insert(name.clone(), value.clone());
    }
    for (name, param) in &entry.params {
        if values.contains_key(name) {
            continue;
        }
        let Some(default) = &param.default else {
            return Err(format!(
                "entry `{}` needs the parameter `{name}`: {}",
                entry.name,
                param.kind.expected()
            ));
        };
        values.insert(name.clone(), default.clone());
    }
    let argv = entry
        .argv
        .iter()
        .map(|element| element.fill(dir, &values))
        .collect();
    let constants = entry
        .env
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()));
    let given = entry.env_params.iter().map(|(env, param)| {
        (
            env.clone(),
            values.get(param).map(as_text).unwrap_or_default(),
        )
    });
    Ok(Plan {
        argv,
        env: constants.chain(given).collect(),
    })
}
