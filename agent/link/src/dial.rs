//! The dial role: resolves and connects to the configured address or proxy and nothing else, passes the connected
//! descriptor to link, and ends.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use crate::fd;
use crate::ipc::{Conn, bounded_text, send_descriptor};
use crate::proxy::{self, Proxy};
use crate::sandbox::{self, Asked, Level, Way};

/// What the dial role is started with. The role takes over the descriptors named here.
#[derive(Clone, Debug)]
pub struct DialArgs {
    /// The end of the dial pair that the runner keeps and lets each dial inherit.
    pub dial_fd: RawFd,
    /// The connection number that the descriptor is for.
    pub conn: Conn,
    /// `HOST:PORT`, with an IPv6 address in brackets.
    pub address: String,
    /// `http://[USER:PASSWORD@]HOST:PORT` of an HTTP CONNECT proxy. With credentials, hand it over in the environment:
    /// arguments are readable by everybody on the host.
    pub proxy: Option<String>,
    /// Read end of the leash pipe; its end ends dial at once.
    pub leash_fd: Option<RawFd>,
    /// To what dial confines itself before it resolves or connects; as in [`LinkArgs::sandbox`](crate::LinkArgs).
    pub sandbox: Option<Asked>,
    /// Limit of resolving, and of connecting with all addresses and the proxy's answer together. [`DialArgs::TIMEOUT`]
    /// outside tests.
    pub timeout: Duration,
}

impl DialArgs {
    /// The usual limit.
    pub const TIMEOUT: Duration = Duration::from_secs(10);
}

/// How dialling ended, with a fixed exit code each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DialOutcome {
    /// 0: the descriptor was handed over.
    Connected,
    /// 10: the name has no address, or no resolver answered.
    NotResolved,
    /// 11: nobody listens there.
    Refused,
    /// 12: no route to the host or network.
    Unreachable,
    /// 13: no answer in time.
    TimedOut,
    /// 14: the proxy does not want to, or wants other credentials.
    ProxyRefused,
    /// 15: anything else: bad arguments, lost connection, link gone.
    Other,
}

impl DialOutcome {
    /// The exit code of the dial process.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Connected => 0,
            Self::NotResolved => 10,
            Self::Refused => 11,
            Self::Unreachable => 12,
            Self::TimedOut => 13,
            Self::ProxyRefused => 14,
            Self::Other => 15,
        }
    }

    /// What an exit code says; a code that dial never uses is `Other`.
    #[must_use]
    pub fn from_exit_code(code: i32) -> Self {
        match code {
            0 => Self::Connected,
            10 => Self::NotResolved,
            11 => Self::Refused,
            12 => Self::Unreachable,
            13 => Self::TimedOut,
            14 => Self::ProxyRefused,
            _ => Self::Other,
        }
    }
}

/// Why no connection was handed over.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct DialError {
    pub(crate) outcome: DialOutcome,
    pub(crate) text: String,
}

impl DialError {
    pub(crate) fn new(outcome: DialOutcome, text: impl Into<String>) -> Self {
        Self {
            outcome,
            text: text.into(),
        }
    }

    fn from_io(what: &str, error: &io::Error) -> Self {
        let kind = error.kind();
        let unreachable = [
            io::ErrorKind::HostUnreachable,
            io::ErrorKind::NetworkUnreachable,
        ];
        let outcome = if kind == io::ErrorKind::ConnectionRefused {
            DialOutcome::Refused
        } else if unreachable.contains(&kind) {
            DialOutcome::Unreachable
        } else if kind == io::ErrorKind::TimedOut {
            DialOutcome::TimedOut
        } else {
            DialOutcome::Other
        };
        Self::new(outcome, format!("{what}: {error}"))
    }
}

/// Runs the dial role. The exit code is [`DialOutcome::exit_code`]; a failure puts one line on stderr.
#[must_use]
pub fn dial_main(args: DialArgs) -> ExitCode {
    let named: Vec<_> = args.leash_fd.into_iter().chain([args.dial_fd]).collect();
    let closed = args.sandbox.is_some() && sandbox::close_others(&named);
    let dialled = match tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
    {
        Ok(runtime) => {
            let way = way(&args);
            let confined = way.and_then(|way| confine(args.sandbox, way, closed));
            let dialled = confined.and_then(|()| runtime.block_on(dial(args)));
            // A resolver thread may still wait for an answer that nobody wants.
            runtime.shutdown_background();
            dialled
        }
        Err(error) => Err(DialError::new(
            DialOutcome::Other,
            format!("dial has no runtime: {error}"),
        )),
    };
    match dialled {
        Ok(()) => ExitCode::from(DialOutcome::Connected.exit_code()),
        Err(error) => {
            // Nothing is left to do when stderr is closed.
            let _ = writeln!(io::stderr(), "{}", bounded_text(&error.text));
            ExitCode::from(error.outcome.exit_code())
        }
    }
}

/// The one place to go.
fn way(args: &DialArgs) -> Result<Way, DialError> {
    let proxy = args.proxy.as_deref().map(Proxy::parse).transpose()?;
    let address = proxy.map_or_else(|| args.address.clone(), |proxy| proxy.address);
    if let Ok(literal) = address.parse::<SocketAddr>() {
        return Ok(Way {
            port: literal.port(),
            resolves: false,
        });
    }
    let port = address
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok());
    let port = port.ok_or_else(|| {
        let text = format!("{address} cannot be resolved: it is not HOST:PORT");
        DialError::new(DialOutcome::Other, text)
    })?;
    Ok(Way {
        port,
        resolves: true,
    })
}

/// Before a name is resolved or anybody answers.
fn confine(asked: Option<Asked>, way: Way, closed: bool) -> Result<(), DialError> {
    let Some(asked) = asked else {
        return Ok(());
    };
    let confinement = sandbox::dial(asked, way, closed);
    if !asked.strict || confinement.level() == Level::Strict {
        return Ok(());
    }
    let missing = confinement.missing().first().map_or("", |part| part.says());
    let text = format!("dial is not confined as strictly as it must be: {missing}");
    Err(DialError::new(DialOutcome::Other, text))
}

async fn dial(args: DialArgs) -> Result<(), DialError> {
    let inherited =
        |number| fd::inherited(number).map_err(|error| DialError::from_io("a descriptor", &error));
    let link = inherited(args.dial_fd)?;
    let leash = args.leash_fd.map(inherited).transpose()?;
    let ended = async {
        match leash {
            Some(leash) => fd::leash_end(leash).await,
            None => std::future::pending().await,
        }
    };
    let stream = tokio::select! {
        biased;
        _ = ended => return Err(DialError::new(DialOutcome::Other, "the leash has ended")),
        stream = connect(&args) => stream?,
    };
    let handed = stream
        .into_std()
        .and_then(|stream| send_descriptor(&link, args.conn, &stream));
    handed.map_err(|error| DialError::from_io("link does not take the connection", &error))
}

async fn connect(args: &DialArgs) -> Result<TcpStream, DialError> {
    let Some(url) = &args.proxy else {
        return reach(&args.address, args.timeout)
            .await
            .map(|(stream, _)| stream);
    };
    let proxy = Proxy::parse(url)?;
    let (mut stream, deadline) = reach(&proxy.address, args.timeout).await?;
    let asked = timeout_at(deadline, proxy::ask(&mut stream, &proxy, &args.address)).await;
    asked.unwrap_or_else(|_| {
        Err(DialError::new(
            DialOutcome::TimedOut,
            "the proxy did not answer in time",
        ))
    })?;
    Ok(stream)
}

/// Resolves and connects to the first address that answers; also says until when the rest must be done.
async fn reach(address: &str, limit: Duration) -> Result<(TcpStream, Instant), DialError> {
    let text = |error: &dyn std::fmt::Display| format!("{address} cannot be resolved: {error}");
    let addresses: Vec<SocketAddr> = timeout_at(Instant::now() + limit, lookup_host(address))
        .await
        .map_err(|_| DialError::new(DialOutcome::NotResolved, text(&"no answer in time")))?
        .map_err(|error| {
            let malformed = error.kind() == io::ErrorKind::InvalidInput;
            let outcome = if malformed {
                DialOutcome::Other
            } else {
                DialOutcome::NotResolved
            };
            DialError::new(outcome, text(&error))
        })?
        .collect();
    let deadline = Instant::now() + limit;
    let mut failure = DialError::new(DialOutcome::NotResolved, text(&"no address"));
    for (index, candidate) in addresses.iter().enumerate() {
        // Every address left gets an equal share of what is left, so that a dead first one leaves time for the others.
        let share = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let until = Instant::now() + deadline.saturating_duration_since(Instant::now()) / share;
        match timeout_at(until, TcpStream::connect(candidate)).await {
            Ok(Ok(stream)) => {
                stream
                    .set_nodelay(true)
                    .map_err(|error| DialError::from_io("the connection", &error))?;
                return Ok((stream, deadline));
            }
            Ok(Err(error)) => failure = DialError::from_io(&candidate.to_string(), &error),
            Err(_) => {
                failure = DialError::new(
                    DialOutcome::TimedOut,
                    format!("{candidate} does not answer"),
                )
            }
        }
    }
    Err(failure)
}
