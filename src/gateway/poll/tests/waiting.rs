//! Long polls.

use super::*;

#[tokio::test]
async fn a_long_poll_is_woken_by_its_event_and_by_nothing_else() {
    let scene = Arc::new(Scene::new(Config::default()).await);
    let polling = scene.clone();
    let poll = tokio::spawn(async move { polling.poll("wait=60").await });
    until(|| scene.metric("unpoll_polls_waiting") == 1).await;
    scene.push("other", Urgency::Normal, "{}").await;
    let id = scene.push("box", Urgency::Normal, "{}").await;
    let answer = tokio::time::timeout(Duration::from_secs(4), poll)
        .await
        .expect("before it looks again")
        .unwrap();
    assert_eq!((answer.ids(), &answer.body["poll_after_seconds"]), (vec![id.as_str()], &json!(0)));
    assert!(scene.notes.polls.lock()[0].1.long);
    assert_eq!(scene.metric("unpoll_polls_waiting"), 0);
    let asked = scene.poll("wait=60").await.expect(200);
    assert_eq!(asked.ids(), [&id], "what waits already is shown at once");
}

#[tokio::test]
async fn long_polls_have_bounds_and_end_with_their_time_their_credentials_and_the_service() {
    let scene = Arc::new(
        Scene::new(Config {
            waits_max: 3,
            waits_per_device_max: 2,
            ..Config::default()
        })
        .await,
    );
    let wait = |scene: &Arc<Scene>| {
        let scene = scene.clone();
        tokio::spawn(async move { scene.poll("wait=60").await })
    };
    let (first, second) = (wait(&scene), wait(&scene));
    until(|| scene.metric("unpoll_polls_waiting") == 2).await;
    let refused = scene.poll("wait=60").await.expect(429);
    assert_eq!(refused.headers["retry-after"], "10");
    assert_eq!(scene.poll("").await.status, 200, "a short poll needs no place");
    scene.password("box", "changed").await;
    assert_eq!((first.await.unwrap().status, second.await.unwrap().status), (401, 401));
    scene.password("box", "secret").await;
    let short = scene.poll("wait=1").await.expect(200);
    assert!(short.ids().is_empty());
    let last = wait(&scene);
    until(|| scene.metric("unpoll_polls_waiting") == 1).await;
    scene.stop.cancel();
    let ended = last.await.unwrap().expect(200);
    assert_eq!((ended.ids().len(), &ended.body["poll_after_seconds"]), (0, &json!(5)));
}
