//! A backend's side: HTTP/1.1 over one kept connection, one request at a time.

use std::{net::SocketAddr, path::Path, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{Error, error::in_time};

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

/// Posts over one kept connection. Nothing is ever repeated by itself: whether a request whose answer was lost took effect is for
/// the caller to find out.
pub struct Poster {
    server: SocketAddr,
    key: Option<String>,
    connection: Option<TcpStream>,
    request: Vec<u8>,
    read: Vec<u8>,
    within: Duration,
}

impl Poster {
    /// A poster for the HTTP listener at `server`, with the API key to send as a bearer token. Connects at the first request.
    pub fn new(server: SocketAddr, key: Option<String>) -> Self {
        Self {
            server,
            key,
            connection: None,
            request: Vec::new(),
            read: Vec::new(),
            within: Duration::from_secs(30),
        }
    }

    /// As [`Poster::new`], with the key from a file.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn with_key_file(server: SocketAddr, key: &Path) -> Result<Self, Error> {
        let key = std::fs::read_to_string(key).map_err(|e| Error::Machine(format!("{}: {e}", key.display())))?;
        Ok(Self::new(server, Some(key.trim().to_owned())))
    }

    /// Longest wait for an answer. Default 30 s.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Posts a JSON body.
    ///
    /// # Errors
    /// As [`Poster::request`].
    pub async fn post(&mut self, path: &str, body: &[u8]) -> Result<Answer, Error> {
        self.request("POST", path, &[("content-type", "application/json")], body).await
    }

    /// Gets a path.
    ///
    /// # Errors
    /// As [`Poster::request`].
    pub async fn get(&mut self, path: &str) -> Result<Answer, Error> {
        self.request("GET", path, &[], b"").await
    }

    /// Sends one request and reads its answer. After an error the next request opens a new connection.
    ///
    /// # Errors
    /// The socket, an answer that is no HTTP/1.1, or none in time. The request may have taken effect.
    pub async fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                self.read.clear();
                let connection = in_time("connect", self.within, async { Ok(TcpStream::connect(self.server).await?) }).await?;
                connection.set_nodelay(true)?;
                connection
            }
        };
        self.request.clear();
        push_line(&mut self.request, &[method, " ", path, " HTTP/1.1"]);
        push_line(&mut self.request, &["host: ", &self.server.to_string()]);
        if let Some(key) = &self.key {
            push_line(&mut self.request, &["authorization: Bearer ", key]);
        }
        for (name, value) in headers {
            push_line(&mut self.request, &[name, ": ", value]);
        }
        if !body.is_empty() || method != "GET" {
            push_line(&mut self.request, &["content-length: ", &body.len().to_string()]);
        }
        push_line(&mut self.request, &[]);
        self.request.extend_from_slice(body);
        let (request, read) = (&self.request, &mut self.read);
        let answer = in_time("an HTTP answer", self.within, async {
            connection.write_all(request).await?;
            read_answer(&mut connection, read, method).await
        })
        .await?;
        if !answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.connection = Some(connection);
        }
        Ok(answer)
    }
}

fn push_line(request: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        request.extend_from_slice(part.as_bytes());
    }
    request.extend_from_slice(b"\r\n");
}

async fn read_answer(connection: &mut TcpStream, read: &mut Vec<u8>, method: &str) -> Result<Answer, Error> {
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

async fn read_chunks(connection: &mut TcpStream, read: &mut Vec<u8>) -> Result<Vec<u8>, Error> {
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

async fn read_past(connection: &mut TcpStream, read: &mut Vec<u8>, mark: &[u8], most: usize) -> Result<Vec<u8>, Error> {
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

async fn read_exactly(connection: &mut TcpStream, read: &mut Vec<u8>, length: usize) -> Result<Vec<u8>, Error> {
    if length > BODY_MAX {
        return Err(Error::Http(format!("a body of more than {BODY_MAX} bytes")));
    }
    while read.len() < length {
        read_more(connection, read).await?;
    }
    let rest = read.split_off(length);
    Ok(std::mem::replace(read, rest))
}

async fn read_more(connection: &mut TcpStream, read: &mut Vec<u8>) -> Result<(), Error> {
    if read.capacity() - read.len() < 2048 {
        read.reserve(4096);
    }
    if connection.read_buf(read).await? == 0 {
        Err(Error::Closed)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn check(wire: &'static [u8], chunk: usize) -> Result<Answer, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            peer.set_nodelay(true).unwrap();
            let mut request = [0; 1024];
            assert!(peer.read(&mut request).await.unwrap() > 0);
            for piece in wire.chunks(chunk) {
                peer.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let answer = Poster::new(address, Some("k".into())).post("/v1/events", b"{}").await;
        server.await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_are_read_with_a_length_in_chunks_and_after_a_continue() {
        let sized = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 11\r\nLocation: /x\r\n\r\n{\"id\":\"ab\"}";
        let chunked =
            b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\nlocation:/x\r\n\r\n5;e=1\r\n{\"id\"\r\n6\r\n:\"ab\"}\r\n0\r\n\r\n";
        for chunk in [1, 7, 4096] {
            for wire in [&sized[..], &chunked[..]] {
                let answer = check(wire, chunk).await.unwrap();
                assert_eq!((answer.status, answer.header("location")), (202, Some("/x")));
                assert_eq!(answer.json().unwrap()["id"], "ab");
            }
        }
    }

    #[tokio::test]
    async fn a_cut_answer_is_an_error() {
        for wire in [
            &b"HTTP/1.1 202 A"[..],
            b"HTTP/1.1 202 A\r\ncontent-length: 5\r\n\r\nab",
            b"SSH-2.0\r\n\r\n",
        ] {
            assert!(check(wire, 99).await.is_err());
        }
    }
}
