//! `/openapi.json`, and the pages made of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::support::{Answer, Backend, Service};

/// Everything that is routed in the sources, but for the admin listener: that one is for operators, who read its page.
fn routed() -> BTreeSet<String> {
    fn below(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && !matches!(name, "admin" | "tests") {
                below(&path, found);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                let routes = code.split(".route(").skip(1).map(str::trim_start);
                found.extend(routes.map(|rest| rest.split('"').nth(1).unwrap().to_owned()));
            }
        }
    }
    let mut found = BTreeSet::new();
    below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found
}

fn nobody(service: &Service) -> Backend {
    Backend {
        address: service.http,
        key: String::new(),
    }
}

#[test]
fn what_is_mounted_is_described_and_what_is_described_is_mounted() {
    let service = Service::start();
    let document = nobody(&service).get("/openapi.json").expect(200).json();
    let described: BTreeMap<&str, BTreeSet<String>> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(path, item)| {
            (
                path.as_str(),
                item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect(),
            )
        })
        .collect();
    assert!(described.len() > 20, "{described:?}");
    let paths: BTreeSet<String> = described.keys().map(|path| (*path).to_owned()).collect();
    assert_eq!(paths, routed());
    let metrics = Backend {
        address: service.admin,
        key: String::new(),
    };
    let metrics = metrics.get("/metrics").expect(200).body;
    for (path, methods) in described {
        let concrete = path.replace("{id}", "box").replace("{name}", "box").replace("{slug}", "internal");
        // A method that nothing has: the answer names those that the path has.
        let refused = service.backend().request("TRACE", &concrete, &[], b"");
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (405, "method-not-allowed"),
            "{path}: {refused:?}"
        );
        let mounted = refused
            .header("allow")
            .unwrap_or_default()
            .split(',')
            .map(|method| method.trim().to_owned());
        let mounted: BTreeSet<String> = mounted.filter(|method| method != "HEAD").collect();
        assert_eq!(mounted, methods, "{path}");
        assert!(metrics.contains(&format!("route=\"{path}\"")), "{path} has no label of its own");
    }
}

/// Nothing from elsewhere, and no script.
#[track_caller]
fn is_a_page(answer: &Answer) {
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = answer.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'self';") && !policy.contains("script"),
        "{policy}"
    );
    for foreign in ["<script", "http://", "https://", "style=", "url(", " on"] {
        let tags = answer.body.split('<').filter_map(|rest| rest.split('>').next());
        let found: Vec<&str> = tags.filter(|tag| format!("<{tag}").contains(foreign)).collect();
        assert!(found.is_empty(), "{foreign}: {found:?}");
    }
}

#[test]
fn the_document_is_a_page_too_and_every_problem_leads_to_one() {
    let service = Service::start();
    let nobody = nobody(&service);
    let document = nobody.get("/openapi.json").expect(200).json();
    let page = nobody.get("/docs").expect(200);
    is_a_page(&page);
    for item in document["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(page.body.contains(&format!("<section id=\"{id}\">")), "{id} is not on the page");
        }
    }
    // What the page links to is there.
    let links: BTreeSet<&str> = page
        .body
        .split("href=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    for link in links {
        match link.strip_prefix('#') {
            Some(anchor) => assert!(page.body.contains(&format!("id=\"{anchor}\"")), "{link}"),
            None => drop(nobody.get(link).expect(200)),
        }
    }
    let known = page.header("etag").unwrap();
    let again = nobody.request("GET", "/docs", &[("if-none-match", known)], b"");
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    for slug in document["components"]["examples"].as_object().unwrap().keys() {
        let problem = nobody.get(&format!("/problems/{slug}")).expect(200);
        is_a_page(&problem);
        assert!(problem.body.contains("What to do"), "{slug}");
    }
    assert_eq!(nobody.get("/problems/none").expect(404).slug(), "unknown-path");
}
