//! Most agents gone at once: their silence is hardly theirs, and what they run is not given up before they are back, or a
//! person says so. What that takes, of one tenant and of all, and what ends it.

use std::time::Duration;

use outpost_orchestrator_core::Settings;
use outpost_orchestrator_core::event::{Ask, Denied};
use outpost_proto::ids::RunId;
use outpost_sim::stage::{Hand, Stage, name, task};

/// Without a pause after its start: what is silent is given up five minutes after it was heard.
fn scene() -> Stage {
    Stage::with(Settings {
        restart_grace: Duration::ZERO,
        ..Settings::default()
    })
}

/// So many hosts, each with a task that is safe to be run again.
fn busy(many: usize) -> (Stage, Vec<usize>, Vec<RunId>) {
    let mut scene = scene();
    let hosts: Vec<usize> = (0..many)
        .map(|n| scene.host_of("acme", &format!("h{n:02}"), 1))
        .collect();
    scene.apply(vec![task("t", "load", &[])]);
    let runs = (0..many).map(|_| scene.trigger()).collect();
    for host in &hosts {
        assert_eq!(scene.running(*host).len(), 1, "each has one");
    }
    (scene, hosts, runs)
}

fn cut(scene: &mut Stage, hosts: &[usize]) {
    for host in hosts {
        scene.is_cut_off(*host);
    }
}

fn join(scene: &mut Stage, hosts: &[usize]) {
    for host in hosts {
        scene.is_reachable(*host);
    }
    // Nobody waits for longer than half a minute before it dials again.
    scene.pass(32);
}

fn given_up(scene: &Stage, hosts: usize) -> usize {
    (0..hosts)
        .map(|n| scene.given_up(&format!("h{n:02}")))
        .sum()
}

fn unfreeze(scene: &mut Stage) -> Result<(), Denied> {
    let by = "somebody".to_owned();
    scene.ask(Ask::Unfreeze { by }).map(|_| ())
}

#[test]
fn n3_few_agents_gone_are_given_up_and_most_of_them_are_not() {
    for (many, gone, frozen) in [
        (2, 2, false),
        (3, 3, true),
        (10, 5, false),
        (10, 6, true),
        (10, 10, true),
        (20, 11, false),
        (20, 12, true),
    ] {
        let (mut scene, hosts, runs) = busy(many);
        cut(&mut scene, &hosts[..gone]);
        scene.pass(900);
        assert_eq!(scene.is_frozen("acme"), frozen, "{gone} of {many}");
        let expected = if frozen { 0 } else { gone };
        assert_eq!(given_up(&scene, many), expected, "{gone} of {many}");
        let told = scene.told();
        if frozen {
            // One after the other turns stale: the first that are too many say so.
            let (_, first) = told[0].split_once("frozen: ").unwrap_or_default();
            let first = first
                .split_once(' ')
                .map(|(first, _)| first.parse::<usize>());
            let many_of = format!("of {many} agents went within two minutes");
            assert!(told.len() == 1 && told[0].ends_with(&many_of), "{told:?}");
            assert_eq!(first, Some(Ok(3.max(many * 55 / 100 + 1))), "{told:?}");
        } else {
            assert!(told.is_empty(), "{told:?}");
        }
        drop(runs);
    }
}

#[test]
fn n3_who_goes_two_minutes_after_the_others_did_not_go_with_them() {
    for (later_ms, frozen) in [(0, true), (1, false)] {
        let mut scene = scene();
        let mut hands: Vec<Hand> = (0..10).map(|n| scene.hand(&format!("h{n}"))).collect();
        for hand in &mut hands {
            hand.connects(&mut scene, vec![]);
        }
        // Three are silent from now on, three more two minutes later.
        for _ in 0..4 {
            scene.pass(30);
            for hand in &mut hands[3..] {
                hand.beats(&mut scene);
            }
        }
        scene.pass_ms(later_ms);
        for hand in &mut hands[3..] {
            hand.beats(&mut scene);
        }
        scene.pass(30);
        for hand in &mut hands[6..] {
            hand.beats(&mut scene);
        }
        scene.pass(11);
        assert_eq!(scene.is_frozen("acme"), frozen, "{later_ms} ms later");
    }
}

#[test]
fn n3_it_is_over_once_nine_in_ten_are_back_and_the_last_is_given_up_as_always() {
    for (many, back) in [(10, 9), (20, 18)] {
        let (mut scene, hosts, _) = busy(many);
        cut(&mut scene, &hosts);
        scene.pass(60);
        let since = scene.recovery().frozen_since;
        assert!(since.is_some_and(|at| at > scene.now() - 30_000_000));
        scene.pass(600);
        join(&mut scene, &hosts[..back - 1]);
        assert!(scene.is_frozen("acme"));
        assert_eq!(scene.recovery().frozen_since, since);
        scene.told();
        join(&mut scene, &hosts[back - 1..back]);
        assert!(!scene.is_frozen("acme"));
        assert_eq!(scene.told(), ["unfrozen"]);
        scene.pass(1);
        assert_eq!(
            given_up(&scene, many),
            many - back,
            "they have been silent for long"
        );
        assert_eq!(unfreeze(&mut scene), Err(Denied::NotFrozen));
    }
}

#[test]
fn n3_a_person_may_say_that_silence_means_what_it_always_does() {
    let (mut scene, hosts, _) = busy(5);
    assert_eq!(unfreeze(&mut scene), Err(Denied::NotFrozen));
    cut(&mut scene, &hosts);
    scene.pass(1000);
    assert_eq!(given_up(&scene, 5), 0);
    scene.told();
    assert_eq!(unfreeze(&mut scene), Ok(()));
    assert_eq!(scene.told(), ["unfrozen by somebody"]);
    scene.pass(1);
    assert_eq!(given_up(&scene, 5), 5);
    assert_eq!(unfreeze(&mut scene), Err(Denied::NotFrozen));
    // Who is still away counts no more: of those who are there, few are gone.
    scene.pass(600);
    assert!(!scene.is_frozen("acme"));
}

#[test]
fn n3_who_goes_while_most_are_gone_is_waited_for_like_them() {
    let (mut scene, hosts, _) = busy(10);
    cut(&mut scene, &hosts[..6]);
    scene.pass(60);
    cut(&mut scene, &hosts[6..]);
    scene.pass(400);
    assert_eq!(given_up(&scene, 10), 0);
    join(&mut scene, &hosts[..8]);
    assert!(scene.is_frozen("acme"), "two of ten are not back");
    join(&mut scene, &hosts[8..9]);
    assert!(!scene.is_frozen("acme"));
}

#[test]
fn n3_who_is_removed_while_most_are_gone_is_neither_back_nor_away() {
    let (mut scene, hosts, _) = busy(10);
    cut(&mut scene, &hosts);
    scene.pass(60);
    join(&mut scene, &hosts[..8]);
    assert!(scene.ask(Ask::RemoveAgent { agent: name("h08") }).is_ok());
    assert!(scene.is_frozen("acme"), "one of nine is not back");
    assert!(scene.ask(Ask::RemoveAgent { agent: name("h09") }).is_ok());
    assert!(!scene.is_frozen("acme"), "nobody is away");
}

#[test]
fn n3_agents_that_come_and_go_are_counted_anew_each_time() {
    let (mut scene, hosts, _) = busy(10);
    for _ in 0..3 {
        cut(&mut scene, &hosts[..5]);
        scene.pass(60);
        assert!(!scene.is_frozen("acme"));
        join(&mut scene, &hosts[..5]);
        scene.pass(200);
        for host in ["h00", "h04", "h09"] {
            assert_eq!(scene.record(host).standing.away, None, "it is expected");
        }
    }
    cut(&mut scene, &hosts[4..]);
    scene.pass(60);
    assert!(scene.is_frozen("acme"));
    // One that came back between is not counted twice.
    assert_eq!(
        scene.told(),
        ["frozen: 6 of 10 agents went within two minutes"]
    );
}

#[test]
fn c2_after_a_restart_whoever_does_not_come_back_with_the_others_is_counted() {
    for (back, frozen) in [(5, false), (4, true), (0, true)] {
        let (mut scene, hosts, _) = busy(10);
        scene.orchestrator_stops();
        cut(&mut scene, &hosts[back..]);
        scene.orchestrator_comes_up();
        scene.pass(100);
        assert_eq!(scene.is_frozen("acme"), frozen, "{back} are back");
        scene.pass(400);
        let lost = if frozen { 0 } else { 10 - back };
        assert_eq!(given_up(&scene, 10), lost, "{back} are back");
    }
}

#[test]
fn c2_hosts_that_are_gone_for_good_do_not_look_like_an_outage_after_each_restart() {
    let (mut scene, hosts, _) = busy(10);
    for host in &hosts[..6] {
        cut(&mut scene, &[*host]);
        scene.pass(200);
    }
    assert!(!scene.is_frozen("acme"), "each went alone");
    let away = |scene: &Stage| {
        let of = |n: &usize| scene.record(&format!("h{n:02}")).standing.away.is_some();
        (0..10).filter(of).count()
    };
    assert_eq!(away(&scene), 6);
    scene.orchestrator_restarts();
    scene.pass(100);
    assert!(!scene.is_frozen("acme"));
    // Two of the four that are left are half of them.
    cut(&mut scene, &hosts[6..8]);
    scene.pass(50);
    assert!(!scene.is_frozen("acme"));
    // One of them comes back, and is expected again.
    join(&mut scene, &hosts[..1]);
    assert_eq!(scene.record("h00").standing.away, None);
    assert_eq!(away(&scene), 5);
}

#[test]
fn c2_who_is_away_in_an_outage_is_expected_still_after_a_restart() {
    let (mut scene, hosts, _) = busy(10);
    cut(&mut scene, &hosts);
    scene.pass(1000);
    assert!(scene.is_frozen("acme"));
    assert_eq!(scene.record("h03").standing.away, None);
    scene.orchestrator_restarts();
    assert!(!scene.is_frozen("acme"), "nobody knows yet");
    scene.pass(45);
    assert!(scene.is_frozen("acme"));
    // Whoever is away when it ends is not expected any more.
    join(&mut scene, &hosts[1..]);
    assert!(!scene.is_frozen("acme"));
    assert!(scene.record("h00").standing.away.is_some());
    assert_eq!(scene.record("h01").standing.away, None);
}

// --- all tenants together

/// So many agents of each tenant.
fn tenants(scene: &mut Stage, many: &[(&str, usize)]) -> Vec<Vec<usize>> {
    let mut hosts = Vec::new();
    for (tenant, many) in many {
        let of = (0..*many).map(|n| scene.host_of(tenant, &format!("{tenant}-{n}"), 1));
        hosts.push(of.collect());
    }
    hosts
}

#[test]
fn n3_most_of_all_agents_gone_freeze_every_tenant_that_misses_some_and_no_other() {
    let mut scene = scene();
    let hosts = tenants(&mut scene, &[("acme", 6), ("beta", 2), ("idle", 1)]);
    scene.told();
    cut(&mut scene, &hosts[0][..3]);
    cut(&mut scene, &hosts[1]);
    scene.pass(60);
    assert!(
        scene.is_frozen("acme") && scene.is_frozen("beta"),
        "five of nine"
    );
    assert!(!scene.is_frozen("idle"), "nobody of it is missing");
    let reason = "frozen: 5 of 9 agents went within two minutes";
    assert_eq!(scene.told(), [reason, reason]);
}

#[test]
fn n3_half_of_all_agents_gone_freeze_nobody_who_misses_few() {
    let mut scene = scene();
    let hosts = tenants(&mut scene, &[("acme", 6), ("beta", 4)]);
    cut(&mut scene, &hosts[0][..3]);
    cut(&mut scene, &hosts[1][..2]);
    scene.pass(60);
    assert!(
        !scene.is_frozen("acme") && !scene.is_frozen("beta"),
        "five of ten"
    );
}

#[test]
fn n3_nobody_waits_for_the_few_of_its_own_once_nine_in_ten_of_all_are_there() {
    let mut scene = scene();
    let hosts = tenants(&mut scene, &[("acme", 10), ("beta", 5)]);
    cut(&mut scene, &hosts[0]);
    cut(&mut scene, &hosts[1][..1]);
    scene.pass(60);
    assert!(
        scene.is_frozen("acme") && scene.is_frozen("beta"),
        "eleven of fifteen"
    );
    join(&mut scene, &hosts[0][..8]);
    assert!(scene.is_frozen("beta"), "three of fifteen are not back");
    join(&mut scene, &hosts[0][8..]);
    assert!(
        !scene.is_frozen("acme") && !scene.is_frozen("beta"),
        "one of fifteen is not"
    );
    // Its own freeze is another matter.
    cut(&mut scene, &hosts[1]);
    scene.pass(60);
    assert!(scene.is_frozen("beta") && !scene.is_frozen("acme"));
}

#[test]
fn n3_two_minutes_with_few_gone_end_it_too() {
    let mut scene = scene();
    let hosts = tenants(&mut scene, &[("acme", 10), ("beta", 5)]);
    cut(&mut scene, &hosts[0]);
    cut(&mut scene, &hosts[1][..1]);
    scene.pass(60);
    assert!(scene.is_frozen("beta"));
    for n in 0..10 {
        let agent = name(&format!("acme-{n}"));
        assert!(scene.ask(Ask::RemoveAgent { agent }).is_ok());
    }
    scene.pass(110);
    assert!(scene.is_frozen("beta"), "one in five may be on its way");
    scene.pass(20);
    assert!(
        !scene.is_frozen("beta"),
        "nobody waits for the last one of another tenant"
    );
}

#[test]
fn n3_a_tenant_that_misses_most_of_its_own_waits_for_them_whoever_else_is_back() {
    let mut scene = scene();
    let hosts = tenants(&mut scene, &[("acme", 50), ("beta", 4)]);
    cut(&mut scene, &hosts[0]);
    cut(&mut scene, &hosts[1][..2]);
    scene.pass(45);
    assert!(scene.is_frozen("beta"));
    cut(&mut scene, &hosts[1][2..3]);
    scene.pass(50);
    join(&mut scene, &hosts[0]);
    assert!(!scene.is_frozen("acme"));
    scene.pass(300);
    assert!(scene.is_frozen("beta"), "three of its four are away");
    join(&mut scene, &hosts[1][..3]);
    assert!(!scene.is_frozen("beta"));
}

#[test]
fn n3_who_is_back_is_not_counted_with_those_who_go_later() {
    let (mut scene, hosts, _) = busy(8);
    cut(&mut scene, &hosts[..4]);
    scene.pass(45);
    join(&mut scene, &hosts[..4]);
    cut(&mut scene, &hosts[4..]);
    scene.pass(45);
    assert!(!scene.is_frozen("acme"), "half of them, twice");
}

#[test]
fn n3_who_was_not_counted_is_not_missed_whether_it_is_removed_or_not() {
    for removed in [true, false] {
        for (gone, frozen) in [(4, false), (5, true)] {
            let (mut scene, hosts, _) = busy(10);
            for (host, agent) in [(0, "h00"), (1, "h01")] {
                cut(&mut scene, &hosts[host..=host]);
                scene.pass(200);
                assert!(scene.record(agent).standing.away.is_some());
            }
            scene.orchestrator_restarts();
            scene.pass(60);
            for agent in ["h00", "h01"].iter().filter(|_| removed) {
                let agent = name(agent);
                assert!(scene.ask(Ask::RemoveAgent { agent }).is_ok());
            }
            cut(&mut scene, &hosts[2..2 + gone]);
            scene.pass(60);
            assert_eq!(
                scene.is_frozen("acme"),
                frozen,
                "{gone} of eight, {removed}"
            );
        }
    }
}
