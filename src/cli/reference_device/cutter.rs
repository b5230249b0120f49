//! A way to cut the connection of a device from outside, and to keep it cut.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Cuts the connection from outside the stream, and says how long it stays cut.
#[derive(Default)]
pub struct Cutter {
    socket: Mutex<Option<socket2::Socket>>,
    away_until: Mutex<Option<Instant>>,
    /// The device is gone: a connection that is still being made is of nobody.
    over: AtomicBool,
}

impl Cutter {
    /// Takes over the next connection; `socket` is a second handle of it.
    pub fn holds(&self, socket: socket2::Socket) {
        let mut held = self.socket.lock();
        *held = Some(socket);
        if self.is_over() {
            shut(held.take());
        }
    }

    /// The connection is over: the second handle must not keep it open.
    pub fn lets_go(&self) {
        shut(self.socket.lock().take());
    }

    /// Cuts what is connected, and lets nothing connect for a while.
    pub fn cut(&self, away: Duration) {
        *self.away_until.lock() = Some(Instant::now() + away);
        shut(self.socket.lock().take());
    }

    /// Cuts what is connected, and whatever connects after this: the device has lost its power.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        shut(self.socket.lock().take());
    }

    /// Whether the device is gone.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// From when on it may connect.
    pub fn away_until(&self) -> Option<Instant> {
        *self.away_until.lock()
    }
}

fn shut(socket: Option<socket2::Socket>) {
    if let Some(socket) = socket {
        // The server may have closed it already.
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::Cutter;

    #[test]
    fn a_connection_that_comes_after_the_end_is_cut() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connect = || socket2::Socket::from(std::net::TcpStream::connect(address).unwrap());
        let cutter = Cutter::default();
        cutter.end();
        // A second handle stays open, as that of the stream does.
        let late = connect();
        cutter.holds(late.try_clone().unwrap());
        let (mut peer, _) = listener.accept().unwrap();
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
    }
}
