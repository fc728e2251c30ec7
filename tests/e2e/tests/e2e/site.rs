//! What the site can rely on: no listener, and numbers that mean something.

use outpost_e2e::wait::so;
use outpost_e2e::{eventually, eventually_within, procs};
use std::time::Duration;

use crate::kills::one_running;

#[test]
fn no_process_of_the_agent_listens_on_tcp() {
    let (world, agent, _, _, attempt) = one_running(0);
    let (keeper, task) = agent.keeper_and_task(&attempt);
    let listening = procs::listening_tcp();
    let listens = |pid| {
        let own = procs::sockets(pid);
        let found = listening.iter().filter(|(inode, _)| own.contains(inode));
        found
            .map(|(_, address)| address.clone())
            .collect::<Vec<_>>()
    };
    let orchestrator = world.orchestrator.process().pid;
    assert_eq!(
        listens(orchestrator).len(),
        2,
        "the test looks at the right place"
    );
    let processes = agent.processes();
    for part in [
        &agent.runner(),
        &agent.link(),
        &agent.spawner(),
        &keeper,
        &task,
    ] {
        assert!(
            processes.iter().any(|process| process.pid == part.pid),
            "{part:?}"
        );
    }
    for process in processes {
        assert_eq!(listens(process.pid), Vec::<String>::new(), "{process:?}");
    }
}

#[test]
fn the_memory_number_of_heartbeats_moves_when_memory_is_used() {
    let (_world, agent, api, _, _) = one_running(0);
    let reported = || api.agent(&agent.name)?["memory_percent"].as_u64();
    let before = eventually("a heartbeat told it", || {
        reported().filter(|percent| *percent > 0)
    });
    let total = meminfo("MemTotal:");
    let mut held = vec![touched(total / 8)];
    eventually_within(Duration::from_secs(60), "the number follows", || {
        assert_eq!(held[0][4096], 1);
        // Others on this machine may give back meanwhile what they had.
        let available = meminfo("MemAvailable:");
        let used = (total - available.min(total)) * 100 / total;
        if used < before + 8 && held.len() < 16 && available > total / 4 {
            held.push(touched(total / 64));
        }
        so(reported()? >= before + 6)
    });
}

/// So many KiB, every page of which is touched: only then it is memory.
fn touched(kib: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(kib * 1024).unwrap()];
    bytes.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    bytes
}

fn meminfo(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
