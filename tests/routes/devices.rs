//! Devices: put, changed, listed, imported, removed.

use serde_json::{Value, json};
use unpoll::{
    domain::{Credential, Limits, Password, SessionId},
    store::{Device, Mailbox, NewSeat, Registered, Registry, Transport},
};

use crate::scene::{Answer, START, Scene, key};

async fn stored(scene: &Scene, id: &str) -> Device {
    match scene.store.device(&key(id)).await.unwrap() {
        Registered::Present(device) => *device,
        other => panic!("{other:?}"),
    }
}

fn opens(device: &Device, password: &str) -> bool {
    let mut secrets = device.credentials.iter().filter_map(Credential::scram);
    secrets.any(|secret| secret.matches(&Password(password.into())))
}

#[tokio::test]
async fn a_device_is_put_shown_changed_and_removed() {
    let scene = Scene::new().await;
    let body =
        json!({"user": "ann", "attributes": {"model": "stb-7", "zone": {"a": 1}, "none": null}, "cohort": "control", "password": "secret"});
    let answer = scene.send("PUT", "/v1/devices/TSN-746", &body).await.expect(201);
    assert_eq!(answer.header("location"), "/v1/devices/tsn-746");
    let shown = scene.request("read", "GET", "/v1/devices/tsn-746", &[], "").await.expect(200);
    assert!(
        !shown.body.contains("secret") && !shown.body.contains("key") && !shown.body.contains("salt"),
        "{}",
        shown.body
    );
    let shown = shown.json();
    assert_eq!(
        (&shown["id"], &shown["jid"], &shown["user"]),
        (&json!("tsn-746"), &json!("tsn-746@localhost"), &json!("ann"))
    );
    assert_eq!(
        (&shown["attributes"], &shown["cohort"]),
        (&json!({"model": "stb-7", "zone": {"a": 1}}), &json!("control"))
    );
    assert_eq!(shown["credentials"], json!([{"type": "scram"}]));
    assert!(opens(&stored(&scene, "tsn-746").await, "secret"));

    let change = json!({"attributes": {"model": "stb-8", "zone": null}});
    let patched = scene.send("PATCH", "/v1/devices/tsn-746", &change).await.expect(200).json();
    assert_eq!(
        (&patched["attributes"], &patched["user"]),
        (&json!({"model": "stb-8"}), &json!("ann"))
    );
    let put = scene
        .send("PUT", "/v1/devices/tsn-746", &json!({"user": "bob"}))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&put["attributes"], &put["user"], &put["cohort"]),
        (&json!({}), &json!("bob"), &json!("push"))
    );
    assert!(opens(&stored(&scene, "tsn-746").await, "secret"), "credentials stay unless given");
    let patched = scene
        .send("PATCH", "/v1/devices/tsn-746", &json!({"user": null, "credentials": null}))
        .await
        .expect(200)
        .json();
    assert_eq!((&patched["user"], &patched["credentials"]), (&Value::Null, &json!([])));

    scene.delete("/v1/devices/tsn-746").await.expect(204);
    scene.get("/v1/devices/tsn-746").await.refused(410, "removed-device", "tsn-746");
    scene.delete("/v1/devices/tsn-746").await.refused(410, "removed-device", "tsn-746");
    scene
        .send("PATCH", "/v1/devices/tsn-746", &json!({}))
        .await
        .refused(410, "removed-device", "tsn-746");
    scene.get("/v1/devices/nobody").await.refused(404, "unknown-device", "nobody");
    scene
        .send("PATCH", "/v1/devices/nobody", &json!({"password": "p"}))
        .await
        .refused(404, "unknown-device", "nobody");
    scene.send("PUT", "/v1/devices/tsn-746", &json!({})).await.expect(201);
}

#[tokio::test]
async fn a_removed_device_loses_its_session() {
    let scene = Scene::new().await;
    let seat = NewSeat {
        session: SessionId(7),
        node: "n1".into(),
        transport: Transport::Xmpps,
        at: START,
        credential_generation: 0,
        fast: None,
    };
    let claimed = scene.store.claim(&key("box"), seat).await.unwrap();
    scene.delete("/v1/devices/box").await.expect(204);
    assert_eq!(*scene.ended.lock().unwrap(), [("box".parse().unwrap(), claimed.epoch)]);
    scene.delete("/v1/devices/other").await.expect(204);
    assert_eq!(scene.ended.lock().unwrap().len(), 1, "nobody held the other seat");
}

#[tokio::test]
async fn passwords_rotate_by_twos_and_the_same_again_changes_nothing() {
    let scene = Scene::new().await;
    let credential = |value: &str| json!({"type": "password", "value": value});
    let put = async |values: &[&str]| -> Answer {
        let credentials: Vec<Value> = values.iter().map(|value| credential(value)).collect();
        scene.send("PUT", "/v1/devices/box", &json!({"credentials": credentials})).await
    };
    put(&["old"]).await.expect(200);
    let generation = stored(&scene, "box").await.credential_generation;
    put(&["old"]).await.expect(200);
    assert_eq!(stored(&scene, "box").await.credential_generation, generation);
    put(&["old", "new"]).await.expect(200);
    let device = stored(&scene, "box").await;
    assert!(opens(&device, "old") && opens(&device, "new") && !opens(&device, "other"));
    put(&["a", "b", "c"]).await.refused(400, "invalid-field", "credentials");
    put(&["new"]).await.expect(200);
    let device = stored(&scene, "box").await;
    assert!(!opens(&device, "old") && opens(&device, "new"));
}

#[tokio::test]
async fn certificates_are_pinned_by_twos_beside_passwords_and_never_shown() {
    let scene = Scene::new().await;
    let certificate = |digit: &str| json!({"type": "certificate", "sha256": digit.repeat(64)});
    let password = |value: &str| json!({"type": "password", "value": value});
    let put = async |credentials: Value| scene.send("PUT", "/v1/devices/box", &json!({"credentials": credentials})).await;
    let shown = put(json!([certificate("a"), password("x"), certificate("B"), password("y")]))
        .await
        .expect(200);
    let kinds = ["scram", "scram", "certificate", "certificate"].map(|kind| json!({"type": kind}));
    assert_eq!(shown.json()["credentials"], json!(kinds));
    assert!(!shown.body.contains("aaaa"), "{}", shown.body);
    let device = stored(&scene, "box").await;
    let pins: Vec<[u8; 32]> = device
        .credentials
        .iter()
        .filter_map(Credential::certificate)
        .map(|pin| pin.sha256)
        .collect();
    assert_eq!(pins, [[0xaa; 32], [0xbb; 32]]);
    assert!(opens(&device, "x") && opens(&device, "y"));
    put(json!([certificate("a"), certificate("b"), certificate("c")]))
        .await
        .refused(400, "invalid-field", "at most 2");
    // As openssl prints it.
    let printed = format!("{}AA", "AA:".repeat(31));
    put(json!([{"type": "certificate", "sha256": printed}])).await.expect(200);
    let changed = stored(&scene, "box").await;
    assert_eq!(changed.credentials[0].certificate().unwrap().sha256, [0xaa; 32]);
    assert_eq!(changed.credential_generation, device.credential_generation + 1);
}

#[tokio::test]
async fn verifiers_can_be_imported() {
    let scene = Scene::new().await;
    scene
        .send("PUT", "/v1/devices/box", &json!({"password": "pencil"}))
        .await
        .expect(200);
    let device = stored(&scene, "box").await;
    let secret = device.credentials[0].scram().unwrap();
    let mut imported = serde_json::to_value(secret).unwrap();
    imported["type"] = json!("scram");
    scene
        .send("PUT", "/v1/devices/other", &json!({"credentials": [imported]}))
        .await
        .expect(200);
    assert!(opens(&stored(&scene, "other").await, "pencil"));
    for (pointer, value, detail) in [
        ("/sha256/iterations", json!(4_095), "4096 to 10000"),
        ("/sha256/iterations", json!(10_001), "4096 to 10000"),
        ("/sha256/stored_key", json!("AAAA"), "credentials[0].sha256.stored_key"),
        ("/sha1/salt", json!("!"), "credentials[0].sha1.salt"),
    ] {
        let mut wrong = imported.clone();
        *wrong.pointer_mut(pointer).unwrap() = value;
        let answer = scene.send("PUT", "/v1/devices/other", &json!({"credentials": [wrong]})).await;
        answer.refused(400, "invalid-field", detail);
    }
}

#[tokio::test]
async fn a_bad_device_is_refused_by_the_name_of_its_field() {
    let scene = Scene::new().await;
    let cases = [
        (json!({"colour": 1}), "unknown-field", "colour"),
        (json!({"id": "other"}), "invalid-field", "the id in the path"),
        (json!({"user": 5}), "invalid-field", "user"),
        (json!({"user": "a b"}), "invalid-field", "offset 1"),
        (json!({"cohort": "some"}), "invalid-field", "cohort"),
        (json!({"attributes": []}), "invalid-field", "attributes"),
        (json!({"attributes": {"a": "x".repeat(9_000)}}), "invalid-field", "8192"),
        (json!({"password": ""}), "invalid-field", "password"),
        (json!({"password": 5}), "invalid-field", "password"),
        (json!({"password": "a\u{0}"}), "invalid-field", "control"),
        (json!({"password": "a", "credentials": []}), "invalid-field", "password"),
        (json!({"credentials": {}}), "invalid-field", "credentials"),
        (
            json!({"credentials": [{"type": "certificate", "sha256": ""}]}),
            "invalid-field",
            "credentials[0].sha256",
        ),
        (json!({"credentials": [{"type": "magic"}]}), "invalid-field", "credentials[0].type"),
        (json!({"credentials": [{"value": "x"}]}), "missing-field", "credentials[0].type"),
        (
            json!({"credentials": [{"type": "password"}]}),
            "missing-field",
            "credentials[0].value",
        ),
        (
            json!({"credentials": [{"type": "password", "value": "x", "y": 1}]}),
            "unknown-field",
            "credentials[0].y",
        ),
    ];
    for (body, slug, detail) in cases {
        scene.send("PUT", "/v1/devices/box", &body).await.refused(400, slug, detail);
    }
    scene
        .send("PUT", "/v1/devices/b%20x", &json!({}))
        .await
        .refused(400, "invalid-device-id", "offset 1");
    let twice = r#"{"attributes":{"a":1,"a":2}}"#;
    scene
        .request("admin", "PUT", "/v1/devices/box", &[], twice)
        .await
        .refused(400, "invalid-field", "attributes.a");
    scene
        .request("admin", "PUT", "/v1/devices/box", &[("content-type", "text/plain")], "{}")
        .await
        .refused(415, "unsupported-media-type", "");
    scene
        .request("read", "PUT", "/v1/devices/box", &[], "{}")
        .await
        .refused(403, "forbidden", "admin");
    scene
        .request("push", "GET", "/v1/devices/box", &[], "")
        .await
        .refused(403, "forbidden", "read");
}

#[tokio::test]
async fn many_devices_are_imported_and_a_bad_line_spoils_no_other() {
    let scene = Scene::new().await;
    let mut lines: String = (0..250)
        .map(|n| format!("{{\"id\":\"bulk-{n:03}\",\"user\":\"u{n}\"}}\n"))
        .collect();
    lines += "\r\n{\"id\":\"b x\"}\nnonsense\n{\"id\":\"bulk-000\"}\n{\"user\":\"u\"}\n{\"id\":\"odd\",\"colour\":1}\n";
    lines += &format!("{{\"id\":\"long\",\"user\":\"{}\"}}\n", "x".repeat(20_000));
    lines += "{\"id\":\"box\",\"password\":\"p\"}";
    let headers = [("content-type", "application/x-ndjson")];
    let answer = scene
        .request("admin", "POST", "/v1/devices", &headers, lines)
        .await
        .expect(200)
        .json();
    assert_eq!((&answer["accepted"], &answer["rejected"]), (&json!(251), &json!(6)), "{answer}");
    let items = answer["items"].as_array().unwrap();
    assert_eq!(items[0], json!({"line": 1, "id": "bulk-000", "status": 201}));
    assert_eq!(items[256], json!({"line": 258, "id": "box", "status": 200}));
    let refused: Vec<(u64, &str)> = items
        .iter()
        .filter(|item| item["problem"].is_object())
        .map(|item| {
            (
                item["line"].as_u64().unwrap(),
                item["problem"]["type"].as_str().unwrap().rsplit('/').next().unwrap(),
            )
        })
        .collect();
    let expected = [
        (252, "invalid-device-id"),
        (253, "bad-json"),
        (254, "conflict"),
        (255, "missing-field"),
        (256, "unknown-field"),
        (257, "body-too-large"),
    ];
    assert_eq!(refused, expected);

    let (mut found, mut path) = (0, "/v1/devices?limit=100".to_owned());
    loop {
        let page = scene.request("read", "GET", &path, &[], "").await.expect(200).json();
        found += page["items"].as_array().unwrap().len();
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/devices?limit=100&cursor={next}");
    }
    assert_eq!(found, 252);
    scene
        .request("read", "POST", "/v1/devices", &headers, "")
        .await
        .refused(403, "forbidden", "admin");
    scene
        .request("admin", "POST", "/v1/devices", &[], "")
        .await
        .refused(415, "unsupported-media-type", "");
}

/// Ids of a list, over all its pages, and how many pages there were.
async fn listed(scene: &Scene, query: &str) -> (Vec<String>, usize) {
    let (mut found, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let page = scene.get(&format!("/v1/devices?{query}{cursor}")).await.expect(200).json();
        let ids = page["items"].as_array().unwrap().iter();
        found.extend(ids.map(|item| item["id"].as_str().unwrap().to_owned()));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (found, pages),
        }
    }
}

#[tokio::test]
async fn devices_are_found_by_filter_and_by_user_page_by_page() {
    let scene = Scene::with(Limits {
        filter_scan_max_devices: 10,
        filter_max_terms: 2,
        ..Limits::default()
    })
    .await;
    let lines: String = (0..30)
        .map(|n| {
            let user = if n % 10 == 0 { r#""user":"ann","# } else { "" };
            format!(
                "{{\"id\":\"tv-{n:02}\",{user}\"attributes\":{{\"n\":{n},\"model\":\"stb-{}\"}}}}\n",
                n % 3
            )
        })
        .collect();
    let headers = [("content-type", "application/x-ndjson")];
    scene.request("admin", "POST", "/v1/devices", &headers, lines).await.expect(200);
    // `box` and `other` come before them. Ten are looked at by a request, so the first finds nothing and says where to go on.
    let first = scene.get("/v1/devices?filter=attributes.n%20%3E%3D%2025").await.expect(200).json();
    assert_eq!(first["items"], json!([]));
    assert!(first["next"].is_string(), "{first}");
    let (found, pages) = listed(&scene, "filter=attributes.n%20%3E%3D%2025").await;
    assert_eq!(found, ["tv-25", "tv-26", "tv-27", "tv-28", "tv-29"]);
    assert_eq!(pages, 4);
    let (found, _) = listed(&scene, "limit=2&filter=attributes.model%3Dstb-0%20AND%20NOT%20attributes.n%3C20").await;
    assert_eq!(found, ["tv-21", "tv-24", "tv-27"]);
    // By the index of users three are looked at, and no others.
    assert_eq!(
        listed(&scene, "user=ann").await,
        (vec!["tv-00".into(), "tv-10".into(), "tv-20".into()], 1)
    );
    assert_eq!(
        listed(&scene, "filter=user%3Dann%20AND%20attributes.n%3E5").await,
        (vec!["tv-10".into(), "tv-20".into()], 1)
    );
    assert_eq!(listed(&scene, "user=nobody").await, (vec![], 1));
    // What cannot be read is named by its place.
    let refused = scene.get("/v1/devices?filter=attributes.model%20%3D%3D%20x").await;
    let problem = refused.refused(400, "invalid-filter", "offset 18");
    assert_eq!((&problem["field"], &problem["offset"]), (&json!("filter"), &json!(18)));
    for (query, slug, detail) in [
        ("filter=", "invalid-filter", "a comparison is missing"),
        ("filter=colour%3Dred", "invalid-filter", "id, user, cohort"),
        ("filter=state%3Donline", "invalid-filter", "/v1/presence"),
        ("filter=id%3Da%20OR%20id%3Db%20OR%20id%3Dc", "invalid-filter", "more than 2"),
        ("filter=id%3Da&filter=id%3Db", "invalid-parameter", "twice"),
        ("user=a%20b", "invalid-parameter", "user"),
    ] {
        scene.get(&format!("/v1/devices?{query}")).await.refused(400, slug, detail);
    }
}

#[tokio::test]
async fn an_import_has_a_bound() {
    let scene = Scene::with(Limits {
        bulk_max_devices: 3,
        ..Limits::default()
    })
    .await;
    let lines = "{\"id\":\"a\"}\nnonsense\n{\"id\":\"c\"}\n{\"id\":\"d\"}\n{\"id\":\"e\"}\n";
    let answer = scene
        .request("admin", "POST", "/v1/devices", &[("content-type", "application/x-ndjson")], lines)
        .await;
    let answer = answer.expect(200).json();
    assert_eq!((&answer["accepted"], &answer["rejected"]), (&json!(2), &json!(2)), "{answer}");
    assert!(
        answer["items"][3]["problem"]["detail"].as_str().unwrap().contains("3 lines"),
        "{answer}"
    );
    scene.get("/v1/devices/d").await.expect(404);
}

#[tokio::test]
async fn any_key_reads_the_limits() {
    let scene = Scene::new().await;
    let mut limits = scene.request("push", "GET", "/v1/limits", &[], "").await.expect(200).json();
    assert_eq!(limits.as_object_mut().unwrap().remove("rate_limits"), Some(json!([])));
    assert_eq!(serde_json::from_value::<Limits>(limits).unwrap(), Limits::default());
    scene
        .request("none", "GET", "/v1/limits", &[], "")
        .await
        .refused(401, "unauthenticated", "key");
}
