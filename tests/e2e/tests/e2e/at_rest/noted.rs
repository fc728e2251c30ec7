//! What the agent itself noted of encrypted logs: it speaks when everything else that does was changed.

use super::*;

#[test]
fn a_log_that_was_cut_with_its_record_and_the_journal_is_named_by_what_the_agent_noted() {
    let world = World::new();
    let api = world.api();
    let (mut agent, _) = sealing(&world, "site-1");
    let _ = api.apply("name: one\ntasks:\n  t: {entry: quick}\n").ok();
    let run = api.trigger("one", &json!({}));
    let _ = api.succeeded(&run);
    let whole = attempt_of(&api, &run, "t");
    let _ = api.apply(TWO).ok();
    let run = api.trigger("two", &json!({}));
    let killed = api.attempt_in(&run, "first", "running");
    eventually("its log is live", || {
        agent.output(&killed).contains(CANARY).then_some(())
    });
    agent.keeper_and_task(&killed).0.kill();
    let book = agent.state.join("book");
    let noted = |attempt: &str| {
        let text = std::fs::read_to_string(&book).unwrap();
        text.contains(&format!("{{\"over\":{{\"attempt\":\"{attempt}\""))
    };
    eventually("both ends are noted", || {
        (noted(&whole) && noted(&killed)).then_some(())
    });
    world.allow("go.first");
    world.allow("go.second");
    assert_eq!(agent.terminate_within(Duration::from_secs(20)), Some(0));
    let aside = agent.state.join("journal.aside");
    std::fs::rename(agent.state.join("journal"), &aside).unwrap();
    let says = |attempt: &str, code: i32, why: &str| {
        let done = agent.command(&["logs", attempt]);
        assert_eq!(done.code, Some(code), "{done:?}");
        assert!(done.err.contains(why), "{done:?}");
    };
    says(&whole, 0, "");
    says(&killed, 0, "ended by force");

    let attempts = agent.state.join("attempts");
    let of = |attempt: &str, name: &str| attempts.join(attempt).join(name);
    let before = (
        std::fs::read(of(&whole, "log.0")).unwrap(),
        std::fs::read(of(&whole, "claim")).unwrap(),
        std::fs::read(of(&killed, "log.0")).unwrap(),
        std::fs::read(&book).unwrap(),
    );
    // Without its last frame, and without the line of the record that says that there was one.
    std::fs::write(of(&whole, "log.0"), &before.0[..before.0.len() - 36]).unwrap();
    rewrite(&of(&whole, "claim"), &|_, record| {
        (!record.starts_with("{\"exit\"")).then(|| record.to_owned())
    });
    says(
        &whole,
        1,
        "with its attempt's end on record, and now there is",
    );
    // A log that has no end anyway.
    std::fs::write(of(&killed, "log.0"), &before.2[..before.2.len() - 1]).unwrap();
    says(
        &killed,
        1,
        "the agent noted a log, encrypted, that ends at byte",
    );
    std::fs::write(of(&killed, "log.0"), &before.2).unwrap();

    // What was taken away is not believed to have said nothing, and what was changed not at all.
    std::fs::remove_file(&book).unwrap();
    says(&whole, 0, "have no word of this attempt");
    let mut changed = before.3.clone();
    let at = changed.len() / 2;
    changed[at] ^= 1;
    std::fs::write(&book, &changed).unwrap();
    says(&killed, 1, "is not what the agent noted there");
    std::fs::write(&book, &before.3).unwrap();
    std::fs::write(of(&whole, "log.0"), &before.0).unwrap();
    std::fs::write(of(&whole, "claim"), &before.1).unwrap();
    says(&whole, 0, "");

    // The next life takes it up, and so does one with another key.
    let other = book.with_file_name("other.key");
    let _ = agent
        .command(&["site-key", "new", "--out", &name_of(&other)])
        .ok();
    agent.env[0].1 = format!("{}:{}", name_of(&other), agent.env[0].1);
    std::fs::rename(&aside, agent.state.join("journal")).unwrap();
    agent.start();
    agent.live(&api);
    std::fs::write(of(&whole, "log.0"), &before.0[..before.0.len() - 36]).unwrap();
    let done = agent.command(&["logs", &whole]);
    assert_eq!(done.code, Some(1), "{done:?}");
    std::fs::write(of(&killed, "log.0"), &before.2[..before.2.len() - 1]).unwrap();
    let error = agent.command(&["logs", &killed]).fails_with(1);
    assert!(error.contains("the agent noted"), "{error}");
}
