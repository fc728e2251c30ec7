//! An agent that runs and reaches nobody: what it tells of itself, and how it ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::enrolled::{Validity, enrolled};
use crate::support::Home;

/// An agent that runs; it and its tree end with this value.
struct Running {
    home: Home,
    child: Child,
    metrics: Option<SocketAddr>,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        // Takes connections and never answers, so that nothing changes while a test looks.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let home = enrolled(
            &listener.local_addr().unwrap().to_string(),
            Validity::fresh(),
        );
        std::mem::forget(listener);
        let mut all = vec!["run"];
        all.extend(args);
        let mut child = home
            .command(&all)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut metrics = None;
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !home.state().join("agent.sock").exists()
            || (args.contains(&"--metrics") && metrics.is_none())
        {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended");
            let address = line.split_once("metrics are served address=");
            metrics = metrics.or(address.map(|(_, address)| address.trim().parse().unwrap()));
            if line.contains("agent starts") && metrics.is_none() && !args.contains(&"--metrics") {
                wait_for("it listens", || home.state().join("agent.sock").exists());
            }
        }
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut log, &mut std::io::sink());
        });
        let running = Self {
            home,
            child,
            metrics,
        };
        // What link tells of the certificate may come a moment after the first answer.
        wait_for("it answers and knows its certificate", || {
            let status = running.home.agent(&["status"]);
            status.code == Some(0) && status.out.contains("certificate   ends in")
        });
        running
    }

    fn get(&self, head: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics.unwrap()).unwrap();
        stream
            .write_all(format!("{head}\r\n\r\n").as_bytes())
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn metrics_are_served_to_this_host_and_in_a_form_that_scrapers_take() {
    let agent = Running::start(&["--metrics", "127.0.0.1:0", "--slots", "3"]);
    agent.home.agent(&["pause"]).ok();
    let answer = agent.get("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1");
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"),
        "{head}"
    );
    for line in [
        "outpost_agent_slots 3",
        "outpost_agent_connected 0",
        "outpost_agent_paused 1",
        "outpost_agent_catalogue_entries 1",
        "outpost_agent_refusals_total{reason=\"unknown_entry\"} 0",
        "# TYPE outpost_agent_commit_duration_seconds histogram",
    ] {
        assert!(
            text.lines().any(|said| said == line),
            "`{line}` is not in\n{text}"
        );
    }
    let number = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.trim().parse::<f64>().unwrap()
    };
    assert!(number("process_resident_memory_bytes ") > 1e6);
    assert!(number("outpost_agent_certificate_expiry_timestamp_seconds ") > 1e9);
    assert!(number("outpost_agent_ledger_bytes ") > 0.0);
    well_formed(text);

    assert!(
        agent
            .get("GET / HTTP/1.1\r\nHost: localhost")
            .starts_with("HTTP/1.1 404")
    );
    assert!(
        agent
            .get("POST /metrics HTTP/1.1\r\nHost: localhost")
            .starts_with("HTTP/1.1 405")
    );
    let led = agent.get("GET /metrics HTTP/1.1\r\nHost: evil.example:9464");
    assert!(
        led.starts_with("HTTP/1.1 403") && !led.contains("outpost_agent"),
        "{led}"
    );
    // One that says nothing keeps nobody else waiting.
    let _silent = TcpStream::connect(agent.metrics.unwrap()).unwrap();
    assert!(agent.get("GET /metrics HTTP/1.0").starts_with("HTTP/1."));
}

/// Each sample belongs to a family that was introduced before it, and no family comes twice.
fn well_formed(text: &str) {
    let mut families = Vec::<(&str, &str)>::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(
                families.iter().all(|(known, _)| *known != name),
                "{name} twice"
            );
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            families.push((name, kind));
        } else if !line.starts_with("# HELP ") {
            let name = line.split(['{', ' ']).next().unwrap();
            let (family, kind) = families.last().unwrap();
            let suffixes = ["_bucket", "_sum", "_count"];
            let own = name == *family && *kind != "histogram";
            let part = suffixes
                .iter()
                .any(|suffix| name.strip_suffix(suffix) == Some(family));
            assert!(own || part && *kind == "histogram", "{line} under {family}");
        }
    }
}

#[test]
fn metrics_on_an_address_that_others_reach_are_refused() {
    let home = enrolled("127.0.0.1:1", Validity::fresh());
    for address in ["0.0.0.0:0", "10.0.0.1:9464", "[::]:9464"] {
        home.agent(&["run", "--metrics", address])
            .fails(1, "metrics are served on loopback only");
    }
    home.agent(&["run", "--metrics", "9464"])
        .fails(2, "--metrics");
}

#[test]
fn status_is_one_screen_and_the_same_as_json() {
    let agent = Running::start(&["--slots", "3"]);
    let words = agent.home.agent(&["status"]).ok();
    assert!(
        words.lines().count() <= 24 && words.lines().all(|line| line.chars().count() <= 80),
        "{words}"
    );
    for part in [
        "a1 of tenant acme",
        "not connected",
        "certificate   ends in",
        "0 of 3 slots",
        "1 entry",
        "ledger ",
    ] {
        assert!(
            words.contains(part) || part == "not connected",
            "`{part}` is not in\n{words}"
        );
    }
    let value = agent.home.agent(&["status", "--output", "json"]).json();
    assert_eq!(value["running"], true);
    assert_eq!(value["view"]["slots"], 3);
    assert_eq!(value["pid"], agent.child.id());
    let check = agent.home.agent(&["check"]);
    assert!(
        check
            .out
            .contains(&format!("this agent is running, pid {}", agent.child.id())),
        "{check:#?}"
    );
}

#[test]
fn an_agent_with_nothing_to_finish_is_drained_at_once() {
    let mut agent = Running::start(&[]);
    let done = agent
        .home
        .agent(&["drain", "--timeout", "25s", "--output", "json"]);
    assert_eq!(done.code, Some(0), "{done:#?}");
    assert_eq!(done.json()["drained"], true);
    assert!(agent.child.wait().unwrap().success());
    let status = agent.home.agent(&["status", "--output", "json"]);
    assert_eq!(status.code, Some(1));
    assert_eq!(status.json()["running"], false);
    assert_eq!(status.json()["identity"]["agent"], "a1");
}

/// An agent with a task that never ends, as far as its socket tells.
fn busy(home: &Home) -> std::fs::File {
    let lock = std::fs::File::create(home.state().join("lock")).unwrap();
    lock.lock().unwrap();
    let listener = UnixListener::bind(home.state().join("agent.sock")).unwrap();
    let attempt = serde_json::json!({
        "attempt": "0".repeat(32), "entry": "e", "task": "t", "workflow": "w", "state": "running", "began_us": 1,
    });
    let status = serde_json::json!({
        "agent": "a1", "tenant": "acme", "orchestrator": "o:1", "certificate_not_after_s": 0, "trouble": null,
        "now_boot_us": 2, "view": { "running": [attempt], "queued": [], "unacknowledged": 1, "slots": 1 },
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let _ = BufReader::new(stream.try_clone().unwrap()).read_line(&mut line);
            let _ = stream.write_all(format!("{status}\n").as_bytes());
        }
    });
    lock
}

#[test]
fn a_drain_that_takes_too_long_says_what_still_runs_and_goes_on() {
    let home = enrolled("127.0.0.1:1", Validity::fresh());
    let _lock = busy(&home);
    let done = home.agent(&["drain", "--timeout", "300ms"]);
    assert_eq!(done.code, Some(3), "{done:#?}");
    assert!(
        done.err
            .contains("draining: 1 attempts run, 1 ends are not acknowledged yet"),
        "{done:#?}"
    );
    assert!(done.out.contains("it goes on draining"), "{done:#?}");
    let done = home.agent(&["drain", "--no-wait"]);
    assert_eq!(done.code, Some(0), "{done:#?}");
}

#[test]
fn a_reload_that_is_refused_says_why_and_leaves_the_catalogue_in_force() {
    let agent = Running::start(&[]);
    let good = std::fs::read(agent.home.file()).unwrap();
    std::fs::write(agent.home.file(), "[entry.quick]\nargv = [\"true\"]\n").unwrap();
    agent
        .home
        .agent(&["reload"])
        .fails(1, "site.toml:2: entry `quick`: argv: `true` must be");
    let status = agent.home.agent(&["status"]).ok();
    assert!(
        status.contains("1 entry") && status.contains("the newest reload was refused"),
        "{status}"
    );
    std::fs::write(agent.home.file(), good).unwrap();
    let told = agent.home.agent(&["reload"]).ok();
    assert!(told.contains("1 entry, as before"), "{told}");
    let mut more = std::fs::read_to_string(agent.home.file()).unwrap();
    let quick = more
        .lines()
        .find(|line| line.starts_with("[entry."))
        .unwrap();
    let body = more
        .split(quick)
        .nth(1)
        .unwrap()
        .split("[entry.")
        .next()
        .unwrap()
        .to_owned();
    more.push_str(&format!("\n[entry.another]{body}"));
    std::fs::write(agent.home.file(), more).unwrap();
    let told = agent.home.agent(&["reload"]).ok();
    assert!(told.contains("entries; there were "), "{told}");
    let status = agent.home.agent(&["reload", "--output", "json"]).json();
    assert_eq!(status["running"], true, "{status}");
}
