//! `serve`: opens everything, listens, says so, runs until told to stop, and stops in order.
//!
//! Order of stopping: no new connections; streams end with `unavailable`; what is decided is stored; the store is
//! closed. All of it within `DRAIN`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outpost_certs::ca::Authority;
use outpost_driver::Fatal;
use outpost_orchestrator_core::{Orchestrator, Settings};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::cli::{Failure, ServeArgs};
use crate::config::{self, CA, DirLock, ServerFile};
use crate::driver::{self, Driver};
use crate::identity::Enroller;
use crate::identity::server::ServerTls;
use crate::store::retention::Retention;
use crate::store::sqlite::Sqlite;
use crate::{ApiState, JoinInfo, admin, api, http, link, process};

/// How long stopping may take.
const DRAIN: Duration = Duration::from_secs(10);
/// Runs a server to its end.
pub(crate) async fn run(args: ServeArgs) -> Result<(), Failure> {
    if let Some(fd) = args.leash_fd {
        process::end_with(fd).map_err(Failure::refused)?;
    }
    process::raise_descriptor_limit();
    let stop = process::stop_signal().map_err(Failure::failed)?;
    let dir = config::directory(args.dir.dir.clone()).map_err(Failure::refused)?;
    let server = Server::start(&args, &dir).await?;
    server.announce(&args)?;
    server.run(stop).await
}

/// Everything that runs.
struct Server {
    agents: SocketAddr,
    api: SocketAddr,
    api_scheme: &'static str,
    driver: JoinHandle<Result<(), Fatal>>,
    ports: Vec<JoinHandle<()>>,
    /// Ends ports, then the driver.
    stop_ports: CancellationToken,
    stop_driver: CancellationToken,
    _lock: DirLock,
}

impl Server {
    async fn start(args: &ServeArgs, dir: &Path) -> Result<Self, Failure> {
        let (store, lock) = open(args, dir).await?;
        let authority = Arc::new(Authority::load(&dir.join(CA)).map_err(Failure::failed)?);
        let (agents_tcp, api_tcp) = (
            listen("agents", args.agents).await?,
            listen("api", args.api).await?,
        );
        let agents = agents_tcp.local_addr().map_err(Failure::failed)?;
        let api = api_tcp.local_addr().map_err(Failure::failed)?;
        let server_file = ServerFile::read(dir).map_err(Failure::failed)?;
        let (names, join) = public(args, &server_file, [agents, api], &authority);
        let tls = ServerTls::new(authority.clone(), names.clone(), &args.certificates)
            .map_err(Failure::failed)?;

        let (reader, access) = (store.reader(), store.access());
        let seed = seed().map_err(Failure::failed)?;
        let settings = Settings {
            recover_within: args.certificates.recover_within,
            recoveries: args.certificates.recoveries,
            ..Settings::default()
        };
        let start = |now, snapshot| Orchestrator::new(settings, seed, now, snapshot);
        let (driver, handle) = Driver::new(store, start).await.map_err(Failure::failed)?;
        let (stop_ports, stop_driver) = (CancellationToken::new(), CancellationToken::new());
        // A thread of its own: nothing else waits while it commits.
        let (runtime, stop) = (tokio::runtime::Handle::current(), stop_driver.clone());
        let driver = tokio::task::spawn_blocking(move || runtime.block_on(driver.run(stop)));

        let life = args.certificates.agent_cert_ttl;
        let enroller = Arc::new(Enroller::new(handle.clone(), authority.clone(), life));
        let trust_domain = authority.trust_domain().to_owned();
        let listener = link::Listener {
            tcp: agents_tcp,
            tls: tls.agents.clone(),
            trust_domain,
            handle: handle.clone(),
            enroller,
        };
        let state = ApiState {
            handle,
            reader,
            access,
            join,
            names,
            rate: api::Rate {
                per_s: args.api_rate,
                burst: args.api_burst,
            },
            draining: stop_ports.clone(),
        };
        let plain = api.ip().is_loopback() && args.certificates.api_cert.is_none();
        let api_tls = (!plain).then(|| tls.api.clone());
        let fresh = tls.keep_fresh(state.handle.clone(), stop_ports.clone());
        let ports = vec![
            tokio::spawn(listener.serve(stop_ports.clone())),
            tokio::spawn(http::serve(
                api_tcp,
                api_tls,
                api::router(state),
                stop_ports.clone(),
            )),
            tokio::spawn(fresh),
        ];
        let api_scheme = if plain { "http" } else { "https" };
        Ok(Self {
            agents,
            api,
            api_scheme,
            driver,
            ports,
            stop_ports,
            stop_driver,
            _lock: lock,
        })
    }

    /// Says, in the log and where it was asked for, that both ports listen.
    fn announce(&self, args: &ServeArgs) -> Result<(), Failure> {
        let api = format!("{}://{}", self.api_scheme, self.api);
        info!(agents = %self.agents, api, "listening");
        let ready =
            serde_json::json!({ "agents": self.agents.to_string(), "api": api }).to_string();
        process::announce(&ready, args.ready_file.as_deref(), args.ready_fd)
            .map_err(Failure::failed)
    }

    async fn run(mut self, stop: CancellationToken) -> Result<(), Failure> {
        let early = tokio::select! {
            biased;
            // The driver ends by itself only when nothing can be stored safely any more.
            ended = &mut self.driver => Some(ended),
            () = stop.cancelled() => None,
        };
        if let Some(ended) = early {
            return result_of(ended);
        }
        info!("stopping: streams end, what is decided is stored");
        timeout(DRAIN, self.drain()).await.unwrap_or_else(|_| {
            warn!("stopping took longer than {DRAIN:?}; what is left is cut off");
            Ok(())
        })
    }

    async fn drain(self) -> Result<(), Failure> {
        self.stop_ports.cancel();
        for port in self.ports {
            if let Err(error) = port.await {
                error!(%error, "a port's task ended badly");
            }
        }
        self.stop_driver.cancel();
        result_of(self.driver.await)
    }
}

fn result_of(ended: Result<Result<(), Fatal>, tokio::task::JoinError>) -> Result<(), Failure> {
    let result =
        ended.unwrap_or_else(|error| Err(Fatal(format!("the driver's task ended badly: {error}"))));
    driver::log_end(&result);
    result.map_err(Failure::fatal)
}

/// The database first, so that a missing or newer one is said before anything else; then the lock.
async fn open(args: &ServeArgs, dir: &Path) -> Result<(Sqlite, DirLock), Failure> {
    if !dir.join(crate::store::sqlite::FILE).exists() {
        let missing = crate::store::OpenError::Missing(dir.join(crate::store::sqlite::FILE));
        return Err(Failure::refused(missing));
    }
    let lock = DirLock::take(dir).map_err(|error| match error {
        config::DirError::InUse(_) | config::DirError::NoDefault => Failure::refused(error),
        config::DirError::Io { .. } | config::DirError::Content { .. } => Failure::failed(error),
    })?;
    let mut store = Sqlite::open(dir)
        .await
        .map_err(|error| admin::of_open(&error))?;
    let mut me = [0; 8];
    getrandom::fill(&mut me).map_err(Failure::failed)?;
    store.own(u64::from_le_bytes(me)).map_err(Failure::failed)?;
    if let Err(error) = store.reserve() {
        warn!(%error, "no room for the database's log could be written beforehand; commits take longer until it has grown");
    }
    store.retain(Retention {
        notices: args.keep_events,
        runs: Some(args.keep_runs).filter(|time| !time.is_zero()),
    });
    Ok((store, lock))
}

async fn listen(what: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = if error.kind() == ErrorKind::AddrInUse {
            "another process listens there; stop it or choose another port"
        } else if error.kind() == ErrorKind::PermissionDenied {
            "ports below 1024 need a privilege; choose another port"
        } else {
            "choose an address of this machine"
        };
        Failure::refused(format!(
            "cannot listen on {address} (--{what}): {error}; {advice}"
        ))
    })
}

/// The names in the server's certificate, and what join tokens say.
fn public(
    args: &ServeArgs,
    file: &ServerFile,
    [agents, api]: [SocketAddr; 2],
    authority: &Authority,
) -> (Vec<String>, JoinInfo) {
    let public = args
        .public_agents
        .clone()
        .unwrap_or_else(|| match file.names.first() {
            Some(name) if name.contains(':') => format!("[{name}]:{}", agents.port()),
            Some(name) => format!("{name}:{}", agents.port()),
            None if agents.ip().is_unspecified() => format!("127.0.0.1:{}", agents.port()),
            None => agents.to_string(),
        });
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    names.extend(file.names.iter().cloned());
    let addresses = [agents.ip(), api.ip()]
        .into_iter()
        .filter(|address| !address.is_unspecified());
    names.extend(addresses.map(|address| address.to_string()));
    if let Some((host, _)) = public.rsplit_once(':') {
        names.push(host.trim_matches(['[', ']']).to_owned());
    }
    names.sort();
    names.dedup();
    let trust_domain = authority.trust_domain().to_owned();
    (
        names,
        JoinInfo {
            agents: public,
            trust_domain,
            root_pin: authority.root_pin(),
        },
    )
}

fn seed() -> Result<[u8; 32], getrandom::Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    Ok(seed)
}
