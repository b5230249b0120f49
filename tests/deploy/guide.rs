//! The commands of the guides do what the files in `deploy/` rely on.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use super::{
    path, read,
    rules::yaml,
    run,
    support::{Backend, Service, TestDir},
};

const OPERATIONS: &str = "docs/guides/operations.md";

/// The first commands under a heading of a guide.
pub fn commands(guide: &str, heading: &str) -> String {
    all_commands(guide, heading).remove(0)
}

/// Each block of commands under a heading of a guide.
pub fn all_commands(guide: &str, heading: &str) -> Vec<String> {
    let guide = read(guide);
    let section = guide.split(&format!("\n## {heading}\n")).nth(1).expect("the heading").to_owned();
    let section = section.split("\n## ").next().unwrap();
    let blocks = section
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().to_owned());
    let blocks: Vec<String> = blocks.collect();
    assert!(!blocks.is_empty(), "no commands under {heading}");
    blocks
}

/// A script, with `unpoll` of this build.
pub fn bash_command(script: &str, dir: &Path, environment: &[(&str, &str)]) -> Command {
    let binary = Path::new(env!("CARGO_BIN_EXE_unpoll")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script])
        .current_dir(dir)
        .env("PATH", path)
        .envs(environment.iter().copied());
    bash
}

/// Runs a script that must succeed.
fn bash(script: &str, dir: &Path, environment: &[(&str, &str)]) {
    let output = run(&mut bash_command(script, dir, environment));
    assert!(output.status.success(), "{script}\n{output:?}");
}

/// The permissions of a file.
pub fn mode(file: &Path) -> u32 {
    fs::metadata(file)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        .permissions()
        .mode()
        & 0o777
}

#[test]
fn the_commands_for_systemd_put_everything_where_the_unit_looks() {
    let dir = TestDir::new();
    let root = dir.path().join("root");
    fs::create_dir_all(dir.path().join("target/release")).unwrap();
    symlink(env!("CARGO_BIN_EXE_unpoll"), dir.path().join("target/release/unpoll")).unwrap();
    symlink(path("deploy"), dir.path().join("deploy")).unwrap();
    for file in ["fullchain.pem", "privkey.pem"] {
        fs::write(dir.path().join(file), file).unwrap();
    }
    let script = commands(OPERATIONS, "Install with systemd")
        .replace("/usr/bin", "root/usr/bin")
        .replace("/etc/", "root/etc/");
    bash(&format!("systemctl() {{ echo \"$*\" >> calls; }}\n{script}"), dir.path(), &[]);

    assert_eq!(
        fs::read_to_string(dir.path().join("calls")).unwrap(),
        "daemon-reload\nenable --now unpoll.service\n"
    );
    let unit = fs::read_to_string(root.join("etc/systemd/system/unpoll.service")).unwrap();
    assert_eq!(unit, read("deploy/unpoll.service"));
    let mut looked = 0;
    for line in unit.lines() {
        let file = line
            .strip_prefix("ExecStart=")
            .or_else(|| Some(line.strip_prefix("LoadCredential=")?.split_once(':')?.1));
        if let Some(file) = file {
            let program = file.split(' ').next().unwrap();
            let settings = file.split("--config ").nth(1);
            for wanted in [Some(program), settings].into_iter().flatten() {
                assert!(root.join(wanted.trim_start_matches('/')).is_file(), "{wanted}");
                looked += 1;
            }
        }
    }
    assert_eq!(looked, 4, "the binary, the settings, the certificate, its key");
    assert_eq!(mode(&root.join("etc/unpoll/key.pem")), 0o600);
    assert!(
        fs::read_to_string(root.join("etc/unpoll/unpoll.toml"))
            .unwrap()
            .contains("\ndomain = \"push.example.com\"\n")
    );
}

/// `docker` and `chown` are told to a list; what Docker would run in the container runs here, against a real service.
#[test]
fn the_commands_for_compose_make_every_secret_and_the_key_works() {
    let service = Service::start();
    let dir = TestDir::new();
    let deploy = dir.path().join("deploy");
    fs::create_dir(&deploy).unwrap();
    for file in ["fullchain.pem", "privkey.pem"] {
        fs::write(dir.path().join(file), file).unwrap();
    }
    let stubs = "docker() { echo \"docker $*\" >> calls; if [ \"$2\" = exec ]; then shift 4; \"$@\"; fi; }\n\
                 chown() { echo \"chown $*\" >> calls; }\n";
    let script = format!("{stubs}{}", commands(OPERATIONS, "Install with Docker Compose"));
    bash(&script, dir.path(), &[("UNPOLL_DATA_DIR", service.data_dir().to_str().unwrap())]);

    let calls = fs::read_to_string(deploy.join("calls")).unwrap();
    assert!(calls.starts_with("chown 65532 "), "{calls}");
    assert!(calls.ends_with("docker compose up --detach\n"), "{calls}");
    let compose = yaml("deploy/compose.yml");
    let secrets = compose["secrets"].as_object().unwrap();
    assert_eq!(secrets.len(), 4);
    for secret in secrets.values() {
        let file = secret["file"].as_str().unwrap().trim_start_matches("./");
        assert!(mode(&deploy.join(file)) & 0o077 == 0, "{file} is for its owner alone");
        assert!(calls.contains(file), "{file} is given to the user of its container");
        assert!(fs::metadata(deploy.join(file)).unwrap().len() > 10, "{file}");
    }
    let key = fs::read_to_string(deploy.join("secrets/prometheus.key")).unwrap();
    let prometheus = Backend {
        address: service.http,
        key: key.trim().to_owned(),
    };
    let keys = prometheus.get("/v1/keys").expect(200).json();
    let made = keys["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["name"] == "prometheus")
        .unwrap()
        .clone();
    assert_eq!(made["scope"], "admin");
}
