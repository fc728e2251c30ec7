//! Whole trees: whatever a task does with its processes, none is left when it counts as over.

use outpost_agent_keeper::protocol::{Cause, Containment, Ended, ToKeeper, Want};

use crate::site::*;

/// Ignores TERM, forks twice into a new session with an empty environment, and goes on in the foreground.
const STUBBORN: &str = r#"
trap "" TERM
echo $$ >> pids
setsid sh -c 'env -i sh -c "trap \"\" TERM; echo \$\$ >> pids; while :; do sleep 1000; done" & exit 0'
(setsid sh -c 'trap "" TERM; echo $$ >> pids; while :; do sleep 1000; done' &)
while :; do sleep 1000; done
"#;

fn k2_cancel_ends_every_process(want: Want, expected: Containment) {
    let site = Site::new();
    let mut spec = site.script(STUBBORN);
    spec.containment = want;
    let keeper = site.start(&spec);
    let processes = inside(&site, want, 3);
    let asked = std::time::Instant::now();
    keeper.send(ToKeeper::Cancel).unwrap();
    let record = expect(last(&keeper), Ended::Signalled(9), Cause::Cancelled);
    assert!(
        all_dead(&processes),
        "reported as cancelled while something lived"
    );
    assert!(
        asked.elapsed().as_secs() < 60,
        "something but the grace was waited for: {:?}",
        asked.elapsed()
    );
    assert_eq!(record.containment, Some(expected));
    assert_eq!(site.starts(), 1);
}

/// The processes of a script. Ids written inside a pid namespace mean nothing outside: there all below init are taken.
fn inside(site: &Site, want: Want, count: usize) -> Vec<outpost_agent_keeper::process::ProcessRef> {
    if want != Want::PidNamespace {
        return site.processes(count);
    }
    site.lines("pids", count);
    let marked = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let cwd = std::fs::read_link(entry.path().join("cwd")).ok()?;
            (cwd == site.dir.path().canonicalize().unwrap()).then_some(pid)
        });
    let found: Vec<_> = marked
        .filter_map(outpost_agent_keeper::process::ProcessRef::of)
        .collect();
    assert!(found.len() >= count, "{found:?}");
    found
}

#[test]
fn k2_cancel_ends_every_process_below_a_subreaper() {
    k2_cancel_ends_every_process(Want::Subreaper, Containment::Subreaper);
}

#[test]
#[ignore = "needs: root"]
fn k2_cancel_ends_every_process_of_a_cgroup() {
    k2_cancel_ends_every_process(Want::Cgroup, Containment::Cgroup);
}

#[test]
#[ignore = "needs: user and pid namespaces"]
fn k2_cancel_ends_every_process_of_a_pid_namespace() {
    k2_cancel_ends_every_process(Want::PidNamespace, Containment::PidNamespace);
}

fn what_is_left_behind_is_ended(want: Want) {
    let site = Site::new();
    let mut spec = site.script("(setsid sh -c 'trap \"exit 0\" TERM; echo $$ >> pids; while :; do sleep 0.05; done' &)\nuntil [ -s pids ]; do sleep 0.02; done; until [ -e go ]; do sleep 0.02; done; exit 6");
    spec.containment = want;
    spec.grace_ms = 120_000;
    let keeper = site.start(&spec);
    let processes = inside(&site, want, 1);
    std::fs::write(site.path("go"), "").unwrap();
    let asked = std::time::Instant::now();
    // The outcome is the first process's own.
    expect(last(&keeper), Ended::Exited(6), Cause::Own);
    assert!(all_dead(&processes));
    assert!(
        asked.elapsed().as_secs() < 60,
        "TERM was enough, KILL was waited for"
    );
}

#[test]
fn what_a_task_leaves_behind_is_ended_before_it_counts_as_over() {
    what_is_left_behind_is_ended(Want::Auto);
    what_is_left_behind_is_ended(Want::Subreaper);
}

#[test]
#[ignore = "needs: user and pid namespaces"]
fn what_a_task_leaves_behind_in_a_pid_namespace_is_ended() {
    what_is_left_behind_is_ended(Want::PidNamespace);
}

#[test]
fn k1_a_fork_bomb_is_ended() {
    let site = Site::new();
    // Bounded in number, so that a failure does not take the machine down.
    let bomb = "trap '' TERM; n=0; while [ $n -lt 300 ]; do n=$((n+1)); (while :; do (sleep 0.01); done) & [ $n = 50 ] && echo $$ >> pids; done; wait";
    let mut spec = site.script(bomb);
    spec.containment = Want::Subreaper;
    spec.grace_ms = 50;
    let keeper = site.start(&spec);
    let processes = site.processes(1);
    keeper.send(ToKeeper::Cancel).unwrap();
    let record = finished(last(&keeper));
    assert_eq!(record.cause, Cause::Cancelled);
    assert!(all_dead(&processes));
    assert!(nobody_works_in(&site), "something lived on");
}

/// Whether no process has the site's directory as its working directory.
fn nobody_works_in(site: &Site) -> bool {
    let dir = site.dir.path().canonicalize().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    !entries
        .into_iter()
        .any(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir))
}

#[test]
#[ignore = "needs: root"]
fn k3_a_process_that_leaves_the_cgroup_is_ended_all_the_same() {
    let site = Site::new();
    let text = "root=$(grep -o ' /[^ ]* .* - cgroup2' /proc/self/mountinfo | head -1 | cut -d' ' -f3); [ -n \"$root\" ] || exit 9
(setsid sh -c \"trap '' TERM; echo 0 > $root/cgroup.procs; grep '^0::' /proc/self/cgroup >> left; echo \\$\\$ >> pids; while :; do sleep 1000; done\" &)
while :; do sleep 1000; done";
    let mut spec = site.script(text);
    spec.containment = Want::Cgroup;
    let keeper = site.start(&spec);
    let processes = site.processes(1);
    assert!(
        !read(&site.path("left")).contains("outpost-"),
        "it did leave: {}",
        read(&site.path("left"))
    );
    keeper.send(ToKeeper::Cancel).unwrap();
    finished(last(&keeper));
    assert!(all_dead(&processes));
}

#[test]
#[ignore = "needs: root"]
fn a_cgroup_leaf_is_removed_and_the_keeper_is_not_in_it() {
    let site = Site::new();
    let mut spec = site.script(
        "cat /proc/self/cgroup; mkdir -p $(echo below); until [ -e go ]; do sleep 0.02; done",
    );
    spec.containment = Want::Cgroup;
    let keeper = site.start(&spec);
    running(&keeper);
    let record = keeper_of(&spec);
    let leaf = record.cgroup.unwrap();
    let name = format!("{}-{}", record.keeper.pid, record.keeper.start_time);
    assert!(leaf.ends_with(format!("tasks/{name}")));
    let members = read(&leaf.join("cgroup.procs"));
    assert!(!members.is_empty());
    assert!(
        !members
            .lines()
            .any(|pid| pid == record.keeper.pid.to_string()),
        "the keeper is in its task's cgroup"
    );
    let keepers = leaf.parent().unwrap().parent().unwrap().join("keepers");
    assert!(
        read(&keepers.join("cgroup.procs"))
            .lines()
            .any(|pid| pid == record.keeper.pid.to_string())
    );
    std::fs::write(site.path("go"), "").unwrap();
    finished(last(&keeper));
    // Empty, it serves the keeper's next task; one in which a task left something is made anew.
    assert_eq!(read(&leaf.join("cgroup.procs")), "");
    let mut next = site.script(&format!(
        "cat /proc/self/cgroup; mkdir {}/below",
        leaf.display()
    ));
    next.containment = Want::Cgroup;
    keeper.next(&next).unwrap();
    finished(last(&keeper));
    assert!(read(&next.dir.join("log.0")).contains(&format!("tasks/{name}\n")));
    assert!(!leaf.exists());
    let mut third = site.script("true");
    third.containment = Want::Cgroup;
    keeper.next(&third).unwrap();
    finished(last(&keeper));
    assert!(leaf.exists());
    drop(keeper);
    until("the leaf's end", || (!leaf.exists()).then_some(()));
    drop(site);
    assert!(!keepers.exists(), "the spawner leaves its cgroup behind");
}

#[test]
#[ignore = "needs: root"]
fn a_controller_that_is_handed_down_is_in_nobodys_way() {
    let site = Site::new();
    site.spawner();
    let mut spec = site.script("until [ -e go ]; do sleep 0.02; done");
    spec.containment = Want::Cgroup;
    let keeper = site.start(&spec);
    running(&keeper);
    let leaf = keeper_of(&spec).cgroup.unwrap();
    let (tasks, base) = (
        leaf.parent().unwrap(),
        leaf.parent().unwrap().parent().unwrap(),
    );
    let own = base.parent().unwrap();
    let controllers = read(&own.join("cgroup.controllers"));
    let controller = controllers
        .split_whitespace()
        .next()
        .expect("no controller to hand down");
    for node in [own, base, tasks] {
        std::fs::write(
            node.join("cgroup.subtree_control"),
            format!("+{controller}"),
        )
        .unwrap();
    }
    // A further start works although no inner node may hold a process now.
    let second = site.script("exit 0");
    expect(site.run(&second), Ended::Exited(0), Cause::Own);
    std::fs::write(site.path("go"), "").unwrap();
    finished(last(&keeper));
}

#[test]
#[ignore = "needs: user and pid namespaces"]
fn a_pid_namespace_hides_everybody_else() {
    let site = Site::new();
    let mut spec = site.script("echo $$; ls /proc | grep -c '^[0-9]'; exit 8");
    spec.containment = Want::PidNamespace;
    let record = expect(site.run(&spec), Ended::Exited(8), Cause::Own);
    assert_eq!(record.containment, Some(Containment::PidNamespace));
    let log = read(&spec.dir.join("log.0"));
    assert_eq!(log.lines().next(), Some("2"), "{log}");
}
