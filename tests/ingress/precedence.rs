//! Which of several routes holds, where more than one could, at a Gateway of its own.

use std::fs;
use std::sync::Arc;

use node_proxy::demo::command::until;
use serde_json::{Value, json};

use crate::rig::{PATIENCE, Stage, stage};

/// The stage with a Gateway on it whose routes compete.
pub(crate) struct Crowd {
    pub(crate) stage: Arc<Stage>,
    /// The Gateway's name, and its pod's.
    pub(crate) gateway: &'static str,
    pub(crate) host: String,
}

impl Crowd {
    #[track_caller]
    pub(crate) fn gather(gateway: &'static str, objects: &str) -> Self {
        let stage = stage();
        let host = {
            let mut world = stage.world();
            world.apply_in("plain", "routes that compete", objects).unwrap();
            world.gateway_pod(gateway, ("edge", gateway), "node-a").unwrap();
            world.running_pod(gateway).unwrap().addresses[0].to_string()
        };
        Self { stage, gateway, host }
    }

    /// What a backend was asked; else what curl has to say.
    fn ask(&self, arguments: &[&str]) -> Value {
        let to = format!("::{}:", self.host);
        let fixed =
            ["curl", "-sS", "--max-time", "10", "--connect-to", &to, "-H", "accept: application/json"];
        let done = self.stage.world().exec("client", &[&fixed[..], arguments].concat()).unwrap();
        serde_json::from_str(&done.stdout).unwrap_or_else(|_| json!([done.stdout, done.stderr]))
    }

    /// The `route=` of each access line so far.
    fn routes(&self) -> Vec<String> {
        let log = self.stage.world().gateway_access_log(self.gateway);
        let log = fs::read_to_string(log).unwrap_or_default();
        let fields = log.lines().flat_map(|line| line.split(' '));
        fields.filter_map(|field| field.strip_prefix("route=")).map(str::to_owned).collect()
    }

    /// By which TLSRoute each of these names went.
    #[track_caller]
    pub(crate) fn check_names(&self, names: &[(&str, &str)]) {
        for (name, route) in names {
            // Who answers has another certificate; it is the line that tells by which route it did.
            let went = self.route_of(&["-k", &format!("https://{name}:8445/")]);
            assert_eq!(went, format!("TLSRoute/plain/{route}/0"), "{name}");
        }
    }

    /// Asks, and says by which route that went; nobody else asks this Gateway anything.
    #[track_caller]
    pub(crate) fn route_of(&self, arguments: &[&str]) -> String {
        let before = self.routes().len();
        self.ask(arguments);
        assert!(until(PATIENCE, || self.routes().len() > before), "no line of {arguments:?}");
        self.routes().remove(before)
    }
}

/// What makes a call of gRPC of a request.
pub(crate) fn call(url: &str) -> [&str; 6] {
    ["--http2-prior-knowledge", "-X", "POST", "-H", "content-type: application/grpc", url]
}

//= gateway-api GRPCRouteSpec.hostnames
//# the most specific match takes precedence
fn check_grpc_hosts(crowd: &Crowd) {
    for (host, method, told) in [
        ("one.calls.example.com", "shop.Orders/Get", "exact"),
        ("one.calls.example.com", "shop.Other/Get", "below"),
        ("two.calls.example.com", "shop.Orders/Get", "below"),
        ("a.one.calls.example.com", "shop.Orders/Get", "below"),
    ] {
        let url = format!("http://{host}:8003/{method}");
        let seen = crowd.ask(&call(&url));
        assert_eq!(seen["headers"]["x-by"], json!([told]), "{host} {method}: {seen}");
    }
}

//= gateway-api TLSRouteSpec.hostnames
//# the most specific match takes precedence
fn check_tls_names(crowd: &Crowd) {
    crowd.check_names(&[
        ("one.names.example.com", "tls-exact"),
        ("two.names.example.com", "tls-below"),
        ("deep.names.example.com", "tls-below"),
        ("x.deep.names.example.com", "tls-deeper"),
        ("a.b.names.example.com", "tls-below"),
    ]);
}

//= gateway-api HTTPRouteRule.matches
//# Exact path, longest prefix, method, most headers, most query params ... oldest, first by name ... first in list order
fn check_places(crowd: &Crowd) {
    for (arguments, path, rule) in [
        (&[][..], "/", "everything"),
        (&[], "/shopping", "everything"),
        (&[], "/shop/old", "prefix"),
        (&[], "/shop/new/one", "longer"),
        (&["-H", "a: 1"], "/shop/new/one", "one-header"),
        (&["-H", "a: 1", "-H", "b: 2"], "/shop/new/one", "two-headers"),
        (&[], "/shop/new/one?q=1", "one-query"),
        (&["-H", "a: 1"], "/shop/new/one?q=1", "one-header"),
        (&["-H", "a: 1", "-H", "b: 2", "-X", "DELETE"], "/shop/new/one?q=1", "method"),
        (&["-H", "a: 1", "-H", "b: 2", "-X", "DELETE"], "/shop/new?q=1", "exact"),
    ] {
        let url = format!("http://places.example.com:8003{path}");
        let route = crowd.route_of(&[arguments, &[&url]].concat());
        assert_eq!(route, format!("HTTPRoute/plain/places/{rule}"), "{arguments:?} {path}");
    }
    assert_eq!(crowd.ask(&["http://aged.example.com:8003/"])["name"], "open");
}

fn check_one_backends_rewrite(crowd: &Crowd) {
    let seen = crowd.ask(&["http://rewritten.example.com:8003/old/a?b=c"]);
    assert_eq!(seen["target"], "/new/a?b=c", "{seen}");
    assert_eq!(seen["headers"]["host"], json!(["other.example.org"]), "{seen}");
}

#[test]
fn the_best_of_several_routes_holds() {
    let crowd = Crowd::gather("crowded", include_str!("precedence.yaml"));
    check_grpc_hosts(&crowd);
    check_tls_names(&crowd);
    check_places(&crowd);
    check_one_backends_rewrite(&crowd);
}
