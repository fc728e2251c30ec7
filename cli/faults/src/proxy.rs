//! A TCP proxy on loopback that disturbs what passes through it, per connection or for all of them.
//!
//! What it holds back it keeps, as a network that is cut keeps nothing but its ends' retransmissions do: once healed, a
//! connection goes on where it was. It runs on a thread of its own and knows nothing of what it carries.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Bytes taken at once.
const CHUNK: usize = 16 * 1024;
/// Between two bytes of a connection that drips.
const DRIP: Duration = Duration::from_secs(1);
/// How long the other side may take to be reached.
const CONNECT: Duration = Duration::from_secs(5);

/// What one direction of a connection suffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Way {
    /// Every chunk comes so much later.
    pub delay: Duration,
    /// One byte per second.
    pub drip: bool,
    /// Nothing passes, and nobody is told.
    pub hole: bool,
    /// Its end is told to the receiver, and nothing more passes.
    pub closed: bool,
}

/// What a connection suffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// From whoever connected.
    pub up: Way,
    /// To whoever connected.
    pub down: Way,
    /// How it is to be ended, if it is.
    pub end: Option<End>,
}

/// How a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order, as seen by both.
    Fin,
    /// By a reset on both sides.
    Rst,
}

impl Rules {
    /// Everything later, both ways.
    #[must_use]
    pub fn delayed(delay: Duration) -> Self {
        let way = Way {
            delay,
            ..Way::default()
        };
        Self::both(way)
    }

    /// One byte per second, both ways.
    #[must_use]
    pub fn dripping() -> Self {
        Self::both(Way {
            drip: true,
            ..Way::default()
        })
    }

    /// Nothing passes, either way.
    #[must_use]
    pub fn cut() -> Self {
        Self::both(HOLE)
    }

    /// Nothing of whoever connected passes; the rest does.
    #[must_use]
    pub fn deaf_up() -> Self {
        Self {
            up: HOLE,
            ..Self::default()
        }
    }

    /// Nothing passes to whoever connected; the rest does.
    #[must_use]
    pub fn deaf_down() -> Self {
        Self {
            down: HOLE,
            ..Self::default()
        }
    }

    /// The upward direction is closed, the other one stays.
    #[must_use]
    pub fn half_closed() -> Self {
        let closed = Way {
            closed: true,
            ..Way::default()
        };
        Self {
            up: closed,
            ..Self::default()
        }
    }

    /// Ended.
    #[must_use]
    pub fn ended(end: End) -> Self {
        Self {
            end: Some(end),
            ..Self::default()
        }
    }

    fn both(way: Way) -> Self {
        Self {
            up: way,
            down: way,
            end: None,
        }
    }
}

const HOLE: Way = Way {
    delay: Duration::ZERO,
    drip: false,
    hole: true,
    closed: false,
};

#[derive(Debug, Default)]
struct Shared {
    upstream: Option<SocketAddr>,
    /// What new connections suffer.
    rules: Rules,
    /// New connections are closed at once.
    refusing: bool,
    next: u64,
    live: BTreeMap<u64, watch::Sender<Rules>>,
    accepted: u64,
}

/// A running proxy; it ends when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on a port of this address that the kernel chooses. Connections wait for nothing: until there is an
    /// upstream they are closed.
    ///
    /// # Errors
    /// When there is no such address or no thread.
    pub fn listen(on: IpAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((on, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::<Mutex<Shared>>::default();
        let (stop, stopped) = watch::channel(());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("fault-proxy".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || runtime.block_on(serve(listener, shared, stopped))
            })?;
        Ok(Self {
            address,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections go.
    pub fn forward_to(&self, upstream: SocketAddr) {
        self.lock().upstream = Some(upstream);
    }

    /// The connections there are.
    #[must_use]
    pub fn connections(&self) -> Vec<u64> {
        self.lock().live.keys().copied().collect()
    }

    /// How many connections were ever accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.lock().accepted
    }

    /// Sets what one connection suffers; `false` when it is gone.
    #[must_use]
    pub fn disturb(&self, connection: u64, rules: Rules) -> bool {
        let shared = self.lock();
        let live = shared.live.get(&connection);
        live.map(|live| suffer(live, rules)).is_some()
    }

    /// Sets what all connections suffer, those to come included; an end is for those there are only.
    pub fn disturb_all(&self, rules: Rules) {
        let mut shared = self.lock();
        shared.rules = Rules { end: None, ..rules };
        for live in shared.live.values() {
            suffer(live, rules);
        }
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refusing: bool) {
        self.lock().refusing = refusing;
    }

    /// Nobody suffers anything any more. A direction that was closed stays closed.
    pub fn heal(&self) {
        self.refuse(false);
        self.disturb_all(Rules::default());
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sets the rules of a live connection. One that is to end does, however soon something else is said of it.
fn suffer(live: &watch::Sender<Rules>, rules: Rules) {
    live.send_modify(|now| {
        *now = Rules {
            end: rules.end.or(now.end),
            ..rules
        };
    });
}

async fn serve(
    listener: std::net::TcpListener,
    shared: Arc<Mutex<Shared>>,
    mut stopped: watch::Receiver<()>,
) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    loop {
        let accepted = tokio::select! {
            biased;
            // Its other end is never written to: this is its drop.
            _ = stopped.changed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => admit(stream, &shared),
            // Out of descriptors, or a connection that is gone again: others may come.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

fn admit(stream: TcpStream, shared: &Arc<Mutex<Shared>>) {
    let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
    state.accepted += 1;
    let Some(upstream) = state.upstream.filter(|_| !state.refusing) else {
        // Closed by its drop.
        return;
    };
    let id = state.next;
    state.next += 1;
    let (sender, rules) = watch::channel(state.rules);
    state.live.insert(id, sender);
    drop(state);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        carry(stream, upstream, rules).await;
        let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
        state.live.remove(&id);
    });
}

async fn carry(mut client: TcpStream, upstream: SocketAddr, mut rules: watch::Receiver<Rules>) {
    let Ok(Ok(mut server)) = timeout(CONNECT, TcpStream::connect(upstream)).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pump(from_client, to_server, rules.clone(), |rules| rules.up);
        let down = pump(from_server, to_client, rules.clone(), |rules| rules.down);
        tokio::select! {
            biased;
            end = ended(&mut rules) => end,
            both = async { tokio::try_join!(up, down) } => match both {
                Ok(_) => End::Fin,
                // One side is gone without a word: so is the other's.
                Err(_) => End::Rst,
            },
        }
    };
    if end == End::Rst {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

async fn ended(rules: &mut watch::Receiver<Rules>) -> End {
    loop {
        if let Some(end) = rules.borrow_and_update().end {
            return end;
        }
        if rules.changed().await.is_err() {
            // The proxy is over.
            return End::Fin;
        }
    }
}

/// Carries one direction to its end, which it passes on.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut rules: watch::Receiver<Rules>,
    way: fn(&Rules) -> Way,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let now = way(&rules.borrow_and_update());
        if now.closed {
            to.shutdown().await?;
            // What comes still is taken, so that its sender can end in its own time.
            while from.read(&mut buffer).await? > 0 {}
            return Ok(());
        }
        if now.hole {
            changed(&mut rules).await;
            continue;
        }
        let most = if now.drip { 1 } else { CHUNK };
        let room = buffer.get_mut(..most).unwrap_or_default();
        let read = tokio::select! {
            biased;
            () = changed(&mut rules) => continue,
            read = from.read(room) => read?,
        };
        if read == 0 {
            to.shutdown().await?;
            return Ok(());
        }
        if now.drip {
            sleep(DRIP).await;
        }
        sleep(now.delay).await;
        // What was read before a hole was made waits for its end, like the rest.
        while way(&rules.borrow_and_update()).hole {
            changed(&mut rules).await;
        }
        to.write_all(buffer.get(..read).unwrap_or_default()).await?;
    }
}

/// Waits for other rules; for ever when there will be none.
async fn changed(rules: &mut watch::Receiver<Rules>) {
    if rules.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
