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
    pub id: u64,
    pub kind: String,
    pub data: Value,
}

pub struct Listening {
    socket: TcpStream,
    told: Receiver<Told>,
    /// The id of the last event, as a client gives it back.
    pub last: u64,
}

impl Listening {
    /// Opens a stream of presence; an answer that is none is given back.
    pub fn try_open(backend: &Backend, query: &str, last: Option<u64>) -> Result<Self, Answer> {
        let mut socket = TcpStream::connect_timeout(&backend.address, SOON).unwrap();
        let mut head = format!(
            "GET /v1/presence/stream{query} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n",
            backend.key
        );
        if let Some(last) = last {
            head += &format!("last-event-id: {last}\r\n");
        }
        head += "\r\n";
        socket.write_all(head.as_bytes()).unwrap();
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).unwrap() > 0, "no answer");
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
            reader.read_exact(&mut body).unwrap();
            return Err(Answer {
                status,
                headers,
                body: String::from_utf8(body).unwrap(),
            });
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
        let mut open = Self { socket, told, last: 0 };
        // The first says where the stream begins.
        let first = open.next(SOON).expect("a beginning");
        if !first.kind.is_empty() {
            // A gap is for the test to see.
            let (teller, told) = channel();
            teller.send(first).unwrap();
            let rest = std::mem::replace(&mut open.told, told);
            std::thread::spawn(move || rest.into_iter().try_for_each(|told| teller.send(told)));
        }
        Ok(open)
    }

    #[track_caller]
    pub fn open(backend: &Backend, query: &str, last: Option<u64>) -> Self {
        Self::try_open(backend, query, last).unwrap_or_else(|answer| panic!("{answer:?}"))
    }

    /// The next event. `None`: none within that time, or the stream is over.
    pub fn next(&mut self, within: Duration) -> Option<Told> {
        let told = self.told.recv_timeout(within).ok()?;
        self.last = told.id;
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
    Some(Told {
        id: field("id")?.parse().unwrap(),
        kind: field("event").unwrap_or_default().to_owned(),
        data: field("data").map_or(Value::Null, |data| serde_json::from_str(data).unwrap()),
    })
}
