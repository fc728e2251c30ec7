//! The process of many simulated agents. It does what it is told on its standard input, one word a line, and says on
//! its standard output how many there are.

use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use outpost_proto::wire::{EnrolRequest, Issued};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::bare;
use crate::member::{Crowd, Member};
use crate::stream::{Connection, Credentials, tls};

const ENROL: &str = "/outpost.identity.v1.Identity/Enrol";
/// Enrolments on their way at once.
const ENROLLING: usize = 16;
/// How often a request for a certificate is made, and the pause between.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at the numbers.
const LOOK: Duration = Duration::from_millis(10);

/// What a crowd is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    /// Where agents connect.
    pub(crate) address: SocketAddr,
    /// The orchestrator's root, DER.
    pub(crate) root: Vec<u8>,
    /// The secret of each member's invitation.
    pub(crate) secrets: Vec<[u8; 32]>,
    /// The number of the first member.
    pub(crate) first: u64,
}

/// Enrols all members, waits for `go`, then connects them and keeps them connected.
pub(crate) async fn run(task: &Path) -> anyhow::Result<()> {
    let task: Task = serde_json::from_slice(&std::fs::read(task)?)?;
    let members = enrol(&task).await?;
    say("enrolled", members.len());
    wait_for_go().await?;
    let crowd = Arc::new(Crowd {
        reconciled: AtomicUsize::new(0),
        begun: Instant::now(),
    });
    let numbered = (task.first..).zip(members);
    for (number, tls) in numbered {
        let member = Member::new(number, Arc::clone(&crowd), task.address, tls);
        tokio::spawn(member.run());
    }
    count(&crowd.reconciled, "live").await
}

/// The same number of plain connections to the bare server, for `go`.
pub(crate) async fn run_bare(access: &Path, count_: usize) -> anyhow::Result<()> {
    let access: bare::Access = serde_json::from_slice(&std::fs::read(access)?)?;
    let clients = bare::clients(&access, count_)?;
    say("enrolled", clients.len());
    wait_for_go().await?;
    let answered = Arc::new(AtomicUsize::new(0));
    for (number, tls) in (0..).zip(clients) {
        let client = bare::client(number, access.address, tls, Arc::clone(&answered));
        tokio::spawn(client);
    }
    count(&answered, "live").await
}

async fn count(number: &AtomicUsize, word: &str) -> anyhow::Result<()> {
    let mut said = usize::MAX;
    loop {
        let now = number.load(Ordering::Relaxed);
        if now != said {
            say(word, now);
            said = now;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn wait_for_go() -> anyhow::Result<()> {
    let go = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        anyhow::ensure!(line.trim() == "go", "the benchmark went away");
        Ok(())
    });
    go.await.context("waiting for the word")?
}

/// One line that the benchmark reads.
fn say(word: &str, number: usize) {
    let mut out = std::io::stdout().lock();
    // Whoever does not listen any more has ended; so will this process, with its leash or its input.
    let _ = writeln!(out, "{word} {number}");
    let _ = out.flush();
}

async fn enrol(task: &Task) -> anyhow::Result<Vec<Arc<ClientConfig>>> {
    let plain = tls(&task.root, None)?;
    let mut enrolled = vec![None; task.secrets.len()];
    let mut running = JoinSet::new();
    let mut waiting = task.secrets.iter().copied().enumerate();
    loop {
        while running.len() < ENROLLING
            && let Some((place, secret)) = waiting.next()
        {
            let (address, plain, root) = (task.address, Arc::clone(&plain), task.root.clone());
            let number = task.first + u64::try_from(place)?;
            running.spawn(async move {
                let enrolled = enrol_one(number, address, plain, &root, secret).await;
                (place, enrolled)
            });
        }
        let Some(done) = running.join_next().await else {
            break;
        };
        let (place, config) = done?;
        if let Some(slot) = enrolled.get_mut(place) {
            *slot = Some(config?);
        }
    }
    enrolled
        .into_iter()
        .map(|config| config.context("a member was not enrolled"))
        .collect()
}

async fn enrol_one(
    number: u64,
    address: SocketAddr,
    plain: Arc<ClientConfig>,
    root: &[u8],
    secret: [u8; 32],
) -> anyhow::Result<Arc<ClientConfig>> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = EnrolRequest {
        token: secret,
        csr: params.serialize_request(&key)?.der().to_vec(),
    };
    let request = request.encode()?;
    let mut tries = 0;
    let issued = loop {
        let mut connection = Connection::establish(number, address, Arc::clone(&plain)).await?;
        match connection.unary(ENROL, &request).await {
            Ok(issued) => break issued,
            // The orchestrator bounds how many it issues at once; the same key may ask again.
            Err(error) if tries == TRIES => return Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
        tries += 1;
    };
    let issued = Issued::decode(&issued)?;
    let credentials = Credentials {
        chain: issued.chain,
        key: key.serialize_der(),
    };
    tls(root, Some(&credentials))
}

/// Where a crowd finds its task.
pub(crate) fn task_file(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("crowd-{number}.json"))
}
