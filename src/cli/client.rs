//! The HTTP client of the commands that talk to a server.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Certificate, Method, Url};
use serde_json::Value;

use super::Failure;

/// How long a connection may take to be there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a whole answer may take: an import of many devices derives keys for each.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// How long an export or an import may take.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);
/// Where a server listens by default.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// Which server, and who asks. By default the server whose data directory is here.
#[derive(clap::Args, Clone)]
pub struct ServerArguments {
    /// The server's address, such as https://push.example:8443 [default: the one that the data directory names].
    #[arg(long, env = "UNPOLL_URL")]
    url: Option<String>,
    /// A file with the API key; UNPOLL_KEY holds the key itself [default: admin.key in the data directory].
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A file with the certificates to trust for https, in PEM [default: ca.pem in the data directory, or the system's].
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The data directory of a server on this machine.
    #[arg(long, value_name = "DIR", default_value = "unpoll-data", env = "UNPOLL_DATA_DIR")]
    data_dir: PathBuf,
}

/// A server and a key.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    key: String,
}

impl ServerArguments {
    /// Finds server and key.
    pub fn client(&self) -> Result<Client, Failure> {
        let url = match &self.url {
            Some(url) => url.clone(),
            None => ready(&self.data_dir)
                .and_then(|ready| Some(format!("http://{}", ready.get("http")?.as_str()?)))
                .unwrap_or_else(|| DEFAULT_URL.into()),
        };
        let default_ca = self.data_dir.join(crate::certificate::CA_FILE);
        let ca = self.ca.clone().or_else(|| default_ca.exists().then_some(default_ca));
        let key = find_key(self.key.as_deref(), &self.data_dir)?;
        Client::new(&url, &key, ca.as_deref())
    }
}

/// The key: of the file, of the environment, or the first key in the data directory.
fn find_key(file: Option<&Path>, data_dir: &Path) -> Result<String, Failure> {
    let (path, hint) = match (file, std::env::var("UNPOLL_KEY")) {
        (Some(path), _) => (path.to_owned(), "correct the path after --key"),
        (None, Ok(key)) if !key.trim().is_empty() => return Ok(key.trim().to_owned()),
        (None, _) => (
            data_dir.join("admin.key"),
            "name a file with --key, the key in UNPOLL_KEY, or --data-dir",
        ),
    };
    let key = std::fs::read_to_string(&path)
        .map_err(|error| Failure::Failed(format!("the key file {} cannot be read: {error}; {hint}", path.display())))?;
    Ok(key.trim().to_owned())
}

/// What the running server wrote about itself into its data directory: the ready line.
pub fn ready(data_dir: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(data_dir.join("ready.json")).ok()?).ok()
}

impl Client {
    /// A client of the server at `url`, with the certificates of `ca` trusted for https.
    pub fn new(url: &str, key: &str, ca: Option<&Path>) -> Result<Self, Failure> {
        let base: Url = url
            .parse()
            .map_err(|error| Failure::Usage(format!("the address {url:?} is no URL: {error}")))?;
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .user_agent(concat!("unpoll/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        if base.scheme() != "https" {
            builder = builder.tls_certs_only([]);
        } else if let Some(path) = ca {
            builder = builder.tls_certs_only(certificates(path)?);
        }
        let http = builder
            .build()
            .map_err(|error| Failure::Failed(format!("no HTTP client can be made: {error}")))?;
        Ok(Self {
            http,
            base,
            key: key.to_owned(),
        })
    }

    /// Asks, and answers with the JSON body (null when there is none). An answer that is no success is a failure in words.
    pub async fn ask(&self, method: Method, path: &str, body: Option<(&str, Vec<u8>)>) -> Result<Value, Failure> {
        let (status, body) = self.exchange(method, path, body).await?;
        if status.is_success() {
            return Ok(serde_json::from_slice(&body).unwrap_or(Value::Null));
        }
        Err(Failure::Failed(problem(status, &body)))
    }

    /// The same with a JSON body.
    pub async fn ask_json(&self, method: Method, path: &str, body: &Value) -> Result<Value, Failure> {
        self.ask(method, path, Some(("application/json", body.to_string().into_bytes())))
            .await
    }

    /// The same with one header more.
    pub async fn ask_json_with(&self, method: Method, path: &str, header: (&'static str, &str), body: &Value) -> Result<Value, Failure> {
        let request = self.request(method, path)?.header(header.0, header_value(header.1)?);
        let request = request
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .body(body.to_string());
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        if status.is_success() {
            return Ok(serde_json::from_slice(&body).unwrap_or(Value::Null));
        }
        Err(Failure::Failed(problem(status, &body)))
    }

    /// One request; any status is an answer.
    pub async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<(reqwest::StatusCode, Vec<u8>), Failure> {
        let mut request = self.request(method, path)?;
        if let Some((kind, body)) = body {
            request = request.header(reqwest::header::CONTENT_TYPE, kind).body(body);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        Ok((status, body.to_vec()))
    }

    /// A request whose answer is read, or whose body is sent, piece by piece, and may take a day. An answer that is no success is a
    /// failure in words.
    pub async fn stream(&self, method: Method, path: &str, lines: Option<reqwest::Body>) -> Result<reqwest::Response, Failure> {
        self.stream_with(method, path, None, lines).await
    }

    /// The same with one header more.
    pub async fn stream_with(
        &self,
        method: Method,
        path: &str,
        header: Option<(&'static str, &str)>,
        lines: Option<reqwest::Body>,
    ) -> Result<reqwest::Response, Failure> {
        let mut request = self.request(method, path)?.timeout(TRANSFER_TIMEOUT);
        if let Some((name, text)) = header {
            request = request.header(name, header_value(text)?);
        }
        if let Some(lines) = lines {
            request = request.header(reqwest::header::CONTENT_TYPE, "application/x-ndjson").body(lines);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        Err(Failure::Failed(problem(status, &body)))
    }

    /// The answer to a GET whose body is read piece by piece, for up to a day; any status is an answer.
    pub async fn open(&self, path: &str) -> Result<reqwest::Response, reqwest::Error> {
        let url = format!("{}{}", self.base.as_str().trim_end_matches('/'), path);
        self.http.get(url).bearer_auth(&self.key).timeout(TRANSFER_TIMEOUT).send().await
    }

    fn request(&self, method: Method, path: &str) -> Result<reqwest::RequestBuilder, Failure> {
        let url = self
            .base
            .join(path)
            .map_err(|error| Failure::Usage(format!("{path:?} is no path: {error}")))?;
        Ok(self.http.request(method, url).bearer_auth(&self.key))
    }

    /// What an error of the connection is in words.
    pub fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut why: &dyn std::error::Error = error;
        while let Some(deeper) = why.source() {
            why = deeper;
        }
        Failure::Failed(format!(
            "{} does not answer: {why}; is the server running, and is --url right?",
            self.base
        ))
    }

    /// Every item of a list, page by page.
    pub async fn each(&self, path: &str, item: impl FnMut(&Value) -> Result<(), Failure>) -> Result<(), Failure> {
        self.each_of(path, "", item).await
    }

    /// The same with more parameters: `&name=value` each. A page may be empty and yet not the last.
    pub async fn each_of(&self, path: &str, query: &str, mut item: impl FnMut(&Value) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut next = String::new();
        loop {
            let cursor = if next.is_empty() {
                String::new()
            } else {
                format!("&cursor={}", segment(&next))
            };
            let page = self.ask(Method::GET, &format!("{path}?limit=1000{query}{cursor}"), None).await?;
            for value in page.get("items").and_then(Value::as_array).into_iter().flatten() {
                item(value)?;
            }
            match page.get("next").and_then(Value::as_str) {
                Some(cursor) if !cursor.is_empty() && cursor != next => next = cursor.to_owned(),
                _ => return Ok(()),
            }
        }
    }
}

fn header_value(text: &str) -> Result<reqwest::header::HeaderValue, Failure> {
    reqwest::header::HeaderValue::from_str(text)
        .map_err(|_| Failure::Usage(format!("{text:?} cannot be sent as a header; use letters and digits")))
}

/// A text as one segment of a path, or value of a query.
pub fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A problem (RFC 9457) in one line.
pub fn problem(status: reqwest::StatusCode, body: &[u8]) -> String {
    let problem: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    match problem_text(&problem) {
        text if text.is_empty() => format!("the server answered with HTTP {status}"),
        text => format!("{text} (HTTP {})", status.as_u16()),
    }
}

/// What a problem says of itself; empty when it is none.
pub fn problem_text(problem: &Value) -> String {
    let text = |field: &str| problem.get(field).and_then(Value::as_str);
    text("detail").or_else(|| text("title")).unwrap_or_default().to_owned()
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let host = host.trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, Failure> {
    let shown = path.display();
    let pem = std::fs::read(path).map_err(|error| Failure::Failed(format!("the file {shown} cannot be read: {error}")))?;
    let found =
        Certificate::from_pem_bundle(&pem).map_err(|error| Failure::Failed(format!("{shown} holds no certificates in PEM: {error}")))?;
    if found.is_empty() {
        return Err(Failure::Failed(format!("{shown} holds no certificates in PEM")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_becomes_one_line() {
        let check = |body: &str, expected: &str| assert_eq!(problem(reqwest::StatusCode::NOT_FOUND, body.as_bytes()), expected);
        check(
            r#"{"title":"T","detail":"no device has the id x"}"#,
            "no device has the id x (HTTP 404)",
        );
        check(r#"{"title":"T"}"#, "T (HTTP 404)");
        check("<html>", "the server answered with HTTP 404 Not Found");
    }

    #[test]
    fn a_segment_keeps_its_meaning() {
        assert_eq!(segment("a/b?c=ä"), "a%2Fb%3Fc%3D%C3%A4");
    }

    #[test]
    fn proxies_are_left_out_for_loopback_alone() {
        let check = |url: &str, expected| assert_eq!(is_loopback(&url.parse().unwrap()), expected, "{url}");
        check("http://127.0.0.1:8080", true);
        check("http://[::1]:8080", true);
        check("https://localhost", true);
        check("https://push.example", false);
    }
}
