//! Redis has no memory left.

use loadtest::{Acks, Options, redis};
use serde_json::json;

use crate::{
    stage::{Stage, settings},
    support::{Device, SOON, wait_for},
};

#[test]
fn when_redis_is_full_new_events_are_refused_and_all_that_ends_goes_on() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let settings = settings(&redis.url()).set("UNPOLL_DISPATCH_SWEEP_SECS", "1");
    let stage = Stage::start(redis, vec![settings; 2]);
    stage.add_devices(["box", "late", "away"].map(str::to_owned));
    let device = Device::connect(Options {
        acks: Acks::Never,
        ..stage.options(0, "box")
    })
    .unwrap();
    let backend = stage.backend(1);
    let written = backend.push("box", &json!({ "n": 1 }));
    assert_eq!(device.expect_event().id, written);
    let waits = backend.push("late", &json!({ "n": 2 }));
    let event = |device: &str, ttl: u64| json!({"target": {"device": device}, "type": "test", "ttl": ttl, "data": {}});
    let expires = backend.post(&event("away", 1)).expect(202).json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let cancelled = backend.push("away", &json!({ "n": 4 }));

    // Less than it uses now.
    let () = stage.redis.query(&["CONFIG", "SET", "maxmemory", "1mb"]).unwrap();
    for node in 0..2 {
        let refused = stage.backend(node).post(&event("box", 60)).expect(503);
        assert_eq!(refused.slug(), "no-space");
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
    }
    device.acknowledge();
    let late = stage.online(1, "late");
    assert_eq!(late.expect_event().id, waits, "a device that logs in gets what waits");
    backend.delete(&format!("/v1/events/{cancelled}")).expect(200);
    for (id, state) in [
        (&written, "delivered"),
        (&waits, "delivered"),
        (&expires, "expired"),
        (&cancelled, "cancelled"),
    ] {
        wait_for("every end while there is no room", SOON, || {
            (backend.state(id) == state).then_some(())
        });
    }
    wait_for("what ended to leave its queue", SOON, || {
        (crate::accounts::counted(&stage.redis) == (0, 0)).then_some(())
    });
    // A goodbye is taken, too, and the next login.
    late.close();
    wait_for("the goodbye", SOON, || {
        (stage.presence(0, "late")["state"] == "offline").then_some(())
    });
    let late = stage.online(0, "late");

    // Room again, without a restart.
    let () = stage.redis.query(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    let id = backend.push("late", &json!({ "n": 5 }));
    assert_eq!(late.expect_event().id, id);
    stage.wait_until_ready();
    late.close();
    device.close();
}
