//! Networks of their own for some agents, with the kernel's own packet filter before them.
//!
//! The harness runs in a network namespace that it made, so that whatever cables are in it are nobody else's. An agent on
//! an [`Island`] has a namespace besides, and one cable to the harness's. What the filter drops is gone: nothing is
//! closed, nobody is told, and both ends send it again until they give up.

use std::io;
use std::net::Ipv4Addr;
use std::process::{Child, Command, ExitCode, Stdio};

use outpost_e2e::process::run;
use outpost_e2e::wait::so;
use outpost_e2e::{eventually, site};

/// Says that this process is in a network of its own already.
const INSIDE: &str = "OUTPOST_CHAOS_OWN_NETWORK";
/// Where everybody in the harness's network and on its islands can be reached: of a range that is routed nowhere.
pub const MAINLAND: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// What it takes.
const TOOLS: [&str; 4] = ["ip", "nft", "nsenter", "unshare"];

/// Whether networks of their own can be had.
#[must_use]
pub fn can_have() -> bool {
    let there = |tool: &&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut dirs = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
        dirs.any(|dir| dir.join(tool).is_file())
    };
    site::is_root() && TOOLS.iter().all(there)
}

/// Whether this process is in one.
#[must_use]
pub fn is_own() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs this program again with the same arguments in a network of its own; `None` when this is there, or when there
/// can be none.
#[must_use]
pub fn again_in_own() -> Option<ExitCode> {
    if is_own() {
        settle();
        return None;
    }
    if !can_have() {
        return None;
    }
    let status = inside(std::env::args().skip(1));
    let code = status.ok().and_then(|status| status.code());
    let code = code.and_then(|code| u8::try_from(code).ok());
    Some(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Runs the test of this name again, in a network of its own, and sees it succeed there; `true` when this is there.
///
/// # Panics
/// When it fails there.
#[must_use]
pub fn test_in_own(test: &str) -> bool {
    if is_own() {
        settle();
        return true;
    }
    let args = ["--exact", test, "--include-ignored", "--nocapture"];
    let status = inside(args.map(str::to_owned).into_iter());
    assert!(
        status.is_ok_and(|status| status.success()),
        "{test} failed in its own network"
    );
    false
}

fn inside(args: impl Iterator<Item = String>) -> io::Result<std::process::ExitStatus> {
    let mut again = Command::new("unshare");
    again.arg("--net").arg(std::env::current_exe()?).args(args);
    again.env(INSIDE, "1").status()
}

/// Loopback, and the address that islands know.
fn settle() {
    loopback("up");
    let mut ip = Command::new("ip");
    ip.args(["address", "replace", &MAINLAND.to_string(), "dev", "lo"]);
    let _ = run(ip).ok();
}

/// Takes the network's own loopback up or down.
///
/// # Panics
/// When it cannot be done.
pub fn loopback(state: &str) {
    let mut ip = Command::new("ip");
    ip.args(["link", "set", "lo", state]);
    let _ = run(ip).ok();
}

/// What is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drops {
    /// Everything.
    Both,
    /// What the agent sends.
    Up,
    /// What is sent to it.
    Down,
}

/// A network with one cable to the harness's own; gone when it is dropped and nobody is in it any more.
#[derive(Debug)]
pub struct Island {
    /// Keeps it: ends with the harness, by the end of its standard input.
    holder: Child,
}

impl Island {
    /// The one with this number, from 1 to 250.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(number: u8) -> Self {
        let mut holder = Command::new("unshare");
        holder.args(["--net", "cat"]);
        holder.stdin(Stdio::piped()).stdout(Stdio::null());
        let holder = holder.spawn().expect("a process");
        let island = Self { holder };
        let own = std::fs::read_link("/proc/self/ns/net").expect("procfs");
        eventually("there is a network of its own", || {
            so(std::fs::read_link(island.path()).ok()? != own)
        });
        let cable = format!("cable{number}");
        let [near, far] = [1, 2].map(|end| Ipv4Addr::new(198, 18, number, end).to_string());
        let pid = island.holder.id().to_string();
        let steps = [
            format!("ip link add {cable} type veth peer name eth0 netns {pid}"),
            format!("ip address add {near}/30 dev {cable}"),
            format!("ip link set {cable} up"),
        ];
        for step in steps {
            let mut words = step.split(' ');
            let mut command = Command::new(words.next().unwrap_or_default());
            command.args(words);
            let _ = run(command).ok();
        }
        island.inside("ip link set lo up");
        island.inside(&format!("ip address add {far}/30 dev eth0"));
        island.inside("ip link set eth0 up");
        island.inside(&format!("ip route add default via {near}"));
        island.inside("nft add table inet chaos");
        for (chain, hook) in [("up", "output"), ("down", "input")] {
            let filter = format!("{{ type filter hook {hook} priority 0 ; }}");
            island.inside(&format!("nft add chain inet chaos {chain} {filter}"));
        }
        island
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// What begins a command that is to run there.
    #[must_use]
    pub fn enter(&self) -> String {
        format!("nsenter --net={}", self.path())
    }

    fn inside(&self, words: &str) {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path()));
        command.args(words.split(' '));
        let _ = run(command).ok();
    }

    /// Drops packets from now on.
    ///
    /// # Panics
    /// When it cannot be done.
    pub fn cut(&self, drops: Drops) {
        if drops != Drops::Down {
            self.inside("nft add rule inet chaos up oifname eth0 drop");
        }
        if drops != Drops::Up {
            self.inside("nft add rule inet chaos down iifname eth0 drop");
        }
    }

    /// Drops nothing any more.
    ///
    /// # Panics
    /// When it cannot be done.
    pub fn heal(&self) {
        self.inside("nft flush table inet chaos");
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
