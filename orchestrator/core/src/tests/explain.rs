//! Every reason there is, as people read it.

use super::*;

fn explained(rig: &mut Rig, run: RunId) -> String {
    let Ok(Answer::Explained(tasks)) = rig.ask(Ask::Explain { run }) else {
        panic!()
    };
    let lines = tasks.iter().map(|task| {
        format!(
            "{} {} [{}] {}",
            task.task, task.state, task.code, task.reason
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn before_it_is_placed() {
    let mut rig = Rig::new();
    let mut told = Vec::new();
    rig.apply(workflow(
        "w",
        vec![task("a", "load", &[]), task("b", "once", &[0])],
    ));
    rig.apply(workflow("v", vec![task("a", "lost", &[])]));
    let (run, _) = rig.trigger("w");
    let (other, _) = rig.trigger("v");
    told.push(explained(&mut rig, run));
    rig.enrol("bank");
    told.push(explained(&mut rig, other));
    let mut site = Site::new("bank");
    site.flags.paused = true;
    site.connect(&mut rig, vec![]);
    told.push(explained(&mut rig, run));
    let hinder: [fn(&mut Flags); 3] = [
        |f| f.draining = true,
        |f| f.observe = true,
        |f| f.hold = true,
    ];
    for hinder in hinder {
        site.flags = Flags::default();
        hinder(&mut site.flags);
        site.beats(&mut rig);
        told.push(explained(&mut rig, run));
    }
    rig.pass_ms(31_000);
    told.push(explained(&mut rig, run));
    rig.pass_ms(31_000);
    told.push(explained(&mut rig, run));
    site.connect(&mut rig, vec![]);
    rig.turn(&[site.close()]);
    told.push(explained(&mut rig, run));
    insta::assert_snapshot!(told.join("\n\n"));
}

#[test]
fn once_it_is_placed() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    site.slots = 1;
    site.connect(&mut rig, vec![]);
    let mut told = Vec::new();
    let mut retried = task("a", "load", &[]);
    retried.retry = Retry {
        retries: 2,
        delay_ms: 8000,
        max_delay_ms: 8000,
    };
    rig.apply(workflow(
        "w",
        vec![
            retried,
            task("b", "once", &[]),
            task("c", "load", &[]),
            task("d", "load", &[1]),
        ],
    ));
    let (run, said) = rig.trigger("w");
    let given = assigns(&said);
    rig.pass_ms(1500);
    told.push(explained(&mut rig, run));
    site.says(&mut rig, UpMessage::Ack(given[1].command_seq));
    site.tells(&mut rig, given[0].attempt, AttemptState::Starting);
    told.push(explained(&mut rig, run));
    site.tells(&mut rig, given[0].attempt, AttemptState::Running);
    site.tells(&mut rig, given[1].attempt, AttemptState::Running);
    rig.pass_ms(3000);
    told.push(explained(&mut rig, run));
    site.ends(&mut rig, given[0].attempt, Outcome::Failed);
    told.push(explained(&mut rig, run));
    site.ends(&mut rig, given[1].attempt, Outcome::Failed);
    told.push(explained(&mut rig, run));
    insta::assert_snapshot!(told.join("\n\n"));
}

#[test]
fn when_it_cannot_go_on_by_itself() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut told = Vec::new();
    rig.apply(workflow(
        "w",
        vec![task("a", "once", &[]), task("b", "once", &[])],
    ));
    let (run, said) = rig.trigger("w");
    let given = assigns(&said);
    site.tells(&mut rig, given[0].attempt, AttemptState::Running);
    rig.ask(Ask::Cancel { run }).unwrap();
    told.push(explained(&mut rig, run));
    rig.turn(&[site.close()]);
    rig.pass_ms(180_000);
    told.push(explained(&mut rig, run));

    let (run, _) = rig.trigger("w");
    site.connect(&mut rig, vec![]);
    rig.ask(Ask::RemoveAgent {
        agent: name("bank"),
    })
    .unwrap();
    told.push(explained(&mut rig, run));
    insta::assert_snapshot!(told.join("\n\n"));
}
