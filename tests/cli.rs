//! The commands a person types.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Command, Output, Stdio},
    sync::mpsc,
};

use serde_json::{Value, json};
use support::{Device, SOON, Service, TestDir, unpoll, wait_for, wait_for_presence};

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("the binary runs")
}

fn run_with_input(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[track_caller]
fn done(output: Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn serve_prints_one_line_when_it_can_serve() {
    let mut service = Service::start();
    for name in ["http", "https", "admin", "xmpp", "xmpps", "domain", "node"] {
        assert!(service.ready[name].is_string(), "no {name} in {}", service.ready);
    }
    assert_eq!(service.ready["domain"], "localhost");
    assert_eq!(service.stop(), Some(0), "SIGTERM drains and ends with 0");
}

#[cfg(unix)]
#[test]
fn the_admin_key_is_for_its_owner_only_and_stays() {
    use std::os::unix::fs::PermissionsExt;
    let mut service = Service::start();
    let path = service.data_dir().join("admin.key");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (key, authority) = (service.admin_key(), std::fs::read(service.ca()).unwrap());
    service.stop();
    service.run();
    assert_eq!(
        (service.admin_key(), std::fs::read(service.ca()).unwrap()),
        (key.clone(), authority)
    );
    assert!(!service.log().contains(&key), "the key is never logged");
}

#[test]
fn a_second_process_cannot_open_the_same_store() {
    let service = Service::start();
    let ports = [
        "--http",
        "127.0.0.1:0",
        "--https",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--xmpp",
        "127.0.0.1:0",
        "--xmpps",
        "127.0.0.1:0",
    ];
    let second = run(unpoll().arg("serve").arg("--data-dir").arg(service.data_dir()).args(ports));
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(second.stdout.is_empty(), "{second:?}");
    assert!(!second.stderr.is_empty());
}

#[test]
fn devices_are_added_shown_and_removed() {
    let service = Service::start();
    let mut add = service.command();
    add.args(["device", "add", "box", "--user", "ann", "--attr", "model=stb-7", "--password-stdin"]);
    let added = done(run_with_input(&mut add, "secret\n"));
    assert!(added.contains("box@localhost") && !added.contains("password"), "{added}");
    let made = done(run(service.command().args(["device", "add", "other", "--json"])));
    let made: Value = serde_json::from_str(&made).unwrap();
    Device::online(&service, "other", made["password"].as_str().unwrap()).close();
    Device::online(&service, "box", "secret").close();
    let shown = done(run(service.command().args(["device", "show", "box"])));
    assert!(
        shown.contains("box")
            && shown.contains("ann")
            && shown.contains("stb-7")
            && !shown.contains("secret")
            && shown.contains("seat_changes"),
        "{shown}"
    );
    assert!(done(run(service.command().args(["device", "list"]))).contains("box"));
    let file = service.dir().join("devices.ndjson");
    std::fs::write(&file, "{\"id\":\"i-1\",\"password\":\"p\"}\n{\"id\":\"i-2\",\"password\":\"p\"}\n").unwrap();
    done(run(service.command().args(["device", "import"]).arg(&file)));
    let list = |arguments: &[&str]| done(run(service.command().args(["device", "list"]).args(arguments)));
    assert!(list(&[]).contains("i-2"));
    let table = list(&["--filter", "attributes.model = \"stb-7\""]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(
        lines[0].starts_with("ID ") && lines[1].starts_with("box ") && lines[1].contains("stb-7"),
        "{table}"
    );
    let line: Value = serde_json::from_str(&list(&["--user", "ann", "--json"])).unwrap();
    assert_eq!(line["id"], "box");
    let wrong = run(service.command().args(["device", "list", "--filter", "model = x"]));
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("offset 0"), "{wrong:?}");
    std::fs::write(&file, "{\"id\":\"i-3\"}\nnonsense\n").unwrap();
    let partly = run(service.command().args(["device", "import"]).arg(&file));
    assert_eq!(partly.status.code(), Some(1), "{partly:?}");
    let said = String::from_utf8_lossy(&partly.stdout);
    assert!(
        said.starts_with("1 devices were taken\nLINE ") && said.contains("not JSON"),
        "{said}"
    );
    done(run(service.command().args(["device", "remove", "box"])));
    let gone = run(service.command().args(["device", "show", "box"]));
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
}

/// `unpoll listen` at `server` as the device `box`; the password comes from stdin.
fn listen_as_box(service: &Service, server: SocketAddr) -> Command {
    let mut listen = service.command();
    listen.args([
        "listen",
        "--device",
        "box",
        "--password-stdin",
        "--server",
        &server.to_string(),
        "--ca",
    ]);
    listen.arg(service.ca());
    listen
}

#[test]
fn listen_says_when_the_port_is_not_one_for_tls() {
    let service = Service::start();
    service.backend().add_device("box", "secret");
    let output = run_with_input(&mut listen_as_box(&service, service.xmpp), "secret\n");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("5223 by default") && said.contains("STARTTLS"), "{said}");
}

#[test]
fn push_and_listen_are_the_two_ends() {
    let service = Service::start();
    let backend = service.backend();
    backend.add_device("box", "secret");
    let mut listen = listen_as_box(&service, service.xmpps);
    listen.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut listening = listen.spawn().unwrap();
    listening.stdin.take().unwrap().write_all(b"secret\n").unwrap();
    let (lines, next) = mpsc::channel();
    let stdout = listening.stdout.take().unwrap();
    std::thread::spawn(move || {
        BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| lines.send(line))
    });
    wait_for_presence(&backend, "box", "online");
    let mut push = service.command();
    push.args([
        "push",
        "--device",
        "box",
        "--type",
        "t",
        "--ttl",
        "60",
        "--urgency",
        "high",
        "--json",
        r#"{"title":"電視"}"#,
    ]);
    let answer: Value = serde_json::from_str(&done(run(&mut push))).unwrap();
    let line: Value = serde_json::from_str(&next.recv_timeout(SOON).expect("listen prints the event")).unwrap();
    assert_eq!(line["id"], answer["id"], "{line}");
    assert!(line.to_string().contains("電視"), "{line}");
    let id = answer["id"].as_str().unwrap();
    wait_for("it is delivered", SOON, || (backend.state(id) == "delivered").then_some(()));
    // To be waited for: the end is said, and is what the command ends with.
    let push = |arguments: &[&str]| run(service.command().args(["push", "--device", "box", "--type", "t"]).args(arguments));
    let waited = done(push(&["--wait", "20", "--require", "acknowledged", "--idempotency-key", "k"]));
    assert!(
        waited.contains("box: event ") && waited.contains("durable: disk") && waited.contains(" is delivered"),
        "{waited}"
    );
    let again = done(push(&["--require", "acknowledged", "--idempotency-key", "k", "--json"]));
    let again: Value = serde_json::from_str(&again).unwrap();
    assert!(
        waited.contains(again["id"].as_str().unwrap()),
        "the same key is the same event: {again}"
    );
    assert_eq!(push(&["--ttl", "0", "--wait", "1"]).status.code(), Some(2));
    let unknown = run(service
        .command()
        .args(["push", "--device", "nobody", "--device", "box", "--type", "t"]));
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    assert!(
        unknown.stdout.is_empty() && String::from_utf8_lossy(&unknown.stderr).contains("nobody"),
        "nothing was sent: {unknown:?}"
    );
    let shown = done(run(service.command().args(["device", "show", "box", "--json"])));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["presence"]["state"], &shown["user"]), (&json!("online"), &Value::Null));
    assert_eq!(shown["deliveries"].as_array().unwrap().len(), 2, "{shown}");
    // One that never was there: why it does not get them.
    backend.add_device("tv", "secret");
    let push = |arguments: &[&str]| {
        run(service
            .command()
            .args(["push", "--device", "tv", "--collapse-key", "c"])
            .args(arguments))
    };
    let waits = push(&["--wait", "0", "1"]);
    assert_eq!(waits.status.code(), Some(1), "{waits:?}");
    assert!(String::from_utf8_lossy(&waits.stderr).contains("still queued"), "{waits:?}");
    done(push(&["2"]));
    let shown = done(run(service.command().args(["device", "show", "tv"])));
    let lines: Vec<&str> = shown.lines().rev().collect();
    assert!(lines[0].contains("  replaced  ") && lines[0].contains("  by "), "{shown}");
    assert!(
        lines[1].contains("  queued ") && lines[1].ends_with("the device was never connected"),
        "{shown}"
    );
    assert!(lines[2].starts_with("ACCEPTED "), "{shown}");
    // Several at once: the end of each is said, and what is not delivered is what the command ends with.
    let of_user = json!({"user": "ann", "password": "secret"});
    for device in ["box", "tv"] {
        backend.send("PUT", &format!("/v1/devices/{device}"), &of_user).expect(200);
    }
    let both = run(service.command().args(["push", "--user", "ann", "--wait", "0", "--type", "t"]));
    let (said, failed) = (String::from_utf8_lossy(&both.stdout), String::from_utf8_lossy(&both.stderr));
    assert_eq!(both.status.code(), Some(1), "{both:?}");
    assert!(said.starts_with("user ann: event ") && failed.contains("tv: event "), "{both:?}");
    let line = next.recv_timeout(SOON).expect("listen prints it, too");
    assert!(line.contains("\"type\":\"t\""), "{line}");
    // Killed, and back: what it missed, once.
    listening.kill().unwrap();
    listening.wait().unwrap();
    let missed = backend.push("box", &json!("missed"));
    let mut listening = listen.spawn().unwrap();
    listening.stdin.take().unwrap().write_all(b"secret\n").unwrap();
    let (lines, next) = mpsc::channel();
    let stdout = listening.stdout.take().unwrap();
    std::thread::spawn(move || {
        BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| lines.send(line))
    });
    let line: Value = serde_json::from_str(&next.recv_timeout(SOON).expect("listen prints what it missed")).unwrap();
    assert_eq!(line["id"], json!(missed));
    wait_for("it is delivered", SOON, || (backend.state(&missed) == "delivered").then_some(()));
    support::terminate(&listening);
    listening.wait().unwrap();
}

#[test]
fn listen_ends_when_the_password_is_wrong() {
    let service = Service::start();
    service.backend().add_device("box", "secret");
    let mut listen = listen_as_box(&service, service.xmpps);
    let ended = run_with_input(&mut listen, "wrong\n");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(String::from_utf8_lossy(&ended.stderr).contains("not-authorized"), "{ended:?}");
}

#[test]
fn keys_are_created_listed_and_revoked() {
    let service = Service::start();
    let created = done(run(service.command().args(["key", "create", "--name", "ops", "--scope", "read"])));
    let list = |arguments: &[&str]| done(run(service.command().args(["key", "list"]).args(arguments)));
    let of_ops = |table: &str| -> String { table.lines().find(|line| line.contains("ops")).unwrap().to_owned() };
    let listed = list(&[]);
    assert!(listed.starts_with("ID ") && listed.lines().count() == 3, "{listed}");
    assert_eq!(of_ops(&listed).matches("never").count(), 2, "neither used nor ending: {listed}");
    let key = created
        .split(|c: char| c.is_whitespace() || c == '"')
        .find(|word| service.backend().with_key(word).get("/v1/devices").status == 200);
    let key = key.unwrap_or_else(|| panic!("no key that works in {created:?}"));
    let listed = list(&["--json"]);
    let line: Value = serde_json::from_str(&of_ops(&listed)).unwrap();
    let used = line["last_used_at"].as_str().unwrap();
    assert!(of_ops(&list(&[])).contains(used), "{listed}");
    let keys = service.backend().get("/v1/keys").json();
    let id = keys["items"].as_array().unwrap().iter().find(|item| item["name"] == "ops").unwrap()["id"].clone();
    let rotate = |grace: &str| {
        let rotated = done(run(service.command().args([
            "key",
            "rotate",
            "--grace",
            grace,
            id.as_str().unwrap(),
        ])));
        serde_json::from_str::<Value>(&rotated).unwrap()["key"].as_str().unwrap().to_owned()
    };
    let second = rotate("1h");
    for key in [key, second.as_str()] {
        service.backend().with_key(key).get("/v1/devices").expect(200);
    }
    let third = rotate("0");
    service.backend().with_key(&second).get("/v1/devices").expect(401);
    service.backend().with_key(&third).get("/v1/devices").expect(200);
    let revoked = done(run(service.command().args(["key", "revoke", id.as_str().unwrap()])));
    assert_eq!(revoked, format!("the key {} is revoked\n", id.as_str().unwrap()));
    for key in [key, third.as_str()] {
        service.backend().with_key(key).get("/v1/devices").expect(401);
    }
    let created = done(run(service.command().args([
        "key",
        "create",
        "--name",
        "short",
        "--scope",
        "read",
        "--expires-in",
        "90d",
    ])));
    let created: Value = serde_json::from_str(&created).unwrap();
    assert!(created["expires_at"].is_string(), "{created}");
}

#[test]
fn tenants_are_added_listed_shown_and_removed() {
    let service = Service::start();
    let tenant = |arguments: &[&str]| run(service.command().arg("tenant").args(arguments));
    let added = done(tenant(&[
        "add",
        "tv",
        "--domain",
        "tv.example",
        "--deliveries-per-second",
        "5",
        "--json",
    ]));
    let added: Value = serde_json::from_str(&added).unwrap();
    let limits = serde_json::json!({ "deliveries_per_second": 5, "burst": 5 });
    assert_eq!((&added["domain"], &added["limits"]), (&"tv.example".into(), &limits));
    let key = ["key", "create", "--name", "first", "--scope", "admin", "--tenant", "tv"];
    let key: Value = serde_json::from_str(&done(run(service.command().args(key)))).unwrap();
    let of_tv = service.backend().with_key(key["key"].as_str().unwrap());
    of_tv.get("/v1/devices").expect(200);
    let listed = done(tenant(&["list"]));
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    assert!(lines[0].starts_with("NAME ") && lines[1].starts_with("default "), "{listed}");
    assert!(lines[2].contains("tv.example") && lines[2].ends_with("5/s, 5 at once"), "{listed}");
    assert_eq!(done(tenant(&["list", "--json"])).lines().count(), 2);
    assert!(done(tenant(&["show", "tv"])).contains("tv.example"));
    assert_eq!(done(tenant(&["remove", "tv"])), "tv is removed\n");
    of_tv.get("/v1/devices").expect(401);
    let gone = tenant(&["show", "tv"]);
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
}

#[test]
fn a_file_of_events_is_sent_and_what_was_refused_is_named_by_its_line() {
    let service = Service::start();
    service.backend().add_device("box", "secret");
    let file = service.dir().join("events.ndjson");
    let event = |device: &str| json!({"target": {"device": device}, "type": "t", "data": 1}).to_string();
    let (good, unknown) = (event("box"), event("nobody"));
    std::fs::write(&file, format!("{good}\n\n{unknown}\nnonsense\n{good}")).unwrap();
    let push = |arguments: &[&str]| run(service.command().args(["push", "--ndjson"]).arg(&file).args(arguments));
    let sent = push(&["--idempotency-key", "k"]);
    assert_eq!(sent.status.code(), Some(1), "{sent:?}");
    let said = String::from_utf8(sent.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("line 3: 404, ") && lines[0].contains("nobody"), "{said}");
    assert!(lines[1].starts_with("line 4: 400, "), "{said}");
    assert_eq!(lines[2..], ["4 events: 2 accepted, 0 repeated, 2 refused; durable: disk 2"]);
    assert!(String::from_utf8_lossy(&sent.stderr).contains("2 events were refused"));
    let again = push(&["--idempotency-key", "k", "--json"]);
    let said = String::from_utf8(again.stdout).unwrap();
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&lines[0]["line"], &lines[0]["index"], &lines[0]["status"]),
        (&json!(3), &json!(1), &json!(404))
    );
    assert_eq!(lines[2]["summary"]["repeated"], 2, "{said}");
    std::fs::write(&file, format!("{good}\n")).unwrap();
    assert!(done(push(&[])).starts_with("1 events: 1 accepted"));
    std::fs::remove_file(&file).unwrap();
    let gone = push(&[]);
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    assert!(
        String::from_utf8_lossy(&gone.stderr).contains("events.ndjson cannot be read"),
        "{gone:?}"
    );
}

/// Memory of its own that a process holds, in bytes.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn a_hundred_thousand_events_go_through_a_pipe_in_bounded_memory_and_a_cut_is_told() {
    const EVENTS: usize = 100_000;
    let mut service = Service::start();
    let mut push = service.command();
    push.args(["push", "--ndjson", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut pushing = push.spawn().unwrap();
    let mut input = pushing.stdin.take().unwrap();
    let writing = std::thread::spawn(move || {
        // Without a target: the quickest answer that there is.
        let line = json!({"data": "x".repeat(500)}).to_string() + "\n";
        (0..EVENTS).for_each(|_| input.write_all(line.as_bytes()).unwrap());
        input
    });
    let mut lines = BufReader::new(pushing.stdout.take().unwrap()).lines();
    for number in 1..=EVENTS {
        let line = lines.next().unwrap().unwrap();
        assert!(line.starts_with(&format!("line {number}: 400, ")), "{line}");
    }
    // The pipe is still open, and all that went through it has been answered.
    let (held, went_through) = (memory(pushing.id()), 500 * EVENTS as u64);
    assert!(held < went_through / 2, "{held} bytes are held of {went_through}");
    let input = writing.join().unwrap();
    service.kill();
    assert!(lines.next().is_none(), "no summary was made up");
    let ended = pushing.wait_with_output().unwrap();
    drop(input);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(String::from_utf8_lossy(&ended.stderr).contains("the answer was cut"), "{ended:?}");
}

#[test]
fn report_tells_the_polls_avoided() {
    let service = Service::start();
    let text = done(run(service.command().arg("report")));
    assert!(text.contains("not validated"), "every figure says how it was validated: {text}");
    let report: Value = serde_json::from_str(&done(run(service.command().args(["report", "--json"])))).unwrap();
    assert!(report.is_object(), "{report}");
}

#[test]
fn check_config_names_the_setting_that_is_wrong() {
    let dir = TestDir::new();
    let file = dir.path().join("unpoll.toml");
    let check = |text: &str, code: i32, named: &str| {
        std::fs::write(&file, text).unwrap();
        let output = run(unpoll().arg("check-config").arg(&file));
        assert_eq!(output.status.code(), Some(code), "{text}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(named), "{text}: {output:?}");
    };
    check("", 0, "");
    check("[http]\nlisten = \"127.0.0.1:0\"\n", 0, "");
    check("[http]\nlisten = \"127.0.0.1:0\"\ncolour = 1\n", 1, "colour");
    check("[xmpp]\nkeepalive_secs = \"long\"\n", 1, "keepalive_secs");
    check("[http\n", 1, "line 1");
}

#[test]
fn wrong_usage_ends_with_two() {
    let check = |arguments: &[&str]| assert_eq!(run(unpoll().args(arguments)).status.code(), Some(2), "{arguments:?}");
    check(&["fly"]);
    check(&["serve", "--colour", "red"]);
    check(&["push", "{}"]);
    check(&["push", "--ndjson", "-", "--device", "box"]);
    check(&["serve", "--http", "nowhere"]);
    let help = done(run(unpoll().arg("--help")));
    for command in [
        "serve",
        "demo",
        "device",
        "key",
        "tenant",
        "push",
        "listen",
        "report",
        "health",
        "check-config",
    ] {
        assert!(help.contains(command), "no {command} in {help}");
    }
}

#[test]
fn a_command_without_a_server_fails_with_one_clear_line() {
    let dir = TestDir::new();
    let mut push = unpoll();
    push.env("UNPOLL_KEY", "k")
        .env("UNPOLL_URL", "http://127.0.0.1:9")
        .current_dir(dir.path());
    let output = run(push.args(["push", "--device", "box", "{}"]));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:9"), "{output:?}");
}

/// Takes back a new event for `box`; gives its id.
fn cancelled_event(service: &Service) -> String {
    let backend = service.backend();
    let event = backend.push("box", &json!(1));
    backend.delete(&format!("/v1/events/{event}")).expect(200);
    event
}

#[test]
fn receipts_are_watched_over_a_restart_and_of_one_event_to_its_end() {
    let mut service = Service::start();
    service.backend().add_device("box", "secret");
    let watch = |service: &Service, arguments: &[&str]| {
        let mut command = service.command();
        command.arg("watch").args(arguments);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs")
    };
    let is_watched = |service: &Service| {
        wait_for("a stream", SOON, || {
            (service.metric("unpoll_receipt_streams") == Some(1.0)).then_some(())
        });
    };
    let mut all = watch(&service, &["--json", "--count", "4"]);
    let lines = BufReader::new(all.stdout.take().unwrap()).lines();
    let mut lines = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    is_watched(&service);
    let mut events = vec![cancelled_event(&service), cancelled_event(&service)];
    let mut told: Vec<Value> = lines.by_ref().take(2).collect();
    service.kill();
    service.run();
    events.extend([cancelled_event(&service), cancelled_event(&service)]);
    told.extend(lines);
    assert_eq!(all.wait().unwrap().code(), Some(0));
    let ids: Vec<&str> = told.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(ids, events, "each once");
    assert!(told.iter().all(|line| line["state"] == "cancelled" && line["cursor"].is_string()));

    let event = service.backend().push("box", &json!(1));
    let one = watch(&service, &["--event", &event]);
    is_watched(&service);
    cancelled_event(&service);
    service.backend().delete(&format!("/v1/events/{event}")).expect(200);
    let lines = done(one.wait_with_output().unwrap());
    let states: Vec<&str> = lines.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert!(states == ["queued", "cancelled"] || states == ["cancelled"], "{lines}");
    assert!(lines.lines().all(|line| line.contains(&event)), "{lines}");
    // It has ended, so there is nothing to wait for.
    assert!(done(run(service.command().args(["watch", "--event", &event]))).contains("cancelled"));
    let unknown = run(service.command().args(["watch", "--event", "nothing"]));
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    assert_eq!(run(service.command().args(["watch", "--count", "0"])).status.code(), Some(2));
}
