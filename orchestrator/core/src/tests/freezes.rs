//! Most agents gone at once.

use super::*;

pub(super) fn sites(rig: &mut Rig, count: usize) -> Vec<Site> {
    (0..count).map(|n| rig.site(&format!("s{n}"))).collect()
}

pub(super) fn is_frozen(rig: &mut Rig) -> bool {
    let Ok(Answer::Recovery(view)) = rig.ask(Ask::Recovery) else {
        panic!()
    };
    view.frozen_since.is_some()
}

/// Lets time pass while these send heartbeats.
pub(super) fn pass(rig: &mut Rig, alive: &mut [Site], seconds: u64) {
    for _ in 0..seconds / 10 {
        rig.pass_ms(10_000);
        for site in alive.iter_mut() {
            site.beats(rig);
        }
    }
}

fn lost(rig: &Rig) -> usize {
    lost_with(rig, |_| true)
}

fn lost_with(rig: &Rig, counts: impl Fn(&AgentName) -> bool) -> usize {
    let attempts = rig.mirror.attempts.values();
    attempts
        .filter(|attempt| matches!(attempt.phase, Phase::Lost { .. }) && counts(&attempt.agent))
        .count()
}

/// Ten agents with a task each that could be given up.
fn busy() -> (Rig, Vec<Site>) {
    let mut rig = Rig::with(Settings {
        restart_grace: std::time::Duration::ZERO,
        ..Settings::default()
    });
    let mut sites = sites(&mut rig, 10);
    rig.apply(workflow("w", vec![task("a", "load", &[])]));
    for _ in 0..10 {
        let (_, said) = rig.trigger("w");
        let mut conns = said.iter().filter_map(|speech| match speech {
            Speech::Send { conn, .. } => Some(*conn),
            Speech::Close { .. } | Speech::Answer { .. } | Speech::Alarm { .. } => None,
        });
        let conn = conns.next_back().unwrap();
        let attempt = assigns(&said)[0].attempt;
        let site = sites.iter_mut().find(|site| site.conn == conn).unwrap();
        site.tells(&mut rig, attempt, AttemptState::Running);
    }
    (rig, sites)
}

#[test]
fn half_of_the_agents_gone_are_given_up_and_most_of_them_are_not() {
    for (gone, frozen) in [(5, false), (6, true), (10, true)] {
        let (mut rig, mut sites) = busy();
        pass(&mut rig, &mut sites[gone..], 900);
        assert_eq!(is_frozen(&mut rig), frozen, "{gone}");
        assert_eq!(lost(&rig), if frozen { 0 } else { gone }, "{gone}");
    }
}

#[test]
fn most_of_all_agents_gone_freeze_every_tenant_that_misses_some() {
    let mut rig = Rig::new();
    let mut acme: Vec<Site> = (0..6).map(|n| rig.site(&format!("s{n}"))).collect();
    let beta: Vec<Site> = (0..2)
        .map(|n| rig.site_of("beta", &format!("b{n}")))
        .collect();
    let mut idle = rig.site_of("idle", "i0");
    // Half of one tenant's, and two agents: neither is many by itself, both together are five of nine.
    for _ in 0..6 {
        rig.pass_ms(10_000);
        for site in acme[3..].iter_mut().chain([&mut idle]) {
            site.beats(&mut rig);
        }
    }
    drop(beta);
    assert!(frozen(&mut rig, "acme") && frozen(&mut rig, "beta"));
    assert!(!frozen(&mut rig, "idle"), "nobody of it is missing");
}

fn frozen(rig: &mut Rig, tenant: &str) -> bool {
    let Ok(Answer::Recovery(view)) = rig.ask_in(tenant, Ask::Recovery).0 else {
        panic!()
    };
    view.frozen_since.is_some()
}

/// Ten agents of one tenant and one of five of another go, so that both are frozen. All of the first, and the four.
fn frozen_together() -> (Rig, Vec<Site>, Vec<Site>) {
    let mut rig = Rig::new();
    let acme: Vec<Site> = (0..10).map(|n| rig.site(&format!("s{n}"))).collect();
    let mut beta: Vec<Site> = (0..5)
        .map(|n| rig.site_of("beta", &format!("b{n}")))
        .collect();
    pass(&mut rig, &mut beta[1..], 60);
    assert!(frozen(&mut rig, "acme") && frozen(&mut rig, "beta"));
    beta.remove(0);
    (rig, acme, beta)
}

#[test]
fn once_nine_in_ten_of_all_agents_are_there_no_tenant_waits_for_its_last_one() {
    let (mut rig, mut acme, mut beta) = frozen_together();
    for site in &mut acme {
        site.beats(&mut rig);
    }
    assert!(!frozen(&mut rig, "acme") && !frozen(&mut rig, "beta"));
    pass(&mut rig, &mut beta, 60);
    rig.restart();
    for site in acme.iter_mut().chain(&mut beta) {
        site.connect(&mut rig, vec![]);
    }
    pass(&mut rig, &mut beta, 60);
    assert!(frozen(&mut rig, "acme"));
    assert!(
        !frozen(&mut rig, "beta"),
        "it misses nobody who is expected"
    );
}

#[test]
fn a_tenant_does_not_stay_frozen_for_another_ones_agents_that_were_removed() {
    let (mut rig, acme, mut beta) = frozen_together();
    for site in &acme {
        let agent = site.agent.clone();
        let removed = rig.ask_in("acme", Ask::RemoveAgent { agent }).0;
        assert_eq!(removed, Ok(Answer::Removed));
    }
    pass(&mut rig, &mut beta, 110);
    assert!(frozen(&mut rig, "beta"), "one in five may be on its way");
    pass(&mut rig, &mut beta, 20);
    assert!(!frozen(&mut rig, "beta"));
}

#[test]
fn a_tenant_that_misses_most_of_its_own_waits_for_them_whoever_else_is_back() {
    let mut rig = Rig::new();
    let mut acme: Vec<Site> = (0..50).map(|n| rig.site(&format!("s{n}"))).collect();
    let mut beta: Vec<Site> = (0..4)
        .map(|n| rig.site_of("beta", &format!("b{n}")))
        .collect();
    pass(&mut rig, &mut beta[2..], 30);
    rig.pass_ms(20_000);
    assert!(frozen(&mut rig, "acme") && frozen(&mut rig, "beta"));
    // Two went with all the others, the two others a little later.
    rig.pass_ms(40_000);
    pass(&mut rig, &mut acme, 300);
    assert!(!frozen(&mut rig, "acme") && frozen(&mut rig, "beta"));
    for site in &mut beta {
        site.beats(&mut rig);
    }
    assert!(!frozen(&mut rig, "beta"));
}

#[test]
fn agents_that_are_gone_for_good_are_no_mass_after_a_restart() {
    let (mut rig, mut sites) = busy();
    for gone in 1..=8 {
        pass(&mut rig, &mut sites[gone..], 150);
    }
    pass(&mut rig, &mut sites[8..], 600);
    for _ in 0..2 {
        rig.restart();
        for site in &mut sites[8..] {
            site.connect(&mut rig, vec![]);
        }
        pass(&mut rig, &mut sites[8..], 300);
        assert!(!is_frozen(&mut rig), "they went long ago, one by one");
    }
    // Who comes back is expected again.
    for site in &mut sites[..8] {
        site.connect(&mut rig, vec![]);
    }
    pass(&mut rig, &mut sites, 60);
    pass(&mut rig, &mut sites[8..], 300);
    assert!(is_frozen(&mut rig));
}

#[test]
fn a_freeze_outlives_a_restart_as_long_as_nobody_is_back() {
    let (mut rig, mut sites) = busy();
    let away: Vec<AgentName> = sites[..8].iter().map(|site| site.agent.clone()).collect();
    pass(&mut rig, &mut sites[8..], 600);
    assert!(is_frozen(&mut rig));
    rig.restart();
    for site in &mut sites[8..] {
        site.connect(&mut rig, vec![]);
    }
    pass(&mut rig, &mut sites[8..], 900);
    assert!(is_frozen(&mut rig));
    assert_eq!(lost_with(&rig, |agent| away.contains(agent)), 0);
    let by = "0123".to_owned();
    assert!(rig.ask(Ask::Unfreeze { by }).is_ok());
    rig.restart();
    for site in &mut sites[8..] {
        site.connect(&mut rig, vec![]);
    }
    pass(&mut rig, &mut sites[8..], 900);
    assert!(!is_frozen(&mut rig), "a person's word holds");
    assert_eq!(lost_with(&rig, |agent| away.contains(agent)), 8);
}

#[test]
fn one_after_the_other_is_no_mass() {
    let (mut rig, mut sites) = busy();
    for gone in 1..=8 {
        pass(&mut rig, &mut sites[gone..], 150);
    }
    assert!(!is_frozen(&mut rig));
    pass(&mut rig, &mut sites[8..], 600);
    assert!(lost(&rig) >= 8, "each is given up in its turn");
}

#[test]
fn a_freeze_ends_when_they_are_back_or_a_person_says_so() {
    let (mut rig, mut sites) = busy();
    pass(&mut rig, &mut sites[8..], 600);
    assert!(is_frozen(&mut rig));
    for site in &mut sites[1..8] {
        site.beats(&mut rig);
        assert_eq!(lost(&rig), 0);
    }
    assert!(is_frozen(&mut rig), "one of eight is still away");
    sites[0].beats(&mut rig);
    assert!(!is_frozen(&mut rig));
    assert_eq!(lost(&rig), 0);

    let (mut rig, mut sites) = busy();
    pass(&mut rig, &mut sites[8..], 600);
    let by = "0123".to_owned();
    assert!(rig.ask(Ask::Unfreeze { by: by.clone() }).is_ok());
    pass(&mut rig, &mut sites[8..], 20);
    assert_eq!(lost(&rig), 8, "silence means what it always does");
    assert_eq!(rig.ask(Ask::Unfreeze { by }), Err(Denied::NotFrozen));
}

#[test]
fn a_freeze_ends_when_whoever_is_not_back_was_removed() {
    let remove = |rig: &mut Rig, site: &Site| {
        let agent = site.agent.clone();
        let removed = rig.ask_in("acme", Ask::RemoveAgent { agent }).0;
        assert_eq!(removed, Ok(Answer::Removed));
    };
    let (mut rig, mut sites) = busy();
    pass(&mut rig, &mut sites[8..], 600);
    for site in &sites[..7] {
        remove(&mut rig, site);
        assert!(is_frozen(&mut rig), "nobody is back");
    }
    remove(&mut rig, &sites[7]);
    assert!(!is_frozen(&mut rig), "nobody is waited for");

    let (mut rig, mut sites) = busy();
    pass(&mut rig, &mut sites[8..], 600);
    for site in &mut sites[2..8] {
        site.beats(&mut rig);
    }
    remove(&mut rig, &sites[0]);
    assert!(is_frozen(&mut rig), "one of seven is still away");
    remove(&mut rig, &sites[1]);
    assert!(!is_frozen(&mut rig));
    pass(&mut rig, &mut sites[2..], 900);
    assert_eq!(lost(&rig), 2, "what the removed ones had");
}
