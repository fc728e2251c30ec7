//! What this test binary does when it is started as a role and not as a test.
#![expect(
    unsafe_code,
    reason = "roles must run before the test harness starts a thread"
)]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use outpost_agent_keeper::adopt::{SpawnerClient, try_claim};
use outpost_agent_keeper::protocol::StartSpec;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};

/// Runs before `main`, in a process of one thread.
#[used]
#[unsafe(link_section = ".init_array")]
static AS_ROLE: extern "C" fn() = as_role;

extern "C" fn as_role() {
    let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let args = line
        .split(|byte| *byte == 0)
        .map(|arg| OsString::from_vec(arg.to_vec()));
    let mut args: Vec<OsString> = args.skip(1).collect();
    args.pop();
    if args.first().is_none_or(|first| first != "role") {
        return;
    }
    let rest = args.split_off(2);
    let code = match args[1].to_str() {
        Some("spawner") => outpost_agent_keeper::spawner::main(rest),
        Some("runner") => runner(&rest),
        Some("peer") => peer(Path::new(&rest[0])),
        Some("claimer") => claimer(Path::new(&rest[0])),
        _ => ExitCode::from(2),
    };
    std::process::exit(i32::from(code != ExitCode::SUCCESS));
}

/// A runner that starts one attempt and then does nothing but hold its connections: `role runner STATE SPEC`.
fn runner(args: &[OsString]) -> ExitCode {
    let spec = std::fs::read(PathBuf::from(&args[1])).unwrap();
    let spec: StartSpec = serde_json::from_slice(&spec).unwrap();
    let spawner = SpawnerClient::connect(Path::new(&args[0])).unwrap();
    let keeper = spawner.start(Box::new(spec)).unwrap();
    let _first = keeper.recv();
    loop {
        std::thread::park();
    }
}

/// A runner that makes the claim in a keeper's place and says who has it: `role claimer DIR`.
fn claimer(dir: &Path) -> ExitCode {
    println!("{:?}", try_claim(dir).unwrap());
    ExitCode::SUCCESS
}

/// Somebody who connects to a socket and asks for an answer: `role peer SOCKET`.
fn peer(socket: &Path) -> ExitCode {
    let fd = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    let address = SocketAddrUnix::new(socket).unwrap();
    // A keeper's socket comes when its first runner goes.
    while let Err(error) = net::connect(&fd, &address) {
        assert_eq!(error, rustix::io::Errno::NOENT);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let _ = net::send(&fd, b"\x01\"status\"", SendFlags::NOSIGNAL);
    let mut answer = [0; 1024];
    let answered =
        net::recv(&fd, &mut answer[..], RecvFlags::empty()).is_ok_and(|(len, _)| len > 0);
    println!("{}", if answered { "answered" } else { "refused" });
    ExitCode::SUCCESS
}
