//! Tokens of every kind against the rules, with an issuer of the test.

use std::sync::Arc;

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use prometheus::Registry;
use serde_json::{Value, json};
use x509_parser::{prelude::FromDer, x509::SubjectPublicKeyInfo};

use super::{keys::Keys, *};
use crate::domain::{Scope, TenantId, Timestamp};

const NOW: u64 = 1_800_000_000;

enum Issuer {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
    Rs256(Box<RsaKeyPair>),
}

impl Issuer {
    fn es256() -> Self {
        Self::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn all() -> [Self; 3] {
        [
            Self::es256(),
            Self::EdDsa(Ed25519KeyPair::generate().unwrap()),
            Self::Rs256(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())),
        ]
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
            Self::Rs256(_) => "RS256",
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Es256(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::EdDsa(key) => key.sign(message).as_ref().to_vec(),
            Self::Rs256(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    fn token_with(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.name(), "typ": "JWT", "kid": "1"}), claims)
    }

    fn spki(&self) -> Vec<u8> {
        let der: PublicKeyX509Der = match self {
            Self::Es256(key) => key.public_key().as_der().unwrap(),
            Self::EdDsa(key) => key.public_key().as_der().unwrap(),
            Self::Rs256(key) => AsDer::<PublicKeyX509Der>::as_der(key.public_key()).unwrap(),
        };
        der.as_ref().to_vec()
    }

    fn pem(&self) -> String {
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            BASE64_STANDARD.encode(self.spki())
        )
    }

    fn jwk(&self, kid: &str) -> Value {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Es256(key) => {
                let point = key.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "x": encode(&point[1..33]), "y": encode(&point[33..])})
            }
            Self::EdDsa(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "alg": "EdDSA", "x": encode(key.public_key().as_ref())})
            }
            Self::Rs256(_) => {
                let spki = self.spki();
                let (_, info) = SubjectPublicKeyInfo::from_der(&spki).unwrap();
                let x509_parser::public_key::PublicKey::RSA(rsa) = info.parsed().unwrap() else {
                    panic!()
                };
                let modulus: Vec<u8> = rsa.modulus.iter().copied().skip_while(|byte| *byte == 0).collect();
                json!({"kty": "RSA", "kid": kid, "alg": "RS256", "n": encode(&modulus), "e": encode(rsa.exponent)})
            }
        }
    }

    fn jwks(&self) -> String {
        json!({"keys": [self.jwk("1")]}).to_string()
    }
}

fn claims() -> Value {
    json!({"iss": "https://issuer.example", "aud": "push.example", "sub": "box-7", "exp": NOW + 600})
}

fn changed(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn config() -> Config {
    Config {
        keys_file: "keys".into(),
        issuer: "https://issuer.example".into(),
        ..Config::default()
    }
}

/// The default one, and `tv`.
fn tenants() -> TenantNamed {
    Arc::new(|word| match word {
        "default" | "push.example" => Some((TenantId(0), "push.example".into())),
        "tv" | "tv.example" => Some((TenantId(1), "tv.example".into())),
        _ => None,
    })
}

fn with(config: &Config, keys: &str) -> Tokens {
    let tokens = Tokens::new(config, "push.example", tenants(), &Registry::new()).unwrap();
    replace(&tokens, keys, &config.algorithms);
    tokens
}

fn replace(tokens: &Tokens, keys: &str, algorithms: &[Algorithm]) {
    let verifier = &tokens.0.as_ref().unwrap().verifier;
    verifier.replace(Keys::read(keys.as_bytes(), algorithms).unwrap());
}

fn check(tokens: &Tokens, token: &str) -> Result<String, TokenError> {
    let found = tokens.check(TenantId(0), token, Timestamp(NOW * 1000));
    found.map(|valid| valid.device.to_string())
}

#[test]
fn a_good_token_names_its_device_with_every_kind_of_key() {
    for issuer in Issuer::all() {
        for keys in [issuer.pem(), issuer.jwks()] {
            let tokens = with(&config(), &keys);
            let token = issuer.token(&claims());
            assert!(tokens.takes(&token));
            assert_eq!(check(&tokens, &token), Ok("box-7".into()), "{} {keys}", issuer.name());
            let other = Issuer::all().into_iter().find(|other| other.name() == issuer.name()).unwrap();
            assert_eq!(check(&tokens, &other.token(&claims())), Err(TokenError::Signature));
        }
    }
}

#[test]
fn claims_are_held_to_issuer_audience_time_and_subject() {
    let issuer = Issuer::es256();
    let tokens = with(&config(), &issuer.jwks());
    let table = [
        (changed("iss", json!("https://other.example")), Err(TokenError::Issuer)),
        (changed("aud", json!("other.example")), Err(TokenError::Audience)),
        (changed("aud", json!(["other.example", "push.example"])), Ok("box-7")),
        (changed("exp", json!(NOW - 59)), Ok("box-7")),
        (changed("exp", json!(NOW - 60)), Err(TokenError::Expired)),
        (changed("exp", json!(NOW as f64 + 0.5)), Ok("box-7")),
        (changed("exp", json!("tomorrow")), Err(TokenError::Malformed)),
        (changed("exp", Value::Null), Err(TokenError::Malformed)),
        (changed("nbf", json!(NOW + 60)), Ok("box-7")),
        (changed("nbf", json!(NOW + 61)), Err(TokenError::NotYet)),
        (changed("sub", json!("BOX-7@push.example")), Ok("box-7")),
        (changed("sub", json!("box-7@other.example")), Err(TokenError::Subject)),
        (changed("sub", json!("no device")), Err(TokenError::Subject)),
        (changed("sub", json!(7)), Err(TokenError::Malformed)),
    ];
    for (claims, expected) in table {
        assert_eq!(check(&tokens, &issuer.token(&claims)), expected.map(str::to_owned), "{claims}");
    }
    for missing in ["iss", "aud", "exp", "sub"] {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(missing);
        assert!(check(&tokens, &issuer.token(&claims)).is_err(), "without {missing}");
    }
    assert_eq!(
        tokens.check(TenantId(1), &issuer.token(&claims()), Timestamp(NOW * 1000)),
        Err(TokenError::Tenant)
    );
    let until = tokens
        .check(TenantId(0), &issuer.token(&claims()), Timestamp(NOW * 1000))
        .unwrap()
        .until;
    assert_eq!(until, Timestamp((NOW + 660) * 1000));
    let (tenant, device) = tokens.claimed(&issuer.token(&claims())).unwrap();
    assert_eq!((tenant, device.as_str()), (TenantId(0), "box-7"));
}

#[test]
fn a_token_is_of_the_tenant_that_it_names_where_tokens_are_to_name_one() {
    let issuer = Issuer::es256();
    let config = Config {
        tenant_claim: "org".into(),
        ..config()
    };
    let tokens = with(&config, &issuer.jwks());
    let (tv, default) = (Some(TenantId(1)), Some(TenantId(0)));
    let table = [
        (json!({"org": "tv"}), tv),
        (json!({"org": "tv.example"}), tv),
        (json!({"org": "tv", "sub": "BOX-7@tv.example"}), tv),
        (json!({"org": "default"}), default),
        (json!({"org": "push.example"}), default),
        // Of nobody: the address is of another tenant, or no tenant is named.
        (json!({"org": "tv", "sub": "box-7@push.example"}), None),
        (json!({"org": "default", "sub": "box-7@tv.example"}), None),
        (json!({"org": "other"}), None),
        (json!({"org": ["tv"]}), None),
        (json!({"org": ""}), None),
        (json!({}), None),
    ];
    for (more, expected) in table {
        let mut claims = claims();
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let token = issuer.token(&claims);
        assert_eq!(tokens.claimed(&token).map(|(tenant, _)| tenant), expected, "{claims}");
        for tenant in [TenantId(0), TenantId(1), TenantId(2)] {
            let found = tokens.check(tenant, &token, Timestamp(NOW * 1000));
            assert_eq!(found.is_ok(), expected == Some(tenant), "{claims} at {tenant:?}: {found:?}");
        }
    }
}

/// RFC 8725 §3.1, §3.2: the algorithm is ours to choose, and a key has one.
#[test]
fn no_token_chooses_its_algorithm_or_brings_its_key() {
    let issuer = Issuer::es256();
    let tokens = with(&config(), &issuer.jwks());
    let refused = |header: Value, expected| {
        assert_eq!(check(&tokens, &issuer.token_with(&header, &claims())), Err(expected), "{header}");
    };
    refused(json!({"alg": "none"}), TokenError::Malformed);
    refused(json!({"alg": "ES384"}), TokenError::Malformed);
    refused(json!({"alg": "RS256", "kid": "1"}), TokenError::UnknownKey);
    refused(json!({"alg": "ES256", "kid": "2"}), TokenError::UnknownKey);
    refused(json!({"alg": "ES256", "crit": ["exp"]}), TokenError::Malformed);
    // HS256 with the public key as the secret.
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&json!({"alg": "HS256"})), part(&claims()));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &issuer.spki());
    let tag = BASE64_URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, message.as_bytes()));
    assert_eq!(check(&tokens, &format!("{message}.{tag}")), Err(TokenError::Malformed));
    // A key of the token's own.
    let other = Issuer::es256();
    let own = other.token_with(
        &json!({"alg": "ES256", "jwk": other.jwk("1"), "jku": "https://evil.example"}),
        &claims(),
    );
    assert_eq!(check(&tokens, &own), Err(TokenError::Signature));
    // An algorithm that the operator did not choose.
    let only = Config {
        algorithms: vec![Algorithm::ES256],
        ..config()
    };
    let ed = Issuer::all().into_iter().find(|one| one.name() == "EdDSA").unwrap();
    assert!(Keys::read(ed.jwks().as_bytes(), &only.algorithms).is_err());
    let tokens = with(&only, &issuer.jwks());
    assert_eq!(check(&tokens, &ed.token(&claims())), Err(TokenError::Malformed));
}

#[test]
fn what_is_cut_changed_or_too_long_is_refused() {
    let issuer = Issuer::es256();
    let tokens = with(&config(), &issuer.jwks());
    let token = issuer.token(&claims());
    for end in 0..token.len() {
        assert!(check(&tokens, &token[..end]).is_err(), "{end}");
    }
    for place in (0..token.len()).step_by(7) {
        let mut changed = token.clone().into_bytes();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        // The last character of the signature carries bits that say nothing.
        assert!(check(&tokens, &changed).is_err() || place == token.len() - 1, "{place}");
    }
    let long = changed("more", json!("x".repeat(8 * 1024)));
    assert_eq!(check(&tokens, &issuer.token(&long)), Err(TokenError::Malformed));
    for no_token in ["", "secret", "eyJ", "eyJ.eyJ", "a.b.c"] {
        assert!(!tokens.takes(no_token), "{no_token}");
    }
}

#[test]
fn keys_are_rotated_by_the_set() {
    let (old, new) = (Issuer::es256(), Issuer::es256());
    let tokens = with(&config(), &json!({"keys": [old.jwk("1")]}).to_string());
    let newer = new.token_with(&json!({"alg": "ES256", "kid": "2"}), &claims());
    assert_eq!(check(&tokens, &newer), Err(TokenError::UnknownKey));
    let both = json!({"keys": [old.jwk("1"), new.jwk("2"), {"kty": "oct", "k": "AAAA"}, {"kty": "EC"}, 7]});
    replace(&tokens, &both.to_string(), &config().algorithms);
    assert!(check(&tokens, &newer).is_ok() && check(&tokens, &old.token(&claims())).is_ok());
    // A token that names no key is tried with all.
    let nameless = new.token_with(&json!({"alg": "ES256"}), &claims());
    assert!(check(&tokens, &nameless).is_ok());
}

#[test]
fn without_keys_nothing_is_taken() {
    let issuer = Issuer::es256();
    let token = issuer.token(&claims());
    assert!(!Tokens::default().takes(&token));
    let waiting = Tokens::new(&config(), "push.example", tenants(), &Registry::new()).unwrap();
    assert_eq!(check(&waiting, &token), Err(TokenError::NoKeys));
    for bad in [
        "",
        "{}",
        "{\"keys\":[]}",
        "-----BEGIN PUBLIC KEY-----",
        "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}",
    ] {
        assert!(Keys::read(bad.as_bytes(), &config().algorithms).is_err(), "{bad}");
    }
}

#[test]
fn settings_that_would_be_unsafe_are_named() {
    let check = |change: fn(&mut Config), expected: &str| {
        let mut config = config();
        change(&mut config);
        let problems = config.problems().join("\n");
        assert!(
            problems.contains(expected) && problems.is_empty() == expected.is_empty(),
            "{problems}"
        );
    };
    check(|_| {}, "");
    check(|config| config.issuer.clear(), "tokens.issuer");
    check(|config| config.algorithms.clear(), "tokens.algorithms");
    check(|config| config.keys_url = "https://issuer.example/keys".into(), "two sources");
    let url = |config: &mut Config, url: &str| {
        config.keys_file = "".into();
        config.keys_url = url.into();
        config.problems().is_empty()
    };
    for (address, good) in [
        ("https://issuer.example/keys", true),
        ("http://127.0.0.1:8000/keys", true),
        ("http://[::1]/keys", true),
        ("http://issuer.example/keys", false),
        ("http://127.0.0.1.evil.example/keys", false),
        ("file:///etc/passwd", false),
        ("keys", false),
    ] {
        assert_eq!(url(&mut config(), address), good, "{address}");
    }
}

fn backend(change: fn(&mut BackendConfig)) -> (Issuer, BackendTokens) {
    let issuer = Issuer::es256();
    let mut config = BackendConfig {
        keys_file: "keys".into(),
        issuer: "https://issuer.example".into(),
        audience: "push.example".into(),
        ..BackendConfig::default()
    };
    change(&mut config);
    assert_eq!(config.problems(), [""; 0]);
    let tokens = BackendTokens::new(&config, &Registry::new()).unwrap();
    let verifier = &tokens.0.as_ref().unwrap().verifier;
    verifier.replace(Keys::read(issuer.jwks().as_bytes(), &config.algorithms).unwrap());
    (issuer, tokens)
}

#[test]
fn a_backend_may_do_what_the_settings_make_of_its_claims() {
    let now = Timestamp(NOW * 1000);
    let (issuer, tokens) = backend(|config| {
        config.tenant_claim = "org".into();
        config.scopes.push("a=b=operator".into());
    });
    let ask = |claims: Value| tokens.check(&issuer.token(&claims), now);
    let of = |scope: Value| {
        let mut claims = changed("org", json!("tv"));
        claims["scope"] = scope;
        ask(claims).map(|bearer| bearer.scopes)
    };
    assert_eq!(of(json!("openid unpoll:read  unpoll:push")), Ok(vec![Scope::Read, Scope::Push]));
    assert_eq!(of(json!(["a=b", 7, "unpoll:admin"])), Ok(vec![Scope::Operator, Scope::Admin]));
    for nothing in [json!("admin unpoll:operator"), json!(""), json!(7), Value::Null] {
        assert_eq!(of(nothing.clone()), Ok(Vec::new()), "{nothing}");
    }
    let found = ask(changed("org", json!("tv"))).unwrap();
    assert_eq!((found.subject.as_str(), found.tenant.as_deref()), ("box-7", Some("tv")));
    assert_eq!(found.until, Timestamp((NOW + 660) * 1000));
    assert_eq!(ask(claims()), Err(TokenError::Tenant));
    assert_eq!(ask(changed("org", json!(1))), Err(TokenError::Tenant));
    for subject in [json!(""), json!("a\nb"), json!("x".repeat(257))] {
        assert_eq!(ask(changed("sub", subject)), Err(TokenError::Subject));
    }
    assert_eq!(ask(changed("aud", json!("other"))), Err(TokenError::Audience));
    let (issuer, tokens) = backend(|config| config.scope_claim = "roles".into());
    let found = tokens.check(&issuer.token(&changed("roles", json!(["unpoll:push"]))), now).unwrap();
    assert_eq!((found.tenant, found.scopes), (None, vec![Scope::Push]));
}

#[test]
fn settings_of_backends_that_would_be_unsafe_are_named() {
    let check = |change: fn(&mut BackendConfig), expected: &str| {
        let mut config = BackendConfig {
            keys_file: "keys".into(),
            issuer: "i".into(),
            audience: "a".into(),
            ..BackendConfig::default()
        };
        change(&mut config);
        let problems = config.problems();
        assert!(problems.len() == 1 && problems[0].contains(expected), "{problems:?}");
    };
    check(|config| config.audience.clear(), "jwt.audience");
    check(|config| config.issuer.clear(), "jwt.issuer");
    check(|config| config.scope_claim.clear(), "jwt.scope_claim");
    check(|config| config.algorithms.clear(), "jwt.algorithms");
    for bad in ["unpoll", "=push", "unpoll=root", "two words=push"] {
        let config = BackendConfig {
            keys_file: "keys".into(),
            issuer: "i".into(),
            audience: "a".into(),
            scopes: vec![bad.into()],
            ..BackendConfig::default()
        };
        assert!(config.problems().join("").contains("jwt.scopes"), "{bad}");
    }
}
