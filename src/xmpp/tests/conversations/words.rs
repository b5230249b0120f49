//! What a transcript leaves to be computed: `{b64 …}`, `{scram SHA-256 …}`, `{final}`, `{fast NONE}`, `{x 20000}`.

use super::*;
use crate::domain::FastToken;

/// What a client has to remember of a conversation.
#[derive(Default)]
pub(super) struct Words {
    /// All that it was answered on this connection.
    pub(super) heard: String,
    /// With SHA-1, the GS2 header and what it binds to, the bare first message.
    scram: Option<(bool, String, String)>,
    /// The last FAST token that it was given.
    token: Option<String>,
}

impl Words {
    /// A new connection: only the token is kept.
    pub(super) fn reconnect(&mut self) {
        self.learn();
        self.heard.clear();
        self.scram = None;
    }

    fn learn(&mut self) {
        if let Some(at) = self.heard.rfind("<token ") {
            let rest = &self.heard[at..];
            let from = rest.find(" token='").unwrap() + 8;
            self.token = Some(rest[from..from + rest[from..].find('\'').unwrap()].to_owned());
        }
    }

    /// A client's line with everything computed.
    pub(super) fn say(&mut self, line: &str) -> String {
        let mut said = String::new();
        let mut rest = line;
        while let Some(at) = rest.find('{') {
            let known = ["b64 ", "scram ", "final", "fast ", "x "];
            let word = &rest[at + 1..];
            if !known.iter().any(|known| word.starts_with(known)) {
                said.push_str(&rest[..=at]);
                rest = word;
                continue;
            }
            let end = word.find('}').unwrap();
            said.push_str(&rest[..at]);
            said.push_str(&self.word(&word[..end]));
            rest = &word[end + 1..];
        }
        said + rest
    }

    fn word(&mut self, word: &str) -> String {
        let (name, of) = word.split_once(' ').unwrap_or((word, ""));
        match name {
            "b64" => BASE64_STANDARD.encode(of.replace("\\0", "\0")),
            "x" => "x".repeat(of.parse().unwrap()),
            "scram" => {
                let (hash, message) = of.split_once(' ').unwrap();
                let at = message.find("n=").unwrap();
                let (gs2, bare) = message.split_at(at);
                let binding = match gs2 {
                    "p=tls-exporter,," => "e".repeat(32),
                    "p=tls-server-end-point,," => "certificate".to_owned(),
                    _ => String::new(),
                };
                self.scram = Some((hash == "SHA-1", gs2.to_owned() + &binding, bare.to_owned()));
                BASE64_STANDARD.encode(message)
            }
            "final" => {
                let (sha1, gs2, bare) = self.scram.clone().expect("a first message");
                let challenge = &self.heard[self.heard.rfind("<challenge").unwrap()..];
                let password = if of.is_empty() { "pencil" } else { of };
                let challenge = decoded(inside(challenge, "challenge"));
                BASE64_STANDARD.encode(scram_final(sha1, password, &bare, &gs2, &challenge))
            }
            "fast" => {
                self.learn();
                let (kind, user) = of.split_once(' ').unwrap_or((of, "stb-1"));
                let binding = match kind {
                    "EXPR" => vec![b'e'; 32],
                    "ENDP" => b"certificate".to_vec(),
                    _ => Vec::new(),
                };
                let token = self.token.clone().unwrap_or_else(|| "no token".to_owned());
                let proof = FastToken::new(token, START, START).sign("Initiator", &binding);
                BASE64_STANDARD.encode([user.as_bytes(), b"\0", proof.as_ref()].concat())
            }
            _ => panic!("{word:?}"),
        }
    }
}
