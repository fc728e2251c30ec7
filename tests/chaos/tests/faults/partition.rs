//! N1 with the kernel's own network: a network namespace whose only link is taken down and up again. Nothing is closed,
//! nothing is told; packets of both sides are gone.

use std::time::Duration;

use outpost_chaos::field::Field;
use outpost_chaos::network::{Drops, loopback, test_in_own};
use outpost_chaos::work::Asked;
use outpost_e2e::eventually;
use outpost_e2e::wait::so;

use crate::{allow, field, holds, trigger};

#[test]
#[ignore = "needs: root"]
fn n1_a_partition_of_five_seconds_loses_nothing_and_starts_nothing_twice() {
    if !test_in_own(
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
    loopback("down");
    allow(&field, &run);
    std::thread::sleep(Duration::from_secs(5));
    assert!(!task.is_alive(), "it came to its end alone");
    loopback("up");
    allow(&field, &second);
    let _ = (field.api.succeeded(&run), field.api.succeeded(&second));
    assert_eq!(field.world.starts_of("wait"), 2);
    holds(&field, asked);
}

#[test]
#[ignore = "needs: root"]
fn n1_packets_that_a_filter_drops_one_way_or_both_lose_nothing_and_start_nothing_twice() {
    if !test_in_own(
        "partition::n1_packets_that_a_filter_drops_one_way_or_both_lose_nothing_and_start_nothing_twice",
    ) {
        return;
    }
    let field = Field::new(2);
    let (place, island) = field.islands.iter().next().expect("nft is there");
    let name = &field.agents[*place].name;
    let mut asked = Asked::default();
    for drops in [Drops::Both, Drops::Up, Drops::Down] {
        // One of them is on the island, the other one is not.
        let runs = [0, 1].map(|_| field.api.trigger("long", &serde_json::json!({})));
        let running = runs
            .clone()
            .map(|run| field.api.attempt_in(&run, "one", "running"));
        island.cut(drops);
        eventually("both tasks come to their end", || {
            let keepers = field.agents.iter().flat_map(|agent| agent.find_keepers());
            so(keepers.count() == 0)
        });
        let over = |run: &String| {
            let tree = field.api.run(run);
            tree.is_some_and(|tree| tree["state"] != "running")
        };
        // What it says may still get out.
        if drops != Drops::Down {
            assert!(!runs.iter().all(over), "{name} is cut off, {drops:?}");
        }
        island.heal();
        for (run, attempt) in runs.iter().zip(&running) {
            let tree = field.api.succeeded(run);
            let attempts = outpost_e2e::api::attempts_of(&tree, "one");
            assert_eq!(attempts.len(), 1, "{tree:#}");
            assert_eq!(attempts[0]["attempt"], attempt.as_str(), "{tree:#}");
        }
        asked.acknowledged.extend(runs);
    }
    holds(&field, asked);
}
