//! The server's own certificate on both ports: issued anew at a third of its life, when the wall clock was set, or on
//! SIGHUP, without a restart.
//!
//! The agents' port always presents a certificate of our own authority, because agents recognise nothing else. The API
//! can present one that was brought along; its files are read again when they change. Connections that exist keep what
//! they were made with; agents make another in time.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use outpost_certs::ca::Authority;
use outpost_certs::issue::ServerIdentity;
use outpost_certs::receipt::Signer;
use outpost_certs::tls::{ReloadingServerConfig, Serving, api_server_config, server_config};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::args::CertificateArgs;
use super::micros;
use crate::driver::Handle;

/// Until the next try when one could not be issued; a tenth of its life where that is shorter.
const RETRY: Duration = Duration::from_secs(60);
/// How often it is looked whether files that were brought along have changed, and whether the wall clock was set.
const LOOK: Duration = Duration::from_secs(10);
/// Less than validity begins before the time of issue.
const SAME_TIME: Duration = Duration::from_secs(5 * 60);

/// Where a certificate for the API is that was brought along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Brought {
    /// PEM: leaf first, then the intermediates.
    pub(crate) chain: PathBuf,
    /// PEM; readable by its owner alone.
    pub(crate) key: PathBuf,
}

/// The configurations that both ports serve under.
pub(crate) struct ServerTls {
    authority: Arc<Authority>,
    names: Vec<String>,
    life: Duration,
    brought: Option<Brought>,
    /// What the files were when they were read last.
    seen: Option<[Stamp; 2]>,
    /// Of the certificate on the agents' port.
    not_after: SystemTime,
    /// When that was issued, by both clocks.
    issued: (SystemTime, Instant),
    pub(crate) agents: Arc<ReloadingServerConfig>,
    pub(crate) api: Arc<ReloadingServerConfig>,
}

/// A file as it was: device, inode, length and time of the last change.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

type Config = Arc<rustls::ServerConfig>;

/// What was made anew. The API's certificate may be one that was brought along, and unreadable.
struct Fresh {
    not_after: SystemTime,
    agents: Serving,
    api: Result<Config, String>,
}

impl ServerTls {
    /// Issues the first certificate, and reads what was brought along.
    ///
    /// # Errors
    /// What could not be issued or read, and why.
    pub(crate) fn new(
        authority: Arc<Authority>,
        names: Vec<String>,
        args: &CertificateArgs,
    ) -> Result<Self, String> {
        let (life, brought) = (args.server_cert_ttl, args.brought());
        let seen = brought.as_ref().map(stamps);
        let issued = (SystemTime::now(), Instant::now());
        let fresh = issue(&authority, &names, life, brought.as_ref())?;
        Ok(Self {
            authority,
            names,
            life,
            brought,
            seen,
            not_after: fresh.not_after,
            issued,
            agents: Arc::new(ReloadingServerConfig::new(fresh.agents)),
            api: Arc::new(ReloadingServerConfig::new(fresh.api?)),
        })
    }

    /// Keeps both ports' certificates fresh until `stop`.
    pub(crate) async fn keep_fresh(mut self, handle: Handle, stop: CancellationToken) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => Some(hangup),
            Err(error) => {
                error!(%error, "SIGHUP cannot be listened to; certificates are replaced in time all the same");
                None
            }
        };
        self.tell(&handle);
        let mut next = Instant::now() + self.life / 3;
        loop {
            let why = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = told(&mut hangup) => "SIGHUP",
                () = sleep_until(next) => "a third of its life is over",
                () = self.files_change() => "its files have changed",
                () = self.clock_is_set() => "the wall clock was set",
            };
            next = Instant::now() + self.replace(why);
            self.tell(&handle);
        }
    }

    /// Replaces what both ports present; answers after which time it is to be done again.
    fn replace(&mut self, why: &str) -> Duration {
        self.seen = self.brought.as_ref().map(stamps);
        self.issued = (SystemTime::now(), Instant::now());
        let brought = self.brought.as_ref();
        let error = match issue(&self.authority, &self.names, self.life, brought) {
            Ok(fresh) => {
                self.agents.replace(fresh.agents);
                self.not_after = fresh.not_after;
                info!(why, "the server's certificate was replaced");
                match fresh.api {
                    Ok(api) => {
                        self.api.replace(api);
                        return self.life / 3;
                    }
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        error!(
            why,
            error, "a certificate could not be replaced; the old one stays, trying again"
        );
        RETRY.min(self.life / 10)
    }

    /// Ends when a file that was brought along is another one than when it was read.
    async fn files_change(&self) {
        let Some(brought) = &self.brought else {
            return std::future::pending().await;
        };
        while self.seen == Some(stamps(brought)) {
            sleep(LOOK).await;
        }
    }

    /// Ends when the wall clock is elsewhere than it would have come to since the certificate was issued: by the right
    /// time that one may have ended, or not have begun.
    async fn clock_is_set(&self) {
        let (wall, at) = self.issued;
        loop {
            sleep(LOOK).await;
            let (now, expected) = (SystemTime::now(), wall + at.elapsed());
            let apart = now.duration_since(expected);
            if apart.unwrap_or_else(|behind| behind.duration()) > SAME_TIME {
                return;
            }
        }
    }

    fn tell(&self, handle: &Handle) {
        let not_after_s = micros(self.not_after) / 1_000_000;
        let gauge = &handle.counters().server_certificate_not_after_s;
        gauge.store(not_after_s, Ordering::Relaxed);
    }
}

async fn told(hangup: &mut Option<Signal>) {
    match hangup {
        // Once it is closed nothing comes any more.
        Some(signal) => {
            if signal.recv().await.is_none() {
                std::future::pending().await
            }
        }
        None => std::future::pending().await,
    }
}

fn stamps(brought: &Brought) -> [Stamp; 2] {
    let stamp = |path: &Path| {
        let meta = fs::metadata(path).ok()?;
        Some((
            meta.dev(),
            meta.ino(),
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec(),
        ))
    };
    [stamp(&brought.chain), stamp(&brought.key)]
}

fn issue(
    authority: &Authority,
    names: &[String],
    life: Duration,
    brought: Option<&Brought>,
) -> Result<Fresh, String> {
    let identity = authority
        .issue_server(names, SystemTime::now(), life)
        .map_err(|error| error.to_string())?;
    let anchors = [authority.agents_anchor().clone()];
    let agents = Serving {
        config: server_config(&identity, &anchors).map_err(|error| error.to_string())?,
        signer: Some(Signer::new(&identity).map_err(|error| error.to_string())?),
    };
    let api = match brought {
        Some(brought) => ServerIdentity::load(&brought.chain, &brought.key)
            .map_err(|error| error.to_string())
            .and_then(|own| api_server_config(&own).map_err(|error| error.to_string())),
        None => api_server_config(&identity).map_err(|error| error.to_string()),
    };
    Ok(Fresh {
        not_after: identity.not_after,
        agents,
        api,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A certificate of somebody else's authority.
    fn bring(dir: &Path) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        // By renaming, as the tools do that renew such files.
        let put = |name: &str, text: String| {
            let new = dir.join("new");
            fs::write(&new, text).unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(new, dir.join(name)).unwrap();
        };
        put("chain.pem", made.cert.pem());
        put("key.pem", made.signing_key.serialize_pem());
    }

    fn args(dir: Option<&Path>) -> CertificateArgs {
        CertificateArgs {
            agent_cert_ttl: HOUR,
            server_cert_ttl: HOUR,
            recover_within: HOUR,
            recoveries: 3,
            api_cert: dir.map(|dir| dir.join("chain.pem")),
            api_key: dir.map(|dir| dir.join("key.pem")),
        }
    }

    fn tls(dir: Option<&Path>) -> Result<ServerTls, String> {
        let authority = Authority::create("test.internal", SystemTime::now()).unwrap();
        ServerTls::new(
            Arc::new(authority),
            vec!["localhost".to_owned()],
            &args(dir),
        )
    }

    #[test]
    fn both_ports_get_a_new_certificate_and_keep_the_old_one_when_there_is_none() {
        let mut tls = tls(None).unwrap();
        let (agents, api) = (tls.agents.current(), tls.api.current());
        assert_eq!(tls.replace("test"), HOUR / 3);
        assert!(!Arc::ptr_eq(&agents, &tls.agents.current()));
        assert!(!Arc::ptr_eq(&api, &tls.api.current()));

        let agents = tls.agents.current();
        tls.names = vec!["no name".to_owned()];
        assert_eq!(tls.replace("test"), RETRY);
        assert!(Arc::ptr_eq(&agents, &tls.agents.current()));
    }

    #[tokio::test]
    async fn files_that_were_brought_along_are_read_again_when_they_change() {
        let dir = tempfile::tempdir().unwrap();
        assert!(tls(Some(dir.path())).is_err(), "there are none yet");
        bring(dir.path());
        let mut tls = tls(Some(dir.path())).unwrap();
        let api = tls.api.current();
        assert_eq!(tls.seen, tls.brought.as_ref().map(stamps), "nothing new");
        bring(dir.path());
        // Ends at once: they are others than those that were read.
        tls.files_change().await;
        tls.replace("test");
        assert!(!Arc::ptr_eq(&api, &tls.api.current()));

        let (agents, api) = (tls.agents.current(), tls.api.current());
        fs::write(dir.path().join("chain.pem"), "not a certificate").unwrap();
        tls.files_change().await;
        assert!(tls.replace("test") <= RETRY);
        assert!(Arc::ptr_eq(&api, &tls.api.current()), "the old one stays");
        assert!(!Arc::ptr_eq(&agents, &tls.agents.current()), "agents' own");
        let exposed = fs::Permissions::from_mode(0o644);
        bring(dir.path());
        fs::set_permissions(dir.path().join("key.pem"), exposed).unwrap();
        tls.replace("test");
        assert!(Arc::ptr_eq(&api, &tls.api.current()), "others can read it");
    }
}
