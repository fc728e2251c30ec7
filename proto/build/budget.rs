//! From the link's descriptor to the bit budget: how much information each part of an agent's message can carry.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds of fields are not our enum, and what is not named needs no code here"
)]

use std::error::Error;
use std::fmt::Write;

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

use crate::bounds::{Options, UP, reachable};

/// An array expression with one line per field, messages in order of name, fields in order of number.
pub(crate) fn generate(pool: &DescriptorPool, options: &Options) -> Result<String, Box<dyn Error>> {
    let messages = reachable(pool, UP)?;
    let mut text = String::from("&[\n");
    for message in messages.values() {
        for (field, max_bits) in lines(message, options, 0)? {
            writeln!(
                text,
                "BudgetLine {{ message: {:?}, field: {field:?}, max_bits: {max_bits} }},",
                message.name()
            )?;
        }
    }
    for request in ["EnrolRequest", "RenewRequest", "RecoverRequest"] {
        let message = pool
            .get_message_by_name(&format!("outpost.identity.v1.{request}"))
            .ok_or_else(|| format!("{request} is not defined"))?;
        for field in message.fields() {
            let (name, bits) = (field.name(), identity_bits(&field)?);
            writeln!(
                text,
                "BudgetLine {{ message: {request:?}, field: {name:?}, max_bits: {bits} }},"
            )?;
        }
    }
    text.push(']');
    Ok(text)
}

/// An upper bound: a part that may be absent costs one more bit, a choice the bits of its number, a list its length.
fn lines(
    message: &MessageDescriptor,
    options: &Options,
    depth: u32,
) -> Result<Vec<(String, u32)>, Box<dyn Error>> {
    if depth > 16 {
        return Err(format!(
            "{} is more than 16 messages deep: does one contain itself?",
            message.full_name()
        )
        .into());
    }
    let mut lines = Vec::new();
    for field in message.fields() {
        if field.containing_oneof().is_none() {
            lines.push((field.name().to_owned(), bits(&field, options, depth)?));
        }
    }
    for oneof in message.oneofs() {
        let mut largest = 0;
        let mut choices = 1;
        for field in oneof.fields() {
            largest = largest.max(content(&field, options, depth)?);
            choices += 1;
        }
        lines.push((oneof.name().to_owned(), largest + bits_for(choices)));
    }
    Ok(lines)
}

fn bits(field: &FieldDescriptor, options: &Options, depth: u32) -> Result<u32, Box<dyn Error>> {
    let content = content(field, options, depth)?;
    if field.is_list() {
        let items = options.max_items(field).ok_or_else(|| {
            format!(
                "{}: a repeated field states its max_items",
                field.full_name()
            )
        })?;
        return Ok(items * content + bits_for(items + 1));
    }
    match field.kind() {
        Kind::Message(_) => Ok(content + 1),
        _ => Ok(content),
    }
}

fn content(field: &FieldDescriptor, options: &Options, depth: u32) -> Result<u32, Box<dyn Error>> {
    match field.kind() {
        Kind::Message(inner) => {
            let lines = lines(&inner, options, depth + 1)?;
            Ok(lines.iter().map(|(_, bits)| bits).sum())
        }
        _ => options.max_bits(field).ok_or_else(|| {
            format!(
                "{}: an agent's field states its max_bits",
                field.full_name()
            )
            .into()
        }),
    }
}

/// Identity requests hold bytes, each with its own limit on the page of limits.
fn identity_bits(field: &FieldDescriptor) -> Result<&'static str, Box<dyn Error>> {
    match (field.kind(), field.name()) {
        (Kind::Bytes, "token") => Ok("byte_bits(TOKEN_BYTES)"),
        (Kind::Bytes, "csr") => Ok("byte_bits(CSR_BYTES)"),
        (Kind::Bytes, "certificate") => Ok("byte_bits(CERTIFICATE_BYTES)"),
        (Kind::Bytes, "challenge") => Ok("byte_bits(CHALLENGE_BYTES)"),
        (Kind::Bytes, "proof") => Ok("byte_bits(SIGNATURE_BYTES)"),
        (Kind::Fixed64, _) => Ok("64"),
        _ => Err(format!(
            "{}: an identity request's field has a limit",
            field.full_name()
        )
        .into()),
    }
}

/// Bits that number `choices` different things.
fn bits_for(choices: u32) -> u32 {
    choices.next_power_of_two().trailing_zeros()
}
