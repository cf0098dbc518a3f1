//! The objects themselves: one source, accepted as they are, and nothing in them that was not meant.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::{SYSTEM, apply, folder, helm, installed, program};
use crate::api_server::{ApiServer, Channel};

/// Objects by kind, namespace and name.
type Objects = BTreeMap<String, Value>;

#[track_caller]
fn objects(yaml: &str) -> Objects {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    let mut objects = Objects::new();
    for object in documents.into_iter().filter(|document| !document.is_null()) {
        let word = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = format!("{} {} {}", word("/kind"), word("/metadata/namespace"), word("/metadata/name"));
        assert!(objects.insert(key.clone(), object).is_none(), "{key} is there twice");
    }
    objects
}

/// What the kustomization gives.
#[track_caller]
fn kustomized() -> Objects {
    objects(&program("KUBECTL", "need_api_server_programs", &["kustomize", "."]).output())
}

/// What the chart gives with these arguments.
#[track_caller]
fn charted(arguments: &[&str]) -> Objects {
    let template = ["template", "gammarus", "chart", "--namespace", SYSTEM];
    objects(&helm(&[&template, arguments].concat()).output())
}

/// Every container of the workloads, with the workload's key.
fn containers(objects: &Objects) -> Vec<(&str, &Value)> {
    let workloads = objects.iter().filter_map(|(key, object)| {
        Some((key.as_str(), object.pointer("/spec/template/spec/containers")?.as_array()?))
    });
    workloads.flat_map(|(key, containers)| containers.iter().map(move |container| (key, container))).collect()
}

/// Every rule of the roles, with the role's key.
fn rules(objects: &Objects) -> Vec<(&str, &Value)> {
    let roles =
        objects.iter().filter_map(|(key, object)| Some((key.as_str(), object.get("rules")?.as_array()?)));
    roles.flat_map(|(key, rules)| rules.iter().map(move |rule| (key, rule))).collect()
}

#[test]
fn kustomization_and_chart_give_the_same_objects() {
    let (kustomized, charted) = (kustomized(), charted(&[]));
    assert!(kustomized.len() > 25, "{:?}", kustomized.keys());
    let keys = |objects: &Objects| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&kustomized), keys(&charted));
    for (key, object) in &kustomized {
        assert_eq!(object, &charted[key], "{key}");
    }
}

#[test]
fn what_is_rendered_is_what_the_chart_says_now() {
    let fresh = tempfile::tempdir().unwrap();
    let rendered = Command::new(folder().join("render")).arg(fresh.path()).output().unwrap();
    assert!(rendered.status.success(), "{rendered:?}");
    let names = |folder: &std::path::Path| {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let kept = folder().join("install");
    assert_eq!(names(fresh.path()), names(&kept), "manifests/render");
    for name in names(&kept) {
        let read = |folder: &std::path::Path| fs::read_to_string(folder.join(&name)).unwrap();
        assert_eq!(read(fresh.path()), read(&kept), "manifests/render was not run: {name:?}");
    }
}

#[test]
fn the_chart_is_of_this_version_and_needs_a_cluster_that_can_be_relied_on() {
    let chart = fs::read_to_string(folder().join("chart/Chart.yaml")).unwrap();
    let chart: Value = serde_saphyr::from_str(&chart).unwrap();
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    let old = ["template", "gammarus", "chart", "--namespace", SYSTEM, "--kube-version", "1.29.4"];
    helm(&old).assert_refused("chart requires kubeVersion: >=1.30.0-0");
}

#[test]
fn values_reach_what_they_are_for() {
    let objects = charted(&[
        "--set=image.repository=mesh/all,image.tag=v7,image.pullPolicy=Always,image.pullSecrets={a,b}",
        "--set=trustDomain=example.org,logLevel=debug,logFormat=json,cni.binDir=/usr/lib/cni,cni.confDir=/cni/conf",
        "--set=cni.runtimeConfig={/etc/crio},node.drainSeconds=30,node.accessLog=off,ca.leafLifetimeSeconds=600",
        "--set=ca.replicas=3,controller.replicas=1,startupTaint.enabled=true,people.aggregate=false",
        "--set-string=podLabels.team=mesh,podAnnotations.note=yes,controller.nodeSelector.pool=system",
        "--set-json=node.tolerations=[{\"key\":\"gpu\",\"operator\":\"Exists\"}]",
        "--set-json=ca.affinity={\"nodeAffinity\":{}}",
        "--set=namespace.create=false,controller.priorityClassName=high,ca.resources.limits.memory=64Mi",
    ]);
    assert!(!objects.contains_key(&format!("Namespace  {SYSTEM}")));
    for (key, container) in containers(&objects) {
        assert_eq!(container["image"], "mesh/all:v7", "{key}");
        assert_eq!(container["imagePullPolicy"], "Always", "{key}");
    }
    let [node, ca, controller] = [
        "DaemonSet gammarus-system gammarus-node",
        "Deployment gammarus-system gammarus-ca",
        "Deployment gammarus-system gammarus-controller",
    ]
    .map(|key| &objects[key]["spec"]);
    for workload in [node, ca, controller] {
        let template = &workload["template"];
        assert_eq!(template["spec"]["imagePullSecrets"], json!([{"name": "a"}, {"name": "b"}]));
        assert_eq!(template["metadata"]["labels"]["team"], "mesh");
        assert_eq!(template["metadata"]["annotations"]["note"], "yes");
    }
    let node = &node["template"]["spec"];
    let text = node.to_string();
    for said in [
        "example.org",
        "\"debug\"",
        "\"json\"",
        "/host/usr/lib/cni",
        "/host/cni/conf",
        "/host/etc/crio",
        "\"off\"",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert_eq!(node["terminationGracePeriodSeconds"], 90);
    assert_eq!(node["tolerations"], json!([{"key": "gpu", "operator": "Exists"}]));
    assert_eq!((&ca["replicas"], &controller["replicas"]), (&json!(3), &json!(1)));
    let pod = &ca["template"]["spec"];
    assert_eq!(pod["affinity"], json!({"nodeAffinity": {}}));
    let arguments = pod["containers"][0]["args"].to_string();
    assert!(arguments.contains("--trust-domain=example.org"), "{arguments}");
    assert!(arguments.contains("--leaf-lifetime-seconds=600"), "{arguments}");
    assert_eq!(pod["containers"][0]["resources"]["limits"]["memory"], "64Mi");
    let pod = &controller["template"]["spec"];
    assert_eq!((&pod["nodeSelector"]["pool"], &pod["priorityClassName"]), (&json!("system"), &json!("high")));
    assert!(objects.contains_key("ValidatingAdmissionPolicy  gammarus-startup-taint"));
    let developer = &objects["ClusterRole  gammarus-application-developer"]["metadata"]["labels"];
    assert!(!developer.to_string().contains("aggregate"), "{developer}");
    assert!(!charted(&["--set=people.create=false"]).keys().any(|key| key.contains("developer")));
    let class = "GatewayClass  gammarus";
    assert_eq!(objects[class]["spec"]["controllerName"], "gammarus.io/gateway-controller");
    assert!(!charted(&["--set=gatewayClass.create=false"]).contains_key(class));
}

#[test]
fn what_the_controller_makes_for_gateways_is_made_of_the_same() {
    let objects = charted(&[
        "--set=image.repository=mesh/all,image.tag=v7,image.pullPolicy=Always,trustDomain=example.org",
    ]);
    let controller = &objects["Deployment gammarus-system gammarus-controller"]["spec"]["template"]["spec"];
    let variables = controller["containers"][0]["env"].as_array().unwrap();
    for (name, value) in [
        ("GAMMARUS_INGRESS_IMAGE_PULL_POLICY", "Always"),
        ("GAMMARUS_TRUST_DOMAIN", "example.org"),
        ("GAMMARUS_CA_ADDRESS", "gammarus-ca.gammarus-system.svc:8443"),
        ("GAMMARUS_FEED_ADDRESS", "gammarus-controller.gammarus-system.svc:8444"),
    ] {
        assert!(variables.contains(&json!({"name": name, "value": value})), "{name}: {variables:?}");
    }
    assert_eq!(controller["containers"][0]["image"], "mesh/all:v7");
}

#[test]
fn one_word_of_a_kustomization_is_for_the_image_of_all() {
    let outer = tempfile::tempdir().unwrap();
    // A kustomization names no folder by its whole path.
    let copied =
        Command::new("cp").arg("-r").arg(folder()).arg(outer.path().join("manifests")).status().unwrap();
    assert!(copied.success());
    let text =
        "{resources: [./manifests], images: [{name: gammarus, newName: example.org/mesh, newTag: v7}]}";
    fs::write(outer.path().join("kustomization.yaml"), text).unwrap();
    let arguments = ["kustomize", outer.path().to_str().unwrap()];
    let objects = objects(&program("KUBECTL", "need_api_server_programs", &arguments).output());
    let all = containers(&objects);
    assert!(!all.is_empty());
    for (key, container) in all {
        assert_eq!(container["image"], "example.org/mesh:v7", "{key}");
    }
    // What the controller makes is of its own pod's image, and no other is written anywhere.
    let controller = objects["Deployment gammarus-system gammarus-controller"].to_string();
    assert!(controller.contains("GAMMARUS_POD") && !controller.contains("gammarus:0.1.0"), "{controller}");
}

#[test]
fn a_value_that_makes_no_sense_is_refused_with_its_name() {
    for (value, said) in [
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("ca.replicas=none", "/ca/replicas"),
        ("ca.replicas=0", "/ca/replicas"),
        ("ca.leafLifetimeSeconds=90000", "/ca/leafLifetimeSeconds"),
        ("ca.replica=3", "'replica' not allowed"),
        ("cni.binDir=opt/cni/bin", "/cni/binDir"),
        ("trustDomain=Cluster.local", "/trustDomain"),
        ("logFormat=xml", "/logFormat"),
        ("node.accessLog=stderr", "/node/accessLog"),
        ("startupTaint.enabled=maybe", "/startupTaint/enabled"),
        ("proxy.image=x", "'proxy' not allowed"),
    ] {
        helm(&["template", "gammarus", "chart", "--set", value]).assert_refused(said);
    }
}

#[test]
fn nothing_has_more_than_it_says() {
    let objects = kustomized();
    let text = serde_json::to_string(&objects).unwrap();
    for word in [
        "cluster-admin",
        // As fields: policies name them to refuse them.
        "hostNetwork\":",
        "hostPID\":",
        "hostIPC\":",
        "Bidirectional",
        "privileged\":true",
        "hostPort\":",
    ] {
        assert!(!text.contains(word), "{word}");
    }
    assert!(!objects.keys().any(|key| key.starts_with("CustomResourceDefinition")), "{:?}", objects.keys());
    for (key, rule) in rules(&objects) {
        assert!(!rule.to_string().contains("\"*\""), "{key}: {rule}");
        for verb in ["bind", "escalate", "impersonate", "deletecollection"] {
            assert!(!rule["verbs"].to_string().contains(verb), "{key}: {rule}");
        }
    }
    let containers = containers(&objects);
    assert_eq!(containers.len(), 5, "{containers:?}");
    for (key, container) in containers {
        let context = &container["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true, "{key}");
        assert_eq!(context["allowPrivilegeEscalation"], false, "{key}");
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{key}");
        let requests = &container["resources"]["requests"];
        assert!(requests["cpu"].is_string() && requests["memory"].is_string(), "{key}: {container}");
    }
    for (key, object) in &objects {
        let Some(pod) = object.pointer("/spec/template/spec") else { continue };
        assert!(pod["priorityClassName"].is_string(), "{key}");
        assert_eq!(pod["enableServiceLinks"], false, "{key}");
        assert_eq!(pod["securityContext"]["seccompProfile"], json!({"type": "RuntimeDefault"}), "{key}");
        let is_root = pod["securityContext"]["runAsUser"] == 0;
        assert_eq!(is_root, key.contains("gammarus-node"), "{key}");
    }
    let surge =
        &objects["DaemonSet gammarus-system gammarus-node"]["spec"]["updateStrategy"]["rollingUpdate"];
    assert_eq!(surge, &json!({"maxSurge": 1, "maxUnavailable": 0}));
}

#[test]
fn every_capability_has_its_reason() {
    let text = fs::read_to_string(folder().join("install/node.yaml")).unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_capability = |line: &str| {
        line.strip_prefix("- ")
            .is_some_and(|word| word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
    };
    let found: Vec<usize> = (0..lines.len()).filter(|at| is_capability(lines[*at])).collect();
    assert!(!found.is_empty(), "{text}");
    for at in found {
        assert!(lines[at - 1].starts_with("# "), "{} has no reason above it", lines[at]);
    }
}

#[test]
fn what_is_applied_again_stays_as_it_is() {
    let server = installed();
    let kinds = "namespaces,serviceaccounts,services,daemonsets,deployments,roles,rolebindings,clusterroles,\
                 clusterrolebindings,gatewayclasses,poddisruptionbudgets,validatingadmissionpolicies,validatingadmissionpolicybindings";
    let path = "jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
    let ours = ["get", kinds, "--all-namespaces", "-l", "app.kubernetes.io/part-of=gammarus", "-o", path];
    let before = server.kubectl(&ours).output();
    assert_eq!(before.lines().count(), kustomized().len(), "{before}");
    apply(&server);
    assert_eq!(server.kubectl(&ours).output(), before);
}

#[test]
fn the_chart_can_be_installed_changed_and_taken_away() {
    let server = ApiServer::with_gateway_api(Channel::Experimental);
    let kubeconfig = server.kubeconfig();
    let to = ["--namespace", SYSTEM, "--kubeconfig", kubeconfig.to_str().unwrap()];
    let install = ["install", "gammarus", "chart", "--create-namespace", "--take-ownership"];
    helm(&[&install[..], &to].concat()).output();
    let pod_security = [
        "get",
        "namespace",
        SYSTEM,
        "-o",
        "jsonpath={.metadata.labels.pod-security\\.kubernetes\\.io/enforce}",
    ];
    assert_eq!(server.kubectl(&pod_security).output(), "privileged");
    helm(&[&["upgrade", "gammarus", "chart", "--set=ca.replicas=3"][..], &to].concat()).output();
    let replicas = ["get", "deployment", "gammarus-ca", "-n", SYSTEM, "-o", "jsonpath={.spec.replicas}"];
    assert_eq!(server.kubectl(&replicas).output(), "3");
    helm(&[&["uninstall", "gammarus"][..], &to].concat()).output();
    let left = [
        "get",
        "clusterroles,clusterrolebindings,validatingadmissionpolicies",
        "-l",
        "app.kubernetes.io/part-of=gammarus",
        "-o",
        "name",
    ];
    assert_eq!(server.kubectl(&left).output(), "");
    // What the CA has written there stays.
    server.kubectl(&["get", "namespace", SYSTEM]).output();
}

/// A pod as its controller would make it.
fn pod(workload: &Value, namespace: &str) -> Value {
    let template = &workload["spec"]["template"];
    let metadata =
        json!({ "name": "tried", "namespace": namespace, "labels": template["metadata"]["labels"] });
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"] })
}

#[test]
fn the_namespaces_pod_security_admits_what_runs_there_and_no_more_than_it_must() {
    let server = installed();
    for (name, level) in [("admits-baseline", "baseline"), ("admits-restricted", "restricted")] {
        server.namespace(name, &[("pod-security.kubernetes.io/enforce", level)]);
        for account in ["gammarus-node", "gammarus-ca", "gammarus-controller"] {
            server.service_account(name, account);
        }
    }
    let objects = kustomized();
    let scratch = tempfile::tempdir().unwrap();
    let create = |workload: &str, namespace: &str| {
        let file = scratch.path().join(format!("{namespace}.json"));
        fs::write(&file, pod(&objects[workload], namespace).to_string()).unwrap();
        server.kubectl(&["create", "--dry-run=server", "--validate=strict", "-f", file.to_str().unwrap()])
    };
    let node = "DaemonSet gammarus-system gammarus-node";
    create(node, SYSTEM).output();
    create(node, "admits-baseline").assert_refused("violates PodSecurity \"baseline:latest\"");
    for workload in
        ["Deployment gammarus-system gammarus-ca", "Deployment gammarus-system gammarus-controller"]
    {
        create(workload, SYSTEM).output();
        create(workload, "admits-restricted").output();
    }
}

#[test]
fn the_walk_through_is_taken_as_it_stands() {
    let server = installed();
    let walk = folder().join("walk-through");
    server.namespace("edge", &[]);
    server.service_account("default", "default");
    let apply = ["apply", "--validate=strict", "-f", walk.to_str().unwrap()];
    let said = server.kubectl(&apply).output();
    assert_eq!(said.lines().count(), 12, "{said}");
    let mesh = folder().join("install/mesh.yaml");
    server.kubectl(&["apply", "--validate=strict", "-f", mesh.to_str().unwrap()]).output();
}
