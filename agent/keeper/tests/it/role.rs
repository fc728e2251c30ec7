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
        Some("peer") => peer(Path::new(&rest[0]), rest.get(1)),
        Some("listener") => listener(Path::new(&rest[0])),
        Some("tracer") => tracer(&rest[0]),
        Some("dialler") => dialler(&rest),
        Some("caller") => crate::calls::caller(&rest),
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

/// Somebody who connects to a socket, shows the token of the state directory if it is named, and asks for an answer:
/// `role peer SOCKET [STATE]`.
fn peer(socket: &Path, state: Option<&OsString>) -> ExitCode {
    let fd = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    let address = SocketAddrUnix::new(socket).unwrap();
    // A keeper's socket comes when its first runner goes; for a moment it has a name and nobody listens there yet.
    while let Err(error) = net::connect(&fd, &address) {
        use rustix::io::Errno;
        assert!(
            matches!(error, Errno::NOENT | Errno::CONNREFUSED),
            "{error}"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    if let Some(state) = state {
        let token = std::fs::read_to_string(Path::new(state).join("keepers.token")).unwrap();
        let shown = format!("\u{4}{{\"token\":\"{token}\"}}");
        let _ = net::send(&fd, shown.as_bytes(), SendFlags::NOSIGNAL);
    }
    let _ = net::send(&fd, b"\x01\"status\"", SendFlags::NOSIGNAL);
    let mut answer = [0; 1024];
    let answered =
        net::recv(&fd, &mut answer[..], RecvFlags::empty()).is_ok_and(|(len, _)| len > 0);
    println!("{}", if answered { "answered" } else { "refused" });
    ExitCode::SUCCESS
}

/// Somebody who listens in another's place until it is ended: `role listener SOCKET`. Says so by a file beside.
fn listener(socket: &Path) -> ExitCode {
    let fd = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    net::bind(&fd, &SocketAddrUnix::new(socket).unwrap()).unwrap();
    std::fs::set_permissions(socket, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    net::listen(&fd, 1).unwrap();
    std::fs::write(socket.with_file_name("listening"), "").unwrap();
    let _ = std::io::stdin().read_line(&mut String::new());
    ExitCode::SUCCESS
}

/// Somebody who traces a process and reads its memory: `role tracer PID`.
fn tracer(pid: &OsString) -> ExitCode {
    let pid: libc::pid_t = pid.to_str().unwrap().parse().unwrap();
    let say = |what: &str, done: bool| println!("{what} {}", if done { "done" } else { "refused" });
    // SAFETY: no memory of this process is involved; what was stopped goes on when this process ends.
    let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) } == 0;
    say("trace", seized);
    let mut byte = 0_u8;
    let local = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    // Where this program itself is mapped, as it is in a fork of it; elsewhere nothing may be there.
    let remote = libc::iovec {
        iov_base: (tracer as *const ()).cast_mut().cast(),
        iov_len: 1,
    };
    // SAFETY: both vectors describe one byte; the local one is a live variable.
    let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    let refused = std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
    say("read", read == 1 || !refused);
    ExitCode::SUCCESS
}

/// Somebody who connects to an abstract socket and to a named one: `role dialler NAME PATH`.
fn dialler(args: &[OsString]) -> ExitCode {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixStream};
    let address = SocketAddr::from_abstract_name(args[0].as_encoded_bytes()).unwrap();
    let say = |what: &str, done: bool| println!("{what} {}", if done { "done" } else { "refused" });
    say("abstract", UnixStream::connect_addr(&address).is_ok());
    say("named", UnixStream::connect(&args[1]).is_ok());
    ExitCode::SUCCESS
}
