//! What an exchange cost at its socket: bytes, TLS included, and packets.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::domain::Carried;

/// What the TCP handshake costs the service: SYN and ACK in, SYN-ACK out.
const HANDSHAKE_PACKETS: (u64, u64) = (2, 1);

/// Takes what came in and what went out.
type Bill = Box<dyn FnOnce(Carried, Carried) + Send>;

/// The socket of a connection, as handlers find it in the request's extensions.
///
/// What is read up to a request, and the rest of its body, belongs to that exchange. What is written belongs to the exchange
/// that was answered last. The set-up of the connection belongs to the first exchange, its end to the last.
#[derive(Clone, Debug, Default)]
pub struct Wire(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    inward: Count,
    outward: Count,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Count {
    bytes: AtomicU64,
    calls: AtomicU64,
}

/// Which part of the counts belongs to which exchange.
#[derive(Default)]
struct Book {
    /// What earlier exchanges were charged.
    inward: Carried,
    outward: Carried,
    at_hand: Option<Exchange>,
}

/// The exchange whose answer may still be on its way.
#[derive(Default)]
struct Exchange {
    /// All that had come in when its answer was complete.
    came: Option<Carried>,
    bill: Option<Bill>,
}

impl Wire {
    /// Tells, once the socket has carried all of it, what the exchange at hand cost: at the next request on the connection, or at
    /// its end.
    pub fn bill(&self, bill: impl FnOnce(Carried, Carried) + Send + 'static) {
        if let Some(exchange) = &mut self.0.book.lock().at_hand {
            exchange.bill = Some(Box::new(bill));
        }
    }

    /// All that came in and went out so far, the TCP handshake left out.
    pub(super) fn so_far(&self) -> (Carried, Carried) {
        let (inward, outward) = HANDSHAKE_PACKETS;
        let handshake = |packets| Carried { bytes: 0, packets };
        (
            less(self.0.inward.sum(), handshake(inward)),
            less(self.0.outward.sum(), handshake(outward)),
        )
    }

    /// The head of a request came.
    pub(super) fn began(&self) {
        let came = self.0.book.lock().at_hand.as_ref().and_then(|exchange| exchange.came);
        self.settle(came);
        self.0.book.lock().at_hand = Some(Exchange::default());
    }

    /// Its answer is complete, though not written yet.
    pub(super) fn answered(&self) {
        let came = self.0.inward.sum();
        if let Some(exchange) = &mut self.0.book.lock().at_hand {
            exchange.came = Some(came);
        }
    }

    /// The connection is over.
    pub(super) fn ended(&self) {
        self.settle(None);
    }

    /// Charges the exchange at hand with what came in up to `came`, or else up to now, and with all that went out.
    fn settle(&self, came: Option<Carried>) {
        let (came, went) = (came.unwrap_or_else(|| self.0.inward.sum()), self.0.outward.sum());
        let mut book = self.0.book.lock();
        let Some(exchange) = book.at_hand.take() else { return };
        let (inward, outward) = (less(came, book.inward), less(went, book.outward));
        (book.inward, book.outward) = (came, went);
        drop(book);
        if let Some(bill) = exchange.bill {
            bill(inward, outward);
        }
    }
}

fn less(all: Carried, before: Carried) -> Carried {
    Carried {
        bytes: all.bytes.saturating_sub(before.bytes),
        packets: all.packets.saturating_sub(before.packets),
    }
}

impl Count {
    fn call(&self, bytes: usize) {
        if bytes > 0 {
            self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            self.calls.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sum(&self) -> Carried {
        Carried {
            bytes: self.bytes.load(Ordering::Relaxed),
            packets: self.calls.load(Ordering::Relaxed),
        }
    }
}

impl std::fmt::Debug for Book {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Book")
            .field("inward", &self.inward)
            .field("outward", &self.outward)
            .finish_non_exhaustive()
    }
}

/// A socket that counts for its [`Wire`]. It goes below TLS.
pub(super) struct Counted<I> {
    io: I,
    wire: Wire,
}

impl<I> Counted<I> {
    /// Counts from here on. The TCP handshake is counted already.
    pub(super) fn new(io: I) -> (Self, Wire) {
        let wire = Wire::default();
        let (inward, outward) = HANDSHAKE_PACKETS;
        wire.0.inward.calls.store(inward, Ordering::Relaxed);
        wire.0.outward.calls.store(outward, Ordering::Relaxed);
        (Self { io, wire: wire.clone() }, wire)
    }

    /// The socket, counted no more.
    pub(super) fn into_inner(self) -> I {
        self.io
    }

    fn wrote(&self, result: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &result {
            self.wire.0.outward.call(*bytes);
        }
        result
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Counted<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.wire.0.inward.call(buffer.filled().len().saturating_sub(before));
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Counted<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.wrote(result)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[std::io::IoSlice<'_>]) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn carried(bytes: u64, packets: u64) -> Carried {
        Carried { bytes, packets }
    }

    #[tokio::test]
    async fn each_exchange_is_charged_its_own_bytes_and_the_ends_what_is_around_them() {
        let (mut client, server) = tokio::io::duplex(1024);
        let (mut socket, wire) = Counted::new(server);
        let bills = Arc::new(Mutex::new(Vec::new()));
        let bill = |name: &'static str| {
            let bills = bills.clone();
            wire.bill(move |inward, outward| bills.lock().push((name, inward, outward)));
        };
        let mut piece = [0; 64];
        // The handshake of TLS, then the first request with a body that comes behind it.
        client.write_all(&[0; 10]).await.unwrap();
        assert_eq!(socket.read(&mut piece).await.unwrap(), 10);
        socket.write_all(&[0; 20]).await.unwrap();
        client.write_all(&[0; 5]).await.unwrap();
        assert_eq!(socket.read(&mut piece).await.unwrap(), 5);
        wire.began();
        client.write_all(&[0; 3]).await.unwrap();
        assert_eq!(socket.read(&mut piece).await.unwrap(), 3);
        bill("first");
        wire.answered();
        // Its answer is written when the handler is long done, and the next request is read before it counts as begun.
        socket.write_all(&[0; 40]).await.unwrap();
        client.write_all(&[0; 7]).await.unwrap();
        assert_eq!(socket.read(&mut piece).await.unwrap(), 7);
        assert_eq!(*bills.lock(), []);
        wire.began();
        assert_eq!(*bills.lock(), [("first", carried(18, 3 + 2), carried(60, 2 + 1))]);
        // Nobody asked what the second cost.
        wire.answered();
        socket.write_all(&[0; 1]).await.unwrap();
        wire.began();
        bill("last");
        wire.answered();
        socket.write_all(&[0; 2]).await.unwrap();
        client.write_all(&[0; 4]).await.unwrap();
        drop(client);
        assert_eq!(socket.read(&mut piece).await.unwrap(), 4);
        assert_eq!(socket.read(&mut piece).await.unwrap(), 0);
        wire.ended();
        wire.ended();
        assert_eq!(bills.lock().last(), Some(&("last", carried(4, 1), carried(2, 1))));
        assert_eq!(bills.lock().len(), 2);
    }
}
