//! A record is what the keeper wrote or it is known not to be: torn and flipped ones are recognised.

use outpost_agent_keeper::adopt::{
    Claim, KeeperState, RecordError, keeper_state, read_exit_record, read_keeper_record, try_claim,
};
use outpost_agent_keeper::protocol::{Cause, Ended, ExitRecord};

use crate::site::*;

/// An attempt that is over, with all three lines in its claim.
struct Over {
    site: Site,
    dir: std::path::PathBuf,
    claim: Vec<u8>,
    record: ExitRecord,
}

fn over() -> Over {
    let site = Site::new();
    let spec = site.script_to_tell_of("true", 37);
    let record = expect(site.run_told(&spec), Ended::Exited(37), Cause::Own);
    let keeper = keeper_of(&spec);
    until("the keeper's end", || {
        (!keeper.keeper.is_alive()).then_some(())
    });
    let claim = std::fs::read(spec.dir.join("claim")).unwrap();
    Over {
        site,
        dir: spec.dir.clone(),
        claim,
        record,
    }
}

impl Over {
    fn with(&self, bytes: &[u8]) -> Result<Option<ExitRecord>, RecordError> {
        std::fs::write(self.dir.join("claim"), bytes).unwrap();
        read_exit_record(&self.dir)
    }

    /// Where each line begins, and where the last one ends.
    fn borders(&self) -> Vec<usize> {
        let ends = self.claim.iter().enumerate();
        let ends = ends
            .filter(|(_, byte)| **byte == b'\n')
            .map(|(at, _)| at + 1);
        std::iter::once(0).chain(ends.take(3)).collect()
    }
}

#[test]
fn d4_a_claim_torn_anywhere_never_says_another_end() {
    let over = over();
    let borders = over.borders();
    let [_, keeper, task, exit] = borders[..] else {
        panic!("{borders:?}");
    };
    for length in 0..over.claim.len() {
        let read = over.with(&over.claim[..length]);
        match read {
            // The whole last line is there: what is missing is empty space.
            Ok(Some(record)) => {
                assert!(length >= exit, "{length}");
                assert_eq!(record, over.record);
            }
            // As it was before the last line was written, or no word of a keeper at all.
            Ok(None) => assert!([0, keeper, task].contains(&length), "{length}"),
            Err(RecordError::Damaged { path, .. }) => {
                assert!(length < exit && path.ends_with("claim"), "{length}");
            }
            Err(error @ RecordError::Io { .. }) => panic!("{error}"),
        }
        // Whatever is left of it, nobody can claim the attempt again.
        assert_eq!(try_claim(&over.dir).unwrap(), Claim::Lost);
    }
    assert_eq!(over.site.starts(), 1);
}

#[test]
fn d4_a_claim_with_unwritten_pages_never_says_another_end() {
    let over = over();
    for from in [0, 1, 512, 1024, 4095] {
        let mut bytes = over.claim.clone();
        bytes[from..].fill(0);
        assert!(
            !matches!(over.with(&bytes), Ok(Some(record)) if record != over.record),
            "zeros from {from}"
        );
    }
}

#[test]
fn d4_each_flipped_bit_of_a_claim_is_noticed_and_costs_at_most_the_end() {
    let over = over();
    let borders = over.borders();
    let (keeper_ends, lines_end) = (borders[1], borders[3]);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    // Every third byte of the lines, and some of the empty space behind them.
    let places = (0..lines_end).step_by(3);
    for at in places.chain((lines_end..over.claim.len()).step_by(97)) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut bytes = over.claim.clone();
        bytes[at] ^= 1 << (seed >> 61);
        let read = over.with(&bytes);
        assert!(
            matches!(read, Err(RecordError::Damaged { .. })),
            "byte {at}: {read:?}"
        );
        let keeper = read_keeper_record(&over.dir);
        if at >= keeper_ends {
            assert!(
                matches!(keeper, Ok(Some(_))),
                "byte {at}: who kept it stands before the damage: {keeper:?}"
            );
        } else {
            assert!(!matches!(keeper, Ok(Some(_))), "byte {at}: {keeper:?}");
        }
    }
}

#[test]
fn d4_a_damaged_end_leaves_the_keeper_known_so_that_the_attempt_is_decided() {
    let over = over();
    let end = over.borders()[2];
    let mut bytes = over.claim.clone();
    bytes[end + 40] ^= 1;
    assert!(over.with(&bytes).is_err());
    assert!(matches!(
        keeper_state(&over.dir).unwrap(),
        KeeperState::Dead(_)
    ));
    outpost_agent_keeper::adopt::end_tree(&over.dir).unwrap();
}
