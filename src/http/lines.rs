//! NDJSON: a body read line by line, never held whole.

use axum::body::Body;
use bytes::{Bytes, BytesMut};

use super::body;
use crate::domain::Refusal;

/// One line of a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1. Empty lines count and are left out.
    pub number: usize,
    /// Its bytes without the end of line; `None`: it was longer than allowed, and was skipped.
    pub bytes: Option<Bytes>,
}

/// Reads a body line by line. A line ends with LF or CRLF, or with the body.
pub struct Lines {
    body: Body,
    buffer: BytesMut,
    searched: usize,
    number: usize,
    line_max: usize,
    skipping: bool,
    ended: bool,
}

impl Lines {
    /// The lines of `body`, each of at most `line_max` bytes.
    pub fn new(body: Body, line_max: usize) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
            number: 0,
            line_max,
            skipping: false,
            ended: false,
        }
    }

    /// Whether a part of a line is here, or was skipped, whose end did not come.
    pub fn is_unfinished(&self) -> bool {
        self.skipping || !self.buffer.trim_ascii().is_empty()
    }

    /// The next line that is not empty. `None`: that was the last one. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// `BodyTooSlow`, `BodyBroken`: what came before stands.
    pub async fn next(&mut self) -> Result<Option<Line>, Refusal> {
        loop {
            if let Some(line) = self.buffered() {
                if line.bytes.as_ref().is_some_and(|bytes| bytes.trim_ascii().is_empty()) {
                    continue;
                }
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            match body::next(&mut self.body).await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => self.ended = true,
            }
        }
    }

    /// The next line within the buffer.
    fn buffered(&mut self) -> Option<Line> {
        let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
        let (mut line, complete) = match memchr::memchr(b'\n', unsearched) {
            Some(at) => {
                let mut line = self.buffer.split_to(self.searched + at + 1);
                line.truncate(line.len() - 1);
                (line, true)
            }
            None if self.ended && (self.skipping || !self.buffer.is_empty()) => (self.buffer.split(), true),
            None => {
                if self.buffer.len() > self.line_max + 1 {
                    self.buffer.clear();
                    self.skipping = true;
                }
                (BytesMut::new(), false)
            }
        };
        self.searched = self.buffer.len();
        if !complete {
            return None;
        }
        self.searched = 0;
        self.number += 1;
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        let whole = !std::mem::take(&mut self.skipping) && line.len() <= self.line_max;
        Some(Line {
            number: self.number,
            bytes: whole.then(|| line.freeze()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    async fn lines(pieces: Vec<&'static str>, line_max: usize) -> Vec<(usize, Option<String>)> {
        let body = Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, Infallible>)));
        let mut lines = Lines::new(body, line_max);
        let mut found = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            found.push((line.number, line.bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())));
        }
        found
    }

    fn line(number: usize, text: &str) -> (usize, Option<String>) {
        (number, Some(text.to_owned()))
    }

    #[tokio::test]
    async fn lines_are_found_across_pieces() {
        let whole = "ab\r\n\n  \ncd\nef";
        let expected = vec![line(1, "ab"), line(4, "cd"), line(5, "ef")];
        assert_eq!(lines(vec![whole], 10).await, expected);
        let single = (0..whole.len()).map(|at| &whole[at..=at]).collect();
        assert_eq!(lines(single, 10).await, expected);
        assert_eq!(lines(vec![""], 10).await, []);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_spoils_no_other() {
        let expected = vec![line(1, "abcd"), (2, None), line(3, "ef"), (4, None)];
        let whole = "abcd\nabcdefghijklmnop\nef\nabcde";
        assert_eq!(lines(vec![whole], 4).await, expected);
        let single = (0..whole.len()).map(|at| &whole[at..=at]).collect();
        assert_eq!(lines(single, 4).await, expected);
    }
}
