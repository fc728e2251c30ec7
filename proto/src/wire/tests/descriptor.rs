//! What is promised of the schema itself: an agent's words cannot carry documents, logs or secrets.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds of fields and values are not our enums"
)]

use std::collections::BTreeMap;
use std::fmt::Write;

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

use super::*;
use super::{link_message, pool};
use crate::limits::{
    CATALOGUE_ENTRIES, FRAME_MESSAGES, INVENTORY_PAGE, PARAMETERS, RECEIPT_SESSIONS, SLOTS,
};

pub(super) fn option(pool: &DescriptorPool, field: &FieldDescriptor, name: &str) -> Option<u32> {
    let extension = pool.get_extension_by_name(name).unwrap();
    let options = field.options();
    options
        .has_extension(&extension)
        .then(|| options.get_extension(&extension).as_u32().unwrap())
}

/// Every message reachable from an agent's frame, by name. Fails when a message can contain itself.
pub(super) fn upstream(pool: &DescriptorPool) -> BTreeMap<String, MessageDescriptor> {
    fn walk(
        message: MessageDescriptor,
        above: &[String],
        found: &mut BTreeMap<String, MessageDescriptor>,
    ) {
        let name = message.name().to_owned();
        assert!(!above.contains(&name), "{name} contains itself");
        let above = [above, std::slice::from_ref(&name)].concat();
        for field in message.fields() {
            if let Kind::Message(inner) = field.kind() {
                walk(inner, &above, found);
            }
        }
        found.insert(name, message);
    }
    let mut found = BTreeMap::new();
    walk(link_message(pool, "FromAgent"), &[], &mut found);
    found
}

#[test]
fn an_agent_can_send_nothing_but_bounded_numbers() {
    let pool = pool();
    for message in upstream(&pool).values() {
        assert_eq!(
            message.package_name(),
            "outpost.link.v1",
            "{}",
            message.full_name()
        );
        assert_eq!(
            message.extension_ranges().len(),
            0,
            "{}",
            message.full_name()
        );
        for field in message.fields() {
            let name = field.full_name();
            assert!(!field.is_map() && !field.is_group(), "{name}");
            let width = match field.kind() {
                Kind::Message(_) => continue,
                Kind::Bool => 1,
                Kind::Uint32 | Kind::Fixed32 | Kind::Enum(_) => 32,
                Kind::Uint64 | Kind::Fixed64 => 64,
                other => panic!("{name} has type {other:?}"),
            };
            assert!(!field.is_list(), "{name}: numbers are not repeated");
            let bits = option(&pool, &field, "outpost.max_bits");
            assert!(
                matches!(bits, Some(bits) if (1..=width).contains(&bits)),
                "{name}: {bits:?}"
            );
        }
    }
}

#[test]
fn every_list_states_how_long_it_may_be() {
    let pool = pool();
    let lists = pool
        .all_messages()
        .filter(|m| m.package_name() == "outpost.link.v1");
    let mut stated = BTreeMap::new();
    for field in lists
        .flat_map(|m| m.fields().collect::<Vec<_>>())
        .filter(FieldDescriptor::is_list)
    {
        let items = option(&pool, &field, "outpost.max_items");
        let items = items.unwrap_or_else(|| panic!("{} states no max_items", field.full_name()));
        let short = field.full_name().strip_prefix("outpost.link.v1.").unwrap();
        stated.insert(short.to_owned(), items as usize);
    }
    let expected = [
        ("Assign.parameters", PARAMETERS),
        ("Catalogue.entries", CATALOGUE_ENTRIES),
        ("FromAgent.messages", FRAME_MESSAGES),
        ("Inventory.items", INVENTORY_PAGE),
        ("Receipt.before", RECEIPT_SESSIONS),
        ("ToAgent.messages", FRAME_MESSAGES),
    ];
    let expected = expected.map(|(field, items)| (field.to_owned(), items));
    assert_eq!(stated, expected.into());
}

#[test]
fn enums_and_slots_fit_their_bits() {
    let pool = pool();
    for message in upstream(&pool).values() {
        for field in message.fields() {
            if let Kind::Enum(values) = field.kind() {
                let bits = option(&pool, &field, "outpost.max_bits").unwrap();
                for value in values.values() {
                    let number = u32::try_from(value.number()).unwrap();
                    assert_eq!(number >> bits, 0, "{}", value.full_name());
                }
            }
        }
    }
    let slots = link_message(&pool, "Hello")
        .get_field_by_name("slots")
        .unwrap();
    let bits = option(&pool, &slots, "outpost.max_bits").unwrap();
    assert_eq!(u32::from(SLOTS), (1 << bits) - 1);
}

#[test]
fn the_budget_names_every_field_of_the_identity_requests() {
    for request in ["EnrolRequest", "RenewRequest", "RecoverRequest"] {
        let pool = pool();
        let message = pool
            .get_message_by_name(&format!("outpost.identity.v1.{request}"))
            .unwrap();
        let lines = budget().iter().filter(|line| line.message == request);
        let fields: Vec<_> = lines.map(|line| line.field).collect();
        let declared: Vec<_> = message.fields().map(|f| f.name().to_owned()).collect();
        assert_eq!(fields, declared);
    }
}

#[test]
fn the_published_bit_budget() {
    let mut page = String::new();
    let mut before = "";
    for line in budget() {
        if line.message != before {
            writeln!(
                page,
                "{}: {} bits",
                line.message,
                budget_of(line.message).unwrap()
            )
            .unwrap();
            before = line.message;
        }
        writeln!(page, "  {:<24}{:>9}", line.field, line.max_bits).unwrap();
    }
    writeln!(
        page,
        "An attempt, over all its states: {} bits",
        budget_per_attempt()
    )
    .unwrap();
    insta::assert_snapshot!(page);
    assert_eq!(budget_of("Welcome"), None, "an agent sends no Welcome");
}

#[test]
fn the_budget_names_every_message_an_agent_can_send() {
    for name in upstream(&pool()).keys() {
        assert!(budget_of(name).is_some(), "{name}");
    }
    let state = pool().get_enum_by_name("outpost.link.v1.State").unwrap();
    let states = u32::try_from(state.values().len() - 1).unwrap();
    assert_eq!(budget_per_attempt(), states * budget_of("Event").unwrap());
}
