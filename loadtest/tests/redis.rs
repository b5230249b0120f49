//! The servers that tests stand on do what they are told.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use loadtest::{
    proxy::Proxy,
    redis::{Cluster, Sentinels, Server, Settings},
};

#[test]
fn a_server_keeps_what_it_was_told_over_a_kill() {
    let mut server = Server::start(&Settings::default().line("appendfsync always")).unwrap();
    server.query::<()>(&["SET", "word", "kept"]).unwrap();
    server.kill();
    assert!(server.query::<String>(&["PING"]).is_err());
    server.restart().unwrap();
    assert_eq!(server.query::<String>(&["GET", "word"]).unwrap(), "kept");
    server.pause();
    assert!(server.query::<String>(&["PING"]).is_err());
    server.go_on();
    assert_eq!(server.query::<String>(&["PING"]).unwrap(), "PONG");
}

#[test]
fn sentinels_make_a_replica_the_primary() {
    let mut servers = Sentinels::start(2).unwrap();
    let primary = servers.kill_primary().unwrap();
    servers.wait_for_failover(primary).unwrap();
    servers.restart_dead().unwrap();
    servers.wait_until_healthy().unwrap();
    assert_ne!(servers.primary(), Some(primary));
}

#[test]
fn a_cluster_fails_over_and_moves_a_slot_with_its_keys() {
    let mut cluster = Cluster::start().unwrap();
    let slot = 12_182; // of "foo"
    let primary = cluster.primary_of(slot).unwrap();
    for key in ["{foo}1", "{foo}2"] {
        cluster.servers()[primary].query::<()>(&["SET", key, "here"]).unwrap();
    }
    let mut steps = 0;
    cluster.migrate(slot, 0, || steps += 1).unwrap();
    assert_eq!(steps, 3);
    let now = cluster.primary_of(0).unwrap();
    assert_eq!(cluster.servers()[now].query::<String>(&["GET", "{foo}2"]).unwrap(), "here");
    assert!(cluster.servers()[primary].query::<String>(&["GET", "{foo}2"]).is_err(), "it moved");
    cluster.wait_until_healthy().unwrap();

    let killed = cluster.kill_primary_of(slot).unwrap();
    cluster.wait_for_failover(slot, killed).unwrap();
    cluster.restart_dead().unwrap();
    cluster.wait_until_healthy().unwrap();
}

#[test]
fn a_cut_network_keeps_what_is_sent_until_it_is_mended() {
    let server = Server::start(&Settings::default()).unwrap();
    let proxy = Proxy::start(server.address().parse().unwrap()).unwrap();
    let mut stream = TcpStream::connect(proxy.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut answer = [0; 7];
    stream.write_all(b"PING\r\n").unwrap();
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
    proxy.cut();
    stream.write_all(b"PING\r\n").unwrap();
    assert!(stream.read_exact(&mut answer).is_err(), "nothing passes");
    proxy.mend();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
}
