//! Two teams on one Gateway and a third with its own: what one of them breaks is its own affair.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use node_proxy::demo::command::until;

use super::ReadsCertificates;
use super::certificate::{make_certificate, secret};
use super::grpc_programs::grpc_tool;
use super::rig::{NODES, Namespace, PATIENCE, host_of, run};

/// A host of a team, which is the name of its listener, too.
fn host(team: &str) -> String {
    format!("{team}.example.com")
}

/// A Gateway of this name for these teams: a listener of HTTPS for each of them, with a certificate out of its own
/// namespace, and one of HTTP for all.
fn gateway(name: &str, teams: &[(&str, &Namespace)]) -> String {
    let listeners = teams.iter().map(|(team, namespace)| {
        format!(
            "{{name: {team}, port: 443, protocol: HTTPS, hostname: {}, allowedRoutes: {{namespaces: {{from: All}}}},
              tls: {{certificateRefs: [{{name: web, namespace: {}}}]}}}}",
            host(team),
            namespace.name
        )
    });
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}}}, spec: {{gatewayClassName: gammarus,
          listeners: [{{name: http, port: 80, protocol: HTTP, allowedRoutes: {{namespaces: {{from: All}}}}}}, {}]}}}}",
        listeners.collect::<Vec<_>>().join(", ")
    )
}

/// A team's server, its certificate, and the grant for it.
#[track_caller]
fn move_in(namespace: &Namespace, edge: &Namespace, (team, dir): (&str, &Path)) {
    namespace.server("web", NODES[1], 1);
    make_certificate(dir, team, &[&host(team)]);
    namespace.apply(&secret(dir, team, (&namespace.name, "web")));
    namespace.apply(&format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {{name: edge}}, spec: {{
          from: [{{group: gateway.networking.k8s.io, kind: Gateway, namespace: {}}}], to: [{{group: '', kind: Secret}}]}}}}",
        edge.name
    ));
}

const FINE: &str = "{backendRefs: [{name: web, port: 80}]}";

/// How often a client of this machine gets in a row what it expects of a team.
const IN_A_ROW: usize = 10;

/// A team, and its client outside the cluster.
struct Team<'t> {
    name: &'t str,
    namespace: &'t Namespace,
    /// Where its Gateway is, and what that is called.
    edge: (&'t Namespace, &'t str),
    address: String,
    dir: &'t Path,
}

impl<'t> Team<'t> {
    /// The team on this Gateway, once that has an address.
    #[track_caller]
    fn at(
        edge: (&'t Namespace, &'t str),
        (name, namespace): (&'t str, &'t Namespace),
        dir: &'t Path,
    ) -> Self {
        let gateway = format!("gateway/{}", edge.1);
        edge.0.wait("Programmed", &gateway);
        let address = host_of(&edge.0.field(&gateway, ".status.addresses[0].value"));
        Self { name, namespace, edge, address, dir }
    }

    /// Its route, for the host of this team and with these rules.
    #[track_caller]
    fn route(&self, host_of: &str, rules: &str) {
        let (edge, gateway) = self.edge;
        self.namespace.apply(&format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: web}}, spec: {{
              parentRefs: [{{name: {gateway}, namespace: {}}}], hostnames: [{}], rules: [{rules}]}}}}",
            edge.name,
            host(host_of)
        ));
    }

    /// The status code that its client gets by HTTP or HTTPS, `000` for none.
    fn code(&self, scheme: &str) -> String {
        let (roots, connect) = (self.dir.join(format!("{}.pem", self.name)), format!("::{}", self.address));
        let url = format!("{scheme}://{}/", host(self.name));
        let ask = ["-s", "--max-time", "5", "--cacert", roots.to_str().unwrap(), "--connect-to", &connect];
        let code = ["--output", "/dev/null", "--write-out", "%{http_code}", &url];
        self.namespace.cluster.run("curl", &[&ask[..], &code].concat(), "").stdout
    }

    /// Waits until it is answered so by all of its Gateway's proxies.
    #[track_caller]
    fn expect(&self, scheme: &str, expected: &str) {
        let mut last = Vec::new();
        let comes = until(PATIENCE, || {
            last = (0..IN_A_ROW).map(|_| self.code(scheme)).collect::<Vec<_>>();
            last.iter().all(|code| code == expected)
        });
        assert!(comes, "{scheme} of {}: {last:?}, not {expected}", self.name);
    }

    /// What its Gateway says of its listener, as `STATUS REASON`.
    fn resolved(&self) -> String {
        let (edge, gateway) = self.edge;
        let path = format!(
            ".status.listeners[?(@.name==\"{}\")].conditions[?(@.type==\"ResolvedRefs\")]['status','reason']",
            self.name
        );
        edge.field(&format!("gateway/{gateway}"), &path)
    }

    /// Breaks what it has, one after the other, and mends it.
    #[track_caller]
    fn break_everything(&self) {
        // Backends that are not there, and rules that nobody can read.
        self.route(self.name, "{backendRefs: [{name: nobody, port: 80}]}");
        self.expect("https", "500");
        let unreadable = "{matches: [{path: {type: RegularExpression, value: '/(['}}], backendRefs: [{name: web, port: 80}]}";
        self.route(self.name, unreadable);
        self.expect("https", "404");
        self.route(self.name, FINE);
        self.expect("https", "200");

        // A certificate that is none.
        let name = &self.namespace.name;
        self.namespace.apply(&format!(
            "{{apiVersion: v1, kind: Secret, type: kubernetes.io/tls, metadata: {{name: web, namespace: {name}}}, \
              stringData: {{tls.crt: none, tls.key: none}}}}"
        ));
        self.expect("https", "000");
        self.expect("http", "200");
        let said = || self.resolved();
        assert!(until(PATIENCE, || said() == "False InvalidCertificateRef"), "{}", said());
        self.namespace.apply(&secret(self.dir, self.name, (name, "web")));
        self.expect("https", "200");
        assert!(until(PATIENCE, || said() == "True ResolvedRefs"), "{}", said());
    }
}

/// Does something while these teams are asked all the time, by HTTP and HTTPS: each time they are served.
#[track_caller]
fn while_served(teams: &[&Team<'_>], doing: impl FnOnce()) {
    /// Also when what is done fails.
    struct Done<'d>(&'d AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = teams.iter().map(|team| {
            scope.spawn(|| {
                let mut codes = Vec::new();
                while !is_done.load(Ordering::Relaxed) || codes.len() < 2 * IN_A_ROW {
                    codes.extend(["http", "https"].map(|scheme| team.code(scheme)));
                    thread::sleep(Duration::from_millis(100));
                }
                codes
            })
        });
        let asking: Vec<_> = asking.collect();
        let done = Done(&is_done);
        doing();
        drop(done);
        for (team, asked) in teams.iter().zip(asking) {
            let codes = asked.join().unwrap();
            let bad: Vec<_> = codes.iter().filter(|code| *code != "200").collect();
            assert!(bad.is_empty(), "{}: {bad:?} of {}", team.name, codes.len());
        }
    });
}

#[test]
fn what_one_team_breaks_leaves_the_others_served_on_a_shared_gateway_and_on_its_own() {
    let _granted = ReadsCertificates::grant();
    let edge = Namespace::new("shared");
    let (red, blue, green) = (Namespace::enrolled("red"), Namespace::new("blue"), Namespace::new("green"));
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (team, namespace, edge) in [("red", &red, &edge), ("blue", &blue, &edge), ("green", &green, &green)] {
        move_in(namespace, edge, (team, dir));
    }
    edge.apply(&gateway("shared", &[("red", &red), ("blue", &blue)]));
    green.apply(&gateway("own", &[("green", &green)]));
    let red = Team::at((&edge, "shared"), ("red", &red), dir);
    let blue = Team::at((&edge, "shared"), ("blue", &blue), dir);
    let green = Team::at((&green, "own"), ("green", &green), dir);
    for team in [&red, &blue, &green] {
        team.route(team.name, FINE);
        team.expect("http", "200");
        team.expect("https", "200");
    }

    while_served(&[&red, &green], || blue.break_everything());
    while_served(&[&red, &blue], || green.break_everything());
    assert_eq!(red.resolved(), "True ResolvedRefs");
    // A route that claims another's host is the younger one.
    while_served(&[&red, &green], || {
        blue.route("red", "{backendRefs: [{name: nobody, port: 80}]}");
        blue.expect("https", "404");
    });
}

#[test]
fn a_team_has_a_gateway_of_its_own_with_the_longest_name_there_is_and_one_grpc_route_on_two() {
    let namespace = Namespace::enrolled("green");
    let port = "{name: grpc, port: 80, targetPort: 50051}";
    namespace.workload(
        "calls",
        1,
        "terminationGracePeriodSeconds: 0, containers: [
      {name: server, image: 'grpc-tools:1', command: [/grpc-server, -name, green],
       readinessProbe: {tcpSocket: {port: 50051}, periodSeconds: 1}}]",
        port,
    );
    let label = "g".repeat(63);
    let long = [&label[..], &label, &label, &label[..61]].join(".");
    assert_eq!(long.len(), 253);
    for name in ["short", &long] {
        namespace.apply(&format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}}}, spec: {{
              gatewayClassName: gammarus, listeners: [{{name: calls, port: 50051, protocol: HTTP}}]}}}}"
        ));
    }
    namespace.apply(&format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {{name: calls}}, spec: {{
          parentRefs: [{{name: short}}, {{name: {long}}}], rules: [{{
            matches: [{{method: {{service: grpc.testing.TestService, method: UnaryCall}}}}],
            backendRefs: [{{name: calls, port: 80}}]}}]}}}}"
    ));
    for name in ["short", &long] {
        namespace.wait("Programmed", &format!("gateway/{name}"));
        let address = host_of(&namespace.field(&format!("gateway/{name}"), ".status.addresses[0].value"));
        let call = |method: &str| {
            let mut command = Command::new(grpc_tool("grpc-client"));
            command.args(["-target", &format!("{address}:50051"), "-timeout", "5s", method]);
            run(command, "")
        };
        let answers = || call("unary").stdout.starts_with("green ");
        assert!(until(PATIENCE, answers), "{name}: {:?}", call("unary"));
        let other = call("upload");
        assert!(
            other.stdout.starts_with("code=Unimplemented "),
            "{name} answers what no rule takes: {other:?}"
        );
    }
}
