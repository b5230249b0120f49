//! `deploy/kubernetes`: right by the schemas of Kubernetes, and by what the service needs. There is no cluster here to apply them to.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use serde_json::{Value, json};
use unpoll::config::{Config, ConfigError, Layers};

use super::{
    guide,
    image::words,
    path, read, run,
    support::{SOON, TestDir},
};

const FOLDER: &str = "deploy/kubernetes";
/// The oldest version that has all that the manifests use, and the newest that the checker knows.
const VERSIONS: [&str; 2] = ["1.30.0", "1.37.0"];
const SECRETS: &str = "secrets.template.yaml";
const KUSTOMIZATION: &str = "kustomization.yaml";

fn names() -> Vec<String> {
    let names = fs::read_dir(path(FOLDER)).unwrap();
    let mut names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The documents of a file.
fn documents(name: &str) -> Vec<Value> {
    let text = read(&format!("{FOLDER}/{name}"));
    let parts = text.split("\n---\n");
    parts
        .map(|part| serde_saphyr::from_str(part).unwrap_or_else(|error| panic!("{name}: {error}")))
        .collect()
}

/// The only document of a file.
fn document(name: &str) -> Value {
    let mut documents = documents(name);
    assert_eq!(documents.len(), 1, "{name}");
    documents.remove(0)
}

/// What the checker says of files, for one version of Kubernetes. True: no fault.
fn validated(version: &str, files: &[PathBuf]) -> (bool, String) {
    let clients = std::env::var_os("TEST_CLIENTS_DIR").map_or_else(|| path("target/clients"), PathBuf::from);
    let mut checker = Command::new(clients.join("python/bin/kubernetes-validate"));
    let output = run(checker.args(["--kubernetes-version", version, "--strict"]).args(files));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_schemas_of_kubernetes_find_no_fault_and_would() {
    let manifests: Vec<PathBuf> = names()
        .into_iter()
        .filter(|name| name != KUSTOMIZATION)
        .map(|name| path(FOLDER).join(name))
        .collect();
    for version in VERSIONS {
        let (good, said) = validated(version, &manifests);
        assert!(good, "{version}: {said}");
        for kind in [
            "deployment",
            "service",
            "configmap",
            "secret",
            "poddisruptionbudget",
            "networkpolicy",
            "namespace",
        ] {
            assert!(said.contains(&format!("passed for resource {kind}/")), "{version}, {kind}: {said}");
        }
    }
    // A word that Kubernetes does not know is found.
    let dir = TestDir::new();
    let broken = dir.path().join("broken.yaml");
    let text = read(&format!("{FOLDER}/deployment.yaml"));
    for (right, wrong) in [("maxSurge:", "maximumSurge:"), ("replicas: 3", "replicas: three")] {
        assert!(text.contains(right));
        fs::write(&broken, text.replace(right, wrong)).unwrap();
        let (good, said) = validated(VERSIONS[0], std::slice::from_ref(&broken));
        assert!(!good && said.contains("did not validate"), "{wrong}: {said}");
    }
}

#[test]
fn the_kustomization_applies_every_manifest_but_the_secrets() {
    let kustomization = document(KUSTOMIZATION);
    let mut applied = words(&kustomization["resources"]);
    applied.sort_unstable();
    let names = names();
    let expected: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| ![KUSTOMIZATION, SECRETS].contains(name))
        .collect();
    assert_eq!(applied, expected);
    assert_eq!(kustomization["namespace"], document("namespace.yaml")["metadata"]["name"]);
    let image = &container()["image"];
    assert_eq!(kustomization["images"][0]["name"], *image);
}

fn pod() -> Value {
    document("deployment.yaml")["spec"]["template"]["spec"].clone()
}

fn container() -> Value {
    pod()["containers"][0].clone()
}

/// The settings of a pod, without those in `without`.
fn settings(without: &[&str]) -> Result<Config, ConfigError> {
    let shared = document("settings.yaml")["data"].as_object().unwrap().clone();
    let own = container()["env"].as_array().unwrap().clone();
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in shared {
        given.insert(name, value.as_str().unwrap().to_owned());
    }
    for variable in own {
        let name = variable["name"].as_str().unwrap().to_owned();
        let value = match (name.as_str(), variable["value"].as_str()) {
            (_, Some(value)) => value.replace("$(POD_IP)", "10.1.2.3"),
            ("UNPOLL_REDIS_URL", None) => "rediss://unpoll:word@redis.example.com:6379".to_owned(),
            _ => continue,
        };
        given.insert(name, value);
    }
    given.retain(|name, _| !without.contains(&name.as_str()));
    let mut layers = Layers::new()?;
    layers.environment(given);
    let config = layers.build()?;
    config.validate()?;
    Ok(config)
}

#[test]
fn a_pod_takes_its_settings_and_its_ports_are_those_it_names() {
    let config = settings(&[]).unwrap();
    for needed in [
        "UNPOLL_TLS_RISK_READABLE_KEYS_BEYOND_LOOPBACK",
        "UNPOLL_CLUSTER_ADVERTISE",
        "UNPOLL_TLS_KEY",
    ] {
        assert!(settings(&[needed]).is_err(), "{needed} is there for a reason");
    }
    assert_eq!(config.cluster.advertise, "10.1.2.3:7400");
    let listens = json!({
        "https": config.https.listen.port(),
        "xmpp": config.xmpp.listen.port(),
        "xmpps": config.xmpp.listen_tls.port(),
        "admin": config.admin.listen.port(),
        "cluster": config.cluster.listen.port(),
    });
    let container = container();
    let ports = container["ports"].as_array().unwrap();
    let ports: serde_json::Map<String, Value> = ports
        .iter()
        .map(|port| (port["name"].as_str().unwrap().to_owned(), port["containerPort"].clone()))
        .collect();
    assert_eq!(Value::Object(ports), listens);
    // A Service named unpoll would give each pod variables such as UNPOLL_PORT, which are no settings.
    assert_eq!(pod()["enableServiceLinks"], false);
    let mut layers = Layers::new().unwrap();
    layers.environment([("UNPOLL_PORT".to_owned(), "tcp://10.0.0.1:443".to_owned())]);
    assert!(layers.build().is_err());
}

#[test]
fn a_stop_is_given_the_time_of_a_drain() {
    let pod = pod();
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    let sleep = container()["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
    assert!(grace >= sleep + settings(&[]).unwrap().drain_secs + 15);
}

#[test]
fn readiness_and_liveness_are_never_confused() {
    let container = container();
    let path = |probe: &str| container[probe]["httpGet"]["path"].clone();
    assert_eq!(path("livenessProbe"), "/healthz");
    assert_eq!((path("readinessProbe"), path("startupProbe")), (json!("/readyz"), json!("/readyz")));
    let count = |field: &str| container["readinessProbe"][field].as_u64().unwrap();
    let patience = count("periodSeconds") * count("failureThreshold");
    assert!(patience > SOON.as_secs(), "a failover takes some seconds: {patience}");
}

/// Everything selects the same pods, and every name leads somewhere.
#[test]
fn the_manifests_fit_one_another() {
    let labels = document("deployment.yaml")["spec"]["template"]["metadata"]["labels"].clone();
    let deployment = document("deployment.yaml");
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], labels);
    for spread in pod()["topologySpreadConstraints"].as_array().unwrap() {
        assert_eq!(spread["labelSelector"]["matchLabels"], labels);
    }
    assert_eq!(document("disruption-budget.yaml")["spec"]["selector"]["matchLabels"], labels);
    let policy = document("network-policy.yaml")["spec"].clone();
    assert_eq!(policy["podSelector"]["matchLabels"], labels);
    let container = container();
    let ports: Vec<&Value> = container["ports"].as_array().unwrap().iter().map(|port| &port["name"]).collect();
    let mut reached = Vec::new();
    for rule in policy["ingress"].as_array().unwrap() {
        reached.extend(rule["ports"].as_array().unwrap().iter().map(|port| port["port"].clone()));
    }
    assert_eq!(
        reached.iter().collect::<Vec<_>>(),
        [ports[0], ports[1], ports[2], ports[4], ports[3]]
    );
    for service in documents("services.yaml") {
        assert_eq!(service["spec"]["selector"], labels);
        for port in service["spec"]["ports"].as_array().unwrap() {
            assert!(ports.contains(&&port["targetPort"]), "{port}");
        }
    }
    assert_eq!(
        container["envFrom"][0]["configMapRef"]["name"],
        document("settings.yaml")["metadata"]["name"]
    );
    let volumes = pod()["volumes"].clone();
    for mount in container["volumeMounts"].as_array().unwrap() {
        assert!(
            volumes.as_array().unwrap().iter().any(|volume| volume["name"] == mount["name"]),
            "{mount}"
        );
    }
}

/// The rights of the container are those of the unit: none. (The namespace enforces it: `restricted`.)
#[test]
fn a_pod_has_no_rights() {
    let (pod, container) = (pod(), container());
    let user = json!(65532);
    let own = &pod["securityContext"];
    assert_eq!(
        (&own["runAsNonRoot"], &own["runAsUser"], &own["fsGroup"]),
        (&json!(true), &user, &user)
    );
    assert_eq!(own["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(
        container["securityContext"],
        json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } })
    );
    assert_eq!(
        document("namespace.yaml")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
        "restricted"
    );
}

/// `kubectl` notes what it is told: the secrets that the commands make are those that the pods want, with these keys.
#[test]
fn the_commands_of_the_guide_make_what_the_pods_want() {
    let dir = TestDir::new();
    let stub = "kubectl() { printf '%s\\n' \"$*\" >> calls; case \"$*\" in *' get pods '*) echo pod/a pod/b ;; *' exec pod/a '*) false ;; esac; }\n";
    let commands = guide::all_commands("docs/guides/cluster.md", "Start in Kubernetes");
    assert_eq!(commands.len(), 2);
    let output = run(&mut guide::bash_command(&format!("{stub}{}", commands.concat()), dir.path(), &[]));
    assert!(output.status.success(), "{output:?}");
    let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
    let secrets = documents(SECRETS);
    let of = |name: &str| secrets.iter().find(|secret| secret["metadata"]["name"] == name).unwrap();
    let redis = &container()["env"][0]["valueFrom"]["secretKeyRef"];
    assert!(calls.contains(&format!(
        "create secret generic {} --from-literal {}=rediss://",
        redis["name"].as_str().unwrap(),
        redis["key"].as_str().unwrap()
    )));
    assert!(of("unpoll-redis")["stringData"].get(redis["key"].as_str().unwrap()).is_some());
    let tls = pod()["volumes"][1]["secret"]["secretName"].clone();
    assert!(calls.contains(&format!("create secret tls {} ", tls.as_str().unwrap())));
    for (setting, file) in [("UNPOLL_TLS_CERTIFICATE", "tls.crt"), ("UNPOLL_TLS_KEY", "tls.key")] {
        let folder = container()["volumeMounts"][1]["mountPath"].as_str().unwrap().to_owned();
        assert_eq!(document("settings.yaml")["data"][setting], format!("{folder}/{file}"));
        assert!(of("unpoll-tls")["stringData"].get(file).is_some());
    }
    assert!(calls.contains("apply --kustomize deploy/kubernetes\n"));
    assert!(
        calls.ends_with("exec pod/b -- /usr/bin/unpoll key create --name ops --scope operator\n"),
        "{calls}"
    );
}
