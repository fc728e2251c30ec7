//! From the link's descriptor to the checks of every bound, as Rust text.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds of fields are not our enum, and what is not named needs no code here"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;

use prost_reflect::{
    DescriptorPool, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor,
};

/// What an agent may send.
pub(crate) const UP: &str = "outpost.link.v1.FromAgent";
/// What an agent may be sent.
const DOWN: &str = "outpost.link.v1.ToAgent";

/// The two options of `bounds.proto`.
pub(crate) struct Options {
    max_bits: ExtensionDescriptor,
    max_items: ExtensionDescriptor,
}

impl Options {
    pub(crate) fn new(pool: &DescriptorPool) -> Result<Self, Box<dyn Error>> {
        let find = |name: &str| {
            pool.get_extension_by_name(name)
                .ok_or_else(|| format!("bounds.proto does not define {name}"))
        };
        Ok(Self {
            max_bits: find("outpost.max_bits")?,
            max_items: find("outpost.max_items")?,
        })
    }

    fn read(field: &FieldDescriptor, option: &ExtensionDescriptor) -> Option<u32> {
        let options = field.options();
        if !options.has_extension(option) {
            return None;
        }
        options.get_extension(option).as_u32()
    }

    pub(crate) fn max_bits(&self, field: &FieldDescriptor) -> Option<u32> {
        Self::read(field, &self.max_bits)
    }

    pub(crate) fn max_items(&self, field: &FieldDescriptor) -> Option<u32> {
        Self::read(field, &self.max_items)
    }
}

/// One `impl Bounded` per message of the link.
pub(crate) fn generate(pool: &DescriptorPool, options: &Options) -> Result<String, Box<dyn Error>> {
    let up = reachable(pool, UP)?;
    for message in up.values() {
        for field in message.fields() {
            closed(&field, options)?;
        }
    }
    let mut all = reachable(pool, DOWN)?;
    all.extend(up);

    let mut text = String::new();
    for message in all.values() {
        writeln!(text, "impl Bounded for link::{} {{", message.name())?;
        writeln!(text, "fn check(&self) -> Result<(), OutOfBounds> {{")?;
        for field in message.fields() {
            if field.containing_oneof().is_none() {
                plain(&mut text, &field, options)?;
            }
        }
        for oneof in message.oneofs() {
            one_of(&mut text, &oneof, options)?;
        }
        writeln!(text, "Ok(())\n}}\n}}")?;
    }
    Ok(text)
}

/// Every message that can be part of `root`, by full name.
pub(crate) fn reachable(
    pool: &DescriptorPool,
    root: &str,
) -> Result<BTreeMap<String, MessageDescriptor>, Box<dyn Error>> {
    let root = pool
        .get_message_by_name(root)
        .ok_or_else(|| format!("{root} is not defined"))?;
    let mut found = BTreeMap::new();
    let mut open = vec![root];
    while let Some(message) = open.pop() {
        if message.parent_message().is_some() || message.package_name() != "outpost.link.v1" {
            return Err(format!(
                "{} is not a top-level message of the link",
                message.full_name()
            )
            .into());
        }
        open.extend(message.fields().filter_map(|field| match field.kind() {
            Kind::Message(inner) if !found.contains_key(inner.full_name()) => Some(inner),
            _ => None,
        }));
        found.insert(message.full_name().to_owned(), message);
    }
    Ok(found)
}

/// An agent's field must be unable to carry a document: a message, a bool, an enum or an unsigned integer with its
/// bits stated, and repeated only as messages with their number stated.
fn closed(field: &FieldDescriptor, options: &Options) -> Result<(), String> {
    let name = field.full_name();
    let width = match field.kind() {
        Kind::Message(_) if field.is_map() || field.is_group() => {
            return Err(format!("{name}: an agent may not send maps or groups"));
        }
        Kind::Message(_) => return Ok(()),
        Kind::Bool => 1,
        Kind::Enum(_) | Kind::Uint32 | Kind::Fixed32 => 32,
        Kind::Uint64 | Kind::Fixed64 => 64,
        other => return Err(format!("{name}: an agent may not send {other:?}")),
    };
    if field.is_list() {
        return Err(format!("{name}: an agent may repeat messages only"));
    }
    if field.supports_presence() {
        return Err(format!(
            "{name}: an agent's numbers have no presence of their own"
        ));
    }
    match options.max_bits(field) {
        Some(1..) if options.max_bits(field) <= Some(width) => Ok(()),
        Some(bits) => Err(format!("{name}: max_bits = {bits} is outside 1 to {width}")),
        None => Err(format!("{name}: an agent's field states its max_bits")),
    }
}

fn plain(
    text: &mut String,
    field: &FieldDescriptor,
    options: &Options,
) -> Result<(), Box<dyn Error>> {
    let (message, name) = (field.parent_message().name().to_owned(), field.name());
    if field.is_list() {
        let Some(items) = options.max_items(field) else {
            return Err(format!(
                "{}: a repeated field states its max_items",
                field.full_name()
            )
            .into());
        };
        writeln!(
            text,
            "at_most({message:?}, {name:?}, self.{name}.len(), {items})?;"
        )?;
        if let Kind::Message(_) = field.kind() {
            writeln!(text, "for item in &self.{name} {{ item.check()?; }}")?;
        }
        return Ok(());
    }
    if let Kind::Message(_) = field.kind() {
        writeln!(
            text,
            "if let Some(inner) = &self.{name} {{ inner.check()?; }}"
        )?;
        return Ok(());
    }
    let Some(bits) = options.max_bits(field) else {
        return Ok(());
    };
    match field.kind() {
        Kind::Enum(_) => writeln!(
            text,
            "within({message:?}, {name:?}, u64::from(self.{name}.cast_unsigned()), {bits})?;"
        )?,
        Kind::Uint32 | Kind::Fixed32 if bits < 32 => {
            writeln!(
                text,
                "within({message:?}, {name:?}, u64::from(self.{name}), {bits})?;"
            )?;
        }
        Kind::Uint64 | Kind::Fixed64 if bits < 64 => {
            writeln!(text, "within({message:?}, {name:?}, self.{name}, {bits})?;")?;
        }
        // Its type says it already: a bool, or as many bits as the integer has.
        _ => {}
    }
    Ok(())
}

fn one_of(
    text: &mut String,
    oneof: &OneofDescriptor,
    options: &Options,
) -> Result<(), Box<dyn Error>> {
    let module = snake(oneof.parent_message().name());
    let kind = camel(oneof.name());
    writeln!(text, "match &self.{} {{", oneof.name())?;
    for field in oneof.fields() {
        let variant = camel(field.name());
        if options.max_bits(&field).is_some() {
            return Err(format!(
                "{}: bounded numbers stand outside of a oneof",
                field.full_name()
            )
            .into());
        }
        match field.kind() {
            Kind::Message(_) => writeln!(
                text,
                "Some(link::{module}::{kind}::{variant}(inner)) => inner.check()?,"
            )?,
            _ => writeln!(text, "Some(link::{module}::{kind}::{variant}(_)) => {{}}")?,
        }
    }
    writeln!(text, "None => {{}}\n}}")?;
    Ok(())
}

fn camel(name: &str) -> String {
    name.split('_')
        .flat_map(|part| {
            let mut chars = part.chars();
            let first = chars.next().map(|c| c.to_ascii_uppercase());
            first.into_iter().chain(chars)
        })
        .collect()
}

fn snake(name: &str) -> String {
    let mut text = String::new();
    for (at, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && at > 0 {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}
