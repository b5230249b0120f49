//! Keys: made, listed, revoked, and never above their maker.

use serde_json::json;

use crate::scene::{Answer, Scene};

#[tokio::test]
async fn a_key_is_shown_once_works_and_ends() {
    let scene = Scene::new().await;
    let made = scene
        .send("POST", "/v1/keys", &json!({"name": "scheduler", "scope": "push"}))
        .await
        .expect(201)
        .json();
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert!(key.starts_with("upk_") && key.len() == 44, "200 bits in base32: {key}");
    assert_eq!((&made["name"], &made["scope"]), (&json!("scheduler"), &json!("push")));
    let post = async || -> Answer {
        let body = json!({"target": {"device": "box"}, "data": 1}).to_string();
        scene
            .request(key, "POST", "/v1/events", &[("content-type", "application/json")], body)
            .await
    };
    post().await.expect(202);
    scene
        .request(key, "GET", "/v1/keys", &[], "")
        .await
        .refused(403, "forbidden", "scheduler");
    let listed = scene.get("/v1/keys").await.expect(200);
    assert!(listed.body.contains(id) && !listed.body.contains(key), "{}", listed.body);
    scene.delete(&format!("/v1/keys/{id}")).await.expect(204);
    scene.delete(&format!("/v1/keys/{id}")).await.refused(404, "unknown-key", id);
    post().await.refused(401, "unauthenticated", "key");
}

#[tokio::test]
async fn nobody_makes_or_ends_a_key_above_his_own() {
    let scene = Scene::new().await;
    let make = async |by: &str, scope: &str| -> Answer {
        let body = json!({"name": "k", "scope": scope}).to_string();
        scene
            .request(by, "POST", "/v1/keys", &[("content-type", "application/json")], body)
            .await
    };
    make("push", "push").await.refused(403, "forbidden", "admin");
    make("read", "read").await.refused(403, "forbidden", "admin");
    make("admin", "operator").await.refused(403, "forbidden", "operator");
    make("admin", "admin").await.expect(201);
    let above = make("operator", "operator").await.expect(201).json();
    let path = format!("/v1/keys/{}", above["id"].as_str().unwrap());
    scene
        .request("admin", "DELETE", &path, &[], "")
        .await
        .refused(403, "forbidden", "operator");
    scene.delete(&path).await.expect(204);
}

#[tokio::test]
async fn a_bad_request_for_a_key_names_its_field() {
    let scene = Scene::new().await;
    for (body, slug, detail) in [
        (json!({"scope": "push"}), "missing-field", "name"),
        (json!({"name": "k"}), "missing-field", "scope"),
        (json!({"name": "k", "scope": "root"}), "invalid-field", "scope"),
        (json!({"name": "", "scope": "push"}), "invalid-field", "name"),
        (json!({"name": "a\nb", "scope": "push"}), "unprintable-text", "name"),
        (json!({"name": "k", "scope": "push", "x": 1}), "unknown-field", "x"),
    ] {
        scene.send("POST", "/v1/keys", &body).await.refused(400, slug, detail);
    }
}

#[tokio::test]
async fn keys_are_listed_in_pages() {
    let scene = Scene::new().await;
    for n in 0..5 {
        scene
            .send("POST", "/v1/keys", &json!({"name": format!("k{n}"), "scope": "read"}))
            .await
            .expect(201);
    }
    let (mut names, mut path) = (Vec::new(), "/v1/keys?limit=2".to_owned());
    loop {
        let page = scene.get(&path).await.expect(200).json();
        names.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|key| key["name"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/keys?limit=2&cursor={next}");
    }
    names.sort();
    assert_eq!(names, ["k0", "k1", "k2", "k3", "k4"]);
}
