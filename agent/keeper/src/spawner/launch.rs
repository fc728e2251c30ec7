//! Becoming the spawner: arguments, the lock, the socket, and a session of its own.
//!
//! `role spawner --state DIR [--leash-fd N] [--idle-ms N]`. The process that was started returns as soon as its child serves, so that
//! whoever started it knows the socket is there and has no child left to wait for.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use rustix::fs::FlockOperation;
use rustix::pipe::PipeFlags;

use super::{
    AsFd, File, Fork, Leash, OpenOptions, OpenOptionsExt, OwnedFd, Path, PathBuf, SOCKET, Spawner,
    Token, io, say, sys,
};

const LOCK: &str = "spawner.lock";
const LOG: &str = "spawner.log";
/// At start a log longer than this begins anew.
const LOG_BYTES: u64 = 1 << 20;

/// How long a spawner without keepers and connections stays: the next runner starts another.
const IDLE_MS: u64 = 600_000;

/// What the role is told.
pub(super) struct Options {
    pub(super) state: PathBuf,
    pub(super) leash: Option<Leash>,
    pub(super) idle_us: u64,
}

/// Why there is no spawner.
#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error("usage: role spawner --state DIR [--leash-fd N] [--idle-ms N]")]
    Usage,
    #[error("the leash cannot be taken")]
    Leash(#[source] io::Error),
    #[error("`{}` cannot be used: it must be a directory of the agent's own user", .0.display())]
    State(PathBuf, #[source] io::Error),
    #[error("the socket in `{}` cannot be made", .0.display())]
    Socket(PathBuf, #[source] io::Error),
    #[error("the spawner cannot be forked")]
    Fork(#[source] io::Error),
    #[error("the spawner ended before it served: see `{}`", .0.join(LOG).display())]
    Ended(PathBuf),
}

/// The role's entry: `args` are those after `role spawner`. Exit codes: 0 a spawner serves, 1 none, 2 wrong arguments.
///
/// Must be called before any thread is started.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match launch(args) {
        Ok(text) => {
            say(text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let cause = std::error::Error::source(&error)
                .map(|cause| format!(": {cause}"))
                .unwrap_or_default();
            say(&format!("{error}{cause}"));
            ExitCode::from(if matches!(error, LaunchError::Usage) {
                2
            } else {
                1
            })
        }
    }
}

fn launch(args: impl IntoIterator<Item = OsString>) -> Result<&'static str, LaunchError> {
    let options = parse(args)?;
    let state = options.state.clone();
    let at_state = |error: io::Error| LaunchError::State(state.clone(), error);
    let dir = crate::socket::open_dir(&state).map_err(at_state)?;
    let lock = own_file(&state.join(LOCK)).map_err(at_state)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::AGAIN) => return Ok("another spawner serves this state directory"),
        Err(errno) => return Err(at_state(errno.into())),
    }
    let log = own_file(&state.join(LOG)).map_err(at_state)?;
    if log
        .metadata()
        .is_ok_and(|metadata| metadata.len() > LOG_BYTES)
    {
        log.set_len(0).map_err(at_state)?;
    }
    let token = Token::make(&state).map_err(at_state)?;
    let listener = crate::socket::listen(dir.as_fd(), SOCKET, 16)
        .map_err(|error| LaunchError::Socket(state.clone(), error))?;
    let fork = |error: io::Error| LaunchError::Fork(error);
    let (ready, ready_end) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| fork(e.into()))?;
    match sys::fork().map_err(fork)? {
        Fork::Child => serve(options, (listener, token), &log, ready_end),
        Fork::Parent(_) => {
            drop(ready_end);
            let mut byte = [0; 1];
            match rustix::io::read(&ready, &mut byte) {
                Ok(1) => Ok("serving"),
                Ok(_) | Err(_) => Err(LaunchError::Ended(state)),
            }
        }
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Options, LaunchError> {
    let mut args = args.into_iter();
    let (mut state, mut leash, mut idle_ms) = (None, None, IDLE_MS);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(LaunchError::Usage)?;
        match flag.as_bytes() {
            b"--state" => state = Some(PathBuf::from(value)),
            b"--leash-fd" => {
                leash = Some(Leash::take(number(&value)?).map_err(LaunchError::Leash)?)
            }
            b"--idle-ms" => idle_ms = number(&value)?,
            _ => return Err(LaunchError::Usage),
        }
    }
    Ok(Options {
        state: state.ok_or(LaunchError::Usage)?,
        leash,
        idle_us: idle_ms.saturating_mul(1000),
    })
}

fn number<T: std::str::FromStr>(value: &OsStr) -> Result<T, LaunchError> {
    value
        .to_str()
        .and_then(|text| text.parse().ok())
        .ok_or(LaunchError::Usage)
}

fn own_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// The child: the spawner proper. The lock is inherited and ends with this process; keepers close it.
fn serve(options: Options, door: (OwnedFd, Token), log: &File, ready: OwnedFd) -> ! {
    let life = AssertUnwindSafe(|| try_serve(options, door, log, ready));
    let code = match std::panic::catch_unwind(life) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            say(&error.to_string());
            1
        }
        Err(_) => 101,
    };
    sys::exit_now(code)
}

fn try_serve(
    options: Options,
    (listener, token): (OwnedFd, Token),
    log: &File,
    ready: OwnedFd,
) -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::chdir(c"/")?;
    let _ = rustix::thread::set_name(crate::process::SPAWNER);
    sys::default_signals();
    // Before anything is forked: what a keeper costs beside this process.
    sys::memory::share_tables();
    sys::ignore(&[libc::SIGPIPE, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT]);
    let null = File::open("/dev/null")?;
    sys::put(null.as_fd(), 0)?;
    sys::put(log.as_fd(), 1)?;
    sys::put(log.as_fd(), 2)?;
    let mut spawner = Spawner::new(listener, token, options)?;
    rustix::io::write(&ready, b"r")?;
    drop(ready);
    spawner.serve();
    Ok(())
}
