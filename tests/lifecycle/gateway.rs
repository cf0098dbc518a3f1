//! A Gateway whose routes, certificate, listeners and own proxies change under load from outside the cluster.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use node_proxy::demo::command::until;
use rustls::ClientConfig;

use super::certificate::secret;
use super::counts::Kind;
use super::front::{CERTIFICATES, EDITS, Front, MORE_PORT, Shape, make_certificates};
use super::load::Load;
use super::one_at_a_time;
use super::requests::HOST_IN_TLS;
use super::rig::{Namespace, PATIENCE, host_of};
use super::source::Source;

const SERVERS: &str = include_str!("front.yaml");
const PROXIES: &str = "deployment/front-gammarus";
/// Proxies that are to end wait for connections that are held for longer than this test lasts.
const PARAMETERS: &str =
    "{apiVersion: v1, kind: ConfigMap, metadata: {name: front}, data: {gateway.yaml: 'drainSeconds: 300'}}";

/// The backends, answering, and the certificates in this folder, the first of them in the Secret `web`; with whom clients trust.
#[track_caller]
fn serve(purpose: &str, dir: &Path) -> (Namespace, Arc<ClientConfig>) {
    let namespace = Namespace::enrolled(purpose);
    let tls = make_certificates(dir);
    let certificate = secret(dir, CERTIFICATES[0], (&namespace.name, "web"));
    namespace.apply(&[&*certificate, SERVERS].join("\n---\n"));
    for workload in ["web-v1", "web-v2", "steady"] {
        namespace.wait_for_rollout(&format!("deployment/{workload}"));
    }
    (namespace, tls)
}

/// Two addresses, once an object has them there.
#[track_caller]
fn addresses(namespace: &Namespace, object: &str, path: &str) -> Vec<IpAddr> {
    let read = || -> Vec<IpAddr> {
        let text = namespace.field(object, path);
        text.split_whitespace().map(|address| address.parse().unwrap()).collect()
    };
    assert!(until(PATIENCE, || read().len() == 2), "{object} has {:?}", read());
    read()
}

/// Waits until both versions answer at an address: what is held is to be held by both.
#[track_caller]
fn wait_for_both(namespace: &Namespace, address: IpAddr) {
    let url = format!("http://{}/", host_of(&address.to_string()));
    let ask = || namespace.cluster.run("curl", &["-s", "--max-time", "2", &url], "").stdout;
    let answers = || (0..20).map(|_| ask()).collect::<String>();
    let both = || ["web-v1", "web-v2"].iter().all(|version| answers().contains(version));
    assert!(until(PATIENCE, both), "{url}: {}", answers());
}

/// The load from this machine.
#[track_caller]
fn begin(addresses: &[IpAddr], tls: &Arc<ClientConfig>, logs: &Path) -> Load {
    let sources = (0..2).map(|_| Source::outside(addresses, Arc::clone(tls), logs));
    Load::begin(&Kind::OUTSIDE, sources.collect())
}

/// The certificate, once that is the one which is shown.
#[track_caller]
fn change_certificate(namespace: &Namespace, dir: &Path, (name, address): (&str, IpAddr)) {
    namespace.apply(&secret(dir, name, (&namespace.name, "web")));
    let roots = dir.join(format!("{name}.pem"));
    let (connect, url) =
        (format!("::{}", host_of(&address.to_string())), format!("https://{HOST_IN_TLS}/load/0"));
    let ask = ["-sS", "--max-time", "5", "--cacert", roots.to_str().unwrap(), "--connect-to", &connect, &url];
    let is_shown = || namespace.cluster.run("curl", &ask, "").success;
    assert!(
        until(PATIENCE, is_shown),
        "the {name} certificate is not shown: {:?}",
        namespace.cluster.run("curl", &ask, "")
    );
}

/// Edits the Gateway, and waits until that is served.
#[track_caller]
fn reshape(namespace: &Namespace, front: Front<'_>, (address, shape): (IpAddr, Shape)) {
    namespace.apply(&front.gateway(shape));
    let host = host_of(&address.to_string());
    let answers = |url: &str| {
        let connect = format!("::{host}");
        let ask = ["-sk", "--max-time", "2", "--connect-to", &connect, url];
        namespace.cluster.run("curl", &ask, "").success
    };
    let seen = || {
        let more = answers(&format!("http://{HOST_IN_TLS}:{MORE_PORT}/"));
        (more, answers("https://elsewhere.example.org/load/0"))
    };
    let wanted = (shape == Shape::OneMore, shape != Shape::Narrower);
    assert!(until(PATIENCE, || seen() == wanted), "{shape:?}: {:?}", seen());
}

/// Starts a Deployment's pods anew, and scales it up and down.
#[track_caller]
fn roll_and_scale(namespace: &Namespace, load: &Load, deployment: &str) {
    load.note(&format!("a rollout of {deployment}"));
    namespace.kubectl(&["rollout", "restart", deployment]).output();
    namespace.wait_for_rollout(deployment);
    load.pass(Duration::from_secs(2));
    for replicas in ["3", "1", "2"] {
        load.note(&format!("{replicas} of {deployment}"));
        namespace.kubectl(&["scale", deployment, "--replicas", replicas]).output();
        namespace.wait_for_rollout(deployment);
        load.pass(Duration::from_secs(2));
    }
    // Until the last pods that ended have gone.
    load.pass(Duration::from_secs(10));
}

#[test]
fn changes_of_a_gateway_and_of_its_proxies_fail_nothing() {
    let _alone = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (namespace, tls) = serve("front", dir);
    let rights = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/install/gateway-certificates.yaml");
    namespace.kubectl(&["apply", "--filename", rights]).output();
    let front = Front { namespace: &namespace.name, parameters: Some("front") };
    namespace.apply(&[PARAMETERS, &front.all()].join("\n---\n"));
    namespace.wait("Programmed", "gateway/front");
    namespace.wait_for_rollout(PROXIES);
    let addresses = addresses(&namespace, "gateway/front", ".status.addresses[*].value");
    for certificate in CERTIFICATES.into_iter().rev() {
        change_certificate(&namespace, dir, (certificate, addresses[0]));
    }

    let load = begin(&addresses, &tls, dir);
    for edit in 1..=EDITS {
        load.note(&format!("edit {edit} of the routes"));
        namespace.apply(&front.routes_after(edit));
        load.pass(Duration::from_millis(200));
    }
    for certificate in CERTIFICATES.into_iter().rev() {
        load.note(&format!("the {certificate} certificate"));
        change_certificate(&namespace, dir, (certificate, addresses[0]));
    }
    for shape in Shape::EDITS {
        load.note(&format!("the Gateway is {shape:?}"));
        reshape(&namespace, front, (addresses[0], shape));
    }
    load.pass(Duration::from_secs(1));
    let counts = load.finish("20 edits of routes, two certificates and four edits of a Gateway on a cluster");
    counts.check();
    assert_eq!(counts.grpc_connections, 1, "connections of the gRPC client");

    let load = begin(&addresses, &tls, dir);
    roll_and_scale(&namespace, &load, PROXIES);
    load.finish("a rollout of a Gateway's proxies, and 2, 3, 1, 2 of them").check();
    namespace.kubectl(&["delete", "--filename", rights]).output();
}

#[test]
fn the_same_done_to_servers_without_a_gateway_is_seen() {
    let _alone = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (namespace, tls) = serve("bare", dir);
    let addresses = addresses(&namespace, "service/bare", ".status.loadBalancer.ingress[*].ip");
    for address in &addresses {
        wait_for_both(&namespace, *address);
    }
    let load = begin(&addresses, &tls, dir);
    // Servers read their certificate when they start: the rollout is that event here, too.
    load.note("the second certificate, which the rollout brings");
    namespace.apply(&secret(dir, CERTIFICATES[1], (&namespace.name, "web")));
    roll_and_scale(&namespace, &load, "deployment/web-v1");
    change_certificate(&namespace, dir, (CERTIFICATES[1], addresses[0]));
    let counts = load.finish("another certificate, a rollout of bare servers, and 2, 3, 1, 2 of them");
    counts.check_amount();
    assert!(counts.failed(Kind::Held) > 0, "connections that are held end with their servers\n{counts:#}");
}
