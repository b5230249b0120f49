//! A backend's side: HTTP/1.1 over one kept connection, one request at a time.

use std::{net::SocketAddr, path::Path, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    Error,
    answer::{Answer, push_line, read_answer},
    error::in_time,
};

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

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener};

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
