//! From messages to frames, and from what is known to what may be said.

use outpost_proto::limits::FRAME_MESSAGES;
use outpost_proto::message::{AttemptState, Reporting, UpMessage};
use outpost_proto::outcome::Report;
use outpost_proto::strict::{self, LONGEST_MS};

/// Cuts messages into frames without changing their order. A frame is bounded by the number of its messages and by
/// their size: a catalogue takes half a frame, a page of the inventory a quarter.
pub(crate) fn frames(messages: Vec<UpMessage>) -> Vec<Vec<UpMessage>> {
    let mut frames = Vec::new();
    let mut frame = Vec::new();
    let mut filled = 0;
    for message in messages {
        let weight = weight(&message);
        if filled + weight > FRAME_MESSAGES && !frame.is_empty() {
            frames.push(std::mem::take(&mut frame));
            filled = 0;
        }
        filled += weight;
        frame.push(message);
    }
    if !frame.is_empty() {
        frames.push(frame);
    }
    frames
}

fn weight(message: &UpMessage) -> usize {
    match message {
        UpMessage::Hello(_) => FRAME_MESSAGES,
        UpMessage::Catalogue(_) => FRAME_MESSAGES / 2,
        UpMessage::Inventory(_) => FRAME_MESSAGES / 4,
        UpMessage::Event(_)
        | UpMessage::Heartbeat(_)
        | UpMessage::Trigger { .. }
        | UpMessage::Ack(_) => 1,
    }
}

/// What of a state is said upstream.
pub(crate) fn told(state: AttemptState, reporting: Reporting) -> AttemptState {
    match state {
        AttemptState::Assigned | AttemptState::Starting | AttemptState::Running => state,
        AttemptState::Finished(report) => AttemptState::Finished(told_report(report, reporting)),
    }
}

fn told_report(report: Report, reporting: Reporting) -> Report {
    match reporting {
        Reporting::Normal => Report {
            duration_ms: report.duration_ms.min(LONGEST_MS),
            ..report
        },
        Reporting::Strict => strict::report(report),
    }
}

#[cfg(test)]
mod tests {
    use outpost_proto::ids::{CatalogueVersion, CommandSeq};
    use outpost_proto::message::{Catalogue, InventoryPage};
    use outpost_proto::outcome::Outcome;

    use super::*;

    #[test]
    fn frames_keep_the_order_and_stay_within_their_bounds() {
        let page = || {
            UpMessage::Inventory(InventoryPage {
                items: vec![],
                end: None,
            })
        };
        let catalogue = UpMessage::Catalogue(Catalogue {
            version: CatalogueVersion(1),
            entries: vec![],
        });
        let mut messages = vec![catalogue, page(), page(), page()];
        messages.extend((0..130).map(|n| UpMessage::Ack(CommandSeq(n))));
        let cut = frames(messages.clone());
        assert_eq!(
            cut.iter().map(Vec::len).collect::<Vec<_>>(),
            [3, 49, 64, 18]
        );
        assert_eq!(cut.concat(), messages);
        assert!(frames(vec![]).is_empty());
    }

    #[test]
    fn a_strict_site_says_orders_of_magnitude() {
        let report = Report {
            outcome: Outcome::Failed,
            may_have_started: true,
            duration_ms: 1025,
            exit_code: Some(3),
            count: Some(5),
        };
        let strict = AttemptState::Finished(Report {
            duration_ms: 2048,
            exit_code: None,
            count: None,
            ..report
        });
        assert_eq!(
            told(AttemptState::Finished(report), Reporting::Strict),
            strict
        );
        let long = Report {
            duration_ms: u64::MAX,
            ..report
        };
        for reporting in [Reporting::Normal, Reporting::Strict] {
            let AttemptState::Finished(told) = told(AttemptState::Finished(long), reporting) else {
                panic!()
            };
            assert_eq!(told.duration_ms, LONGEST_MS);
        }
    }
}
