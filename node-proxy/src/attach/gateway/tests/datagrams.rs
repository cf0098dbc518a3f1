//! Listeners of UDP and UDPRoutes.

use super::*;

/// A Service with DNS by both transports, and one of another namespace.
const DNS: &str = "
{kind: Service, metadata: {name: dns}, spec: {clusterIP: 10.96.0.3, ports: [
  {name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}, {name: bytes, port: 54}]}}
---
{kind: Service, metadata: {name: dns, namespace: blog}, spec: {clusterIP: 10.96.0.4, ports: [{port: 53, protocol: UDP}]}}
";

fn udp_route(name: &str, day: u8, spec: &str) -> String {
    format!(
        "{{kind: UDPRoute, metadata: {{name: {name}, generation: 3, creationTimestamp: '2026-01-0{day}T00:00:00Z'}}, spec: {{{spec}}}}}"
    )
}

fn to(backend: &str) -> String {
    format!("rules: [{{backendRefs: [{{{backend}}}]}}]")
}

/// `Accepted` and `ResolvedRefs` of a UDPRoute by its first parent.
#[track_caller]
fn conditions(gateways: &Gateways, name: &str) -> [String; 2] {
    let route = RouteRef { kind: RouteKind::Udp, key: ObjectKey::new("shop", name) };
    let conditions = &gateways.routes[&route].parents[0].conditions;
    assert!(conditions.iter().all(|condition| condition.observed_generation == Some(3)), "{conditions:?}");
    [conditions[0].to_string(), conditions[1].to_string()]
}

//= gateway-api GatewaySpec.listeners
//# * **TCP, UDP**: Port
#[test]
fn a_number_may_be_there_once_for_udp_beside_what_there_is_for_tcp() {
    let gateways = judge(&[&gateway(
        "{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP},
         {name: quic, port: 443, protocol: UDP}, {name: web, port: 443, protocol: HTTP},
         {name: one, port: 54, protocol: UDP}, {name: two, port: 54, protocol: UDP}",
    )]);
    let conflict = "False=HostnameConflict True=HostnameConflict True=ResolvedRefs";
    let fine = |name: &str| format!("{name}: {FINE}");
    assert_eq!(
        said(&gateways),
        [
            fine("dns"),
            fine("dns-tcp"),
            fine("quic"),
            fine("web"),
            format!("one: {conflict}"),
            format!("two: {conflict}")
        ]
    );
    let listeners = &gateways.gateways[&ObjectKey::new("shop", "web")].listeners;
    assert_eq!(listeners[0].kinds, [RouteKind::Udp]);
    let open: Vec<String> = listeners.iter().filter_map(|one| Some(one.open_port()?.to_string())).collect();
    assert_eq!(open[..4], ["udp-53", "tcp-53", "udp-443", "tcp-443"]);
}

#[test]
fn a_listener_of_udp_takes_udp_routes_and_no_others() {
    let gateways = judge(&[&gateway(
        "{name: own, port: 53, protocol: UDP, allowedRoutes: {kinds: [{kind: UDPRoute}]}},
         {name: bytes, port: 54, protocol: UDP, allowedRoutes: {kinds: [{kind: TCPRoute}]}},
         {name: tcp, port: 54, protocol: TCP, allowedRoutes: {kinds: [{kind: UDPRoute}]}}",
    )]);
    let wrong = "True=Accepted False=InvalidRouteKinds";
    assert_eq!(said(&gateways), [format!("own: {FINE}"), format!("bytes: {wrong}"), format!("tcp: {wrong}")]);
}

#[test]
fn a_udp_route_holds_where_it_is_taken_as_any_other_kind_does() {
    let listeners = gateway(
        "{name: one, port: 5300, protocol: UDP}, {name: two, port: 5301, protocol: UDP},
         {name: tcp, port: 5300, protocol: TCP}, {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}},
         {name: theirs, port: 5302, protocol: UDP,
          allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: blog}}}}}",
    );
    let check = |parent: &str, expected: Result<&[&str], &str>| {
        let spec = format!("parentRefs: [{{name: web{parent}}}], {}", to("name: dns, port: 53"));
        let gateways = judge(&[DNS, &listeners, &udp_route("r", 1, &spec)]);
        let expected =
            expected.map(|held| held.iter().map(|name| format!("{name}: any")).collect::<Vec<_>>());
        assert_eq!(held(&gateways, RouteKind::Udp), expected.map_err(str::to_owned), "{parent}");
    };
    check("", Ok(&["one", "two"]));
    check(", port: 5301", Ok(&["two"]));
    check(", sectionName: one", Ok(&["one"]));
    check(", sectionName: one, port: 5300", Ok(&["one"]));
    check(", sectionName: one, port: 5301", Err("NoMatchingParent"));
    check(", sectionName: gone", Err("NoMatchingParent"));
    check(", sectionName: tcp", Err("NotAllowedByListeners"));
    check(", sectionName: tls", Err("NotAllowedByListeners"));
    check(", sectionName: theirs", Err("NotAllowedByListeners"));
}

#[test]
fn a_backend_is_a_port_of_udp() {
    let listener = gateway("{name: udp, port: 53, protocol: UDP}");
    let grant = "{kind: ReferenceGrant, metadata: {name: grant, namespace: blog}, spec: {
      from: [{group: gateway.networking.k8s.io, kind: UDPRoute, namespace: shop}], to: [{group: '', kind: Service}]}}";
    let other = grant.replace("UDPRoute", "TCPRoute");
    let check = |backend: &str, more: &str, expected: &str| {
        let spec = format!("parentRefs: [{{name: web}}], {}", to(backend));
        let gateways = judge(&[DNS, &listener, &udp_route("r", 1, &spec), more]);
        let [accepted, resolved] = conditions(&gateways, "r");
        assert_eq!(accepted, "Accepted=True Accepted", "{backend}");
        assert_eq!(
            resolved.replace(": spec.rules[0].backendRefs[0]", ""),
            format!("ResolvedRefs={expected}")
        );
    };
    check("name: dns, port: 53", "", "True ResolvedRefs");
    check("name: dns, port: 54", "", "False BackendNotFound: Service shop/dns has no UDP port 54");
    check("name: gone, port: 53", "", "False BackendNotFound: Service shop/gone does not exist");
    let kind = "kind: Bucket, group: example.com, name: dns";
    check(kind, "", "False InvalidKind: backends of kind Bucket in group \"example.com\" are not known");
    let theirs = "name: dns, namespace: blog, port: 53";
    let refused = "False RefNotPermitted: no ReferenceGrant of namespace blog allows Service blog/dns";
    check(theirs, "", refused);
    check(theirs, &other, refused);
    check(theirs, grant, "True ResolvedRefs");
}

#[test]
fn of_several_udp_routes_on_a_listener_the_oldest_has_it_and_all_count() {
    let listener = gateway("{name: udp, port: 53, protocol: UDP}");
    let spec = format!("parentRefs: [{{name: web, sectionName: udp}}], {}", to("name: dns, port: 53"));
    let routes = [udp_route("a", 2, &spec), udp_route("b", 1, &spec)];
    let gateways = judge(&[DNS, &listener, &routes[0], &routes[1]]);
    assert_eq!(
        conditions(&gateways, "a")[0],
        "Accepted=True Accepted: UDPRoute shop/b comes first and has every datagram to listener udp"
    );
    assert_eq!(conditions(&gateways, "b")[0], "Accepted=True Accepted");
    assert_eq!(gateways.attached_routes().into_values().collect::<Vec<_>>(), [2]);
}

#[test]
fn a_udp_route_does_nothing_on_a_service_and_says_so() {
    let spec =
        format!("parentRefs: [{{group: '', kind: Service, name: dns}}], {}", to("name: dns, port: 53"));
    let text = [CLASSES, DNS, &udp_route("r", 1, &spec)].join("\n---\n");
    let objects = fixture::objects(&text);
    assert!(Gateways::new(&objects).routes.is_empty());
    let mesh = crate::attach::Attachments::new(&objects);
    let judged = mesh.find_route(RouteKind::Udp, &ObjectKey::new("shop", "r")).unwrap();
    assert_eq!(
        judged.parents[0].conditions[0].to_string(),
        "Accepted=False UnsupportedValue: a UDPRoute holds on Gateways and ListenerSets only: the mesh leaves UDP alone"
    );
    assert!(judged.parents[0].ports.is_empty());
}

#[test]
fn a_change_of_a_udp_route_is_of_concern_and_it_is_fed_to_its_gateway() {
    let spec = format!("parentRefs: [{{name: web}}], {}", to("name: dns, port: 53"));
    let listener = gateway("{name: udp, port: 53, protocol: UDP}");
    let text = [CLASSES, DNS, &listener, &udp_route("r", 1, &spec)].join("\n---\n");
    let mut objects = Objects::default();
    let without = fixture::objects(&[CLASSES, DNS, &listener].join("\n---\n"));
    fixture::replace(&mut objects, without);
    let changed = fixture::replace(&mut objects, fixture::objects(&text));
    assert!(Gateways::are_concerned(&BTreeSet::new(), &changed));
    let extent = Gateways::new(&fixture::objects(&text))
        .extent(&fixture::objects(&text), &ObjectKey::new("shop", "web"));
    for (kind, name) in [(Kind::UdpRoute, "r"), (Kind::Service, "dns")] {
        assert!(
            extent.ids.contains(&ObjectId { kind, key: ObjectKey::new("shop", name) }),
            "{kind:?} {name}"
        );
    }
}
