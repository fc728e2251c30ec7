//! Who counts as gone, and of how many: what decides whether a silence is a matter of the agents.

use crate::freeze::is_mass;
use crate::safety::Safety;

use super::freezes::{is_frozen, pass, sites};
use super::*;

fn beat(rig: &mut Rig, sites: &mut [Site]) {
    for site in sites {
        site.beats(rig);
    }
}

fn away(rig: &Rig, agent: &str) -> Option<u64> {
    rig.mirror.agents[&(name("acme"), name(agent))]
        .standing
        .away
}

#[test]
fn more_than_fifty_five_in_a_hundred_are_many() {
    for (gone, of, many) in [
        (1, 1, false),
        (2, 2, false),
        (3, 3, true),
        (11, 20, false),
        (12, 20, true),
    ] {
        assert_eq!(is_mass(gone, of), many, "{gone} of {of}");
    }
}

#[test]
fn people_read_how_many_went_and_who_ended_the_freeze() {
    let mut rig = Rig::new();
    let mut all = sites(&mut rig, 4);
    pass(&mut rig, &mut all[3..], 60);
    let by = "0123".to_owned();
    rig.ask(Ask::Unfreeze { by: by.clone() }).unwrap();
    let reason = "3 of 4 agents went within two minutes".to_owned();
    let frozen = (Safety::Frozen, None, Some(reason));
    assert_eq!(told(&rig), [frozen, (Safety::Unfrozen, Some(by), None)]);
}

#[test]
fn whoever_is_in_touch_from_the_start_of_a_process_counts() {
    let mut rig = Rig::new();
    let mut all = sites(&mut rig, 10);
    rig.restart();
    for site in &mut all[3..] {
        site.connect(&mut rig, vec![]);
    }
    pass(&mut rig, &mut all[3..], 60);
    assert!(!is_frozen(&mut rig), "three of ten");
}

#[test]
fn whoever_was_away_for_long_when_a_process_began_does_not_count() {
    let mut rig = Rig::new();
    let mut all = sites(&mut rig, 8);
    for gone in 1..=3 {
        pass(&mut rig, &mut all[gone..], 180);
    }
    rig.restart();
    for site in &mut all[3..] {
        site.connect(&mut rig, vec![]);
    }
    pass(&mut rig, &mut all[6..], 60);
    assert!(is_frozen(&mut rig), "three of five who are expected");
}

#[test]
fn whoever_blinks_is_not_gone() {
    let mut rig = Rig::new();
    let mut all = sites(&mut rig, 3);
    rig.pass_ms(20_000);
    beat(&mut rig, &mut all[1..]);
    rig.pass_ms(20_000);
    beat(&mut rig, &mut all[2..]);
    // The first is stale, then the second, then the third, and each comes back before the next one goes.
    rig.pass_ms(5_000);
    beat(&mut rig, &mut all[..1]);
    rig.pass_ms(20_000);
    beat(&mut rig, &mut all[..2]);
    rig.pass_ms(15_000);
    assert!(!is_frozen(&mut rig), "never more than one at a time");
    beat(&mut rig, &mut all);
    for _ in 0..18 {
        rig.pass_ms(10_000);
        for agent in ["s0", "s1", "s2"] {
            assert_eq!(away(&rig, agent), None, "it is expected still");
        }
        beat(&mut rig, &mut all);
    }
}

#[test]
fn who_goes_two_minutes_after_another_went_with_it_and_not_later() {
    for (later_ms, together) in [(0, true), (1, false)] {
        let mut rig = Rig::new();
        let mut all = sites(&mut rig, 5);
        for _ in 0..12 {
            rig.pass_ms(10_000);
            beat(&mut rig, &mut all[1..]);
        }
        rig.pass_ms(later_ms);
        beat(&mut rig, &mut all[1..]);
        rig.pass_ms(20_000);
        beat(&mut rig, &mut all[3..]);
        rig.pass_ms(19_999);
        assert!(!is_frozen(&mut rig));
        rig.pass_ms(1);
        assert_eq!(is_frozen(&mut rig), together, "{later_ms}");
    }
}

#[test]
fn whoever_is_removed_in_a_freeze_counts_no_more_for_its_end() {
    let mut rig = Rig::new();
    let mut all = sites(&mut rig, 20);
    rig.pass_ms(60_000);
    assert!(is_frozen(&mut rig));
    for site in all.drain(..10) {
        let agent = site.agent.clone();
        assert_eq!(rig.ask(Ask::RemoveAgent { agent }), Ok(Answer::Removed));
    }
    beat(&mut rig, &mut all[..8]);
    assert!(is_frozen(&mut rig), "two of ten are still away");
    beat(&mut rig, &mut all[8..9]);
    assert!(!is_frozen(&mut rig));
}
