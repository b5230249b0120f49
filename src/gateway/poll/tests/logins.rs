//! Who may: passwords, and how long they are known.

use super::*;

#[tokio::test]
async fn a_password_is_checked_once_and_then_known_until_its_time_is_over() {
    let scene = Scene::new(Config::default()).await;
    for _ in 0..5 {
        assert_eq!(scene.logs_in("box@LOCALHOST", "secret").await, 200);
    }
    assert_eq!(scene.logs_in("box", "secret").await, 200, "the id alone, in the default tenant");
    assert_eq!((scene.logins("checked"), scene.logins("known")), (1, 5));
    assert_eq!(scene.logs_in("box@localhost", "secreT").await, 401, "what is known is one password");
    scene.clock.advance(Duration::from_secs(599));
    scene.logs_in("box", "secret").await;
    assert_eq!(scene.logins("checked"), 1);
    scene.clock.advance(Duration::from_secs(1));
    assert_eq!(scene.logs_in("box", "secret").await, 200);
    assert_eq!((scene.logins("checked"), scene.logins("wrong")), (2, 1));
}

#[tokio::test]
async fn a_changed_password_or_a_removed_device_ends_what_was_known_at_once() {
    let scene = Scene::new(Config::default()).await;
    assert_eq!(scene.logs_in("box", "secret").await, 200);
    scene.password("box", "changed").await;
    assert_eq!(scene.logs_in("box", "secret").await, 401);
    assert_eq!(scene.logs_in("box", "changed").await, 200);
    scene.store.remove_device(&key("box"), START).await.unwrap();
    assert_eq!(scene.logs_in("box", "changed").await, 401, "as a name that never was");
    scene.password("box", "anew").await;
    assert_eq!(scene.logs_in("box", "changed").await, 401);
    assert_eq!(scene.logs_in("box", "anew").await, 200);
    let nobody = DeviceChange {
        credentials: Some(Vec::new()),
        ..DeviceChange::default()
    };
    scene.change("box", nobody).await;
    assert_eq!(scene.logs_in("box", "anew").await, 401);
}

#[tokio::test]
async fn who_is_not_the_device_is_told_nothing_about_it() {
    let scene = Scene::new(Config::default()).await;
    let check = async |headers: &[(&str, &str)], path: &str, status, slug: &str| {
        let answer = scene.request("GET", path, headers, &Value::Null).await;
        assert_eq!(
            (answer.status, answer.body["type"].as_str()),
            (status, Some(format!("/problems/{slug}").as_str())),
            "{headers:?} {path}"
        );
        answer
    };
    let challenged = check(&[], "box/events", 401, "wrong-credentials").await;
    assert_eq!(challenged.headers["www-authenticate"], "Basic realm=\"unpoll\", charset=\"UTF-8\"");
    for header in ["Bearer secret", "Basic", "Basic %%%", "Basic Ym94", "Basic /w==", ""] {
        check(&[("authorization", header)], "box/events", 401, "wrong-credentials").await;
    }
    let (right, other) = (basic("box", "secret"), basic("other@localhost", "secret"));
    let twice = [("authorization", right.as_str()), ("authorization", right.as_str())];
    check(&twice, "box/events", 401, "wrong-credentials").await;
    for (user, password) in [
        ("box", "wrong"),
        ("box", ""),
        ("box@elsewhere", "secret"),
        ("box@localhost/there", "secret"),
        ("nobody", "secret"),
        ("no body", "secret"),
        ("", ""),
    ] {
        check(&[("authorization", &basic(user, password))], "box/events", 401, "wrong-credentials").await;
    }
    check(&[("authorization", &other)], "box/events", 403, "other-device").await;
    check(&[("authorization", &other)], "%ff/events", 404, "unknown-path").await;
    check(&[("authorization", &other)], "BOX/events", 403, "other-device").await;
    let folded = scene.request("GET", "BOX/events", &[("authorization", &right)], &Value::Null).await;
    assert_eq!(folded.status, 200);
    let head = scene
        .request("HEAD", "box/events", &[("authorization", &right)], &Value::Null)
        .await;
    assert_eq!((head.status, &head.body), (200, &Value::Null));
    // Of those, the ledger hears only what named a device that there is.
    let polls = scene.notes.polls.lock();
    let wrong = polls
        .iter()
        .filter(|(poller, poll)| poller.device.as_str() == "box" && poll.result == PollResult::Error);
    assert_eq!(wrong.count(), 2);
}

#[tokio::test]
async fn after_too_many_wrong_passwords_only_a_known_one_is_taken() {
    let config = Config {
        wrong_passwords_max: 3,
        ..Config::default()
    };
    let scene = Scene::new(config).await;
    assert_eq!(scene.logs_in("box", "secret").await, 200);
    for _ in 0..3 {
        assert_eq!(scene.logs_in("box", "guess").await, 401);
        assert_eq!(scene.logs_in("nobody", "guess").await, 401);
    }
    let at_once = futures_util::future::join_all((0..20).map(|_| scene.logs_in("other", "guess"))).await;
    let checked = at_once.iter().filter(|status| **status == 401).count();
    assert!((3..20).contains(&checked), "{checked} guesses that came at once were checked");
    let checks = scene.logins("wrong");
    assert_eq!(
        (scene.logs_in("box", "guess").await, scene.logs_in("nobody", "guess").await),
        (429, 429)
    );
    assert_eq!(
        (scene.logins("wrong"), scene.logins("refused")),
        (checks, 20 - checked as u64 + 2),
        "no CPU was spent"
    );
    assert_eq!(scene.logs_in("box", "secret").await, 200, "the device itself polls on");
    scene.clock.advance(Duration::from_secs(60));
    assert_eq!(scene.logs_in("box", "guess").await, 401);
}
