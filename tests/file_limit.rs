//! No file descriptor left: a connection is told so, those that are there go on, and it mends itself.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{fs, io::Read as _, net::TcpStream, process::Command, time::Duration};

use serde_json::json;
use support::{Device, SOON, Service, wait_for};

fn open_files(service: &Service) -> usize {
    fs::read_dir(format!("/proc/{}/fd", service.id())).unwrap().count()
}

/// CPU time spent so far, in hundredths of a second.
fn cpu(service: &Service) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", service.id())).unwrap();
    let (_, after_the_name) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = after_the_name.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// util-linux' `prlimit`: the soft limit of the running process.
fn limit_files(service: &Service, files: usize) {
    let done = Command::new("prlimit")
        .args([format!("--pid={}", service.id()), format!("--nofile={files}:")])
        .status()
        .expect("prlimit of util-linux");
    assert!(done.success());
}

/// What the service says to a connection that says nothing. `None`: it waits.
fn told(mut stream: &TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok().map(|_| text)
}

#[test]
fn at_the_limit_of_files_a_connection_is_told_and_the_others_go_on() {
    let service = Service::start();
    let backend = service.backend();
    for id in ["box", "late"] {
        backend.add_device(id, "secret");
    }
    let device = Device::online(&service, "box", "secret");

    let room = 8;
    let files = open_files(&service);
    limit_files(&service, files + room);
    let mut idle: Vec<TcpStream> = (0..room).map(|_| TcpStream::connect(service.xmpp).unwrap()).collect();
    wait_for("no file is left", SOON, || {
        idle.push(TcpStream::connect(service.xmpp).unwrap());
        told(idle.last().unwrap()).filter(|text| text.contains("<resource-constraint "))
    });
    // As many again are told as well, and waiting for room costs nothing.
    let before = cpu(&service);
    for _ in 0..5 {
        let one_more = TcpStream::connect(service.xmpp).unwrap();
        let text = told(&one_more).expect("it is closed");
        assert!(text.contains("<resource-constraint "), "{text}");
    }
    let spent = cpu(&service) - before;
    assert!(spent < 100, "{spent} hundredths of a second of CPU");

    // A backend is told, too.
    // (The first ones may get a descriptor that another listener keeps in reserve, or that has become free meanwhile.)
    wait_for("a backend is told", SOON, || {
        idle.extend((0..2 * room).map(|_| TcpStream::connect(service.http).unwrap()));
        told(idle.last().unwrap()).filter(|text| text.starts_with("HTTP/1.1 503 ") && text.contains("Retry-After: "))
    });

    // With a little room again everything goes on.
    drop(idle);
    wait_for("there is room", SOON, || (open_files(&service) <= files + room / 2).then_some(()));
    let event = backend.push("box", &json!("still there"));
    assert_eq!(device.expect_event().id, event);
    Device::online(&service, "late", "secret");
    let refused = service.metric("unpoll_connections_refused_total{reason=\"files\"}");
    assert!(refused.is_some_and(|refused| refused >= 6.0), "{refused:?}");
}
