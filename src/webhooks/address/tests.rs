//! Addresses in all their kinds and spellings.

use super::*;

fn reach(networks: &[&str]) -> Reach {
    let networks: Vec<IpNet> = networks.iter().map(|network| network.parse().unwrap()).collect();
    Reach::new(&networks)
}

#[test]
fn only_public_addresses_are_reached() {
    let check = |address: &str, expected| {
        assert_eq!(reach(&[]).allows(address.parse().unwrap()), expected, "{address}");
    };
    for public in [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.0.1",
        "172.32.0.1",
        "192.167.1.1",
        "198.17.0.1",
        "198.20.0.1",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2a00:1450::1",
        "2001:4860:4860::8888",
        "64:ff9b::101:101",
        "2002:101:101::1",
        "::ffff:1.1.1.1",
    ] {
        check(public, true);
    }
    for private in [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:0:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "64:ff9b:1::101:101",
        "100::1",
        "2001::1",
        "2001:10::1",
        "2001:20::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "2002:a00:1::1",
        "2002:c0a8:101::",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ] {
        check(private, false);
    }
}

#[test]
fn networks_that_are_named_are_reached_and_alone_without_encryption() {
    let reach = reach(&["10.1.0.0/16", "fd00::/8"]);
    let check = |address: &str, https, http| {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(
            (reach.allows(address), reach.only_named().allows(address)),
            (https, http),
            "{address}"
        );
    };
    check("10.1.2.3", true, true);
    check("::ffff:10.1.2.3", true, true);
    check("10.2.0.1", false, false);
    check("fd01::1", true, true);
    check("1.1.1.1", true, false);
    check("64:ff9b::a01:203", false, false);
}

#[test]
fn an_url_is_judged_in_all_its_spellings() {
    let check = |networks: &[&str], url: &str, expected: Option<&str>| {
        let found = reach(networks).check(&url.parse().unwrap()).err();
        let fits = match (&found, expected) {
            (Some(found), Some(expected)) => found.contains(expected),
            (None, None) => true,
            _ => false,
        };
        assert!(fits, "{url}: {found:?}, not {expected:?}");
    };
    let not_public = Some("not public");
    for url in [
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.1:8443/hook",
        "https://0/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://１２７.0.0.1/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://a.localhost/",
        "https://169.254.169.254/latest/meta-data",
        "http://10.1.2.3/",
    ] {
        check(&[], url, not_public);
    }
    check(&[], "https://example.org/hook?x=1", None);
    check(&[], "https://1.1.1.1/", None);
    check(&[], "http://example.org/", Some("use https"));
    check(&[], "ftp://example.org/", Some("ftp"));
    check(&[], "file:///etc/passwd", Some("file"));
    check(&[], "https://user@example.org/", Some("user name"));
    check(&[], "https://user:secret@example.org/", Some("user name"));
    check(&["127.0.0.0/8"], "http://127.0.0.1:9/", None);
    check(&["127.0.0.0/8"], "http://localhost:9/", None);
    check(&["127.0.0.0/8"], "http://[::1]:9/", not_public);
    check(&["10.0.0.0/8"], "http://receiver.internal/", None);
}
