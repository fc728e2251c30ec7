//! N1 with the kernel's own network: a network namespace whose only link is taken down and up again. Nothing is closed,
//! nothing is told; packets of both sides are gone.

use std::process::Command;
use std::time::Duration;

use outpost_chaos::work::Asked;
use outpost_e2e::process::run;

use crate::{allow, field, holds, trigger};

/// Says that this process is in a namespace of its own already.
const INSIDE: &str = "OUTPOST_CHAOS_OWN_NETWORK";

/// Runs the test of this name again, in a network of its own, and sees it succeed there; `true` when this is there.
fn in_own_network(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        link("up");
        return true;
    }
    let mut again = Command::new("unshare");
    again
        .arg("--net")
        .arg(std::env::current_exe().unwrap_or_default());
    again.args(["--exact", test, "--include-ignored", "--nocapture"]);
    let status = again.env(INSIDE, "1").status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{test} failed in its own network"
    );
    false
}

fn link(state: &str) {
    let mut ip = Command::new("ip");
    ip.args(["link", "set", "lo", state]);
    let _ = run(ip).ok();
}

#[test]
#[ignore = "needs: root"]
fn n1_a_partition_of_five_seconds_loses_nothing_and_starts_nothing_twice() {
    if !in_own_network(
        "partition::n1_a_partition_of_five_seconds_loses_nothing_and_starts_nothing_twice",
    ) {
        return;
    }
    let field = field();
    let mut asked = Asked::default();
    let run = trigger(&field, &mut asked);
    let attempt = field.api.attempt_in(&run, "wait", "running");
    let (_, task) = field.agents[0].keeper_and_task(&attempt);
    // Its end falls into the partition; so does whatever was on the wire for this one.
    let second = trigger(&field, &mut asked);
    link("down");
    allow(&field, &run);
    std::thread::sleep(Duration::from_secs(5));
    assert!(!task.is_alive(), "it came to its end alone");
    link("up");
    allow(&field, &second);
    let _ = (field.api.succeeded(&run), field.api.succeeded(&second));
    assert_eq!(field.world.starts_of("wait"), 2);
    holds(&field, asked);
}
