//! Who gets what, and when: priorities, limits, queues, labels, affinity, slots.

use crate::event::AgentChange;
use crate::spec::Affinity;

use super::*;

/// A workflow of so many tasks that need nothing.
fn wide(text: &str, tasks: u16) -> WorkflowSpec {
    let tasks = (0..tasks).map(|n| task(&format!("t{n}"), "load", &[]));
    workflow(text, tasks.collect())
}

fn placed(said: &[Speech]) -> Vec<(RunId, u16)> {
    let placed = assigns(said);
    placed
        .iter()
        .map(|assign| (assign.run, assign.task.0))
        .collect()
}

fn configure(rig: &mut Rig, agent: &str, change: AgentChange) -> Vec<Speech> {
    let ask = Ask::ConfigureAgent {
        agent: name(agent),
        change,
    };
    let (answer, said) = rig.ask_in("acme", ask);
    assert!(matches!(answer, Ok(Answer::Agent(_))), "{answer:?}");
    said
}

fn slots(limit: u16) -> AgentChange {
    AgentChange {
        slots_limit: Some(Some(limit)),
        ..AgentChange::default()
    }
}

fn labels(pairs: &[(&str, &str)]) -> crate::label::Labels {
    let pairs = pairs.iter().map(|(key, value)| (name(key), name(value)));
    pairs.collect()
}

fn labelled(pairs: &[(&str, &str)]) -> AgentChange {
    AgentChange {
        labels: Some(labels(pairs)),
        ..AgentChange::default()
    }
}

/// What is placed next when the oldest attempt of a site succeeds.
fn next(rig: &mut Rig, site: &mut Site, given: &mut Vec<Assign>) -> Vec<(RunId, u16)> {
    let first = given.remove(0);
    let said = site.ends(rig, first.attempt, Outcome::Succeeded);
    given.extend(assigns(&said));
    placed(&said)
}

#[test]
fn the_higher_priority_comes_first_and_equals_in_the_order_of_their_runs() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    configure(&mut rig, "bank", slots(1));
    for (text, priority) in [("low", -5), ("plain", 0), ("high", 9)] {
        let mut spec = wide(text, 1);
        spec.priority = priority;
        rig.apply(spec);
    }
    let mut urgent = wide("mixed", 2);
    urgent.tasks[1].priority = Some(100);
    rig.apply(urgent);
    let (first, said) = rig.trigger("plain");
    let mut given = assigns(&said);
    assert_eq!(placed(&said), [(first, 0)]);
    let mut runs = Vec::new();
    for text in ["low", "plain", "plain", "high", "mixed"] {
        rig.pass_ms(1);
        runs.push(rig.trigger(text).0);
    }
    let order: Vec<_> = (0..6)
        .map(|_| next(&mut rig, &mut site, &mut given).remove(0))
        .collect();
    let [low, older, newer, high, mixed] = runs[..] else {
        panic!()
    };
    assert_eq!(
        order,
        [
            (mixed, 1),
            (high, 0),
            (older, 0),
            (newer, 0),
            (mixed, 0),
            (low, 0)
        ]
    );
}

#[test]
fn a_limit_holds_up_its_own_tasks_and_nobody_elses() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut narrow = wide("narrow", 3);
    narrow.max_active_tasks = Some(1);
    narrow.priority = 50;
    rig.apply(narrow);
    rig.apply(wide("plain", 2));
    let (one, said) = rig.trigger("narrow");
    let mut given = assigns(&said);
    assert_eq!(placed(&said), [(one, 0)]);
    let (two, said) = rig.trigger("plain");
    given.extend(assigns(&said));
    assert_eq!(placed(&said), [(two, 0), (two, 1)], "past a blocked head");
    assert_eq!(next(&mut rig, &mut site, &mut given), [(one, 1)]);
    assert_eq!(next(&mut rig, &mut site, &mut given), []);
    assert_eq!(next(&mut rig, &mut site, &mut given), []);
    assert_eq!(next(&mut rig, &mut site, &mut given), [(one, 2)]);
}

#[test]
fn a_tasks_own_limit_counts_over_all_runs() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut spec = wide("w", 2);
    spec.tasks[0].max_active = Some(1);
    rig.apply(spec);
    let (one, said) = rig.trigger("w");
    let mut given = assigns(&said);
    let (two, said) = rig.trigger("w");
    given.extend(assigns(&said));
    assert_eq!(placed(&said), [(two, 1)]);
    assert_eq!(given[0].run, one);
    // An attempt that failed for good frees its place as well.
    let said = site.ends(&mut rig, given[0].attempt, Outcome::Failed);
    assert_eq!(placed(&said), [(two, 0)]);
}

#[test]
fn runs_beyond_the_limit_wait_whole_and_begin_in_order() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut spec = workflow("w", vec![task("a", "load", &[]), task("b", "load", &[0])]);
    spec.max_active_runs = Some(1);
    rig.apply(spec);
    let (one, said) = rig.trigger("w");
    let mut given = assigns(&said);
    let mut waiting = Vec::new();
    for _ in 0..2 {
        rig.pass_ms(1);
        let (run, said) = rig.trigger("w");
        assert_eq!(placed(&said), []);
        waiting.push(run);
    }
    assert_eq!(next(&mut rig, &mut site, &mut given), [(one, 1)]);
    rig.restart();
    let items = vec![site.item(&given[0], AttemptState::Running, site.event_seq)];
    assert_eq!(
        placed(&site.connect(&mut rig, items)),
        [],
        "after a restart too"
    );
    assert_eq!(next(&mut rig, &mut site, &mut given), [(waiting[0], 0)]);
    rig.ask(Ask::Cancel { run: waiting[1] }).unwrap();
    let said = rig.ask_in("acme", Ask::Cancel { run: waiting[0] }).1;
    assert_eq!(directives(&said), [Directive::Cancel(given[0].attempt)]);
    assert_eq!(next(&mut rig, &mut site, &mut given), []);
    let (run, said) = rig.trigger("w");
    assert_eq!(placed(&said), [(run, 0)]);
    assert!(rig.mirror.runs[&run].started_at.is_some());
    assert_eq!(rig.mirror.runs[&waiting[1]].started_at, None);
}

#[test]
fn the_limits_of_the_newest_version_count_for_all_runs() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    site.slots = 8;
    site.connect(&mut rig, vec![]);
    let mut spec = wide("w", 4);
    spec.max_active_tasks = Some(1);
    rig.apply(spec.clone());
    let (run, said) = rig.trigger("w");
    let mut given = assigns(&said);
    assert_eq!(given.len(), 1);
    spec.max_active_tasks = Some(2);
    spec.tasks[1].max_active = Some(1);
    let said = rig.ask_in("acme", applying(spec.clone())).1;
    assert_eq!(placed(&said), [(run, 1)], "more at once");
    given.extend(assigns(&said));
    rig.pass_ms(1);
    let (other, said) = rig.trigger("w");
    assert_eq!(placed(&said), []);
    spec.max_active_tasks = None;
    let said = rig.ask_in("acme", applying(spec.clone())).1;
    let all_but_its_limited_task = [(run, 2), (run, 3), (other, 0), (other, 2), (other, 3)];
    assert_eq!(placed(&said), all_but_its_limited_task);
    given.extend(assigns(&said));
    spec.tasks[1].max_active = None;
    let said = rig.ask_in("acme", applying(spec.clone())).1;
    assert_eq!(placed(&said), [(other, 1)]);
}

#[test]
fn queues_and_labels_choose_the_agent_and_a_run_asks_for_all_of_them() {
    let mut rig = Rig::new();
    let (_, _) = (rig.site("bank"), rig.site("plant"));
    let mut spec = wide("w", 2);
    spec.selector.0 = labels(&[("zone", "eu")]);
    spec.tasks[1].selector.0 = labels(&[("disk", "fast")]);
    spec.tasks[1].queue = Some(name("big"));
    rig.apply(spec);
    let (run, said) = rig.trigger("w");
    assert_eq!(placed(&said), []);
    assert_eq!(
        placed(&configure(&mut rig, "bank", labelled(&[("zone", "eu")]))),
        []
    );
    let both = labelled(&[("zone", "eu"), ("disk", "fast")]);
    assert_eq!(placed(&configure(&mut rig, "plant", both)), []);
    let queues = Some([name("big"), name("default")].into());
    let change = AgentChange {
        queues,
        ..AgentChange::default()
    };
    assert_eq!(
        placed(&configure(&mut rig, "plant", change)),
        [(run, 0), (run, 1)]
    );
    assert_eq!(rig.mirror.runs[&run].agent, Some(name("plant")));
    rig.restart();
    let view = rig.ask(Ask::Agents);
    let Ok(Answer::Agents(views)) = view else {
        panic!()
    };
    assert_eq!(views[1].queues, [name("big"), name("default")].into());
    assert_eq!(views[1].labels, labels(&[("disk", "fast"), ("zone", "eu")]));
}

#[test]
fn without_affinity_each_task_goes_its_own_way() {
    let mut rig = Rig::new();
    let (mut bank, mut plant) = (rig.site("bank"), rig.site("plant"));
    configure(&mut rig, "plant", labelled(&[("disk", "fast")]));
    let mut spec = workflow(
        "w",
        vec![
            task("a", "load", &[]),
            task("b", "load", &[]),
            task("c", "load", &[0, 1]),
        ],
    );
    spec.affinity = Affinity::None;
    spec.tasks[2].selector.0 = labels(&[("disk", "fast")]);
    rig.apply(spec);
    let (run, said) = rig.trigger("w");
    let given = assigns(&said);
    let at = |rig: &Rig, assign: &Assign| rig.attempt(assign.attempt).agent.clone();
    assert_eq!(at(&rig, &given[0]), name("bank"));
    assert_eq!(at(&rig, &given[1]), name("plant"), "the most room");
    assert_eq!(rig.mirror.runs[&run].agent, None);
    bank.ends(&mut rig, given[0].attempt, Outcome::Succeeded);
    let said = plant.ends(&mut rig, given[1].attempt, Outcome::Succeeded);
    assert_eq!(at(&rig, &assigns(&said)[0]), name("plant"));
}

#[test]
fn a_limit_on_slots_is_what_the_agent_may_hold() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(wide("w", 6));
    configure(&mut rig, "bank", slots(1));
    let (_, said) = rig.trigger("w");
    let mut given = assigns(&said);
    assert_eq!(given.len(), 1);
    let said = configure(&mut rig, "bank", slots(9));
    assert_eq!(
        assigns(&said).len(),
        3,
        "its own two slots and as many in advance"
    );
    given.extend(assigns(&said));
    configure(&mut rig, "bank", slots(0));
    for _ in 0..4 {
        assert_eq!(next(&mut rig, &mut site, &mut given), []);
    }
    let unlimited = AgentChange {
        slots_limit: Some(None),
        ..AgentChange::default()
    };
    assert_eq!(assigns(&configure(&mut rig, "bank", unlimited)).len(), 2);
}

#[test]
fn a_run_waits_for_an_entry_its_agent_took_back_without_holding_up_others() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow(
        "w",
        vec![
            task("a", "load", &[]),
            task("b", "once", &[0]),
            task("c", "load", &[0]),
        ],
    ));
    let (run, said) = rig.trigger("w");
    let first = assigns(&said).remove(0);
    let full = site.catalogue();
    let UpMessage::Catalogue(mut less) = full.clone() else {
        panic!()
    };
    less.version = CatalogueVersion(2);
    let hash = EntryHash::new(&site.spiffe_id(), &name::<EntryName>("once"));
    less.entries.retain(|entry| entry.hash != hash);
    site.says(&mut rig, UpMessage::Catalogue(less));
    let said = site.ends(&mut rig, first.attempt, Outcome::Succeeded);
    assert_eq!(
        placed(&said),
        [(run, 2)],
        "past the one that is not announced"
    );
    assert_eq!(placed(&site.says(&mut rig, full)), [(run, 1)]);
}

#[test]
fn however_often_an_agent_announces_in_a_turn_who_can_take_what_is_looked_at_once() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    configure(&mut rig, "bank", slots(1));
    for (entry, _) in ENTRIES {
        let mut spec = workflow(entry, vec![task("a", entry, &[])]);
        spec.affinity = Affinity::None;
        rig.apply(spec);
        rig.trigger(entry);
    }
    let full = site.catalogue();
    let none = UpMessage::Catalogue(Catalogue {
        version: CatalogueVersion(2),
        entries: Vec::new(),
    });
    let flips = (0..64).map(|n| if n % 2 == 0 { &none } else { &full });
    let flips: Vec<UpMessage> = flips.cloned().collect();
    let made = |rig: &Rig| -> u32 {
        let tenants = rig.core.tenants.values();
        tenants.map(|tenant| tenant.places.pools.made()).sum()
    };
    let before = made(&rig);
    rig.turn(&[site.frame(flips.clone()), site.frame(flips)]);
    assert_eq!(made(&rig), before);
    site.says(&mut rig, none);
    assert!(made(&rig) > before, "it is looked at");
}

/// How many heads one more end looks at while so many tasks wait.
fn looked_at(waiting: u16, change: impl Fn(&mut WorkflowSpec)) -> u64 {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut spec = wide("w", 100);
    change(&mut spec);
    rig.apply(spec);
    let mut given = Vec::new();
    for _ in 0..waiting / 100 {
        given.extend(assigns(&rig.trigger("w").1));
        rig.pass_ms(1);
    }
    let before = rig.looked();
    next(&mut rig, &mut site, &mut given);
    rig.looked() - before
}

#[test]
fn what_waits_costs_nothing() {
    type Change = fn(&mut WorkflowSpec);
    let changes: [Change; 5] = [
        |_| {},
        |spec| spec.max_active_runs = Some(1),
        |spec| spec.max_active_tasks = Some(1),
        |spec| spec.tasks[0].max_active = Some(1),
        |spec| spec.affinity = Affinity::None,
    ];
    for change in changes {
        let (few, many) = (looked_at(300, change), looked_at(3_000, change));
        assert_eq!(few, many, "heads looked at for one end");
        assert!(few <= 8, "{few}");
    }
}
