//! gRPC's own interoperability tests: client and server are the gRPC project's, in Go, and the mesh is between them.
//!
//! The application speaks plain text; the hop does the rest. Those cases that have credentials, and so need TLS, are in
//! `credentials`; those of compression this client does not have.

use node_proxy::demo::command::Finished;

use crate::gateway;
use crate::rig::{GRPC, NAMED_GRPC, program, stage};

/// A case of the client, and what the mesh has to have seen of it.
struct Case {
    /// Calls that come to the server at least. Where there are none the client may give up before it sends anything.
    calls: usize,
    /// Further arguments of the client.
    arguments: &'static [&'static str],
    server: Server,
}

/// Which server a case is asked of.
enum Server {
    Own,
    /// One that says who it is, which the project's own in Go does not.
    Named,
}

/// How the client comes to the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Service,
    Routed,
    /// Without the mesh: what fails here as well is not the mesh's doing.
    Bare,
    /// From outside, by TLS that ends at a Gateway in front of the mesh.
    Gateway,
    /// The same in plain text (h2c).
    PlainGateway,
}

impl Way {
    /// The Service of a case: each has its own, by which its calls are found.
    pub(crate) fn service(self, case: &str) -> String {
        let name = case.replace('_', "-");
        match self {
            Self::Routed => format!("routed-{name}"),
            Self::Gateway => format!("gated-{name}"),
            Self::PlainGateway => format!("plain-{name}"),
            Self::Service | Self::Bare => name,
        }
    }
}

impl Case {
    const fn of(calls: usize) -> Self {
        Self { calls, arguments: &[], server: Server::Own }
    }

    const fn with(self, arguments: &'static [&'static str]) -> Self {
        Self { arguments, ..self }
    }

    const fn at(self, server: Server) -> Self {
        Self { server, ..self }
    }
}

/// The balancer of the client that takes in what a server reports of its load.
const ORCA: &[&str] =
    &[r#"-service_config_json={"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}"#];
/// Bounded in count. The times are only there for it to end.
const SOAK: &[&str] = &[
    "-soak_iterations=40",
    "-soak_num_threads=4",
    "-soak_per_iteration_max_acceptable_latency_ms=20000",
    "-soak_overall_timeout_seconds=50",
];

/// Makes a table of cases, and a test of each by each way, which `check` is told.
macro_rules! cases {
    (@table $of:ty, { $($name:ident: $case:expr;)* }) => {
        const CASES: &[(&str, $of)] = &[$((stringify!($name), $case)),*];
    };
    (@tests $module:ident, $way:ident, { $($name:ident: $case:expr;)* }) => {
        mod $module {
            $(#[test] fn $name() { super::check(stringify!($name), crate::grpc::Way::$way); })*
        }
    };
    ($of:ty, [$($module:ident: $way:ident),*], $cases:tt) => {
        $crate::grpc::cases! { @table $of, $cases }
        $($crate::grpc::cases! { @tests $module, $way, $cases })*
    };
}
pub(crate) use cases;

cases! {
    Case,
    [without_a_route: Service, under_a_route: Routed, without_the_mesh: Bare, through_a_gateway: Gateway,
     through_a_gateway_in_plain_text: PlainGateway],
    {
        cancel_after_begin: Case::of(0);
        cancel_after_first_response: Case::of(1);
        channel_soak: Case::of(40).with(SOAK);
        client_streaming: Case::of(1);
        custom_metadata: Case::of(2);
        empty_stream: Case::of(1);
        empty_unary: Case::of(1);
        large_unary: Case::of(1);
        orca_oob: Case::of(4).with(ORCA);
        orca_per_rpc: Case::of(1).with(ORCA);
        pick_first_unary: Case::of(100).at(Server::Named);
        ping_pong: Case::of(1);
        rpc_soak: Case::of(40).with(SOAK);
        server_streaming: Case::of(1);
        special_status_message: Case::of(1);
        status_code_and_message: Case::of(2);
        timeout_on_sleeping_server: Case::of(0);
        unimplemented_method: Case::of(1);
        unimplemented_service: Case::of(1);
    }
}

/// The pod that serves a case, and its port.
const fn server(case: &Case, way: Way) -> (&'static str, u16) {
    match (&case.server, way) {
        (Server::Own, Way::Service) => ("calls", GRPC),
        (Server::Own, Way::Routed) => ("routed-calls", GRPC),
        (Server::Own, Way::Bare) => ("bare-calls", GRPC),
        (Server::Own, Way::Gateway) => ("gated-calls", GRPC),
        (Server::Own, Way::PlainGateway) => ("plain-calls", GRPC),
        (Server::Named, Way::Bare) => ("bare-named", NAMED_GRPC),
        (Server::Named, _) => ("named", NAMED_GRPC),
    }
}

/// The Services of all cases, and the routes of those that have one: a rule with filters for the calls of the service that is
/// tested, and one for whatever else there is.
pub(crate) fn objects() -> String {
    let mut objects = Vec::new();
    for (name, case) in CASES {
        for way in [Way::Service, Way::Routed, Way::Gateway, Way::PlainGateway] {
            let (service, (pod, port)) = (way.service(name), server(case, way));
            objects.push(format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {service}}}, spec: {{selector: {{app: {pod}}}, \
                 ports: [{{name: grpc, port: 80, targetPort: {port}}}]}}}}"
            ));
        }
        let service = Way::Routed.service(name);
        objects.push(format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: {service}}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: {service}}}]\n  rules:\n    \
             - matches: [{{method: {{service: grpc.testing.TestService}}}}]\n      \
               filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-rule, value: 'yes'}}]}}}}, \
               {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-rule, value: 'yes'}}]}}}}]\n      \
               backendRefs: [{{name: {service}, port: 80}}]\n    \
             - backendRefs: [{{name: {service}, port: 80}}]"
        ));
    }
    objects.extend(CASES.iter().map(|(name, _)| {
        let service = Way::Gateway.service(name);
        let names = format!("hostnames: [{}], ", gateway::host(&service));
        at_the_gateway(&service, "calls", &names, "{}")
    }));
    objects.extend(CASES.iter().map(|(name, _)| {
        // By the metadata of a call, since without TLS the client has no name for the server but its address.
        let mut matches = format!("{{headers: [{{name: x-case, value: {name}}}]}}");
        if *name == "orca_oob" {
            // Calls that the balancer makes have none.
            matches += ", {method: {service: xds.service.orca.v3.OpenRcaService}}";
        }
        at_the_gateway(&Way::PlainGateway.service(name), "open-calls", "", &matches)
    }));
    objects.join("\n---\n")
}

/// The route of a case at one of the Gateway's listeners.
fn at_the_gateway(service: &str, listener: &str, names: &str, matches: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {{name: {service}}}, spec: {{\
         parentRefs: [{{name: gate, namespace: edge, sectionName: {listener}}}], {names}\
         rules: [{{matches: [{matches}], backendRefs: [{{name: {service}, port: 80}}]}}]}}}}"
    )
}

/// The client is content, and says so.
#[track_caller]
pub(crate) fn check_content(done: &Finished) {
    let is_done = done.stderr.lines().any(|line| line.contains("[interop]") && line.ends_with(" done"));
    assert!(done.success() && is_done, "{}: {}\n{}{}", done.command, done.status, done.stdout, done.stderr);
}

/// The client is content, and its calls went the way that they were to go.
#[track_caller]
fn check(name: &str, way: Way) {
    let (_, case) = CASES.iter().find(|(known, _)| *known == name).unwrap();
    let (stage, service, (pod, port)) = (stage(), way.service(name), server(case, way));
    let reach = match way {
        Way::Service | Way::Routed => stage.service(&service, 80),
        Way::Bare => stage.bare(pod, port),
        Way::Gateway => stage.gateway(gateway::CALLS),
        Way::PlainGateway => stage.gateway(gateway::OPEN_CALLS),
    };
    let (client, host, port) = (
        program("GRPC_INTEROP", Some("client")),
        format!("-server_host={}", reach.host),
        reach.port.to_string(),
    );
    // It is silent when all is well, unless it is asked to say what it has done.
    let talkative = ["env", "GRPC_GO_LOG_SEVERITY_LEVEL=info", &client];
    let metadata = format!("-additional_metadata=x-case:{name}");
    let asked = [&host, "-server_port", &port, "-test_case", name, &metadata];
    let (trusted, named) = (gateway::trusted(&stage), gateway::host(&service));
    let secure = ["-use_tls", "-use_test_ca", "-ca_file", &trusted, "-server_host_override", &named];
    let secure = if reach.tls { &secure[..] } else { &[] };
    let done = stage.run(&reach, &[&talkative, &asked[..], secure, case.arguments].concat());
    check_content(&done);
    let workload = format!("dst.workload={pod} ");
    let route = format!("route=GRPCRoute/shop/{service}/");
    let common = ["protocol=grpc ", "status=200 ", "mtls=yes ", &workload];
    match way {
        Way::Bare => {}
        _ if case.calls == 0 => {}
        Way::Service => stage.check_travelled(&service, case.calls, &common),
        Way::Routed => stage.check_travelled(&service, case.calls, &[&common[..], &[&*route]].concat()),
        Way::Gateway | Way::PlainGateway => {
            gateway::check_answered(&stage, case.calls, &[&common[..], &[&*route]].concat())
        }
    }
}
