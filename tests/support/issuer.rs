//! An issuer of device tokens: ES256 (RFC 7518 §3.4), said by hand.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

pub struct Issuer {
    kid: String,
    key: EcdsaKeyPair,
}

impl Issuer {
    pub const NAME: &str = "https://issuer.example";

    pub fn new(kid: &str) -> Self {
        Self {
            kid: kid.to_owned(),
            key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
        }
    }

    pub fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let part = |bytes| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid, "x": part(&point[1..33]), "y": part(&point[33..])})
    }

    /// A token for `localhost` that is good for so many seconds.
    pub fn token(&self, device: &str, seconds: i64) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        self.sign(&json!({"iss": Self::NAME, "aud": "localhost", "sub": device, "exp": now.checked_add_signed(seconds).unwrap()}))
    }

    /// A token with these claims, good for ten minutes unless they say otherwise.
    pub fn sign(&self, claims: &Value) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let mut all = json!({"iss": Self::NAME, "exp": now + 600});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let claims = all;
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": self.kid});
        let message = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Serves a JWKS over HTTP on loopback, for as long as the test runs.
#[derive(Clone)]
pub struct KeyServer {
    pub url: String,
    keys: Arc<Mutex<Vec<Value>>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    pub fn start(keys: Vec<Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            url: format!("http://{}/keys", listener.local_addr().unwrap()),
            keys: Arc::new(Mutex::new(keys)),
            asked: Arc::default(),
        };
        let serving = server.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                // One small GET: its head comes in one piece.
                let _ = socket.read(&mut [0; 4096]);
                serving.asked.fetch_add(1, Ordering::SeqCst);
                let body = json!({"keys": *serving.keys.lock().unwrap()}).to_string();
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/jwk-set+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = socket.write_all((head + &body).as_bytes());
            }
        });
        server
    }

    pub fn set(&self, keys: Vec<Value>) {
        *self.keys.lock().unwrap() = keys;
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}
