//! Output: kept, capped, never in the task's way.

use outpost_agent_keeper::protocol::{Cause, Ended};

use crate::site::*;

fn kept(spec: &outpost_agent_keeper::protocol::StartSpec) -> (usize, u64) {
    let entries = std::fs::read_dir(&spec.dir).unwrap().map(Result::unwrap);
    let logs = entries.filter(|entry| entry.file_name().to_str().unwrap().starts_with("log."));
    logs.fold((0, 0), |(count, bytes), entry| {
        (count + 1, bytes + entry.metadata().unwrap().len())
    })
}

#[test]
fn k4_a_flood_is_capped_and_does_not_block_the_task() {
    let site = Site::new();
    let mut spec = site.script("head -c 200000000 /dev/zero; echo end");
    spec.log_max_bytes = 100_000;
    let record = expect(site.run(&spec), Ended::Exited(0), Cause::Own);
    assert_eq!(record.log_bytes, 200_000_004);
    let (files, bytes) = kept(&spec);
    assert!(
        files == 4 && bytes <= 100_000,
        "{files} files, {bytes} bytes"
    );
    let head = std::fs::read(spec.dir.join("log.0")).unwrap();
    let note = format!(
        "[outpost: {} bytes of output left out here]",
        record.log_dropped_bytes
    );
    assert!(String::from_utf8_lossy(&head).contains(&note));
    let newest = (0..)
        .take_while(|n| *n < 100_000)
        .filter(|n| spec.dir.join(format!("log.{n}")).exists())
        .max();
    let tail = std::fs::read(spec.dir.join(format!("log.{}", newest.unwrap()))).unwrap();
    assert!(tail.ends_with(b"\0end\n"), "the end of the output is kept");
}

#[test]
fn k4_a_task_that_closes_its_output_runs_on() {
    let site = Site::new();
    let spec = site.script("echo before; exec >&- 2>&-; sleep 0.2; exit 3");
    expect(site.run(&spec), Ended::Exited(3), Cause::Own);
    assert_eq!(read(&spec.dir.join("log.0")), "before\n");
}

#[test]
fn output_in_the_pipe_when_the_task_ends_is_kept() {
    let site = Site::new();
    let spec = site.script("head -c 60000 /dev/zero");
    let record = expect(site.run(&spec), Ended::Exited(0), Cause::Own);
    assert_eq!((record.log_bytes, kept(&spec).1), (60_000, 60_000));
}

#[test]
#[ignore = "needs: root"]
fn a_full_disk_drops_output_and_costs_neither_task_nor_record() {
    let site = Site::new();
    let mut spec = site.script("head -c 3000000 /dev/zero; exit 4");
    spec.log_max_bytes = 100 << 20;
    let mount = |args: &[&str]| {
        let done = std::process::Command::new("mount")
            .args(args)
            .arg(&spec.dir)
            .status()
            .unwrap();
        assert!(done.success());
    };
    mount(&["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs"]);
    let end = site.run(&spec);
    let read_back = outpost_agent_keeper::adopt::read_exit_record(&spec.dir);
    until("the unmount", || {
        std::process::Command::new("umount")
            .arg(&spec.dir)
            .status()
            .unwrap()
            .success()
            .then_some(())
    });
    let record = expect(end, Ended::Exited(4), Cause::Own);
    assert!(record.log_dropped_bytes > 1_500_000, "{record:?}");
    assert_eq!(read_back.unwrap(), Some(record));
}
