//! Where sessions go, and for how long that is right.

use gammarus_ca::TrustDomain;

use super::*;
use crate::attach::Attachments;
use crate::attach::fixture::{objects, replace};
use crate::attach::gateway::Gateways;
use crate::cluster::objects::{ObjectKey, Objects};
use crate::compile::gateway::GatewayCompiler;
use crate::compile::{Compiler, Step};

const GATEWAY: &str = "
{kind: GatewayClass, metadata: {name: gammarus}, spec: {controllerName: gammarus.io/gateway-controller}}
---
{kind: Gateway, metadata: {name: web}, spec: {gatewayClassName: gammarus, listeners: [
  {name: udp, port: 53, protocol: UDP}, {name: tcp, port: 53, protocol: TCP}]}}
---
{kind: Service, metadata: {name: one}, spec: {clusterIP: 10.96.0.1, ports: [
  {name: udp, port: 53, protocol: UDP}, {name: tcp, port: 53}]}}
---
{kind: Service, metadata: {name: two}, spec: {clusterIP: 10.96.0.2, ports: [{port: 53, protocol: UDP}]}}
";

fn slice(name: &str, addresses: &[&str]) -> String {
    let endpoints: Vec<String> =
        addresses.iter().map(|address| format!("{{addresses: [{address}]}}")).collect();
    format!(
        "---\n{{kind: EndpointSlice, addressType: IPv4, metadata: {{name: {name}, labels: {{kubernetes.io/service-name: one}}}},
           ports: [{{name: udp, port: 5300, protocol: UDP}}, {{name: tcp, port: 5400, protocol: TCP}}],
           endpoints: [{}]}}\n",
        endpoints.join(", ")
    )
}

fn route(backends: &str) -> String {
    format!(
        "---\n{{kind: UDPRoute, metadata: {{name: r}}, spec: {{parentRefs: [{{name: web}}], rules: [{{backendRefs: [{backends}]}}]}}}}\n"
    )
}

/// A Gateway's proxy as it follows its objects from one state to the next.
struct Followed {
    objects: Objects,
    compiler: Compiler,
    course: Course,
}

impl Followed {
    fn new() -> Self {
        let compiler = Compiler::new("a", TrustDomain::new("cluster.local").unwrap()).with_datagrams();
        Self { objects: Objects::default(), compiler, course: Course::default() }
    }

    /// Whether anything has become another, once there are these beside the Gateway.
    fn become_these(&mut self, parts: &[&str]) -> bool {
        let changed = replace(&mut self.objects, objects(&[&[GATEWAY], parts].concat().concat()));
        let (attachments, groups) = (Attachments::default(), Default::default());
        let step =
            Step { objects: &self.objects, changed: &changed, attachments: &attachments, groups: &groups };
        let mut snapshot = self.compiler.update(&step);
        let everything = objects(&[&[GATEWAY], parts].concat().concat());
        let gateways = Gateways::new(&everything);
        let own = &gateways.gateways[&ObjectKey::new("shop", "web")];
        snapshot.gateway_ports = Arc::new(GatewayCompiler::default().update(&gateways, own));
        self.course.follow(&snapshot, 53)
    }

    /// The endpoint of Service `one` at this address, as a target.
    fn target(&self, address: &str) -> Target {
        let port = self.course.ports.iter().flatten().next().unwrap();
        let mut endpoints = port.endpoints.endpoints.iter();
        let found = endpoints.find(|endpoint| endpoint.address.to_string() == address).unwrap();
        Target::Endpoint(port.key.clone(), found.load.id)
    }
}

const ONE: &str = "{name: one, port: 53}";
const BOTH: &str = "{name: one, port: 53, weight: 0}, {name: two, port: 53}";

#[test]
fn a_session_stays_right_as_long_as_its_endpoint_is_there_and_in_the_route() {
    let mut followed = Followed::new();
    assert!(followed.become_these(&[&slice("s", &["10.1.0.1", "10.1.0.2"]), &route(ONE)]));
    // The ports of UDP, and not those of TCP by the same number.
    let targets = ["10.1.0.1:5300", "10.1.0.2:5300"].map(|address| followed.target(address));
    let still = |followed: &Followed| targets.each_ref().map(|target| followed.course.still_has(target));
    assert_eq!(still(&followed), [true, true]);
    followed.become_these(&[&slice("s", &["10.1.0.1", "10.1.0.2"]), &route(BOTH)]);
    assert_eq!(still(&followed), [true, true], "its weight is for those who come");
    followed.become_these(&[&slice("s", &["10.1.0.2", "10.1.0.3"]), &route(BOTH)]);
    assert_eq!(still(&followed), [false, true], "one has gone");
    followed.become_these(&[&slice("s", &["10.1.0.2"]), &route("{name: two, port: 53}")]);
    assert_eq!(still(&followed), [false, false], "the route leads elsewhere");
    followed.become_these(&[&slice("s", &["10.1.0.1", "10.1.0.2"])]);
    assert_eq!(still(&followed), [false, false], "there is no route");
    assert!(followed.course.listener().is_some_and(|listener| listener.find_rule(None).is_none()));
}

#[test]
fn what_leads_nowhere_does_so_until_it_leads_somewhere() {
    let mut followed = Followed::new();
    let failing = Target::Failing(FailureReason::InvalidBackend);
    let one = ServicePortKey {
        service: ObjectKey::new("shop", "one"),
        port: 53,
        transport: crate::snapshot::transport::Transport::Udp,
    };
    let empty = Target::NoEndpoint(one);
    followed.become_these(&[&route("{name: one, port: 53}, {name: gone, port: 53}")]);
    assert!(followed.course.still_has(&failing) && followed.course.still_has(&empty));
    followed
        .become_these(&[&slice("s", &["10.1.0.1"]), &route("{name: one, port: 53}, {name: gone, port: 53}")]);
    assert!(followed.course.still_has(&failing) && !followed.course.still_has(&empty));
    followed.become_these(&[&route("{name: one, port: 53}, {name: gone, port: 53, weight: 0}")]);
    assert!(!followed.course.still_has(&failing) && followed.course.still_has(&empty));
    followed.become_these(&[&route("{name: two, port: 53}")]);
    assert!(!followed.course.still_has(&failing) && !followed.course.still_has(&empty));
}
