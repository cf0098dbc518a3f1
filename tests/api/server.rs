//! The API server that the other tests stand on is what they take it for.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::api_server::{ApiServer, Channel, TokenFor};

#[test]
fn only_who_verifies_it_by_its_own_authority_is_answered() {
    let server = ApiServer::shared();
    assert_eq!(server.kubectl(&["get", "--raw", "/readyz"]).output(), "ok");
    let foreign = ApiServer::start();
    let kubeconfig = fs::read_to_string(server.kubeconfig()).unwrap();
    let mixed =
        kubeconfig.replace(server.authority().to_str().unwrap(), foreign.authority().to_str().unwrap());
    assert_ne!(mixed, kubeconfig);
    let path = foreign.kubeconfig().with_file_name("mixed.kubeconfig");
    fs::write(&path, mixed).unwrap();
    server
        .kubectl_as(&path, &["get", "namespaces"])
        .assert_refused("certificate signed by unknown authority");
}

#[test]
fn a_service_account_may_do_what_a_role_says() {
    let server = ApiServer::shared();
    server.namespace("roles", &[]);
    server.service_account("roles", "reader");
    let reader = server.kubeconfig_of("roles", "reader");
    let read = || server.kubectl_as(&reader, &["get", "configmaps", "--namespace", "roles"]);
    read().assert_refused("User \"system:serviceaccount:roles:reader\" cannot list resource \"configmaps\"");
    server.apply(
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: reader, namespace: roles},
          rules: [{apiGroups: [''], resources: [configmaps], verbs: [list]}]}",
    );
    server.apply(
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: reader, namespace: roles},
          roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader},
          subjects: [{kind: ServiceAccount, name: reader, namespace: roles}]}",
    );
    read().output();
}

#[test]
fn a_pods_token_names_the_pod_and_its_node() {
    let server = ApiServer::shared();
    server.namespace("claims", &[]);
    server.service_account("claims", "agent");
    server.node("claims-a");
    server.pod("claims", "agent-0", "agent", "claims-a");
    let mut request = TokenFor { namespace: "claims", service_account: "agent", ..TokenFor::default() };
    request.audience = Some("gammarus-ca");
    let unbound = server.token(request);
    request.pod = Some("agent-0");
    let token = server.token(request);

    let review = server.review(&token, &["gammarus-ca"]);
    assert_eq!(review["authenticated"], json!(true), "{review}");
    assert_eq!(review["user"]["username"], "system:serviceaccount:claims:agent", "{review}");
    let extra = &review["user"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/node-name"], json!(["claims-a"]), "{review}");
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!(["agent-0"]), "{review}");

    let review = server.review(&unbound, &["gammarus-ca"]);
    assert_eq!(review["authenticated"], json!(true), "{review}");
    assert!(review["user"]["extra"]["authentication.kubernetes.io/node-name"].is_null(), "{review}");

    let review = server.review(&token, &["somebody-else"]);
    assert_eq!(review["authenticated"], json!(null), "{review}");
    let kubeconfig = server.kubeconfig_with("audience", &token);
    server.kubectl_as(&kubeconfig, &["get", "pods"]).assert_refused("Unauthorized");

    server.kubectl(&["delete", "pod", "agent-0", "--namespace", "claims", "--force"]).output();
    // The API server remembers for ten seconds whom it has let in.
    let begun = Instant::now();
    while server.review(&token, &["gammarus-ca"])["authenticated"] == json!(true) {
        assert!(begun.elapsed() < Duration::from_secs(30), "the token is good without its pod");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn the_types_of_the_gateway_api_are_served() {
    let server = ApiServer::start();
    assert!(!server.kubectl(&["get", "xmeshes"]).success);
    server.install_gateway_api(Channel::Experimental);
    server.kubectl(&["get", "xmeshes"]).output();
    server.apply(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: web, namespace: default},
          spec: {parentRefs: [{group: '', kind: Service, name: web, port: 80}]}}",
    );
}

#[test]
fn what_was_prepared_is_there_at_once_and_nothing_that_came_after_it() {
    let first = ApiServer::with_gateway_api(Channel::Experimental);
    first.namespace("later", &[]);
    let second = ApiServer::with_gateway_api(Channel::Experimental);
    second.kubectl(&["get", "xmeshes"]).output();
    second.kubectl(&["get", "namespace", "later"]).assert_refused("\"later\" not found");
    first.kubectl(&["get", "namespace", "later"]).output();
}

#[test]
fn it_can_be_out_of_reach_for_a_while() {
    let server = ApiServer::start();
    server.set_answering(false);
    let version = || server.kubectl(&["get", "--raw", "/version", "--request-timeout=1s"]);
    assert!(!version().success);
    server.set_answering(true);
    version().output();
}
