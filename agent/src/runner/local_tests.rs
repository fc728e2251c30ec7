//! Asking over the real socket, with a loop that answers in the runner's place.

use std::os::unix::fs::MetadataExt;

use super::*;

fn answer_of(ask: Ask) -> Status {
    Status {
        agent: format!("{ask:?}"),
        tenant: "t".to_owned(),
        orchestrator: "o:1".to_owned(),
        certificate_not_after_s: 0,
        audit_keylog: None,
        network: Default::default(),
        sandbox: crate::sandbox::Reached::default(),
        separation: String::new(),
        site_keys: Vec::new(),
        trouble: None,
        now_boot_us: 1,
        version: String::new(),
        pid: 0,
        catalogue: InForce::default(),
        disk: Disk::default(),
        numbers: Numbers::default(),
        view: serde_json::Value::Null,
    }
}

/// Serves until `client`, on a thread of its own, is done; answers what it did and how many questions came through.
fn served<T: Send + 'static>(
    state: &StateDir,
    client: impl FnOnce(std::path::PathBuf) -> T + Send + 'static,
) -> (T, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let path = state.path().to_owned();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (inbox, mut happened) = mpsc::channel(8);
        serve(state, inbox).unwrap();
        let mut client = tokio::task::spawn_blocking(move || client(path));
        let mut asked = 0;
        loop {
            tokio::select! {
                Some(Happened::Local(ask, answer)) = happened.recv() => {
                    asked += 1;
                    answer.send(answer_of(ask)).unwrap();
                }
                done = &mut client => return (done.unwrap(), asked),
            }
        }
    })
}

#[test]
fn a_question_is_answered_and_only_this_account_can_ask() {
    let dir = crate::testing::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(150));
    let state = StateDir::create(&deep).unwrap();
    // What a dead runner left.
    std::fs::write(state.socket(), "").unwrap();
    let (answers, asked) = served(&state, |path| {
        [Ask::Status, Ask::Pause, Ask::Drain].map(|what| ask(&path, what).unwrap().agent)
    });
    assert_eq!(answers, ["Status", "Pause", "Drain"]);
    assert_eq!(asked, 3);
    let mode = state.socket().symlink_metadata().unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn nonsense_reaches_nobody_and_the_next_question_is_answered() {
    let dir = crate::testing::tempdir().unwrap();
    let state = StateDir::create(dir.path()).unwrap();
    let (left_open, asked) = served(&state, |path| {
        let send = |bytes: &[u8]| {
            let mut stream =
                std::os::unix::net::UnixStream::connect(path.join("agent.sock")).unwrap();
            // The other side may hang up before it has read everything.
            let _ = stream.write_all(bytes);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            answer
        };
        assert!(send(b"\"start\"\n").is_empty());
        assert!(send(&[b'x'; 100_000]).is_empty());
        assert!(send(b"\xff\xfe\n").is_empty());
        let silent = std::os::unix::net::UnixStream::connect(path.join("agent.sock")).unwrap();
        assert_eq!(ask(&path, Ask::Resume).unwrap().agent, "Resume");
        silent
    });
    drop(left_open);
    assert_eq!(asked, 1);
}

#[test]
fn k14_who_cannot_show_the_token_of_the_state_directory_reaches_nobody() {
    let dir = crate::testing::tempdir().unwrap();
    let state = StateDir::create(dir.path()).unwrap();
    std::fs::write(state.path().join(TOKEN), "of an earlier runner").unwrap();
    let (answers, asked) = served(&state, |path| {
        let token = Token::of(&path).unwrap();
        let asks = |question: &str, shown: &str| {
            let mut stream = connect(&path).unwrap();
            // The other side may hang up before it has read everything.
            let _ = stream.write_all(format!("{question}\n{shown}").as_bytes());
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            !answer.is_empty()
        };
        let shows = |shown: &str| asks("\"status\"", shown);
        let almost = token.replacen(|_: char| true, "x", 1);
        [
            shows(&format!("{token}\n")),
            // More than anybody asks.
            asks(
                &format!("\"status\"{}", " ".repeat(600)),
                &format!("{token}\n"),
            ),
            shows(""),
            shows("\n"),
            shows(&format!("{almost}\n")),
            shows(&token[..TOKEN_DIGITS - 1]),
            shows(&format!("{token}0\n")),
        ]
    });
    assert_eq!(answers, [true, false, false, false, false, false, false]);
    assert_eq!(asked, 1, "who shows nothing asks nothing");
    let mode = state.path().join(TOKEN).metadata().unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn without_a_runner_it_says_how_to_get_one() {
    let dir = crate::testing::tempdir().unwrap();
    let state = StateDir::create(dir.path()).unwrap();
    let why = format!("{:#}", ask(state.path(), Ask::Status).unwrap_err());
    assert!(why.contains("outpost-agent run"), "{why}");
}

/// As on a full disk: what an earlier runner left is better than none, if it is whole.
#[test]
fn k14_a_token_that_cannot_be_made_anew_is_the_earlier_one_or_none() {
    let dir = crate::testing::tempdir().unwrap();
    let state = StateDir::create(dir.path()).unwrap();
    std::fs::create_dir(state.path().join("agent.tmp")).unwrap();
    for short in ["", "0", &"0".repeat(TOKEN_DIGITS - 1)] {
        std::fs::write(state.path().join(TOKEN), short).unwrap();
        assert!(Token::new(&state).is_err(), "{short}");
    }
    let whole = "1".repeat(TOKEN_DIGITS);
    std::fs::write(state.path().join(TOKEN), &whole).unwrap();
    assert!(Token::new(&state).unwrap().is(&whole));
}

/// Names the state directory for a process that this test starts.
const AS_A_CHILD: &str = "OUTPOST_TEST_STATE_OF_PARENT";

/// What a runner started is a task, or started by one: also one that can show the token gets no answer.
#[test]
fn k14_a_process_below_the_runner_reaches_nobody() {
    if let Some(state) = std::env::var_os(AS_A_CHILD) {
        let state = Path::new(&state);
        assert!(connect(state).is_ok() && Token::of(state).is_ok_and(|token| !token.is_empty()));
        assert!(ask(state, Ask::Status).is_err(), "it was answered");
        return;
    }
    let dir = crate::testing::tempdir().unwrap();
    let state = StateDir::create(dir.path()).unwrap();
    let (child, asked) = served(&state, |path| {
        assert_eq!(ask(&path, Ask::Status).unwrap().agent, "Status");
        std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "runner::local::tests::k14_a_process_below_the_runner_reaches_nobody",
            ])
            .env(AS_A_CHILD, &path)
            .output()
            .unwrap()
    });
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{said}"
    );
    assert_eq!(asked, 1, "only this process");
}
