//! A network between a program and a server that can be cut: a TCP proxy on a free port.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// How often a cut network looks whether it is whole again.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The proxy. Its connections end with it.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Nothing passes, and nobody is told.
    cut: AtomicBool,
    over: AtomicBool,
}

impl Proxy {
    /// Listens on a free port of loopback and passes all that comes to `server`.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let shared = state.clone();
        thread::spawn(move || {
            for near in listener.incoming() {
                if shared.over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(near) = near else { continue };
                let shared = shared.clone();
                thread::spawn(move || {
                    shared.wait();
                    // A server that is not there ends the connection, as it would without the proxy.
                    let Ok(far) = TcpStream::connect(server) else { return };
                    let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else {
                        return;
                    };
                    let other = shared.clone();
                    thread::spawn(move || other.pass(near_too, far_too));
                    shared.pass(far, near);
                });
            }
        });
        Ok(Self { address, state })
    }

    /// From here on nothing passes: what is sent waits, as in a network that drops packets.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::Relaxed);
    }

    /// All passes again, what waited first.
    pub fn mend(&self) {
        self.state.cut.store(false, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts; one that has ended needs no waking.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn wait(&self) {
        while self.cut.load(Ordering::Relaxed) && !self.over.load(Ordering::Relaxed) {
            thread::sleep(LOOK_EVERY);
        }
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count) = from.read(&mut bytes) {
            self.wait();
            let Some(read) = bytes.get(..count).filter(|read| !read.is_empty()) else {
                break;
            };
            if self.over.load(Ordering::Relaxed) || to.write_all(read).is_err() {
                break;
            }
        }
        // The other direction may have closed both already.
        let _ = to.shutdown(Shutdown::Write);
        let _ = from.shutdown(Shutdown::Read);
    }
}
