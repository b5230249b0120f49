//! An HTTP/1.1 answer, read from a connection.

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::Error;

/// Longest head of an answer.
const HEAD_MAX: usize = 64 * 1024;
/// Longest body of an answer.
const BODY_MAX: usize = 64 * 1024 * 1024;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header names in lower case, with their values, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// A body that is no JSON.
    pub fn json(&self) -> Result<Value, Error> {
        serde_json::from_slice(&self.body).map_err(|e| Error::Http(format!("{e}: {}", self.text())))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Appends the parts and the end of the line.
pub(crate) fn push_line(request: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        request.extend_from_slice(part.as_bytes());
    }
    request.extend_from_slice(b"\r\n");
}

/// Reads one answer to a request of that method; `read` keeps what came behind it.
pub(crate) async fn read_answer(connection: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>, method: &str) -> Result<Answer, Error> {
    loop {
        let head = read_past(connection, read, b"\r\n\r\n", HEAD_MAX).await?;
        let mut answer = parse_head(&head)?;
        if (100..200).contains(&answer.status) {
            continue;
        }
        if method == "HEAD" || matches!(answer.status, 204 | 304) {
            return Ok(answer);
        }
        if answer
            .header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
        {
            answer.body = read_chunks(connection, read).await?;
        } else {
            let length = answer
                .header("content-length")
                .ok_or_else(|| Error::Http("neither length nor chunks".into()))?;
            let length: usize = length.parse().map_err(|_| Error::Http(format!("content-length {length}")))?;
            answer.body = read_exactly(connection, read, length).await?;
        }
        return Ok(answer);
    }
}

fn parse_head(head: &[u8]) -> Result<Answer, Error> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| Error::Http(format!("no status line: {head}")))?;
    let header = |line: &str| {
        line.split_once(':')
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    Ok(Answer {
        status,
        headers: lines.filter_map(header).collect(),
        body: Vec::new(),
    })
}

async fn read_chunks(connection: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    loop {
        let line = read_past(connection, read, b"\r\n", 1024).await?;
        let line = String::from_utf8_lossy(&line);
        let size = line.trim().split(';').next().and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.ok_or_else(|| Error::Http(format!("chunk size {line}")))?;
        if size == 0 {
            while read_past(connection, read, b"\r\n", HEAD_MAX).await?.len() > 2 {}
            return Ok(body);
        }
        if body.len().saturating_add(size) > BODY_MAX {
            return Err(Error::Http(format!("a body of more than {BODY_MAX} bytes")));
        }
        body.extend(read_exactly(connection, read, size).await?);
        read_exactly(connection, read, 2).await?;
    }
}

async fn read_past(connection: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>, mark: &[u8], most: usize) -> Result<Vec<u8>, Error> {
    let mut from = 0;
    loop {
        if let Some(at) = read
            .get(from..)
            .and_then(|rest| rest.windows(mark.len()).position(|window| window == mark))
        {
            let rest = read.split_off(from + at + mark.len());
            return Ok(std::mem::replace(read, rest));
        }
        if read.len() > most {
            return Err(Error::Http(format!("no end within {most} bytes")));
        }
        from = read.len().saturating_sub(mark.len());
        read_more(connection, read).await?;
    }
}

async fn read_exactly(connection: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>, length: usize) -> Result<Vec<u8>, Error> {
    if length > BODY_MAX {
        return Err(Error::Http(format!("a body of more than {BODY_MAX} bytes")));
    }
    while read.len() < length {
        read_more(connection, read).await?;
    }
    let rest = read.split_off(length);
    Ok(std::mem::replace(read, rest))
}

async fn read_more(connection: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>) -> Result<(), Error> {
    if read.capacity() - read.len() < 2048 {
        read.reserve(4096);
    }
    if connection.read_buf(read).await? == 0 {
        Err(Error::Closed)
    } else {
        Ok(())
    }
}
