//! Bytes that go out together with the stream header, so that a login takes one round trip (XEP-0305).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

/// A stream that adds some bytes to its first flush: the library waits for the server's header after it has flushed its own.
pub struct FirstFlight<S> {
    inner: S,
    more: Vec<u8>,
    written: usize,
}

impl<S> FirstFlight<S> {
    /// Adds nothing.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            more: Vec::new(),
            written: 0,
        }
    }

    /// Adds these at the next flush.
    pub fn add(&mut self, more: Vec<u8>) {
        self.more = more;
        self.written = 0;
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstFlight<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while let Some(rest) = this.more.get(this.written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut this.inner).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => this.written += count,
            }
        }
        this.more = Vec::new();
        this.written = 0;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstFlight<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncBufRead + Unpin> AsyncBufRead for FirstFlight<S> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Pin::new(&mut self.get_mut().inner).poll_fill_buf(cx)
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        Pin::new(&mut self.get_mut().inner).consume(amount);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::FirstFlight;

    #[tokio::test]
    async fn the_bytes_follow_what_was_written_before_the_flush_and_come_once() {
        let (ours, mut theirs) = tokio::io::duplex(3); // the pipe is narrow, so that writing takes many steps
        let mut flight = FirstFlight::new(ours);
        flight.add(b"<authenticate/>".to_vec());
        let reader = tokio::spawn(async move {
            let mut text = String::new();
            theirs.read_to_string(&mut text).await.unwrap();
            text
        });
        for part in ["<stream>", "<presence/>"] {
            flight.write_all(part.as_bytes()).await.unwrap();
            flight.flush().await.unwrap();
        }
        drop(flight);
        assert_eq!(reader.await.unwrap(), "<stream><authenticate/><presence/>");
    }
}
