//! `deploy/unpoll.service` and `deploy/unpoll.toml`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::{
    done, read, run,
    support::{SOON, Service, Settings, TestDir, terminate, unpoll, wait_for},
};

const UNIT: &str = "deploy/unpoll.service";
const SAMPLE: &str = "deploy/unpoll.toml";

/// The values of a setting of the unit, in order.
fn values(setting: &str) -> Vec<String> {
    let unit = read(UNIT);
    let values: Vec<String> = unit
        .lines()
        .filter_map(|line| line.strip_prefix(setting)?.strip_prefix('='))
        .map(str::to_owned)
        .collect();
    assert!(!values.is_empty(), "the unit does not set {setting}");
    values
}

/// The unit with the binary of this build, in a file.
fn of_this_build(dir: &Path) -> std::path::PathBuf {
    let file = dir.join("unpoll.service");
    let unit = read(UNIT).replace("ExecStart=/usr/bin/unpoll", concat!("ExecStart=", env!("CARGO_BIN_EXE_unpoll")));
    fs::write(&file, unit).unwrap();
    file
}

#[test]
fn systemd_finds_no_fault_in_the_unit() {
    let dir = TestDir::new();
    let said = done(Command::new("systemd-analyze").arg("verify").arg(of_this_build(dir.path())));
    assert_eq!(said, "");
}

#[test]
fn the_service_is_hardly_exposed() {
    let dir = TestDir::new();
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--no-pager", "--offline=true", "--threshold=15"]);
    done(analyze.arg(of_this_build(dir.path())));
}

#[test]
fn the_supervisor_waits_longer_than_a_drain() {
    let seconds: u64 = values("TimeoutStopSec")[0].parse().unwrap();
    assert!(seconds >= unpoll::config::Config::default().drain_secs + 15);
    assert!(!read(SAMPLE).contains("drain_secs"), "compare with the sample, too");
}

#[test]
fn the_sample_is_right_and_fits_the_unit() {
    let said = done(unpoll().arg("check-config").arg(super::path(SAMPLE)));
    assert_eq!(said, "ok\n");
    let sample: toml::Table = read(SAMPLE).parse().unwrap();
    for (setting, credential) in ["certificate", "key"].iter().zip(values("LoadCredential")) {
        let name = credential.split(':').next().unwrap();
        let path = format!("/run/credentials/unpoll.service/{name}");
        assert_eq!(sample["tls"][setting].as_str(), Some(path.as_str()));
    }
    assert!(values("ExecStart")[0].ends_with("--config /etc/unpoll/unpoll.toml"));
}

#[test]
fn the_supervisor_hears_when_it_is_ready_and_when_it_stops() {
    assert_eq!(values("Type"), ["notify"]);
    let dir = TestDir::new();
    let address = dir.path().join("notify");
    let supervisor = UnixDatagram::bind(&address).unwrap();
    supervisor.set_read_timeout(Some(SOON)).unwrap();
    let hear = || {
        let mut message = [0; 64];
        let length = supervisor.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..length]).trim_end().to_owned()
    };
    let mut service = Service::start_with(Settings::default().set("NOTIFY_SOCKET", address.to_str().unwrap()));
    assert_eq!(hear(), "READY=1");
    assert_eq!(service.stop(), Some(0));
    assert_eq!(hear(), "STOPPING=1");
}

#[test]
fn wrong_settings_are_not_tried_again() {
    let prevented = values("RestartPreventExitStatus")[0].parse().ok();
    let dir = TestDir::new();
    let settings = dir.path().join("unpoll.toml");
    fs::write(&settings, "[http]\nlisten = '8080'\n").unwrap();
    let output = run(unpoll().arg("serve").arg("--config").arg(settings).current_dir(dir.path()));
    assert_eq!(output.status.code(), prevented, "{output:?}");
}

/// A system call that the filter forbids fails with EPERM, which shows late and far away. So the service's whole life runs
/// under strace: first start, a TLS login, an event, a stop, a second start.
#[test]
fn the_unit_forbids_nothing_that_the_service_does() {
    let dir = TestDir::new();
    let trace = dir.path().join("trace");
    for life in 0..2 {
        let (mut traced, ready) = start_traced(dir.path(), &trace.with_extension(life.to_string()));
        talk(dir.path(), &ready, life);
        terminate_child_of(&traced);
        wait_for("it stops", SOON * 3, || traced.try_wait().unwrap());
    }
    let text: String = (0..2)
        .map(|life| fs::read_to_string(trace.with_extension(life.to_string())).unwrap())
        .collect();
    let made: BTreeSet<&str> = text.lines().filter_map(system_call).collect();
    for expected in ["epoll_wait", "fdatasync", "accept4", "bind"] {
        assert!(made.contains(expected), "{expected} is not in the trace: {made:?}");
    }
    let allowed = allowed_system_calls();
    let forbidden: Vec<_> = made.iter().filter(|call| !allowed.contains(**call)).collect();
    assert!(forbidden.is_empty(), "the unit forbids {forbidden:?}");
    // MemoryDenyWriteExecute.
    let both = text.lines().find(|line| line.contains("PROT_WRITE|PROT_EXEC"));
    assert_eq!(both, None);
}

fn start_traced(dir: &Path, trace: &Path) -> (Child, Value) {
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-o"])
        .arg(trace)
        .arg(env!("CARGO_BIN_EXE_unpoll"))
        .args(["serve", "--data-dir", "data"]);
    for listener in ["--http", "--https", "--admin", "--xmpp", "--xmpps"] {
        strace.args([listener, "127.0.0.1:0"]);
    }
    strace
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = strace.spawn().expect("strace runs; tests/all installs it");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    if line.is_empty() {
        let mut log = String::new();
        child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        panic!("no ready line: {log}");
    }
    (child, serde_json::from_str(&line).unwrap())
}

/// A device logs in and takes an event.
fn talk(dir: &Path, ready: &Value, life: usize) {
    let command = |arguments: &[&str]| {
        let mut command = unpoll();
        command.args(arguments).current_dir(dir).env("UNPOLL_DATA_DIR", "data");
        command
    };
    let secret = dir.join("secret");
    fs::write(&secret, "a-secret-of-this-test\n").unwrap();
    let secret = || Stdio::from(fs::File::open(&secret).unwrap());
    if life == 0 {
        let added = command(&["device", "add", "box", "--password-stdin"])
            .stdin(secret())
            .output()
            .unwrap();
        assert!(added.status.success(), "{added:?}");
    }
    let server = ready["xmpps"].as_str().unwrap();
    let mut device = command(&[
        "listen",
        "--device",
        "box",
        "--password-stdin",
        "--server",
        server,
        "--ca",
        "data/ca.pem",
    ]);
    let mut device = device.stdin(secret()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    done(&mut command(&["push", "--device", "box", "{\"on\":true}"]));
    let mut line = String::new();
    BufReader::new(device.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("\"on\":true"), "{line}");
    terminate(&device);
    device.wait().unwrap();
}

/// strace passes no signal on; its only child is the service.
fn terminate_child_of(strace: &Child) {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", strace.id())).unwrap();
    let service: i32 = children.trim().parse().expect("one child");
    let service = rustix::process::Pid::from_raw(service).unwrap();
    rustix::process::kill_process(service, rustix::process::Signal::TERM).unwrap();
}

/// `71 epoll_wait(3, …` → `epoll_wait`.
fn system_call(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(' ')?;
    let (name, _) = rest.trim_start().split_once('(')?;
    let is_name = !name.is_empty()
        && name
            .chars()
            .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_');
    is_name.then_some(name)
}

/// What the unit's `SystemCallFilter=` lines let through, as systemd expands its sets.
fn allowed_system_calls() -> BTreeSet<String> {
    let text = done(Command::new("systemd-analyze").args(["--no-pager", "syscall-filter"]));
    let mut sets: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut open = "";
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        if line.starts_with('@') {
            open = line.trim();
        } else if line.starts_with(' ') && !open.is_empty() {
            sets.entry(open).or_default().push(line.trim());
        }
    }
    fn expand(name: &str, sets: &BTreeMap<&str, Vec<&str>>, into: &mut BTreeSet<String>) {
        match sets.get(name) {
            Some(members) => members.iter().for_each(|member| expand(member, sets, into)),
            None => drop(into.insert(name.to_owned())),
        }
    }
    let mut allowed = BTreeSet::new();
    expand("@default", &sets, &mut allowed);
    for filter in values("SystemCallFilter") {
        let mut named = BTreeSet::new();
        filter
            .trim_start_matches('~')
            .split(' ')
            .for_each(|name| expand(name, &sets, &mut named));
        if filter.starts_with('~') {
            allowed.retain(|call| !named.contains(call));
        } else {
            allowed.extend(named);
        }
    }
    assert!(allowed.len() > 200 && allowed.contains("read"), "{allowed:?}");
    allowed
}
