//! A backend: one HTTP/1.1 request a connection, said as the test wants it said.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use serde_json::{Value, json};

use super::SOON;

#[derive(Clone, Debug)]
pub struct Backend {
    pub address: SocketAddr,
    pub key: String,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        header.map(|(_, value)| value.as_str())
    }

    /// The end of the problem's type URI.
    pub fn slug(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let kind = self.json()["type"].as_str().unwrap_or_default().to_owned();
        kind.rsplit(['/', '#', ':']).next().unwrap_or_default().to_owned()
    }

    /// This answer, when it has that status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

impl Backend {
    /// The same address with another key.
    pub fn with_key(&self, key: &str) -> Self {
        Self {
            address: self.address,
            key: key.to_owned(),
        }
    }

    /// The same key at another address.
    pub fn at(&self, address: SocketAddr) -> Self {
        Self {
            address,
            key: self.key.clone(),
        }
    }

    /// Sends a request; an error means that no answer came.
    pub fn try_request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<Answer> {
        let mut socket = TcpStream::connect_timeout(&self.address, SOON)?;
        socket.set_read_timeout(Some(SOON * 3))?;
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        if !self.key.is_empty() {
            head += &format!("authorization: Bearer {}\r\n", self.key);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        socket.write_all(head.as_bytes())?;
        // A server that refuses early may close before it has read the body; its answer is what counts.
        let written = socket.write_all(body);
        let mut answer = Vec::new();
        let read = socket.read_to_end(&mut answer);
        if answer.is_empty() {
            written?;
            read?;
        }
        self::answer(&answer).ok_or_else(|| std::io::Error::other("the answer is cut short"))
    }

    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        match self.try_request(method, path, headers, body) {
            Ok(answer) => answer,
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path, &[], b"")
    }

    #[track_caller]
    pub fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.request(method, path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// Adds a device with a password.
    #[track_caller]
    pub fn add_device(&self, id: &str, password: &str) {
        let answer = self.send("PUT", &format!("/v1/devices/{id}"), &json!({ "password": password }));
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
    }

    /// Posts an event in the native form.
    #[track_caller]
    pub fn post(&self, event: &Value) -> Answer {
        self.send("POST", "/v1/events", event)
    }

    /// Posts `data` for a device; gives the event's id.
    #[track_caller]
    pub fn push(&self, device: &str, data: &Value) -> String {
        let answer = self
            .post(&json!({ "target": { "device": device }, "type": "test", "data": data }))
            .expect(202);
        answer.json()["id"].as_str().expect("an id").to_owned()
    }

    /// The state of an event for its one device.
    #[track_caller]
    pub fn state(&self, event: &str) -> String {
        let answer = self.get(&format!("/v1/events/{event}/deliveries")).expect(200).json();
        answer["items"][0]["state"]
            .as_str()
            .unwrap_or_else(|| panic!("no delivery: {answer}"))
            .to_owned()
    }

    /// The presence of a device: `online`, `away` or `offline`.
    #[track_caller]
    pub fn presence(&self, device: &str) -> String {
        let answer = self.get(&format!("/v1/devices/{device}/presence")).expect(200).json();
        let state = answer["state"].as_str().or(answer["presence"].as_str());
        state.unwrap_or_else(|| panic!("no presence: {answer}")).to_owned()
    }
}

/// An answer out of its bytes.
pub fn answer(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let find = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let rest = &answer[end + 4..];
    let body = if find("transfer-encoding") == Some("chunked") {
        dechunk(rest)?
    } else {
        let length: usize = find("content-length").map_or(Some(rest.len()), |length| length.parse().ok())?;
        rest.get(..length)?.to_vec()
    };
    let body = String::from_utf8(body).ok()?;
    Some(Answer { status, headers, body })
}

fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim(), 16).ok()?;
        rest = rest.get(end + 2..)?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}
