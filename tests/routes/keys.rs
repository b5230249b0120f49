//! Keys: made, listed, revoked, and never above their maker.

use std::time::Duration;

use serde_json::{Value, json};
use unpoll::{domain::TenantId, store::Registry};

use crate::scene::{Answer, START, Scene};

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

#[tokio::test]
async fn tenants_are_the_operators_business() {
    let scene = Scene::new().await;
    let put = async |by: &str, name: &str, body: serde_json::Value| -> Answer {
        let headers = [("content-type", "application/json")];
        scene
            .request(by, "PUT", &format!("/v1/tenants/{name}"), &headers, body.to_string())
            .await
    };
    let tv = json!({"domain": "TV.example", "limits": {"deliveries_per_second": 5}});
    put("admin", "tv", tv.clone()).await.refused(403, "forbidden", "operator");
    let made = put("operator", "TV", tv.clone()).await.expect(201);
    assert_eq!(made.header("location"), "/v1/tenants/tv");
    let limits = json!({"deliveries_per_second": 5, "burst": 5});
    assert_eq!(made.json(), json!({"name": "tv", "domain": "tv.example", "limits": limits}));
    // Without limits in it, PUT takes them away; the domain stays.
    let changed = put("operator", "tv", json!({})).await.expect(200).json();
    assert_eq!(changed, json!({"name": "tv", "domain": "tv.example", "limits": null}));
    put("operator", "tv", json!({"domain": "x.example"}))
        .await
        .refused(409, "conflict", "tv.example");
    put("operator", "other", tv).await.refused(409, "conflict", "domain");
    put("operator", "other", json!({})).await.refused(400, "missing-field", "domain");
    put("operator", "other", json!({"domain": "a..b"}))
        .await
        .refused(400, "invalid-field", "domain");
    put("operator", "a%20b", json!({"domain": "b.example"}))
        .await
        .refused(400, "invalid-field", "not allowed");
    let bad = json!({"domain": "b.example", "limits": {"deliveries_per_second": 0}});
    put("operator", "b", bad).await.refused(400, "invalid-field", "1 to");
    let bad = json!({"domain": "b.example", "limits": {"per_second": 1}});
    put("operator", "b", bad)
        .await
        .refused(400, "missing-field", "limits.deliveries_per_second");

    for path in ["/v1/tenants", "/v1/tenants/tv"] {
        let by_admin = scene.request("admin", "GET", path, &[], "").await;
        by_admin.refused(403, "forbidden", "operator");
    }
    let first = scene.get("/v1/tenants?limit=1").await.expect(200).json();
    assert_eq!(first["items"][0]["name"], "default");
    let cursor = first["next"].as_str().unwrap();
    let second = scene.get(&format!("/v1/tenants?cursor={cursor}")).await.expect(200).json();
    assert_eq!((&second["items"][0]["name"], &second["next"]), (&json!("tv"), &json!(null)));
    scene.get("/v1/tenants/nobody").await.refused(404, "unknown-tenant", "nobody");

    let key = async |body: serde_json::Value| scene.send("POST", "/v1/keys", &body).await;
    let made = key(json!({"name": "first", "scope": "admin", "tenant": "tv", "limits": {"deliveries_per_second": 3, "burst": 4}})).await;
    assert_eq!(made.expect(201).json()["limits"], json!({"deliveries_per_second": 3, "burst": 4}));
    key(json!({"name": "k", "scope": "operator", "tenant": "tv"}))
        .await
        .refused(409, "conflict", "default tenant");
    key(json!({"name": "k", "scope": "push", "tenant": "no"}))
        .await
        .refused(404, "unknown-tenant", "no");
    let body = json!({"name": "k", "scope": "push", "tenant": "tv"}).to_string();
    let by_admin = scene
        .request("admin", "POST", "/v1/keys", &[("content-type", "application/json")], body)
        .await;
    by_admin.refused(403, "forbidden", "operator");
    // It is in the tenant's list and not in the caller's own.
    assert!(!scene.get("/v1/keys").await.expect(200).body.contains("first"));

    let remove = async |by: &str, name: &str| scene.request(by, "DELETE", &format!("/v1/tenants/{name}"), &[], "").await;
    remove("admin", "tv").await.refused(403, "forbidden", "operator");
    remove("operator", "default").await.refused(409, "conflict", "cannot be removed");
    remove("operator", "tv").await.expect(204);
    remove("operator", "tv").await.refused(404, "unknown-tenant", "tv");
}

#[tokio::test]
async fn a_key_posts_as_much_as_it_may_and_reads_what_is_left() {
    let scene = Scene::new().await;
    let body = json!({"name": "slow", "scope": "push", "limits": {"deliveries_per_second": 1, "burst": 2}});
    let made = scene.send("POST", "/v1/keys", &body).await.expect(201).json();
    let key = made["key"].as_str().unwrap().to_owned();
    let post = async |path: &str| -> Answer {
        let body = json!({"target": {"device": "box"}, "data": 1}).to_string();
        scene
            .request(&key, "POST", path, &[("content-type", "application/json")], body)
            .await
    };
    let policy = "\"key\";q=2;w=2;unpoll-unit=\"deliveries\"";
    post("/v1/events?validate_only=true").await.expect(200);
    let first = post("/v1/events").await.expect(202);
    assert_eq!(first.header("ratelimit-policy"), policy);
    assert_eq!(first.header("ratelimit"), "\"key\";r=1;t=1");
    let mut refused = None;
    // A second gives one more, so on a slow machine it may take a few.
    for _ in 0..100 {
        let answer = post("/v1/events").await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("one too many");
    assert_eq!((refused.header("retry-after"), refused.header("ratelimit-policy")), ("1", policy));
    assert_eq!(refused.header("ratelimit"), "\"key\";r=0;t=2");
    let problem = refused.refused(
        429,
        "rate-limited",
        "the limit of the key is reached: 1 deliveries a second, 2 at once",
    );
    assert_eq!(problem["violated-policies"], json!(["key"]));
    let limits = scene.request(&key, "GET", "/v1/limits", &[], "").await.expect(200).json();
    let mut own = limits["rate_limits"][0].clone();
    let left = ["remaining", "reset_secs"].map(|name| own.as_object_mut().unwrap().remove(name).unwrap());
    assert_eq!(
        own,
        json!({"policy": "key", "deliveries_per_second": 1, "burst": 2, "quota": 2, "window_secs": 2})
    );
    // As much as a slow machine gives meanwhile.
    assert!(left.iter().all(|left| left.as_u64().is_some_and(|left| left <= 2)), "{left:?}");
    // Others are not concerned, and read of no limit.
    let free = scene
        .send("POST", "/v1/events", &json!({"target": {"device": "box"}, "data": 1}))
        .await
        .expect(202);
    assert_eq!(free.header("ratelimit"), "");
}

#[tokio::test]
async fn a_key_ends_when_its_time_is_over() {
    let scene = Scene::new().await;
    let body = json!({"name": "short", "scope": "read", "expires_in_secs": 60});
    let made = scene.send("POST", "/v1/keys", &body).await.expect(201);
    assert_eq!(made.header("location"), format!("/v1/keys/{}", made.json()["id"].as_str().unwrap()));
    let (made, ends) = (made.json(), START.plus(Duration::from_secs(60)));
    assert_eq!(made["expires_at"], json!(ends));
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    scene.clock.advance(Duration::from_millis(59_999));
    scene.request(key, "GET", "/v1/devices", &[], "").await.expect(200);
    scene.clock.advance(Duration::from_millis(1));
    let ended = scene.request(key, "GET", "/v1/devices", &[], "").await;
    assert!(ended.header("www-authenticate").contains("error=\"invalid_token\""), "{ended:?}");
    ended.refused(401, "expired-key", "short has ended at");
    let listed = scene.get("/v1/keys").await.json();
    assert_eq!(listed["items"][0]["expires_at"], json!(ends));
    scene
        .request("operator", "POST", &format!("/v1/keys/{id}:rotate"), &[], "")
        .await
        .refused(409, "conflict", "ended");
    for (field, value, detail) in [
        ("expires_in_secs", json!(0), "1 to"),
        ("expires_in_secs", json!("90d"), "whole number"),
        ("expires_at", json!("2020-01-01T00:00:00Z"), "not in the future"),
        ("expires_at", json!("tomorrow"), "RFC 3339"),
    ] {
        let body = json!({"name": "k", "scope": "read", field: value});
        scene.send("POST", "/v1/keys", &body).await.refused(400, "invalid-field", detail);
    }
    let both = json!({"name": "k", "scope": "read", "expires_in_secs": 1, "expires_at": "2099-01-01T00:00:00Z"});
    scene
        .send("POST", "/v1/keys", &both)
        .await
        .refused(400, "invalid-field", "expires_in_secs");
}

#[tokio::test]
async fn a_key_shows_when_it_was_last_used() {
    let scene = Scene::new().await;
    let made = scene
        .send("POST", "/v1/keys", &json!({"name": "k", "scope": "read"}))
        .await
        .expect(201)
        .json();
    let (id, first) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert_eq!(made["last_used_at"], json!(null));
    let last = async || -> Value {
        let listed = scene.get("/v1/keys").await.expect(200).json();
        listed["items"][0]["last_used_at"].clone()
    };
    assert_eq!(last().await, json!(null), "making and listing it is no use of it");
    scene.clock.advance(Duration::from_secs(10));
    // What is refused for its scope came with the key as well.
    scene
        .request(first, "GET", "/v1/keys", &[], "")
        .await
        .refused(403, "forbidden", "admin");
    let used = START.plus(Duration::from_secs(10));
    assert_eq!(last().await, json!(used));
    assert!(
        scene.store.key_uses(TenantId(0)).await.unwrap().is_empty(),
        "no request writes to the store"
    );
    scene.uses.write(&*scene.store).await;
    let written = scene.store.key_uses(TenantId(0)).await.unwrap();
    assert_eq!(
        written.into_iter().collect::<Vec<_>>(),
        [(id.into(), used)],
        "of keys that are there"
    );
    assert_eq!(last().await, json!(used));
    // Another secret of the key is the same key.
    let rotated = scene
        .request("admin", "POST", &format!("/v1/keys/{id}:rotate"), &[], "{\"grace_secs\":0}")
        .await;
    let rotated = rotated.expect(200).json();
    assert_eq!(rotated["last_used_at"], json!(used));
    scene.clock.advance(Duration::from_secs(10));
    scene.request(first, "GET", "/v1/devices", &[], "").await.expect(401);
    assert_eq!(last().await, json!(used), "what was refused with the old secret is no use");
    let second = rotated["key"].as_str().unwrap();
    scene.request(second, "GET", "/v1/devices", &[], "").await.expect(200);
    assert_eq!(last().await, json!(START.plus(Duration::from_secs(20))));
    scene.delete(&format!("/v1/keys/{id}")).await.expect(204);
    scene.uses.write(&*scene.store).await;
    assert!(scene.store.key_uses(TenantId(0)).await.unwrap().is_empty(), "it goes with the key");
}

#[tokio::test]
async fn a_key_is_rotated_and_its_secret_goes_on_for_a_while() {
    let scene = Scene::new().await;
    let made = scene.send("POST", "/v1/keys", &json!({"name": "k", "scope": "read"})).await.json();
    let (id, first) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let path = format!("/v1/keys/{id}:rotate");
    let rotated = scene.request("admin", "POST", &path, &[], "").await.expect(200).json();
    let second = rotated["key"].as_str().unwrap();
    assert!(second != first && rotated["id"] == made["id"] && rotated["name"] == "k");
    assert_eq!(rotated["previous_secret_until"], json!(START.plus(Duration::from_secs(86_400))));
    let works = async |key: &str| scene.request(key, "GET", "/v1/devices", &[], "").await.status;
    assert_eq!((works(first).await, works(second).await), (200, 200));
    let listed = scene.get("/v1/keys").await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "two secrets are one key: {listed}");
    scene
        .request("admin", "POST", &path, &[], "")
        .await
        .refused(409, "conflict", "grace_secs 0");
    scene.clock.advance(Duration::from_secs(86_400));
    let ended = scene.request(first, "GET", "/v1/devices", &[], "").await;
    ended.refused(401, "expired-key", "newer secret");
    assert_eq!(works(second).await, 200);
    assert_eq!(scene.get("/v1/keys").await.json()["items"][0]["previous_secret_until"], json!(null));
    let third = scene.send("POST", &path, &json!({"grace_secs": 0})).await.expect(200).json();
    assert_eq!(third["previous_secret_until"], json!(null));
    assert_eq!((works(second).await, works(third["key"].as_str().unwrap()).await), (401, 200));

    scene
        .send("POST", &path, &json!({"grace_secs": 2_592_001}))
        .await
        .refused(400, "invalid-field", "grace_secs");
    scene
        .send("POST", &path, &json!({"grace": 1}))
        .await
        .refused(400, "unknown-field", "grace");
    scene
        .send("POST", "/v1/keys/none:rotate", &json!({}))
        .await
        .refused(404, "unknown-key", "none");
    scene
        .send("POST", &format!("/v1/keys/{id}"), &json!({}))
        .await
        .refused(405, "method-not-allowed", "POST");
    scene
        .request("read", "POST", &path, &[], "")
        .await
        .refused(403, "forbidden", "admin");
    let above = scene
        .send("POST", "/v1/keys", &json!({"name": "o", "scope": "operator"}))
        .await
        .json();
    let path = format!("/v1/keys/{}:rotate", above["id"].as_str().unwrap());
    scene
        .request("admin", "POST", &path, &[], "")
        .await
        .refused(403, "forbidden", "operator");
}

#[tokio::test]
async fn every_change_is_in_the_audit_log_and_no_secret() {
    let scene = Scene::new().await;
    scene
        .send("PUT", "/v1/devices/tv", &json!({"password": "hush-hush", "user": "ann"}))
        .await
        .expect(201);
    scene.clock.advance(Duration::from_secs(10));
    let made = scene
        .send("POST", "/v1/keys", &json!({"name": "k", "scope": "read"}))
        .await
        .expect(201)
        .json();
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    scene.send("POST", "/v1/keys", &json!({"name": "k"})).await.expect(400);
    let lines = "{\"id\":\"a\"}\n{\"id\":\"B C\"}\n";
    scene
        .request("admin", "POST", "/v1/devices", &[("content-type", "application/x-ndjson")], lines)
        .await
        .expect(200);
    scene
        .request("admin", "DELETE", &format!("/v1/keys/{id}"), &[], "")
        .await
        .expect(204);
    // Neither who may not, nor events.
    scene.request("read", "DELETE", "/v1/devices/tv", &[], "").await.expect(403);
    scene.push(json!({})).await;

    let log = scene
        .request("admin", "GET", "/v1/audit?from=2027-01-15T08:00:10Z", &[], "")
        .await
        .expect(200);
    assert!(!log.body.contains(key) && !log.body.contains("hush"), "{}", log.body);
    let told: Vec<(String, String, u64)> = log.json()["items"].as_array().unwrap().iter().map(told).collect();
    let expected = [
        ("POST", "/v1/keys".to_owned(), 201),
        ("POST", "/v1/keys".to_owned(), 400),
        ("POST", "/v1/devices".to_owned(), 200),
        ("DELETE", format!("/v1/keys/{id}"), 204),
    ];
    assert_eq!(told, expected.map(|(method, path, status)| (method.to_owned(), path, status)));
    let items = log.json()["items"].clone();
    assert_eq!(items[0]["fields"], json!(["name", "scope"]));
    assert_eq!(items[0]["outcome"]["created"], json!(format!("/v1/keys/{id}")));
    assert_eq!(items[0]["actor"], json!({"key": {"id": "operator", "name": "operator"}}));
    assert_eq!(items[1]["outcome"]["problem"], "missing-field");
    assert_eq!(items[2]["outcome"]["detail"], "1 lines were taken, 1 refused");

    // Page by page, and those before.
    let (mut seen, mut path) = (0, "/v1/audit?limit=2&to=2027-01-15T08:00:10Z".to_owned());
    loop {
        let page = scene.get(&path).await.expect(200).json();
        seen += page["items"].as_array().unwrap().len();
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/audit?limit=2&to=2027-01-15T08:00:10Z&cursor={next}");
    }
    assert_eq!(seen, 3, "two devices of the scene, and the television");
    scene
        .request("read", "GET", "/v1/audit", &[], "")
        .await
        .refused(403, "forbidden", "admin");
    scene
        .get("/v1/audit?from=yesterday")
        .await
        .refused(400, "invalid-parameter", "RFC 3339");
}

fn told(entry: &Value) -> (String, String, u64) {
    let text = |name: &str| entry[name].as_str().unwrap().to_owned();
    (text("method"), text("resource"), entry["outcome"]["status"].as_u64().unwrap())
}

/// What each scope may ask for: 403 for those below, and never for those that suffice.
#[tokio::test]
async fn every_route_asks_for_its_scope() {
    let scene = Scene::new().await;
    let (push, read, admin) = (["push", "admin", "operator"], ["read", "admin", "operator"], ["admin", "operator"]);
    let fate = ["push", "read", "admin", "operator"];
    let table: [(&str, &str, &[&str]); 18] = [
        ("POST", "/v1/events", &push),
        ("GET", "/v1/events/none", &fate),
        ("GET", "/v1/events/none/deliveries", &fate),
        ("DELETE", "/v1/events/none", &push),
        ("GET", "/v1/devices", &read),
        ("POST", "/v1/devices", &admin),
        ("GET", "/v1/devices/none", &read),
        ("PUT", "/v1/devices/BAD ID", &admin),
        ("PATCH", "/v1/devices/none", &admin),
        ("DELETE", "/v1/devices/none", &admin),
        ("GET", "/v1/devices/none/deliveries", &read),
        ("GET", "/v1/keys", &admin),
        ("POST", "/v1/keys", &admin),
        ("DELETE", "/v1/keys/none", &admin),
        ("POST", "/v1/keys/none:rotate", &admin),
        ("GET", "/v1/audit", &admin),
        ("GET", "/v1/limits", &fate),
        ("GET", "/v1/audit?limit=1", &admin),
    ];
    for (method, path, may) in table {
        for scope in fate {
            let path = path.replace(' ', "%20");
            let answer = scene.request(scope, method, &path, &[], "").await;
            let is_refused = answer.status == 403;
            assert_eq!(!is_refused, may.contains(&scope), "{method} {path} with scope {scope}: {answer:?}");
        }
        scene.request("none", method, &path.replace(' ', "%20"), &[], "").await.expect(401);
    }
}
