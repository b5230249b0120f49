//! A client of server-sent events, read by a thread of its own.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use serde_json::Value;

use super::{Answer, Backend, SOON};

/// One event; its kind is "" when it has no data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The number that its id begins with.
    pub id: u64,
    /// The whole id.
    pub cursor: String,
    pub kind: String,
    pub data: Value,
}

pub struct Listening {
    socket: TcpStream,
    told: Receiver<Told>,
    /// The number of the last event.
    pub last: u64,
    /// Its id, as a client gives it back.
    pub cursor: String,
}

impl Listening {
    /// Opens a stream of presence; an answer that is none is given back.
    pub fn try_open(backend: &Backend, query: &str, last: Option<u64>) -> Result<Self, Answer> {
        let last = last.map(|last| last.to_string());
        Self::try_at(backend, &format!("/v1/presence/stream{query}"), last.as_deref()).unwrap()
    }

    /// Opens a stream of receipts.
    #[track_caller]
    pub fn receipts(backend: &Backend, query: &str, last: Option<&str>) -> Self {
        Self::try_at(backend, &format!("/v1/receipts{query}"), last)
            .unwrap()
            .unwrap_or_else(|answer| panic!("{answer:?}"))
    }

    /// Opens a stream; an answer that is none is given back. An error means that no answer came.
    pub fn try_at(backend: &Backend, path: &str, last: Option<&str>) -> std::io::Result<Result<Self, Answer>> {
        let mut socket = TcpStream::connect_timeout(&backend.address, SOON)?;
        let mut head = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n",
            backend.key
        );
        if let Some(last) = last {
            head += &format!("last-event-id: {last}\r\n");
        }
        head += "\r\n";
        socket.write_all(head.as_bytes())?;
        let mut reader = BufReader::new(socket.try_clone()?);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(std::io::Error::other("no answer"));
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_ascii_lowercase()),
            }
        }
        let status: u16 = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines[1..]
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        if status != 200 {
            let length = headers
                .iter()
                .find(|(name, _)| name == "content-length")
                .unwrap()
                .1
                .parse()
                .unwrap();
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            return Ok(Err(Answer {
                status,
                headers,
                body: String::from_utf8(body).unwrap(),
            }));
        }
        assert!(
            headers.contains(&("content-type".into(), "text/event-stream".into())),
            "{headers:?}"
        );
        let (teller, told) = channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            while let Some(chunk) = chunk(&mut reader) {
                text += &chunk;
                while let Some((event, rest)) = text.split_once("\n\n") {
                    let read = read(event);
                    text = rest.to_owned();
                    if let Some(read) = read
                        && teller.send(read).is_err()
                    {
                        return;
                    }
                }
            }
        });
        let mut open = Self {
            socket,
            told,
            last: 0,
            cursor: String::new(),
        };
        // The first says where the stream begins.
        let Some(first) = open.next(SOON) else {
            return Err(std::io::Error::other("no beginning"));
        };
        if !first.kind.is_empty() {
            // A gap is for the test to see.
            let (teller, told) = channel();
            teller.send(first).unwrap();
            let rest = std::mem::replace(&mut open.told, told);
            std::thread::spawn(move || rest.into_iter().all(|told| teller.send(told).is_ok()));
        }
        Ok(Ok(open))
    }

    #[track_caller]
    pub fn open(backend: &Backend, query: &str, last: Option<u64>) -> Self {
        Self::try_open(backend, query, last).unwrap_or_else(|answer| panic!("{answer:?}"))
    }

    /// The next event. `None`: none within that time, or the stream is over.
    pub fn next(&mut self, within: Duration) -> Option<Told> {
        let told = self.told.recv_timeout(within).ok()?;
        self.last = told.id;
        self.cursor.clone_from(&told.cursor);
        Some(told)
    }

    #[track_caller]
    pub fn expect(&mut self) -> Told {
        self.next(SOON).expect("an event")
    }

    /// Whether the server ends the stream soon.
    pub fn ends(&self) -> bool {
        loop {
            match self.told.recv_timeout(SOON) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// One chunk of a chunked body. `None`: it is over, or broken off.
fn chunk(reader: &mut impl BufRead) -> Option<String> {
    let mut size = String::new();
    reader.read_line(&mut size).ok().filter(|read| *read > 0)?;
    let size = usize::from_str_radix(size.trim(), 16).ok().filter(|size| *size > 0)?;
    let mut bytes = vec![0; size + 2];
    reader.read_exact(&mut bytes).ok()?;
    bytes.truncate(size);
    String::from_utf8(bytes).ok()
}

/// `None`: a comment.
fn read(event: &str) -> Option<Told> {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let cursor = field("id")?.to_owned();
    Some(Told {
        id: cursor.split('.').next().unwrap().parse().unwrap(),
        cursor,
        kind: field("event").unwrap_or_default().to_owned(),
        data: field("data").map_or(Value::Null, |data| serde_json::from_str(data).unwrap()),
    })
}
