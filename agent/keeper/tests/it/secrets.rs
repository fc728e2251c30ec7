//! Secrets as tasks find them: read by real programs, through real keepers, and gone afterwards.

use outpost_agent_keeper::protocol::{Cause, Ended, FromKeeper, ToKeeper, Want};
use outpost_agent_keeper::secrets::{
    Bundle, Delivery, FIRST_FD, Grant, MOST, Secrets, VALUE_BYTES,
};

use crate::site::{Site, expect, last, read};

fn grant(name: &str, delivery: Delivery) -> Grant {
    Grant {
        name: name.to_owned(),
        variable: format!("OUTPOST_SECRET_{}", name.to_uppercase()),
        delivery,
    }
}

fn secrets(site: &Site, attempt: &str, granted: &[(&str, Delivery, &[u8])]) -> Secrets {
    let values = granted.iter().map(|(_, _, value)| *value);
    Secrets {
        grants: granted
            .iter()
            .map(|(name, how, _)| grant(name, *how))
            .collect(),
        dir: Some(site.path(&format!("secrets-{attempt}"))),
        values: Bundle::seal(values).unwrap(),
    }
}

const TELL: &str = "cat <&$OUTPOST_SECRET_A >> told; echo >> told; cat $OUTPOST_SECRET_B >> told; echo >> told; \
                    echo $OUTPOST_SECRET_C >> told; ls /proc/self/fd | tr '\\n' ' ' >> fds; exit 7";

#[test]
fn a_task_reads_each_secret_however_it_is_contained_and_forked() {
    for containment in [Want::Subreaper, Want::PidNamespace] {
        for stop_after_ms in [None, Some(60_000)] {
            let site = Site::new();
            let mut spec = site.script(TELL);
            spec.containment = containment;
            spec.stop_after_ms = stop_after_ms;
            let granted: [(&str, Delivery, &[u8]); 3] = [
                ("a", Delivery::Fd, b"through a descriptor"),
                ("b", Delivery::File, b"in a file"),
                ("c", Delivery::Env, b"in a variable"),
            ];
            let secrets = secrets(&site, &spec.attempt, &granted);
            let dir = secrets.dir.clone().unwrap();
            spec.secrets = Some(secrets);
            let end = site.run(&spec);
            if matches!(&end, FromKeeper::NotStarted { .. }) && containment == Want::PidNamespace {
                // This host gives this account no user namespaces.
                continue;
            }
            expect(end, Ended::Exited(7), Cause::Own);
            assert_eq!(
                read(&site.path("told")),
                "through a descriptor\nin a file\nin a variable\n"
            );
            // What lists them has the directory itself open too.
            assert_eq!(read(&site.path("fds")).trim(), "0 1 2 3 4");
            assert!(!dir.exists(), "it goes with the attempt");
        }
    }
}

#[test]
fn the_most_and_the_longest_arrive_whole() {
    let site = Site::new();
    let last_fd = FIRST_FD + i32::try_from(MOST).unwrap() - 1;
    let mut spec = site.script(&format!(
        "for fd in $(seq {FIRST_FD} {last_fd}); do cat /dev/fd/$fd | wc -c >> sizes; done"
    ));
    let value = vec![b'x'; VALUE_BYTES];
    let names = (0..MOST).map(|n| format!("s{n}")).collect::<Vec<_>>();
    let granted = names
        .iter()
        .map(|name| (name.as_str(), Delivery::Fd, value.as_slice()));
    spec.secrets = Some(secrets(&site, &spec.attempt, &granted.collect::<Vec<_>>()));
    expect(site.run(&spec), Ended::Exited(0), Cause::Own);
    let sizes = read(&site.path("sizes"));
    let whole = sizes
        .lines()
        .filter(|line| line.trim() == VALUE_BYTES.to_string());
    assert_eq!(whole.count(), MOST, "{sizes}");
}

#[test]
fn a_keeper_that_goes_on_hands_over_the_next_attempts_own() {
    let site = Site::new();
    let text = "cat <&$OUTPOST_SECRET_A >> told; echo >> told";
    let one = |value: &[u8]| {
        let mut spec = site.script(text);
        spec.secrets = Some(secrets(&site, &spec.attempt, &[("a", Delivery::Fd, value)]));
        spec
    };
    let keeper = site.start(&one(b"first"));
    expect(last(&keeper), Ended::Exited(0), Cause::Own);
    assert!(keeper.hands_secrets());
    keeper.next(&one(b"second")).unwrap();
    expect(last(&keeper), Ended::Exited(0), Cause::Own);
    // And one that has none gets none.
    keeper
        .next(&site.script("ls /proc/self/fd | tr '\\n' ' ' > fds"))
        .unwrap();
    expect(last(&keeper), Ended::Exited(0), Cause::Own);
    assert_eq!(read(&site.path("told")), "first\nsecond\n");
    assert_eq!(read(&site.path("fds")).trim(), "0 1 2 3");
}

#[test]
fn without_its_values_or_its_directory_nothing_of_it_runs() {
    let site = Site::new();
    let mut spec = site.script("true");
    spec.secrets = Some(Secrets {
        values: Bundle::default(),
        ..secrets(&site, &spec.attempt, &[("a", Delivery::Env, b"x")])
    });
    let FromKeeper::NotStarted { text, .. } = site.run(&spec) else {
        panic!("it has no values");
    };
    assert!(text.contains("did not come"), "{text}");
    let mut spec = site.script("true");
    let mut granted = secrets(&site, &spec.attempt, &[("a", Delivery::File, b"canary")]);
    granted.dir = Some(site.path("no/such/parent"));
    spec.secrets = Some(granted);
    let FromKeeper::NotStarted { text, .. } = site.run(&spec) else {
        panic!("it has nowhere to put it");
    };
    assert!(text.contains("`a`") && !text.contains("canary"), "{text}");
    assert_eq!(site.starts(), 0);
}

#[test]
fn a_cancelled_task_leaves_no_file_and_no_value_in_its_keeper() {
    let site = Site::new();
    let mut spec = site.script("sleep 60");
    let granted: [(&str, Delivery, &[u8]); 2] =
        [("a", Delivery::File, b"x"), ("b", Delivery::Fd, b"y")];
    let granted = secrets(&site, &spec.attempt, &granted);
    let dir = granted.dir.clone().unwrap();
    spec.secrets = Some(granted);
    let keeper = site.start(&spec);
    loop {
        match keeper.recv().unwrap().unwrap() {
            FromKeeper::Running { .. } => break,
            FromKeeper::Starting => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(dir.join("a").exists());
    keeper.send(ToKeeper::Cancel).unwrap();
    let end = last(&keeper);
    assert!(matches!(end, FromKeeper::Finished(_)), "{end:?}");
    assert!(!dir.exists());
}
