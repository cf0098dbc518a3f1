//! Two teams on one Gateway and a third with its own: what one of them breaks is its own affair.

use std::path::Path;
use std::process::Command;

use node_proxy::demo::command::until;

use super::ReadsCertificates;
use super::certificate::{make_certificate, secret};
use super::grpc_programs::grpc_tool;
use super::rig::{NODES, Namespace, PATIENCE, host_of, run};

/// A host of a team, which is the name of its listener, too.
fn host(team: &str) -> String {
    format!("{team}.example.com")
}

/// The teams' Gateway: a listener of HTTPS for each of them, with a certificate out of its own namespace, and one of HTTP
/// for both.
fn gateway(teams: &[(&str, &Namespace)]) -> String {
    let listeners = teams.iter().map(|(team, namespace)| {
        format!(
            "{{name: {team}, port: 443, protocol: HTTPS, hostname: {}, allowedRoutes: {{namespaces: {{from: All}}}},
              tls: {{certificateRefs: [{{name: web, namespace: {}}}]}}}}",
            host(team),
            namespace.name
        )
    });
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: shared}}, spec: {{gatewayClassName: gammarus,
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

/// A team's route on the shared Gateway, with these rules.
#[track_caller]
fn route(namespace: &Namespace, edge: &Namespace, (team, rules): (&str, &str)) {
    namespace.apply(&format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: web}}, spec: {{
          parentRefs: [{{name: shared, namespace: {}}}], hostnames: [{}], rules: [{rules}]}}}}",
        edge.name,
        host(team)
    ));
}

const FINE: &str = "{backendRefs: [{name: web, port: 80}]}";

/// How often a client of this machine gets in a row what it expects of a team.
const IN_A_ROW: usize = 10;

/// A client outside the cluster.
struct Client<'d> {
    namespace: &'d Namespace,
    address: String,
    dir: &'d Path,
}

impl Client<'_> {
    /// The status code of a team by HTTP or HTTPS, `000` for none.
    fn code(&self, scheme: &str, team: &str) -> String {
        let (roots, connect) = (self.dir.join(format!("{team}.pem")), format!("::{}", self.address));
        let url = format!("{scheme}://{}/", host(team));
        let ask = ["-s", "--max-time", "5", "--cacert", roots.to_str().unwrap(), "--connect-to", &connect];
        let code = ["--output", "/dev/null", "--write-out", "%{http_code}", &url];
        self.namespace.cluster.run("curl", &[&ask[..], &code].concat(), "").stdout
    }

    fn codes(&self, scheme: &str, team: &str) -> Vec<String> {
        (0..IN_A_ROW).map(|_| self.code(scheme, team)).collect()
    }

    /// Waits until a team is answered so by all of the Gateway's proxies.
    #[track_caller]
    fn expect(&self, scheme: &str, team: &str, expected: &str) {
        let mut last = Vec::new();
        let comes = until(PATIENCE, || {
            last = self.codes(scheme, team);
            last.iter().all(|code| code == expected)
        });
        assert!(comes, "{scheme} of {team}: {last:?}, not {expected}");
    }

    /// A team is answered, by HTTP and HTTPS, each time.
    #[track_caller]
    fn check_served(&self, team: &str, meanwhile: &str) {
        for scheme in ["http", "https"] {
            let codes = self.codes(scheme, team);
            assert!(codes.iter().all(|code| code == "200"), "{scheme} of {team} with {meanwhile}: {codes:?}");
        }
    }
}

/// What a Gateway says of a listener, as `STATUS REASON`.
fn listener_condition(namespace: &Namespace, listener: &str, kind: &str) -> String {
    let path = format!(
        ".status.listeners[?(@.name==\"{listener}\")].conditions[?(@.type==\"{kind}\")]['status','reason']"
    );
    namespace.field("gateway/shared", &path)
}

#[test]
fn what_one_team_breaks_on_a_shared_gateway_leaves_the_other_served() {
    let _granted = ReadsCertificates::grant();
    let (edge, red, blue) = (Namespace::new("shared"), Namespace::enrolled("red"), Namespace::new("blue"));
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (team, namespace) in [("red", &red), ("blue", &blue)] {
        move_in(namespace, &edge, (team, dir));
        route(namespace, &edge, (team, FINE));
    }
    edge.apply(&gateway(&[("red", &red), ("blue", &blue)]));
    edge.wait("Programmed", "gateway/shared");
    let address = host_of(&edge.field("gateway/shared", ".status.addresses[0].value"));
    let client = Client { namespace: &edge, address, dir };
    for team in ["red", "blue"] {
        for scheme in ["http", "https"] {
            client.expect(scheme, team, "200");
        }
    }

    // Backends that are not there, and rules that nobody can read.
    route(&blue, &edge, ("blue", "{backendRefs: [{name: nobody, port: 80}]}"));
    client.expect("https", "blue", "500");
    client.check_served("red", "a missing backend of blue");
    let unreadable =
        "{matches: [{path: {type: RegularExpression, value: '/(['}}], backendRefs: [{name: web, port: 80}]}";
    route(&blue, &edge, ("blue", unreadable));
    client.expect("https", "blue", "404");
    client.check_served("red", "an expression of blue that is none");
    route(&blue, &edge, ("blue", FINE));
    client.expect("https", "blue", "200");

    // A certificate that is none.
    let broken = format!(
        "{{apiVersion: v1, kind: Secret, type: kubernetes.io/tls, metadata: {{name: web, namespace: {}}}, \
          stringData: {{tls.crt: none, tls.key: none}}}}",
        blue.name
    );
    blue.apply(&broken);
    client.expect("https", "blue", "000");
    client.check_served("red", "a broken certificate of blue");
    client.expect("http", "blue", "200");
    let said = || listener_condition(&edge, "blue", "ResolvedRefs");
    assert!(until(PATIENCE, || said() == "False InvalidCertificateRef"), "{}", said());
    assert_eq!(listener_condition(&edge, "red", "ResolvedRefs"), "True ResolvedRefs");
    blue.apply(&secret(dir, "blue", (&blue.name, "web")));
    client.expect("https", "blue", "200");

    // A route that claims the other's host is the younger one.
    route(&blue, &edge, ("red", "{backendRefs: [{name: nobody, port: 80}]}"));
    client.expect("https", "blue", "404");
    client.check_served("red", "a route of blue for its host");
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
