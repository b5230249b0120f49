//! Behind a balancer: the real HAProxy tells who connects, by the PROXY protocol. Nobody else can.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use serde_json::json;
use support::{Device, Options, SOON, STREAM_HEADER, Service, Settings, TestDir, Wire, wait_for};

/// Where HAProxy connects from; everybody else here is no balancer.
const BALANCER: &str = "127.0.0.2";
/// Where a device behind it connects from.
const DEVICE: &str = "127.0.0.7";

fn settings() -> Settings {
    let networks = format!("[\"{BALANCER}/32\"]");
    Settings::default()
        .set("UNPOLL_XMPP_PROXY_FROM", &networks)
        .set("UNPOLL_HTTP_PROXY_FROM", &networks)
        .set("UNPOLL_XMPP_LOGIN_WITHIN_SECS", "2")
        .set("UNPOLL_LOG_LEVEL", "debug")
}

fn headers(service: &Service, listener: &str, result: &str) -> f64 {
    let series = format!("unpoll_proxy_headers_total{{listener=\"{listener}\",result=\"{result}\"}}");
    service.metric(&series).unwrap()
}

fn https(service: &Service) -> SocketAddr {
    service.ready["https"].as_str().unwrap().parse().unwrap()
}

/// HAProxy before all listeners of a service.
struct Haproxy {
    child: Child,
    xmpp: SocketAddr,
    xmpps: SocketAddr,
    http: SocketAddr,
    https: SocketAddr,
}

impl Haproxy {
    fn before(service: &Service, dir: &TestDir) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners = [free(), free(), free(), free()];
        let [xmpp, xmpps, http, https_] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let mut settings =
            "global\n  maxconn 200\ndefaults\n  mode tcp\n  timeout connect 10s\n  timeout client 60s\n  timeout server 60s\n".to_owned();
        for (name, front, back) in [
            ("xmpp", xmpp, service.xmpp),
            ("xmpps", xmpps, service.xmpps),
            ("http", http, service.http),
            ("https", https_, https(service)),
        ] {
            settings += &format!("listen {name}\n  bind {front}\n  server unpoll {back} source {BALANCER} send-proxy-v2\n");
        }
        let file = dir.path().join("haproxy.cfg");
        fs::write(&file, settings).unwrap();
        drop(listeners);
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file).stdin(Stdio::null());
        let child = command.spawn().expect("haproxy (Debian package) is installed");
        let haproxy = Self {
            child,
            xmpp,
            xmpps,
            http,
            https: https_,
        };
        wait_for("HAProxy listens", SOON, || TcpStream::connect(xmpp).ok());
        haproxy
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_device_and_a_backend_behind_haproxy_are_served_and_known_by_their_own_address() {
    let service = Service::start_with(settings());
    let dir = TestDir::new();
    let haproxy = Haproxy::before(&service, &dir);
    let backend = service.backend().at(haproxy.http);
    backend.add_device("box", "secret");
    let options = Options {
        server: haproxy.xmpps,
        source: Some(DEVICE.parse::<IpAddr>().unwrap()),
        ..Device::options(&service, "box", "secret")
    };
    let device = Device::connect(options).unwrap();
    let id = backend.push("box", &json!("through the balancer"));
    assert_eq!(device.expect_event().id, id);

    // STARTTLS, and HTTPS.
    let mut clear = Wire::plain(haproxy.xmpp).open();
    clear.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    clear.until("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    support::peer(haproxy.https, &service.ca(), b"http/1.1", None);
    for listener in ["xmpp", "xmpps", "http", "https"] {
        assert!(headers(&service, listener, "ok") >= 1.0, "{listener}");
    }

    // Who sends no TLS is logged with the address that HAProxy told.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&format!("{DEVICE}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&haproxy.xmpps.into()).unwrap();
    let mut socket = TcpStream::from(socket);
    let own = socket.local_addr().unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let logged = format!("TLS of a device at {own} failed");
    wait_for(&logged, SOON, || service.log().contains(&logged).then_some(()));
}

#[test]
fn a_header_from_anybody_else_is_garbage() {
    let service = Service::start_with(settings());
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x30\x39\x14\x66";
    let mut wire = Wire::plain(service.xmpp);
    // The service may close before it has read everything.
    let _ = wire.try_send(header);
    let _ = wire.try_send(STREAM_HEADER.as_bytes());
    assert!(wire.until_closed(SOON).contains("<not-well-formed "));
    assert_eq!((headers(&service, "xmpp", "ok"), headers(&service, "xmpp", "bad")), (0.0, 0.0));
}

#[test]
fn a_balancer_that_does_not_say_who_connects_is_closed() {
    let service = Service::start_with(settings());
    let from_the_balancer = |address: SocketAddr| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&format!("{BALANCER}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.connect(&address.into()).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        TcpStream::from(socket)
    };
    for (listener, address) in [
        ("xmpp", service.xmpp),
        ("xmpps", service.xmpps),
        ("http", service.http),
        ("https", https(&service)),
    ] {
        let mut socket = from_the_balancer(address);
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut said = Vec::new();
        // Closed with unread bytes, which TCP may tell as a reset.
        let _ = socket.read_to_end(&mut said);
        assert_eq!(said, b"", "{listener}");
        assert_eq!(headers(&service, listener, "bad"), 1.0, "{listener}");
    }
    // One that says nothing is closed when a login would be late.
    let mut silent = from_the_balancer(service.xmpps);
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    assert_eq!(headers(&service, "xmpps", "bad"), 2.0);
    let log = service.log();
    assert!(
        log.contains("sent no PROXY header to xmpps, and its connection is closed: no header came in time"),
        "{log}"
    );
}
