//! Registry: devices, credentials, keys, tenants.

use super::*;

fn object(json: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    Some(serde_json::from_str(json).unwrap())
}

pub async fn a_device_is_put_patched_and_listed(bench: impl Bench) {
    let store = bench.store();
    let unknown = store.put_device(&key("box"), DeviceChange::default(), false, START).await;
    assert!(matches!(unknown, Err(StoreError::UnknownDevice)));
    let change = DeviceChange {
        user: Some(Some("family".parse().unwrap())),
        attributes: object(r#"{"model":"x","place":{"room":1,"floor":2}}"#),
        cohort: Some(Cohort::Control),
        credentials: Some(vec![secret("one")]),
        replace: true,
    };
    let (device, created) = store.put_device(&key("box"), change, true, START).await.unwrap();
    assert!(created);
    assert_eq!(
        (device.created_at, device.updated_at, device.cohort),
        (START, START, Cohort::Control)
    );
    let later = Timestamp(START.0 + 1);
    let patch = DeviceChange {
        attributes: object(r#"{"model":null,"place":{"floor":null,"wall":3}}"#),
        ..DeviceChange::default()
    };
    let (patched, created) = store.put_device(&key("box"), patch, false, later).await.unwrap();
    assert!(!created);
    assert_eq!(Some(&patched.attributes), object(r#"{"place":{"room":1,"wall":3}}"#).as_ref());
    assert_eq!(
        (&patched.user, patched.cohort, &patched.credentials),
        (&device.user, Cohort::Control, &device.credentials)
    );
    assert_eq!((patched.ordinal, patched.updated_at), (device.ordinal, later));
    let put = DeviceChange {
        replace: true,
        ..DeviceChange::default()
    };
    let (plain, _) = store.put_device(&key("box"), put, false, later).await.unwrap();
    assert_eq!((&plain.user, plain.attributes.len(), plain.cohort), (&None, 0, Cohort::Push));
    assert_eq!(plain.credentials, device.credentials, "credentials stay unless given");
    assert_eq!(store.device(&key("box")).await.unwrap(), Registered::Present(Box::new(plain)));

    for id in ["a", "c", "b.2", "b-1"] {
        add(&*store, id).await;
    }
    store.remove_device(&key("c"), START).await.unwrap();
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = store.devices(TENANT, after.as_ref(), 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        listed.extend(page.iter().map(|device| device.id.to_string()));
    }
    assert_eq!(listed, ["a", "b-1", "b.2", "box"]);
    assert_eq!(store.stats().devices, 4);
}

fn of_user(user: Option<&str>) -> DeviceChange {
    DeviceChange {
        user: Some(user.map(|user| user.parse().unwrap())),
        ..DeviceChange::default()
    }
}

pub async fn devices_are_found_by_their_user(bench: impl Bench) {
    async fn found(store: &dyn Store, user: &str) -> Vec<String> {
        let (user, mut found, mut after) = (user.parse().unwrap(), Vec::new(), None);
        loop {
            let page = store.devices_of(TENANT, &user, after.as_ref(), 2).await.unwrap();
            let Some(last) = page.last() else { return found };
            assert!(page.len() <= 2 && page.iter().all(|device| device.user.as_ref() == Some(&user)));
            after = Some(last.id.clone());
            found.extend(page.iter().map(|device| device.id.to_string()));
        }
    }
    let store = bench.store();
    // One user's name begins with the other's, and one has signs that keys are made of.
    for (id, user) in [
        ("tv", "ann"),
        ("ab.c", "ann"),
        ("ab", "ann"),
        ("x", "anna"),
        ("y", "a}{:nn"),
        ("ab-1", "ann"),
    ] {
        store.put_device(&key(id), of_user(Some(user)), true, START).await.unwrap();
    }
    add(&*store, "nobodys").await;
    assert_eq!(found(&*store, "ann").await, ["ab", "ab-1", "ab.c", "tv"]);
    assert_eq!(found(&*store, "anna").await, ["x"]);
    assert_eq!(found(&*store, "a}{:nn").await, ["y"]);
    assert!(found(&*store, "an").await.is_empty());
    let other = DeviceKey {
        tenant: TenantId(7),
        device: "tv".parse().unwrap(),
    };
    store.put_device(&other, of_user(Some("ann")), true, START).await.unwrap();
    let of_other = store.devices_of(TenantId(7), &"ann".parse().unwrap(), None, 10).await.unwrap();
    assert_eq!(of_other.len(), 1, "tenants do not see one another");
    // To another user and back, away from all, changed in another way, removed, and added anew.
    for user in [Some("bob"), Some("ann"), Some("bob")] {
        store.put_device(&key("tv"), of_user(user), false, START).await.unwrap();
    }
    store.put_device(&key("ab"), of_user(None), false, START).await.unwrap();
    let patch = DeviceChange {
        attributes: object(r#"{"a":1}"#),
        ..DeviceChange::default()
    };
    store.put_device(&key("ab-1"), patch, false, START).await.unwrap();
    store.remove_device(&key("ab.c"), START).await.unwrap();
    assert_eq!(found(&*store, "ann").await, ["ab-1"]);
    assert_eq!(found(&*store, "bob").await, ["tv"]);
    store.put_device(&key("ab.c"), DeviceChange::default(), true, START).await.unwrap();
    assert_eq!(found(&*store, "ann").await, ["ab-1"], "one that returns is nobody's");
    let bench = bench.reopen().await;
    let store = bench.store();
    assert_eq!(found(&*store, "ann").await, ["ab-1"]);
    // Two at once: whichever comes last, the index and the row agree.
    for _ in 0..20 {
        let put = async |user: &str| store.put_device(&key("tv"), of_user(Some(user)), false, START).await.unwrap();
        tokio::join!(put("ann"), put("bob"), put("eve"));
        let Registered::Present(device) = store.device(&key("tv")).await.unwrap() else {
            panic!("it is there")
        };
        let owner = device.user.unwrap().to_string();
        for user in ["ann", "bob", "eve"] {
            let has = found(&*store, user).await.contains(&"tv".to_owned());
            assert_eq!(has, user == owner, "{user}; it is {owner}'s");
        }
    }
}

pub async fn a_filter_is_looked_through_in_bounded_steps(bench: impl Bench) {
    let store = bench.store();
    for n in 0..12 {
        let change = DeviceChange {
            user: Some(Some(if n % 2 == 0 { "ann" } else { "bob" }.parse().unwrap())),
            attributes: object(&format!(r#"{{"n":{n}}}"#)),
            ..DeviceChange::default()
        };
        store.put_device(&key(&format!("box-{n:02}")), change, true, START).await.unwrap();
    }
    let report = Report {
        attributes: object(r#"{"fw":"7.1"}"#),
        location: None,
    };
    store.report(&key("box-03"), report, START).await.unwrap();
    let bounds = crate::domain::FilterBounds {
        max_bytes: 2_048,
        max_terms: 64,
        state: true,
    };
    let wanted = |filter: &str, user: Option<&str>| Wanted {
        filter: Some(crate::domain::Filter::parse(filter, &bounds).unwrap()),
        user: user.map(|user| user.parse().unwrap()),
    };
    // Requests that look at five each: what each found, and how many there were.
    let all = async |wanted: &Wanted| {
        let (mut found, mut requests, mut after) = (Vec::new(), 0, None);
        loop {
            requests += 1;
            let mut scan = Scan::new(&*store, TENANT, wanted, after, 5);
            while let Some(some) = scan.next().await.unwrap() {
                found.extend(some.into_iter().map(|candidate| (candidate.device.id.to_string(), candidate.fits)));
            }
            after = scan.stopped_at().cloned();
            if after.is_none() {
                return (found, requests);
            }
        }
    };
    let fit = |ids: &[&str]| ids.iter().map(|id| ((*id).to_owned(), true)).collect::<Vec<_>>();
    assert_eq!(all(&wanted("attributes.n >= 10", None)).await, (fit(&["box-10", "box-11"]), 3));
    assert_eq!(all(&wanted("reported.fw = 7*", None)).await, (fit(&["box-03"]), 3));
    assert_eq!(all(&wanted("id = nobody", None)).await, (fit(&[]), 3));
    // By the index of users only six are looked at.
    let of_ann = ["box-00", "box-02"];
    assert_eq!(all(&wanted("attributes.n < 3", Some("ann"))).await, (fit(&of_ann), 2));
    assert_eq!(all(&wanted("user = ann AND attributes.n < 3", None)).await, (fit(&of_ann), 2));
    assert_eq!(all(&wanted("user = bob", Some("ann"))).await.0, []);
    // What only presence knows is left to it.
    let (found, _) = all(&wanted("state = online AND attributes.n < 2", None)).await;
    assert_eq!(found, [("box-00".to_owned(), false), ("box-01".to_owned(), false)]);
    let asks = wanted("state = online AND attributes.n < 2", None);
    let mut scan = Scan::new(&*store, TENANT, &asks, None, 5);
    let some = scan.next().await.unwrap().unwrap();
    assert!(some[0].fits_in(&asks, "online") && !some[0].fits_in(&asks, "away"));
}

pub async fn a_removed_device_fails_what_waits(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let epoch = claim(&*store, "box", 1).await.unwrap().epoch;
    let id = push(&*store, event("box", "{}", START)).await.unwrap().id;
    let seat = store.remove_device(&key("box"), START).await.unwrap();
    assert_eq!(seat.unwrap().epoch, epoch);
    let delivery = store.delivery(TENANT, id).await.unwrap().unwrap();
    assert_eq!(
        (delivery.state, delivery.reason),
        (DeliveryState::Failed, Some(Reason::DeviceRemoved))
    );
    assert_eq!(store.device(&key("box")).await.unwrap(), Registered::Removed(START));
    assert!(matches!(store.seat(&key("box")).await, Err(StoreError::RemovedDevice)));
    assert_eq!((store.stats().queued, store.stats().devices), (Some(0), 0));
    let patch = store.put_device(&key("box"), DeviceChange::default(), false, START).await;
    assert!(matches!(patch, Err(StoreError::RemovedDevice)));
    assert_eq!(
        end(&*store, "box", id, Outcome::Delivered, START).await,
        Settled::Before(DeliveryState::Failed)
    );
}

pub async fn a_device_that_returns_is_a_new_one(bench: impl Bench) {
    let store = bench.store();
    let put = || store.put_device(&TENANT_BOX, DeviceChange::default(), true, START);
    let (old, _) = put().await.unwrap();
    let id = push(&*store, event("box", "{}", START)).await.unwrap().id;
    store.remove_device(&TENANT_BOX, START).await.unwrap();
    let (new, created) = put().await.unwrap();
    assert!(created && new.ordinal != old.ordinal);
    assert_ne!(new.credential_generation, old.credential_generation);
    assert!(waiting(&*store, "box").await.is_empty());
    assert_eq!(state(&*store, id).await, Some(DeliveryState::Failed));
    let (same, created) = put().await.unwrap();
    assert_eq!((same.ordinal, created), (new.ordinal, false));
    // The numbers of its lanes go on: a device that kept its memory must not take new events for repeats.
    push(&*store, event("box", "{}", START)).await.unwrap();
    let page = store.pending(&TENANT_BOX, Cursor::default(), 10).await.unwrap();
    assert_eq!(page.events[0].seq.0, 2);
}

static TENANT_BOX: std::sync::LazyLock<DeviceKey> = std::sync::LazyLock::new(|| key("box"));

pub async fn credentials_have_a_bound_and_a_generation(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let put = |credentials: Vec<Credential>| DeviceChange {
        credentials: Some(credentials),
        ..DeviceChange::default()
    };
    let (one, two) = (secret("one"), secret("two"));
    let mut generations = Vec::new();
    for credentials in [
        vec![one.clone()],
        vec![one.clone(), two.clone()],
        vec![one.clone(), two.clone()],
        vec![],
    ] {
        let (device, _) = store.put_device(&key("box"), put(credentials.clone()), false, START).await.unwrap();
        assert_eq!(device.credentials, credentials);
        generations.push(device.credential_generation);
    }
    assert!(generations[0] < generations[1] && generations[1] == generations[2] && generations[2] < generations[3]);
    let three = store
        .put_device(&key("box"), put(vec![one.clone(), two.clone(), secret("three")]), false, START)
        .await;
    assert!(matches!(three, Err(StoreError::Conflict(_))));
    // Each type has its own bound, and a certificate is kept as it is.
    let pin = |byte| Credential::Certificate(CertificatePin { sha256: [byte; 32] });
    let both = vec![one, two, pin(1), pin(2)];
    let (device, _) = store.put_device(&key("box"), put(both.clone()), false, START).await.unwrap();
    assert_eq!(device.credentials, both);
    let three = store.put_device(&key("box"), put(vec![pin(1), pin(2), pin(3)]), false, START).await;
    assert!(matches!(three, Err(StoreError::Conflict(_))));
    let bench = bench.reopen().await;
    let Registered::Present(device) = bench.store().device(&key("box")).await.unwrap() else {
        panic!("it is there")
    };
    assert_eq!(device.credentials, both);
}

pub async fn fast_tokens_ride_the_claim_and_go_with_credentials_and_device(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let change = |text: &str, promote| FastChange {
        agent: FastAgent::of("agent"),
        mechanism: FastMechanism::None,
        promote,
        invalidate: false,
        fresh: Some((FastMechanism::None, FastToken::new(text.into(), START, Timestamp(START.0 + 1)))),
        agents_max: 4,
    };
    assert!(store.fast_tokens(&key("box"), 0).await.unwrap().is_empty());
    let seat = NewSeat {
        session: SessionId(1),
        node: "n1".into(),
        transport: Transport::Xmpps,
        at: START,
        credential_generation: 0,
        fast: Some(Box::new(change("one", false))),
    };
    store.claim(&key("box"), seat).await.unwrap();
    store.change_fast_tokens(&key("box"), 0, change("two", true)).await.unwrap();
    let bench = bench.reopen().await;
    let store = bench.store();
    let tokens = store.fast_tokens(&key("box"), 0).await.unwrap();
    for (text, first) in [("one", false), ("two", true)] {
        let (_, token) = change(text, false).fresh.unwrap();
        let proof = token.sign("Initiator", b"");
        let found = tokens.verify(&FastAgent::of("agent"), FastMechanism::None, b"", proof.as_ref(), START);
        assert_eq!(found, FastProof::Right { token, first_use: first });
    }
    let credentials = DeviceChange {
        credentials: Some(vec![secret("one")]),
        ..DeviceChange::default()
    };
    let (device, _) = store.put_device(&key("box"), credentials, false, START).await.unwrap();
    let generation = device.credential_generation;
    assert!(store.fast_tokens(&key("box"), generation).await.unwrap().is_empty());
    let late = store.change_fast_tokens(&key("box"), 0, change("three", false)).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))));
    store
        .change_fast_tokens(&key("box"), generation, change("four", false))
        .await
        .unwrap();
    assert!(!store.fast_tokens(&key("box"), generation).await.unwrap().is_empty());
    store.remove_device(&key("box"), START).await.unwrap();
    assert!(store.fast_tokens(&key("box"), generation).await.unwrap().is_empty());
    let gone = store.change_fast_tokens(&key("box"), generation, change("five", false)).await;
    assert!(matches!(gone, Err(StoreError::RemovedDevice)));
}

pub async fn keys_and_tenants_answer_from_memory(bench: impl Bench) {
    let store = bench.store();
    let key = |id: &str, tenant| ApiKey {
        id: id.to_owned(),
        name: format!("name of {id}"),
        tenant,
        scope: crate::domain::Scope::Push,
        created_at: START,
        limits: None,
        expires_at: None,
        retires_at: None,
    };
    assert!(store.put_first_key([1; 32], key("k1", 0)).await.unwrap());
    assert!(!store.put_first_key([9; 32], key("k9", 0)).await.unwrap());
    assert_eq!(store.key(&[9; 32]), None);
    store.put_key([2; 32], key("k2", 5)).await.unwrap();
    assert_eq!(store.key(&[1; 32]).as_deref(), Some(&key("k1", 0)));
    assert_eq!(store.key(&[3; 32]), None);
    assert_eq!(store.keys(TenantId(5)).await.unwrap(), [key("k2", 5)]);
    assert!(!store.revoke_key(TenantId(5), "k1").await.unwrap());
    assert!(store.revoke_key(TENANT, "k1").await.unwrap());
    assert_eq!(store.key(&[1; 32]), None);
    let tenant = |id, name: &str, domain: &str| Tenant {
        id,
        name: name.to_owned(),
        domain: domain.to_owned(),
        limits: None,
        removed_at: None,
    };
    store.put_tenant(tenant(5, "tv", "tv.example")).await.unwrap();
    let taken = store.put_tenant(tenant(6, "other", "tv.example")).await;
    assert!(matches!(taken, Err(StoreError::Conflict(_))));
    let bench = bench.reopen().await;
    let store = bench.store();
    assert_eq!(store.key(&[1; 32]), None);
    assert_eq!(store.key(&[2; 32]).as_deref(), Some(&key("k2", 5)));
    let names: Vec<_> = store.tenants().iter().map(|tenant| tenant.name.clone()).collect();
    assert_eq!(names, ["default", "tv"]);
}

pub async fn tenants_come_and_go_under_numbers_that_no_other_has(bench: impl Bench) {
    let store = bench.store();
    let limit = RateLimit {
        deliveries_per_second: 7,
        burst: 9,
    };
    let tv = store.add_tenant("tv", "tv.example", Some(limit)).await.unwrap();
    assert_eq!((tv.id, &*tv.name, &*tv.domain, tv.limits), (1, "tv", "tv.example", Some(limit)));
    for (name, domain) in [("tv", "x.example"), ("x", "tv.example"), ("default", "x.example")] {
        let taken = store.add_tenant(name, domain, None).await;
        assert!(matches!(taken, Err(StoreError::Conflict(_))), "{name} {domain}");
    }
    // At once, and only one gets the name.
    let both = futures_util::future::join(
        store.add_tenant("cars", "cars.example", None),
        store.add_tenant("cars", "cars.example", None),
    );
    let (one, other) = both.await;
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    let cars = one.or(other).unwrap();
    assert!(cars.id > tv.id);
    // The default tenant has limits, too, and keeps them.
    let default = store.tenant(TENANT).unwrap();
    let limits = Some(limit);
    store
        .put_tenant(Tenant {
            limits,
            ..Tenant::clone(&default)
        })
        .await
        .unwrap();

    let (tv_id, cars_id) = (TenantId(tv.id), TenantId(cars.id));
    let device = DeviceKey {
        tenant: tv_id,
        device: "box".parse().unwrap(),
    };
    store.put_device(&device, DeviceChange::default(), true, START).await.unwrap();
    let occupied = store.remove_tenant(tv_id, START).await;
    assert!(matches!(occupied, Err(StoreError::Conflict(_))), "{occupied:?}");
    let api_key = |id: &str, tenant| ApiKey {
        id: id.to_owned(),
        name: id.to_owned(),
        tenant,
        scope: crate::domain::Scope::Admin,
        created_at: START,
        limits,
        expires_at: None,
        retires_at: None,
    };
    store.put_key([1; 32], api_key("k1", cars.id)).await.unwrap();
    store.put_key([2; 32], api_key("k2", tv.id)).await.unwrap();
    assert!(store.remove_tenant(cars_id, START).await.unwrap());
    assert!(!store.remove_tenant(cars_id, START).await.unwrap());
    assert!(!store.remove_tenant(TenantId(99), START).await.unwrap());
    // Somebody had read it before it was removed, and changes its limits.
    let back = store.put_tenant(Tenant::clone(&cars)).await;
    assert!(matches!(back, Err(StoreError::Conflict(_))), "{back:?}");
    assert_eq!(store.key(&[1; 32]), None);
    store.remove_device(&device, START).await.unwrap();

    let bench = bench.reopen().await;
    let store = bench.store();
    assert_eq!(store.tenant(TENANT).unwrap().limits, limits);
    assert_eq!((store.tenant(tv_id), store.tenant_at("tv.example")), (Some(tv.clone()), Some(tv)));
    assert_eq!((store.tenant(cars_id), store.tenant_at("cars.example")), (None, None));
    assert_eq!(store.key(&[1; 32]), None);
    assert_eq!(store.key(&[2; 32]).unwrap().limits, limits);
    // Name and domain are free again, the number is not.
    let again = store.add_tenant("cars", "cars.example", None).await.unwrap();
    assert!(again.id > cars.id);
    assert!(store.remove_tenant(tv_id, START).await.unwrap(), "a removed device holds nobody");
    let names: Vec<_> = store.tenants().iter().map(|tenant| tenant.name.clone()).collect();
    assert_eq!(names, ["default", "cars"]);
}

pub async fn what_a_device_reports_is_kept_until_it_goes(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    add(&*store, "mute").await;
    let report = |json: &str| Report {
        attributes: object(json),
        location: None,
    };
    let unknown = store.report(&key("nobody"), report("{}"), START).await;
    assert!(matches!(unknown, Err(StoreError::UnknownDevice)));
    assert!(
        store
            .report(&key("box"), report(r#"{"fw":"7.1","hdmi":true}"#), START)
            .await
            .unwrap()
    );
    let later = Timestamp(START.0 + 1);
    let again = store.report(&key("box"), report(r#"{"fw":"7.1","hdmi":true}"#), later).await;
    assert!(!again.unwrap(), "nothing is new");
    let here = Location::new(52.5, 13.4, None, None).unwrap();
    let moved = Report {
        attributes: None,
        location: Some(Some(here.clone())),
    };
    assert!(store.report(&key("box"), moved, later).await.unwrap());
    let bench = bench.reopen().await;
    let store = bench.store();
    let devices = store.devices(TENANT, None, 10).await.unwrap();
    let expected = Reported {
        attributes: object(r#"{"fw":"7.1","hdmi":true}"#).unwrap(),
        location: Some(here),
        at: later,
    };
    assert_eq!(store.reported(TENANT, &devices).await.unwrap(), [Some(expected), None]);
    // The backend's word does not touch the device's, and a device of the same id is another one.
    let put = DeviceChange {
        replace: true,
        ..DeviceChange::default()
    };
    store.put_device(&key("box"), put.clone(), true, later).await.unwrap();
    assert!(store.reported(TENANT, &devices).await.unwrap()[0].is_some());
    store.remove_device(&key("box"), later).await.unwrap();
    let removed = store.report(&key("box"), report("{}"), later).await;
    assert!(matches!(removed, Err(StoreError::RemovedDevice)));
    store.put_device(&key("box"), put, true, later).await.unwrap();
    let devices = store.devices(TENANT, None, 10).await.unwrap();
    assert_eq!(store.reported(TENANT, &devices).await.unwrap(), [None, None]);
}

pub async fn a_key_is_rotated_in_one_step(bench: impl Bench) {
    let store = bench.store();
    let key = ApiKey {
        id: "k1".into(),
        name: "backend".into(),
        tenant: 0,
        scope: crate::domain::Scope::Push,
        created_at: START,
        limits: None,
        expires_at: Some(Timestamp(START.0 + 9_000)),
        retires_at: None,
    };
    store.put_key([1; 32], key.clone()).await.unwrap();
    let rotation = |hash, now, retires_at| Rotation {
        hash: [hash; 32],
        now: Timestamp(START.0 + now),
        retires_at: Timestamp(START.0 + retires_at),
    };
    assert_eq!(store.rotate_key(TENANT, "other", rotation(2, 0, 100)).await.unwrap(), None);
    assert_eq!(store.rotate_key(TenantId(1), "k1", rotation(2, 0, 100)).await.unwrap(), None);
    // Several at once: one is first, and the others would be a third secret.
    let tries = [2, 3, 4].map(|hash| store.rotate_key(TENANT, "k1", rotation(hash, 0, 100)));
    let tried = futures_util::future::join_all(tries).await;
    let done: Vec<u8> = (2..).zip(&tried).filter(|(_, tried)| tried.is_ok()).map(|(hash, _)| hash).collect();
    assert_eq!(done.len(), 1, "{tried:?}");
    assert!(tried.iter().flatten().all(|rotated| rotated.as_ref() == Some(&key)), "{tried:?}");
    let retired = ApiKey {
        retires_at: Some(Timestamp(START.0 + 100)),
        ..key.clone()
    };
    assert_eq!(store.key(&[1; 32]).as_deref(), Some(&retired));
    assert_eq!(store.key(&[done[0]; 32]).as_deref(), Some(&key));
    assert_eq!(store.keys(TENANT).await.unwrap().len(), 2);
    let third = store.rotate_key(TENANT, "k1", rotation(5, 99, 200)).await;
    assert!(matches!(third, Err(StoreError::Conflict(_))), "{third:?}");
    // The first has ended by itself; then both end at once.
    assert!(store.rotate_key(TENANT, "k1", rotation(6, 100, 200)).await.unwrap().is_some());
    assert_eq!(store.key(&[1; 32]), None);
    assert!(store.rotate_key(TENANT, "k1", rotation(7, 150, 150)).await.unwrap().is_some());
    let bench = bench.reopen().await;
    let store = bench.store();
    assert_eq!(store.keys(TENANT).await.unwrap(), std::slice::from_ref(&key));
    assert_eq!(store.key(&[7; 32]).as_deref(), Some(&key));
    // A key goes with all its secrets.
    assert!(store.rotate_key(TENANT, "k1", rotation(8, 200, 900)).await.unwrap().is_some());
    assert!(store.revoke_key(TENANT, "k1").await.unwrap());
    assert!(store.keys(TENANT).await.unwrap().is_empty());
    assert_eq!((store.key(&[7; 32]), store.key(&[8; 32])), (None, None));
    assert!(!store.revoke_key(TENANT, "k1").await.unwrap());
}

pub async fn when_a_key_was_used_is_noted_and_goes_with_the_key(bench: impl Bench) {
    let store = bench.store();
    let key = |id: &str, tenant| ApiKey {
        id: id.into(),
        name: "backend".into(),
        tenant,
        scope: crate::domain::Scope::Push,
        created_at: START,
        limits: None,
        expires_at: None,
        retires_at: None,
    };
    let used = |id: &str, tenant, at| KeyUse {
        tenant: TenantId(tenant),
        id: id.into(),
        at: Timestamp(START.0 + at),
    };
    async fn noted(store: &dyn Store, tenant: u16) -> Vec<(String, u64)> {
        let uses = store.key_uses(TenantId(tenant)).await.unwrap();
        let mut uses: Vec<_> = uses.into_iter().map(|(id, at)| (id.to_string(), at.0 - START.0)).collect();
        uses.sort();
        uses
    }
    store.put_key([1; 32], key("k1", 0)).await.unwrap();
    store.put_key([2; 32], key("k2", 0)).await.unwrap();
    let tv = store.add_tenant("tv", "tv.example", None).await.unwrap().id;
    store.put_key([3; 32], key("k1", tv)).await.unwrap();
    assert_eq!(noted(&*store, 0).await, []);
    let uses = [used("k1", 0, 50), used("k2", 0, 60), used("k1", tv, 70), used("gone", 0, 80)];
    store.note_key_uses(&uses).await.unwrap();
    assert_eq!(noted(&*store, 0).await, [("k1".to_owned(), 50), ("k2".to_owned(), 60)]);
    assert_eq!(noted(&*store, tv).await, [("k1".to_owned(), 70)]);
    // Another node comes later with what was earlier.
    store.note_key_uses(&[used("k1", 0, 40), used("k2", 0, 90)]).await.unwrap();
    store.note_key_uses(&[]).await.unwrap();
    let rotation = Rotation {
        hash: [4; 32],
        now: START,
        retires_at: START,
    };
    store.rotate_key(TENANT, "k1", rotation).await.unwrap();
    let bench = bench.reopen().await;
    let store = bench.store();
    assert_eq!(noted(&*store, 0).await, [("k1".to_owned(), 50), ("k2".to_owned(), 90)]);
    assert!(store.revoke_key(TENANT, "k1").await.unwrap());
    assert!(store.remove_tenant(TenantId(tv), START).await.unwrap());
    assert_eq!(
        (noted(&*store, 0).await, noted(&*store, tv).await),
        (vec![("k2".to_owned(), 90)], Vec::new())
    );
    // One of the same id begins anew, and what comes too late is left out.
    store.note_key_uses(&[used("k1", 0, 99)]).await.unwrap();
    store.put_key([5; 32], key("k1", 0)).await.unwrap();
    assert_eq!(noted(&*store, 0).await, [("k2".to_owned(), 90)]);
}
