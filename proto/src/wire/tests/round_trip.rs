//! What goes in comes out, both ways, for every message.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use super::{samples, strategies};
use crate::ids::{AttemptId, CatalogueVersion, EventSeq, Fence, RunId, TaskIndex};
use crate::limits::{CATALOGUE_ENTRIES, INVENTORY_PAGE};
use crate::message::{
    AttemptState, Catalogue, CatalogueEntry, Event, InventoryItem, InventoryPage, OnDisconnect,
};
use crate::name::EntryHash;
use crate::outcome::Outcome;

proptest! {
    #[test]
    fn every_frame_from_an_agent_comes_back_as_it_was(messages in vec(strategies::up(), 0..8)) {
        let bytes = encode_up(&messages).unwrap();
        prop_assert_eq!(decode_up(&bytes).unwrap(), messages);
    }

    #[test]
    fn every_frame_to_an_agent_comes_back_as_it_was(messages in vec(strategies::down(), 0..8)) {
        let bytes = encode_down(&messages).unwrap();
        prop_assert_eq!(decode_down(&bytes).unwrap(), messages);
    }

    #[test]
    fn bursts_keep_their_order_over_frames(messages in vec(strategies::down(), 0..200)) {
        let frames = encode_down_frames(&messages).unwrap();
        let mut all = Vec::new();
        for frame in &frames {
            let part = decode_down(frame).unwrap();
            prop_assert!(!part.is_empty());
            all.extend(part);
        }
        prop_assert_eq!(all, messages);
    }
}

#[test]
fn every_outcome_comes_back_as_it_was() {
    for outcome in Outcome::all() {
        let mut event = samples::event();
        if let AttemptState::Finished(report) = &mut event.state {
            report.outcome = outcome;
        }
        let message = UpMessage::Event(event);
        let bytes = encode_up(std::slice::from_ref(&message)).unwrap();
        assert_eq!(decode_up(&bytes).unwrap(), [message], "{outcome}");
    }
}

#[test]
fn every_number_of_an_outcome_is_known_once() {
    let pool = pool();
    let wire = pool.get_enum_by_name("outpost.link.v1.Outcome").unwrap();
    let known = Outcome::all().into_iter().map(|outcome| {
        let number = i32::from(super::super::outcome::to_wire(outcome));
        assert!(wire.get_value(number).is_some(), "{outcome}");
        number
    });
    let known: std::collections::BTreeSet<_> = known.collect();
    assert_eq!(known.len(), Outcome::all().len());
    assert_eq!(
        known.len(),
        wire.values().len() - 1,
        "all but the unspecified one"
    );
}

#[test]
fn a_burst_from_an_agent_fills_frames_in_order() {
    let event = |seq| {
        UpMessage::Event(Event {
            event_seq: EventSeq(seq),
            ..samples::event()
        })
    };
    let messages: Vec<_> = (1..=130).map(event).collect();
    assert!(encode_up(&messages).is_err(), "more than one frame takes");
    let frames = encode_up_frames(&messages).unwrap();
    let parts: Vec<_> = frames.iter().map(|f| decode_up(f).unwrap()).collect();
    let lengths: Vec<_> = parts.iter().map(Vec::len).collect();
    assert_eq!(lengths, [64, 64, 2]);
    assert_eq!(parts.concat(), messages);
    assert!(encode_up_frames(&[]).unwrap().is_empty());
}

#[test]
fn large_assignments_are_spread_over_frames() {
    let text = crate::message::ParamValue::Text("x".repeat(4000));
    let mut assign = samples::assign();
    assign.parameters = (10..26)
        .map(|n| (format!("p{n}").parse().unwrap(), text.clone()))
        .collect();
    let messages = vec![DownMessage::Assign(assign); 9];
    let refused = encode_down(&messages).unwrap_err();
    assert!(matches!(refused, EncodeError::TooLong { .. }), "{refused}");
    let frames = encode_down_frames(&messages).unwrap();
    let parts: Vec<_> = frames.iter().map(|f| decode_down(f).unwrap()).collect();
    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 1]);
    assert_eq!(parts.concat(), messages);
}

#[test]
fn the_largest_honest_frames_fit() {
    let entry = CatalogueEntry {
        hash: EntryHash(u64::MAX),
        retry_safe: true,
        on_disconnect: OnDisconnect::StopAfter((1 << 20) - 1),
        grace_s: 4095,
    };
    let catalogue = UpMessage::Catalogue(Catalogue {
        version: CatalogueVersion(u32::MAX),
        entries: vec![entry; CATALOGUE_ENTRIES],
    });
    let item = InventoryItem {
        attempt: AttemptId(u128::MAX),
        run: RunId(u128::MAX),
        task: TaskIndex(u16::MAX),
        fence: Fence((1 << 48) - 1),
        state: samples::event().state,
        event_seq: EventSeq((1 << 48) - 1),
    };
    let page = UpMessage::Inventory(InventoryPage {
        items: vec![item; INVENTORY_PAGE],
        end: Some((1 << 18) - 1),
    });
    for message in [catalogue, page] {
        let bytes = encode_up(std::slice::from_ref(&message)).unwrap();
        assert_eq!(decode_up(&bytes).unwrap(), [message]);
    }
}
