//! What a socket carried: bytes, TLS included, and packets by a stated model.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes of one packet: Ethernet, IPv4, TCP with timestamps.
const SEGMENT: usize = 1448;
/// Headers of a packet: IPv4, and TCP with timestamps.
const HEADERS: u64 = 52;
/// Of a SYN and its answer, which carry options.
const SYN_HEADERS: u64 = 60;

/// What connections carried, seen from the box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Connections that were opened.
    pub connections: u64,
    /// Connections that were closed in good order.
    pub closed: u64,
    /// Answers that were read.
    pub answers: u64,
    /// From the box.
    pub sent: Side,
    /// To the box.
    pub received: Side,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Bytes at the socket.
    pub bytes: u64,
    /// Writes or reads.
    pub calls: u64,
    /// Packets with data: one a write or read, and one more for every 1,448 bytes of it.
    pub segments: u64,
}

/// With TCP and IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnTheWire {
    /// Packets from the box.
    pub packets_sent: u64,
    /// Packets to the box.
    pub packets_received: u64,
    /// Bytes from the box, headers included.
    pub bytes_sent: u64,
    /// Bytes to the box, headers included.
    pub bytes_received: u64,
}

impl Traffic {
    /// What was carried since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            connections: self.connections.saturating_sub(earlier.connections),
            closed: self.closed.saturating_sub(earlier.closed),
            answers: self.answers.saturating_sub(earlier.answers),
            sent: self.sent.since(earlier.sent),
            received: self.received.since(earlier.received),
        }
    }

    /// Adds the traffic of another box.
    pub fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.closed += other.closed;
        self.answers += other.answers;
        self.sent.add(other.sent);
        self.received.add(other.received);
    }

    /// With headers, by the packet model: packets with data as in [`Side::segments`]; three for a TCP handshake, of which two are of
    /// 60 bytes; an acknowledgement for each answer (those of all else ride on data), and one each way when a connection is closed
    /// (FIN rides on the close_notify of TLS). 52 bytes of headers each.
    pub fn on_the_wire(&self) -> OnTheWire {
        let packets_sent = self.sent.segments + 2 * self.connections + self.answers + self.closed;
        let packets_received = self.received.segments + self.connections + self.closed;
        let options = (SYN_HEADERS - HEADERS) * self.connections;
        OnTheWire {
            packets_sent,
            packets_received,
            bytes_sent: self.sent.bytes + HEADERS * packets_sent + options,
            bytes_received: self.received.bytes + HEADERS * packets_received + options,
        }
    }
}

impl Side {
    /// What was carried since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(earlier.bytes),
            calls: self.calls.saturating_sub(earlier.calls),
            segments: self.segments.saturating_sub(earlier.segments),
        }
    }

    /// Adds another.
    pub fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.calls += other.calls;
        self.segments += other.segments;
    }
}

/// Counts of one direction, shared with whoever reads them while the socket is in use.
#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    calls: AtomicU64,
    segments: AtomicU64,
}

impl Counts {
    fn call(&self, bytes: usize) {
        if bytes > 0 {
            self.bytes.fetch_add(bytes as u64, Relaxed);
            self.calls.fetch_add(1, Relaxed);
            self.segments.fetch_add(bytes.div_ceil(SEGMENT) as u64, Relaxed);
        }
    }

    fn side(&self) -> Side {
        Side {
            bytes: self.bytes.load(Relaxed),
            calls: self.calls.load(Relaxed),
            segments: self.segments.load(Relaxed),
        }
    }
}

/// Reads the counts of a [`Counted`] socket.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<(Counts, Counts)>);

impl Counter {
    /// What went out so far, and what came in.
    pub fn sides(&self) -> (Side, Side) {
        (self.0.0.side(), self.0.1.side())
    }
}

/// A socket that counts. It goes below TLS.
#[derive(Debug)]
pub struct Counted<I> {
    io: I,
    counter: Counter,
}

impl<I> Counted<I> {
    /// Counts from here on.
    pub fn new(io: I) -> (Self, Counter) {
        let counter = Counter::default();
        (
            Self {
                io,
                counter: counter.clone(),
            },
            counter,
        )
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Counted<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, into))?;
        self.counter.0.1.call(into.filled().len().saturating_sub(before));
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Counted<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.counter.0.0.call(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_and_packets_are_those_of_the_calls() {
        let (near, mut far) = tokio::io::duplex(10_000);
        let (mut socket, counter) = Counted::new(near);
        socket.write_all(&[0; 300]).await.unwrap();
        socket.write_all(&[0; 1449]).await.unwrap();
        far.write_all(&[0; 2896]).await.unwrap();
        let mut piece = [0; 4096];
        assert_eq!(socket.read(&mut piece).await.unwrap(), 2896);
        drop(far);
        assert_eq!(socket.read(&mut piece).await.unwrap(), 0);
        let side = |bytes, calls, segments| Side { bytes, calls, segments };
        assert_eq!(counter.sides(), (side(1749, 2, 3), side(2896, 1, 2)));
    }

    /// The figures of a poll on a kept connection: 553 bytes, 124 bytes, three packets, 833 bytes in all.
    #[test]
    fn a_kept_poll_is_three_packets_and_a_new_connection_adds_its_ends() {
        let side = |bytes, segments| Side {
            bytes,
            calls: segments,
            segments,
        };
        let kept = Traffic {
            answers: 1,
            sent: side(553, 1),
            received: side(124, 1),
            ..Traffic::default()
        };
        let wire = kept.on_the_wire();
        assert_eq!((wire.packets_sent, wire.packets_received), (2, 1));
        assert_eq!(wire.bytes_sent + wire.bytes_received, 833);
        let new = Traffic {
            connections: 1,
            closed: 1,
            ..kept
        };
        let wire = new.on_the_wire();
        assert_eq!((wire.packets_sent, wire.packets_received), (5, 3));
        assert_eq!((wire.bytes_sent, wire.bytes_received), (553 + 5 * 52 + 8, 124 + 3 * 52 + 8));
        let mut twice = new;
        twice.add(&kept);
        assert_eq!(twice.since(&new), kept);
    }
}
