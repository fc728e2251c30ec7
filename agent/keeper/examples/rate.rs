//! How many keepers with a task that does nothing one spawner starts and ends in a second, beside the machine's own
//! limit: two slots on two threads, the runner's side reduced to what the protocol asks of it.
//!
//! `cargo run --release -p outpost-agent-keeper --example rate -- [TASKS] [auto|cgroup|pid_namespace|subreaper]`

use std::cell::RefCell;
use std::error::Error;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use outpost_agent_keeper::adopt::{KeeperClient, SpawnerClient};
use outpost_agent_keeper::exec::{Leash, SelfExec};
use outpost_agent_keeper::process::boot_time_us;
use outpost_agent_keeper::protocol::{FromKeeper, StartSpec, Want};
use outpost_agent_keeper::spawner;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "role") {
        return spawner::main(args.into_iter().skip(2));
    }
    match measure(&args) {
        Ok(text) => {
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &[OsString]) -> Fallible<String> {
    let text = |at: usize| args.get(at).and_then(|arg| arg.to_str());
    let tasks: u32 = text(0).unwrap_or("2000").parse()?;
    let want: Want = serde_json::from_value(text(1).unwrap_or("auto").into())?;
    let limit = per_second(tasks, |_, _| {
        let mut command = Command::new("/bin/true");
        command.stdin(Stdio::inherit()).stdout(Stdio::inherit());
        command.spawn()?.wait()?;
        Ok(())
    })?;
    let dir = std::env::temp_dir().join(format!("outpost-rate-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("attempts"))?;
    let exec = SelfExec {
        exe: std::env::current_exe()?,
        prefix: Vec::new(),
    };
    let (leash, holder) = Leash::pair()?;
    let rate = per_second(tasks, |thread, number| {
        thread_local! { static SLOT: RefCell<Option<(SpawnerClient, Option<KeeperClient>)>> = const { RefCell::new(None) }; }
        SLOT.with_borrow_mut(|slot| -> Fallible<()> {
            if slot.is_none() {
                *slot = Some((
                    SpawnerClient::connect_or_start(&dir, &exec, Some(&leash))?,
                    None,
                ));
            }
            let (spawner, keeper) = slot.as_mut().ok_or("a spawner")?;
            one(spawner, keeper, spec(&dir, thread, number, want)?)
        })
    });
    drop(holder);
    let rate = rate?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    std::fs::remove_dir_all(&dir)?;
    let ratio = rate / limit;
    Ok(format!(
        "posix_spawn {limit:.0}/s, keepers {rate:.0}/s, ratio {ratio:.3}"
    ))
}

fn per_second(tasks: u32, one: impl Fn(u32, u32) -> Fallible<()> + Sync) -> Fallible<f64> {
    let begun = Instant::now();
    std::thread::scope(|scope| -> Fallible<()> {
        let one = &one;
        let threads = [0, 1].map(|thread| {
            scope.spawn(move || (0..tasks / 2).try_for_each(|number| one(thread, number)))
        });
        for thread in threads {
            thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok(())
    })?;
    Ok(f64::from(tasks / 2 * 2) / begun.elapsed().as_secs_f64())
}

fn spec(dir: &Path, thread: u32, number: u32, want: Want) -> Fallible<Box<StartSpec>> {
    let attempt = format!("{:016x}{thread:08x}{number:08x}", boot_time_us());
    let own = dir.join("attempts").join(&attempt);
    Ok(Box::new(StartSpec {
        env: vec![
            ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
            ("OUTPOST_ATTEMPT".to_owned(), attempt.clone()),
        ],
        attempt,
        dir: own,
        about: None,
        make_cwd: true,
        argv: vec!["/bin/true".to_owned()],
        cwd: dir.join(format!("work-{thread}-{number}")),
        user: None,
        timeout_ms: Some(60_000),
        grace_ms: 300,
        stop_after_ms: None,
        lease_until_boot_us: boot_time_us() + 60_000_000,
        log_max_bytes: 1 << 20,
        log_files: 4,
        seal: None,
        containment: want,
        umask: 0o077,
        no_new_privs: true,
        wall: None,
        secrets: None,
    }))
}

/// Whether this was asked for.
fn is(word: &str) -> bool {
    std::env::args().any(|arg| arg == word)
}

/// One attempt, by the keeper of the last one if there is one.
fn one(
    spawner: &SpawnerClient,
    slot: &mut Option<KeeperClient>,
    spec: Box<StartSpec>,
) -> Fallible<()> {
    let keeper = match slot.take() {
        Some(keeper) => {
            keeper.next(&spec)?;
            keeper
        }
        None => {
            let keeper = spawner.start(spec)?;
            spawner.recv()?;
            if is("ahead") {
                // The next call hands over another one before it waits for this one.
                *slot = Some(keeper);
                return Ok(());
            }
            keeper
        }
    };
    loop {
        match keeper.recv()?.ok_or("the keeper is gone")? {
            FromKeeper::Starting | FromKeeper::GivenBack { .. } | FromKeeper::Running { .. } => {}
            FromKeeper::NotStarted { text, .. } => return Err(text.into()),
            FromKeeper::Finished(_) => {
                *slot = (!is("forked")).then_some(keeper);
                return Ok(());
            }
        }
    }
}
