//! Small guards, each alone: histories elsewhere meet several of them at once, and one then stands in for another.

use crate::agent::Agent;
use outpost_proto::limits::REMEMBERED;

use crate::event::AgentChange;
use crate::record::Presence;

use super::*;

fn agent<'a>(rig: &'a Rig, agent: &str) -> &'a Agent {
    &rig.core.tenants[&name::<TenantName>("acme")].agents[&name::<AgentName>(agent)]
}

fn presence(rig: &Rig) -> Presence {
    agent(rig, "bank").presence
}

/// An agent that runs one task of each of these entries, all of one run.
fn runs(entries: &[&str]) -> (Rig, Site, RunId, Vec<Assign>) {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let tasks = entries.iter().enumerate();
    let tasks = tasks.map(|(n, entry)| task(&format!("t{n}"), entry, &[]));
    rig.apply(workflow("w", tasks.collect()));
    let (run, said) = rig.trigger("w");
    let assigns = assigns(&said);
    assert_eq!(assigns.len(), entries.len());
    for assign in &assigns {
        site.tells(&mut rig, assign.attempt, AttemptState::Running);
    }
    (rig, site, run, assigns)
}

// --- one agent

#[test]
fn what_waits_at_an_agent_follows_how_long_its_tasks_take() {
    let mut rig = Rig::new();
    rig.site("bank");
    let tenant = rig.core.tenants.get_mut(&name::<TenantName>("acme"));
    let agent = tenant.unwrap().agents.get_mut(&name::<AgentName>("bank"));
    let (agent, settings) = (agent.unwrap(), rig.settings);
    assert_eq!(agent.capacity(&settings), 4);
    agent.live.pace.took(0);
    assert_eq!(agent.capacity(&settings), 4, "one brief task is no rule");
    (0..100).for_each(|_| agent.live.pace.took(0));
    assert!((100..=102).contains(&agent.capacity(&settings)));
    agent.live.pace.took(100);
    assert_eq!(agent.capacity(&settings), 5, "it counts for a quarter");
    agent.live.pace.took(10_000);
    assert_eq!(agent.capacity(&settings), 4);
}

#[test]
fn only_a_limit_below_its_slots_takes_an_agent_its_backlog() {
    let mut rig = Rig::new();
    rig.site("bank");
    for (limit, capacity) in [(1, 1), (2, 4), (3, 4)] {
        let change = AgentChange {
            slots_limit: Some(Some(limit)),
            ..AgentChange::default()
        };
        let ask = Ask::ConfigureAgent {
            agent: name("bank"),
            change,
        };
        rig.ask(ask).unwrap();
        assert_eq!(agent(&rig, "bank").capacity(&rig.settings), capacity);
    }
}

#[test]
fn an_attempt_is_idle_when_the_lease_of_its_own_life_is_over() {
    let (mut rig, mut site, _, assigns) = runs(&["load"]);
    site.incarnation.0 += 1;
    site.connect(&mut rig, vec![]);
    rig.pass_ms(10_000);
    site.beats(&mut rig);
    let agent = agent(&rig, "bank");
    assert!(agent.former_lease_until < agent.lease_until);
    let mut attempt = rig.attempt(assigns[0].attempt).clone();
    for (incarnation, lease_until) in [
        (site.incarnation, agent.lease_until),
        (Incarnation(1), agent.former_lease_until),
    ] {
        attempt.incarnation = incarnation;
        let idle = lease_until.plus(rig.settings.lease_margin);
        assert_eq!(agent.surely_idle(&rig.settings, &attempt), idle);
        attempt.ends_alone_s = Some(7);
        let idle = idle.plus_ms(7_000);
        assert_eq!(agent.surely_idle(&rig.settings, &attempt), idle);
        attempt.ends_alone_s = None;
    }
}

#[test]
fn an_agent_that_was_heard_again_is_stale_again_after_forty_seconds() {
    let (mut rig, mut site, ..) = runs(&["load"]);
    rig.pass_ms(60_000);
    assert_eq!(presence(&rig), Presence::Stale);
    site.beats(&mut rig);
    rig.pass_ms(39_999);
    assert_eq!(presence(&rig), Presence::Live);
    rig.pass_ms(1);
    assert_eq!(presence(&rig), Presence::Stale);
}

#[test]
fn of_a_silent_agents_attempts_only_those_are_given_up_that_may_run_twice() {
    let (mut rig, _, _, assigns) = runs(&["load", "once"]);
    rig.pass_ms(3_600_000);
    let lost = assigns.iter().map(|assign| rig.phase(assign.attempt));
    let lost: Vec<bool> = lost
        .map(|phase| matches!(phase, Phase::Lost { .. }))
        .collect();
    assert_eq!(lost, [true, false]);
}

// --- commits that fail

#[test]
fn a_commit_that_fails_disturbs_nobody_who_was_not_in_it() {
    let mut rig = Rig::new();
    let (mut bank, mut shop) = (rig.site("bank"), rig.site("shop"));
    let beat = shop.heartbeat();
    rig.failing_turn(&[shop.frame(vec![beat])], false);
    let lease = bank.granted(0, Some(2));
    assert_eq!(bank.beats(&mut rig), [lease], "its session is as it was");
    assert_eq!(closes(&rig.turn(&[])), []);
}

#[test]
fn a_stream_that_had_said_nothing_yet_outlives_a_commit_that_failed() {
    let mut rig = Rig::new();
    rig.enrol("bank");
    let mut site = Site::new("bank");
    let opened = site.open(&mut rig);
    rig.turn(&[opened]);
    rig.failing_turn(&[], false);
    let hello = site.hello();
    let said = site.says(&mut rig, hello);
    assert!(
        matches!(messages(&said)[..], [DownMessage::Welcome(_)]),
        "{said:?}"
    );
}

#[test]
fn what_is_still_to_be_sent_outlives_a_commit_that_failed() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let (_, said) = rig.trigger("w");
    let assign = assigns(&said).remove(0);
    rig.turn(&[site.close()]);
    site.flags.paused = true;
    let said = site.connect(&mut rig, vec![]);
    assert_eq!(assigns(&said), [], "it takes no work now");
    rig.failing_turn(&[], false);
    site.flags.paused = false;
    let again = assigns(&site.beats(&mut rig));
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].attempt, assign.attempt);
}

#[test]
fn who_is_heard_again_gets_what_is_due_by_then() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut tasks: Vec<TaskSpec> = (0..4)
        .map(|n| task(&format!("t{n}"), "once", &[]))
        .collect();
    for task in &mut tasks {
        (task.retry.retries, task.retry.delay_ms) = (1, 40_000);
        task.retry.max_delay_ms = 40_000;
    }
    rig.apply(workflow("w", tasks));
    let (run, said) = rig.trigger("w");
    for assign in assigns(&said) {
        site.ends(&mut rig, assign.attempt, Outcome::Failed);
    }
    // The lease ends, pauses end after it, and nobody is stale yet.
    rig.pass_ms(39_900);
    let queued = |rig: &Rig| {
        let states = (0..4).map(|task| rig.task_state(run, task));
        states
            .filter(|state| matches!(state, TaskState::Queued { .. }))
            .count()
    };
    assert!(queued(&rig) > 0, "nothing is given without a lease");
    site.beats(&mut rig);
    assert_eq!(queued(&rig), 0);
}

#[test]
fn a_frame_of_commands_is_bounded_by_its_text_too() {
    let half = crate::limits::FRAME_TEXT / 2;
    let text = |bytes: usize| {
        let value = ParamValue::Text("x".repeat(bytes - 512 - 16 - 1));
        let mut assign = Assign {
            attempt: AttemptId(1),
            run: RunId(1),
            task: TaskIndex(0),
            fence: Fence(1),
            command_seq: CommandSeq(1),
            entry: name("load"),
            catalogue_version: CatalogueVersion(1),
            parameters: vec![],
            deadline_ms: None,
            task_name: name("a"),
            workflow_name: name("w"),
        };
        assign.parameters.push((name("p"), value));
        DownMessage::Assign(assign)
    };
    for (messages, cut) in [
        (vec![text(half), text(half), text(half)], vec![2, 1]),
        (vec![text(half), text(half + 1), text(half)], vec![1, 1, 1]),
        (vec![text(half), text(half - 1), text(half)], vec![2, 1]),
    ] {
        let mut rig = Rig::new();
        rig.enrol("bank");
        let mut out = Effects::new();
        let tenant = name::<TenantName>("acme");
        rig.core.with(rig.now, &tenant, &mut out, |_, ctx, _| {
            crate::command::send(ctx, Conn(1), messages)
        });
        let frames = out.speech.iter().map(|speech| match speech {
            Speech::Send { messages, .. } => messages.len(),
            Speech::Close { .. } | Speech::Answer { .. } | Speech::Alarm { .. } => 0,
        });
        assert_eq!(frames.collect::<Vec<_>>(), cut);
    }
}

// --- the second of two holders

/// A copy of the agent that said Hello beside it.
fn copied() -> (Rig, Site, Site) {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    site.connect(&mut rig, vec![]);
    let mut copy = Site::new("bank");
    copy.nonce = site.nonce;
    copy.incarnation = Incarnation(9);
    site.connect(&mut rig, vec![]);
    let epoch = agent(&rig, "bank").record.session_epoch.0;
    let opened = copy.open(&mut rig);
    let said = rig.turn(&[opened, copy.frame(vec![copy.hello()])]);
    let [DownMessage::Welcome(welcome)] = &messages(&said)[..] else {
        panic!("{said:?}")
    };
    assert_eq!(welcome.session_epoch.0, epoch + 1, "a session of its own");
    copy.nonce = welcome.next_nonce;
    (rig, site, copy)
}

fn page(items: usize, end: Option<u32>) -> UpMessage {
    let item = |n: usize| InventoryItem {
        attempt: AttemptId(n as u128),
        run: RunId(1),
        task: TaskIndex(0),
        fence: Fence(1),
        state: AttemptState::Running,
        event_seq: EventSeq(1),
    };
    UpMessage::Inventory(InventoryPage {
        items: (0..items).map(item).collect(),
        end,
    })
}

#[test]
fn what_a_second_holder_lists_is_counted_and_people_see_it() {
    let (mut rig, _, mut copy) = copied();
    rig.pass_ms(1_000);
    assert_eq!(copy.says(&mut rig, page(2, None)), []);
    let that = |rig: &Rig| agent(rig, "bank").view().holders[1].clone();
    assert_eq!(that(&rig).attempts, None, "it has not told everything");
    assert_eq!(copy.says(&mut rig, page(1, Some(3))), []);
    let holder = that(&rig);
    assert_eq!(holder.attempts, Some(3));
    assert_eq!(holder.last_heard, Some(rig.now.0));
}

#[test]
fn a_second_holder_that_lists_nonsense_is_hung_up_on() {
    let most = outpost_proto::limits::HELD_ATTEMPTS + REMEMBERED;
    let all = u32::try_from(most).unwrap();
    for (pages, nonsense) in [
        (vec![page(2, Some(3))], true),
        (vec![page(1, Some(1)), page(0, Some(1))], true),
        (vec![page(1, Some(1)), page(0, None)], true),
        (vec![page(most + 1, None)], true),
        (vec![page(most, None), page(0, Some(all))], false),
        (vec![page(most - 1, None), page(1, Some(all))], false),
    ] {
        let (mut rig, _, copy) = copied();
        let said = rig.turn(&[copy.frame(pages)]);
        let closed = closes(&said) == [(copy.conn, CloseReason::Protocol)];
        assert_eq!(closed, nonsense, "{said:?}");
    }
}
