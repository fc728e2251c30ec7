//! What people ask for, what they get, and what they are told when they do not.

use std::collections::BTreeMap;

use crate::event::Applied;
use crate::spec::{Argument, ParamKind, ParamSpec};

use super::*;

fn apply(rig: &mut Rig, spec: WorkflowSpec, allow: bool) -> Result<Answer, Denied> {
    rig.ask(Ask::Apply {
        spec,
        source: "source".into(),
        allow_unknown_entries: allow,
        dry_run: false,
        expected_version: None,
    })
}

fn applied(version: u32, applied: Applied) -> Result<Answer, Denied> {
    Ok(Answer::Applied {
        version,
        applied,
        warnings: vec![],
    })
}

#[test]
fn versions_count_and_an_unchanged_workflow_makes_none() {
    let mut rig = Rig::new();
    rig.site("bank");
    let one = workflow("w", vec![task("a", "load", &[])]);
    let two = workflow("w", vec![task("a", "load", &[]), task("b", "load", &[])]);
    assert_eq!(
        apply(&mut rig, one.clone(), false),
        applied(1, Applied::Created)
    );
    assert_eq!(
        apply(&mut rig, one.clone(), false),
        applied(1, Applied::Unchanged)
    );
    let (run, _) = rig.trigger("w");
    assert_eq!(apply(&mut rig, two, false), applied(2, Applied::Updated));
    assert_eq!(apply(&mut rig, one, false), applied(3, Applied::Updated));
    assert_eq!(
        rig.mirror.runs[&run].version, 1,
        "a run stays with its version"
    );
    let kept: Vec<u32> = rig
        .core
        .durable()
        .workflows
        .iter()
        .map(|record| record.version)
        .collect();
    assert_eq!(kept, [1, 3]);
}

#[test]
fn all_entries_that_nobody_announces_are_named_at_once() {
    let mut rig = Rig::new();
    rig.site("bank");
    let tasks = vec![
        task("a", "load", &[]),
        task("b", "lord", &[]),
        task("c", "reprot", &[]),
        task("d", "lord", &[]),
    ];
    let denied = apply(&mut rig, workflow("w", tasks), false).unwrap_err();
    assert_eq!(
        denied.to_string(),
        "task `b` wants the catalogue entry `lord`, which no agent of this tenant announces (1 asked); neither \
         `reprot`, which task `c` wants; neither `lord`, which task `d` wants"
    );
}

#[test]
fn an_entry_nobody_announces_is_refused_once_there_is_somebody_to_ask() {
    let mut rig = Rig::new();
    let spec = workflow("w", vec![task("a", "laod", &[])]);
    let Ok(Answer::Applied { warnings, .. }) = apply(&mut rig, spec.clone(), false) else {
        panic!()
    };
    insta::assert_snapshot!(warnings.join("\n"), @"task `a` waits until an agent announces the catalogue entry `laod`: no agent of this tenant has announced a catalogue yet");
    rig.site("bank");
    let mut changed = spec;
    changed.description = "changed".into();
    let before = rig.mirror.clone();
    let denied = apply(&mut rig, changed.clone(), false).unwrap_err();
    insta::assert_snapshot!(denied, @"task `a` wants the catalogue entry `laod`, which no agent of this tenant announces (1 asked)");
    assert_eq!(rig.mirror, before, "nothing changed");
    let Ok(Answer::Applied {
        version: 2,
        warnings,
        ..
    }) = apply(&mut rig, changed, true)
    else {
        panic!()
    };
    insta::assert_snapshot!(warnings.join("\n"), @"task `a` waits until an agent announces the catalogue entry `laod`: the only agent that announced a catalogue does not have it");
}

#[test]
fn catalogues_outlive_a_restart() {
    let mut rig = Rig::new();
    rig.site("bank");
    rig.restart();
    assert_eq!(
        apply(&mut rig, workflow("w", vec![task("a", "load", &[])]), false),
        applied(1, Applied::Created)
    );
    assert!(apply(&mut rig, workflow("v", vec![task("a", "laod", &[])]), false).is_err());
}

fn with_params() -> WorkflowSpec {
    let mut load = task("a", "load", &[]);
    load.with.insert(name("day"), Argument::Param(name("day")));
    load.with
        .insert(name("always"), Argument::Value(ParamValue::Integer(7)));
    let mut spec = workflow("w", vec![load]);
    let mut param = |text: &str, kind, default| {
        spec.params.insert(name(text), ParamSpec { kind, default });
    };
    param("day", ParamKind::Date, None);
    param("full", ParamKind::Flag, Some(ParamValue::Flag(false)));
    param(
        "size",
        ParamKind::Int { min: 1, max: 9 },
        Some(ParamValue::Integer(5)),
    );
    param(
        "zone",
        ParamKind::Enum {
            values: vec!["eu".into(), "us".into()],
        },
        Some(ParamValue::Text("eu".into())),
    );
    param(
        "note",
        ParamKind::Text { max_length: 3 },
        Some(ParamValue::Text(String::new())),
    );
    spec
}

fn trigger_with(
    rig: &mut Rig,
    params: &[(&str, ParamValue)],
    key: Option<&str>,
) -> (Result<Answer, Denied>, Vec<Speech>) {
    let params = params
        .iter()
        .map(|(param, value)| (name(param), value.clone()))
        .collect();
    rig.ask_in(
        "acme",
        Ask::Trigger {
            workflow: name("w"),
            params,
            key: key.map(str::to_owned),
        },
    )
}

fn text(value: &str) -> ParamValue {
    ParamValue::Text(value.to_owned())
}

#[test]
fn parameters_are_filled_in_and_resolved_for_the_task() {
    let mut rig = Rig::new();
    rig.site("bank");
    rig.apply(with_params());
    let (answer, said) = trigger_with(&mut rig, &[("day", text("2024-02-29"))], None);
    let Ok(Answer::Triggered { run, .. }) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(rig.mirror.runs[&run].params.len(), 5);
    let given = &assigns(&said)[0].parameters;
    assert_eq!(
        given[..],
        [
            (name("always"), ParamValue::Integer(7)),
            (name("day"), text("2024-02-29"))
        ]
    );
}

#[test]
fn a_parameter_that_does_not_fit_is_refused_in_a_sentence() {
    let mut rig = Rig::new();
    rig.site("bank");
    rig.apply(with_params());
    let day = ("day", text("2024-02-29"));
    let cases: Vec<Vec<(&str, ParamValue)>> = vec![
        vec![],
        vec![("day", text("2023-02-29"))],
        vec![("day", text("2023-2-1"))],
        vec![day.clone(), ("dya", text("x"))],
        vec![day.clone(), ("full", ParamValue::Integer(1))],
        vec![day.clone(), ("size", ParamValue::Integer(10))],
        vec![day.clone(), ("zone", text("\u{1b}[31m"))],
        vec![day, ("note", text("four"))],
    ];
    let before = rig.mirror.clone();
    let told: Vec<String> = cases
        .iter()
        .map(|params| {
            trigger_with(&mut rig, params, None)
                .0
                .unwrap_err()
                .to_string()
        })
        .collect();
    assert_eq!(rig.mirror, before, "nothing changed");
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn the_same_key_makes_the_same_run_once_for_a_day() {
    let mut rig = Rig::new();
    rig.apply(workflow("w", vec![task("a", "load", &[])]));
    rig.apply(workflow("v", vec![task("a", "load", &[])]));
    let Ok(Answer::Triggered { run, created: true }) = trigger_with(&mut rig, &[], Some("k")).0
    else {
        panic!()
    };
    rig.restart();
    assert_eq!(
        trigger_with(&mut rig, &[], Some("k")).0,
        Ok(Answer::Triggered {
            run,
            created: false
        })
    );
    let other = Ask::Trigger {
        workflow: name("v"),
        params: BTreeMap::new(),
        key: Some("k".into()),
    };
    assert_eq!(rig.ask(other), Err(Denied::KeyReused));
    assert!(matches!(
        trigger_with(&mut rig, &[], Some("")).0,
        Err(Denied::Limit(_))
    ));
    // Also by a clock that was put forward by a day.
    rig.now = rig.now.plus_ms(24 * 3_600_000);
    rig.restart();
    rig.pass_ms(60_000);
    assert_eq!(
        trigger_with(&mut rig, &[], Some("k")).0,
        Ok(Answer::Triggered {
            run,
            created: false
        })
    );
    rig.pass_ms(24 * 3_600_000);
    assert!(matches!(
        trigger_with(&mut rig, &[], Some("k")).0,
        Ok(Answer::Triggered { created: true, .. })
    ));
}

#[test]
fn a_token_is_bound_to_the_first_key() {
    let mut rig = Rig::new();
    rig.enrol("bank");
    let enrolled = Ok(Answer::Enrolled {
        tenant: name("acme"),
        agent: name("bank"),
    });
    let before = rig.mirror.clone();
    assert_eq!(
        rig.enrol_with("token of bank", "key"),
        enrolled,
        "a crash can retry"
    );
    assert_eq!(
        rig.enrol_with("token of bank", "another key"),
        Err(Denied::BadToken)
    );
    assert_eq!(rig.enrol_with("never made", "key"), Err(Denied::BadToken));
    assert_eq!(rig.mirror, before, "nothing changed");
    let again = Ask::Invite {
        agent: name("bank"),
        token_hash: "second".into(),
        ttl_ms: 1000,
    };
    assert_eq!(
        rig.ask(again.clone()),
        Err(Denied::AgentExists(name("bank")))
    );
    rig.ask(Ask::RemoveAgent {
        agent: name("bank"),
    })
    .unwrap();
    assert_eq!(
        rig.enrol_with("token of bank", "key"),
        Err(Denied::BadToken),
        "removal ends the invitation"
    );
    rig.ask(again).unwrap();
    assert_eq!(rig.enrol_with("second", "another key"), enrolled);
}

#[test]
fn a_token_expires_and_a_newer_one_replaces_it() {
    let mut rig = Rig::new();
    let invite = |token: &str, ttl_ms| Ask::Invite {
        agent: name("bank"),
        token_hash: token.into(),
        ttl_ms,
    };
    assert!(matches!(
        rig.ask(invite("long", 600_001)),
        Err(Denied::Limit(_))
    ));
    rig.ask(invite("one", 1000)).unwrap();
    rig.ask(invite("two", 1000)).unwrap();
    assert_eq!(rig.enrol_with("one", "key"), Err(Denied::BadToken));
    rig.pass_ms(1000);
    assert_eq!(rig.enrol_with("two", "key"), Err(Denied::BadToken));
    assert_eq!(rig.core.next_deadline(), None, "nothing is left of it");
}

#[test]
fn a_tenant_cannot_reach_another() {
    let mut rig = Rig::new();
    rig.site("bank");
    rig.apply(workflow("w", vec![task("a", "load", &[])]));
    let (run, _) = rig.trigger("w");
    let before = rig.mirror.clone();
    let trigger = Ask::Trigger {
        workflow: name("w"),
        params: BTreeMap::new(),
        key: None,
    };
    assert_eq!(
        rig.ask_in("other", trigger).0,
        Err(Denied::UnknownWorkflow(name("w")))
    );
    assert_eq!(
        rig.ask_in("other", Ask::Cancel { run }).0,
        Err(Denied::UnknownRun(run))
    );
    assert_eq!(
        rig.ask_in("other", Ask::Explain { run }).0,
        Err(Denied::UnknownRun(run))
    );
    assert_eq!(
        rig.ask_in("other", Ask::Agents).0,
        Ok(Answer::Agents(vec![]))
    );
    let remove = Ask::RemoveAgent {
        agent: name("bank"),
    };
    assert_eq!(
        rig.ask_in("other", remove).0,
        Err(Denied::UnknownAgent(name("bank")))
    );
    assert_eq!(rig.mirror, before, "asking about nothing makes no tenant");
}

#[test]
fn the_calendar_has_its_days() {
    for date in ["2024-02-29", "2000-02-29", "2023-12-31", "0001-01-01"] {
        assert!(outpost_proto::units::is_date(date), "{date}");
    }
    for date in [
        "2023-02-29",
        "1900-02-29",
        "2023-04-31",
        "2023-13-01",
        "2023-00-10",
        "2023-1-1",
        "2023/01/01",
        "+023-01-01",
        "2023-01-00",
        "２０２３-01",
    ] {
        assert!(!outpost_proto::units::is_date(date), "{date}");
    }
}
