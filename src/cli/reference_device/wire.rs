//! The bytes under the stream: a way to cut them, and an ear for why the server ends it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// Cuts the connection from outside the stream, and says how long it stays cut.
#[derive(Default)]
pub struct Cutter {
    socket: Mutex<Option<socket2::Socket>>,
    away_until: Mutex<Option<Instant>>,
    conflict: AtomicBool,
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

    /// Whether the server said `<conflict/>`: another connection has the seat.
    pub fn lost_the_seat(&self) -> bool {
        self.conflict.load(Ordering::Relaxed)
    }
}

fn shut(socket: Option<socket2::Socket>) {
    if let Some(socket) = socket {
        // The server may have closed it already.
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
}

/// A stream that listens for `<conflict/>`: the library drops the reason for which a stream ended.
pub struct Wire<S> {
    inner: S,
    cutter: Arc<Cutter>,
}

impl<S> Wire<S> {
    /// Listens in on `inner` for `cutter`.
    pub fn new(inner: S, cutter: Arc<Cutter>) -> Self {
        Self { inner, cutter }
    }
}

/// A stream error is written at once, so it comes in one piece; within text and attributes a '<' is always escaped.
fn says_conflict(bytes: &[u8]) -> bool {
    let has = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    let error = bytes.windows(b"<stream:error".len()).position(|window| window == b"<stream:error");
    error.and_then(|at| bytes.get(at..)).is_some_and(|rest| has(rest, b"<conflict"))
}

impl<S: AsyncBufRead + Unpin> AsyncBufRead for Wire<S> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        let filled = std::task::ready!(Pin::new(&mut this.inner).poll_fill_buf(cx));
        if filled.as_ref().is_ok_and(|bytes| says_conflict(bytes)) {
            this.cutter.conflict.store(true, Ordering::Relaxed);
        }
        Poll::Ready(filled)
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        Pin::new(&mut self.get_mut().inner).consume(amount);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::{Cutter, says_conflict};

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

    #[test]
    fn a_conflict_is_heard_only_in_a_stream_error() {
        let check = |text: &str, expected| assert_eq!(says_conflict(text.as_bytes()), expected, "{text}");
        check(
            "<a/><stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
            true,
        );
        check(
            "<iq type='error'><error type='cancel'><conflict xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>",
            false,
        );
        check("<stream:error><system-shutdown/></stream:error>", false);
        check("<json>&lt;stream:error>&lt;conflict/></json>", false);
        check("", false);
    }
}
