//! `node-proxy check`: what is wrong with the objects of a directory, said before anybody applies them.

#![expect(clippy::unwrap_used, reason = "all of this is tests")]

use std::fs;
use std::process::{Command, Output};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

const OBJECTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop},
 spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: gammarus},
 spec: {controllerName: gammarus.io/gateway-controller}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: front, namespace: shop},
 spec: {gatewayClassName: gammarus, listeners: [
   {name: plain, port: 80, protocol: HTTP},
   {name: secure, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: front}]}}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: web, namespace: shop},
 spec: {parentRefs: [{name: front}, {group: '', kind: Service, name: web, port: 80}],
        rules: [{backendRefs: [{name: web, port: 80}]}]}}
";

/// Checks a directory with these files.
#[track_caller]
fn check(files: &[(&str, &str)]) -> Output {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    Command::new(env!("CARGO_BIN_EXE_node-proxy")).arg("check").arg(folder.path()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A Secret with a certificate and its key.
fn secret() -> String {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["shop.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": { "name": "front", "namespace": "shop" },
        "stringData": { "tls.crt": certificate.pem(), "tls.key": key.serialize_pem() },
    })
    .to_string()
}

#[test]
fn objects_without_fault_are_counted() {
    let output = check(&[("objects.yaml", OBJECTS), ("secret.json", &secret())]);
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), "6 objects, 0 errors, 0 remarks\n"));
}

#[test]
fn every_fault_is_named_with_its_object_and_field_and_the_rest_is_judged_all_the_same() {
    let faults = "
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: gone, namespace: shop},
 spec: {parentRefs: [{group: '', kind: Service, name: nobody}], rules: [{backendRefs: [{name: web, port: 81}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: astray, namespace: shop},
 spec: {parentRefs: [{name: elsewhere}], rules: [{backendRefs: [{name: web, port: 80}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: names, namespace: shop},
 spec: {parentRefs: [{name: front, sectionName: none}], hostnames: [a.example],
        rules: [{backendRefs: [{name: web, port: 80}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: TCPRoute, metadata: {name: bytes, namespace: shop},
 spec: {parentRefs: [{name: front}], rules: [{backendRefs: [{name: web, port: 80}]}]}}
";
    let output = check(&[("objects.yaml", OBJECTS), ("faults.yaml", faults), ("broken.yaml", "kind: [")]);
    let text = said(&output);
    for line in [
        "error: broken.yaml: ",
        "error: Gateway shop/front, listener secure: ResolvedRefs=False InvalidCertificateRef: tls.certificateRefs[0]: \
         Secret shop/front does not exist",
        "error: HTTPRoute shop/gone on Service shop/nobody: Accepted=False NoMatchingParent: Service shop/nobody does \
         not exist",
        "error: HTTPRoute shop/gone on Service shop/nobody: ResolvedRefs=False BackendNotFound: \
         spec.rules[0].backendRefs[0]: Service shop/web has no TCP port 81",
        "error: HTTPRoute shop/astray: none of its parents is among these objects",
        "error: HTTPRoute shop/names on Gateway shop/front: Accepted=False NoMatchingParent: no listener of the parent \
         has this sectionName and port",
        "error: TCPRoute shop/bytes on Gateway shop/front: Accepted=False NotAllowedByListeners: no listener takes a \
         TCPRoute of namespace shop",
    ] {
        assert!(text.lines().any(|known| known.starts_with(line)), "{line}\nis not in\n{text}");
    }
    assert!(!text.contains("HTTPRoute shop/web"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("9 objects, 7 errors"), "{text}");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(error, "node-proxy: 7 of what is asked for would not be done\n");
}

#[test]
fn what_is_no_directory_is_said() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_node-proxy")).args(["check", "/nowhere/at/all"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("DIR \"/nowhere/at/all\": is not a directory"), "{error}");
}
