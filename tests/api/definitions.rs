//! Types of the Gateway API that are installed when everything else is there already.

use std::thread;
use std::time::{Duration, Instant};

use crate::api_server::{ApiServer, Channel};
use crate::follower::Follower;
use crate::source::apply_one_of_each;

/// By then a kind that is missing is looked for about every half minute, if nothing says that it has come.
pub(crate) const LATE: Duration = Duration::from_secs(25);
/// How soon what was installed is used.
pub(crate) const SOON: Duration = Duration::from_secs(10);

#[test]
fn what_is_installed_late_is_read_soon_by_a_proxy_with_its_own_rights() {
    let server = ApiServer::start();
    server.namespace("gammarus-system", &[]);
    server.apply(include_str!("../../manifests/install/node.yaml"));
    let follower = Follower::ready(&server.kubeconfig_of("gammarus-system", "gammarus-node"), None);
    let missing = ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", "ReferenceGrant"];
    for kind in missing {
        let report = format!("{kind}: Gateway API is not installed in this cluster");
        assert!(follower.has_report(&report), "{:?}", follower.reports());
    }
    thread::sleep(LATE);
    server.namespace("shop", &[]);
    server.install_gateway_api(Channel::Standard);
    apply_one_of_each(&server);
    let begun = Instant::now();
    follower.see("one of each", |objects| {
        let routes = [objects.grpc_routes.len(), objects.http_routes.len(), objects.tcp_routes.len()];
        (routes, objects.tls_routes.len(), objects.reference_grants.len()) == ([1; 3], 1, 1)
    });
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    follower.wait_until("nothing is missing", |follower| follower.reports().is_empty());
}
