//! Bytes between a connection's socket, its TLS and its stream.

use std::{
    io::{self, Read as _},
    time::{Duration, Instant},
};

use super::{
    buffers,
    connection::{Connection, State},
    metrics::{Reason, Refused},
    wire::{Heard, Wire, WireError},
};
use crate::domain::Timestamp;

/// Proofs of life and traffic go to the ledger at most this often.
pub(super) const REPORT_EVERY: Duration = Duration::from_secs(1);

impl Connection {
    /// Reads once and lets the stream have it. False: nothing more will come.
    pub(super) fn read(&self, state: &mut State, now: Instant) -> bool {
        let time = self.shared.clock.now();
        let (lost, open) = buffers::reading(|buffer| {
            let kept = state.wire.kept();
            let read = match self.receive(buffer.get_mut(kept..).unwrap_or_default()) {
                Ok(0) => return (Some(Reason::Lost), false),
                Ok(read) => read,
                Err(error) => {
                    return match error.kind() {
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => (None, true),
                        io::ErrorKind::TimedOut => (Some(Reason::Stalled), false),
                        _ => (Some(Reason::Lost), false),
                    };
                }
            };
            self.shared.metrics.bytes_in.inc_by(read as u64);
            state.tally.received(read);
            state.wire.begin(buffer);
            self.hear(state, buffer.get_mut(..kept + read).unwrap_or_default(), now, time)
        });
        if let Some(reason) = lost {
            self.lose(state, reason, now);
        }
        if state.closing.is_none() {
            self.report(state, time, REPORT_EVERY);
            self.rest(state);
            self.arm(state, now);
        }
        open
    }

    /// Opens what was read, lets the stream have it, and does what it wants done. Answers why nothing more will come, if so it
    /// is and nobody was told, and whether more may come.
    pub(super) fn hear(&self, state: &mut State, filled: &mut [u8], now: Instant, time: Timestamp) -> (Option<Reason>, bool) {
        let State {
            stream,
            wire,
            tally,
            starting_tls,
            ..
        } = state;
        buffers::lend(stream);
        let mut answer = buffers::take();
        let opened = wire.open(
            filled,
            &mut |heard| match heard {
                Heard::Secured(secured) => {
                    if let Some(random) = starting_tls.take() {
                        stream.tls_started(*random, now);
                    }
                    if let Some(certificate) = self.shared.proven(&secured) {
                        stream.certificate(certificate);
                    }
                    stream.bound_to(secured.bindings);
                }
                Heard::Clear(clear) => {
                    tally.clear_in(clear.len());
                    stream.receive(clear, now, time);
                }
                Heard::Alive(bytes) => {
                    tally.clear_in(bytes);
                    stream.alive(bytes, now);
                }
                Heard::Unreadable(what) => stream.unreadable(what),
            },
            &mut answer,
        );
        if !answer.is_empty() {
            self.send(state, &answer, now);
        }
        buffers::keep(answer);
        if let Err(error) = opened {
            self.tls_failed(state, &error);
            return (None, false);
        }
        self.pump(state, Reason::Stream, now);
        self.watch_sender(state);
        let closed = state.wire.peer_closed();
        (closed.then_some(Reason::Lost), !closed)
    }

    /// One `recv`. A short read tells that the socket is empty, which saves the read that would say so: tokio clears its
    /// readiness when the closure answers `WouldBlock` (epoll, edge-triggered; what arrives meanwhile sets it again).
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        let result = self.socket.try_io(tokio::io::Interest::READABLE, || {
            let socket = socket2::SockRef::from(&self.socket);
            read = (&*socket).read(buffer)?;
            if read == 0 || read == buffer.len() {
                return Ok(());
            }
            Err(io::ErrorKind::WouldBlock.into())
        });
        match result {
            Ok(()) => Ok(read),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && read > 0 => Ok(read),
            Err(error) => Err(error),
        }
    }

    fn tls_failed(&self, state: &mut State, error: &WireError) {
        tracing::debug!(error = %error, client.address = %self.client, "TLS of a device at {} failed: {error}", self.client);
        if state.seated.is_none() {
            self.shared.metrics.refused(Refused::Tls);
        }
        self.lose(state, Reason::Tls, Instant::now());
    }

    /// Seals the stream's output and writes it.
    pub(super) fn write_output(&self, state: &mut State, now: Instant) {
        if !state.stream.output().is_empty() && state.wire.established() {
            let mut output = std::mem::take(state.stream.output());
            state.tally.clear_out(output.len());
            if matches!(state.wire, Wire::Plain) {
                self.send(state, &output, now);
            } else {
                let mut sealed = buffers::take();
                let result = state.wire.seal(&output, &mut sealed);
                self.send(state, &sealed, now);
                buffers::keep(sealed);
                if let Err(error) = result {
                    self.tls_failed(state, &error);
                }
            }
            output.clear();
            *state.stream.output() = output;
        }
        buffers::give_back(&mut state.stream);
    }

    /// Hands bytes to the socket, and keeps what it does not take.
    pub(super) fn send(&self, state: &mut State, bytes: &[u8], now: Instant) {
        state.tally.sent(bytes.len());
        self.shared.metrics.bytes_out.inc_by(bytes.len() as u64);
        let mut taken = 0;
        if state.queue.is_empty() {
            // An error shows again at the next read or write, by the task.
            taken = self.socket.try_write(bytes).unwrap_or(0);
        }
        if let Some(rest) = bytes.get(taken..)
            && !rest.is_empty()
        {
            state.queue.extend_from_slice(rest);
            state.stalled_since.get_or_insert(now);
            self.arm(state, now);
            self.waker.wake();
        }
    }

    /// Writes what waits.
    pub(super) fn write_queue(&self, state: &mut State, now: Instant) {
        match self.socket.try_write(&state.queue) {
            Ok(written) => {
                if written > 0 {
                    state.stalled_since = Some(now);
                }
                state.queue.drain(..written);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                let reason = if error.kind() == io::ErrorKind::TimedOut {
                    Reason::Stalled
                } else {
                    Reason::Lost
                };
                state.queue.clear();
                self.lose(state, reason, now);
            }
        }
        if state.queue.is_empty() {
            state.queue = Vec::new();
            state.stalled_since = None;
            state.slow_since = None;
            if std::mem::take(&mut state.blocked) && state.available {
                self.ready(state);
            }
        }
    }
}
