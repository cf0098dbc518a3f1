//! BackendTLSPolicies: which one holds where, and what is said of those that do not.

use super::*;
use crate::attach::gateway::policy::{BackendAuthorities, BackendName};
use crate::snapshot::service::ServicePortKey;

const SERVICE: &str = "{kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.9, \
    ports: [{name: one, port: 443}, {name: two, port: 8443}]}}";

fn authorities(name: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let text = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem();
    serde_json::json!({"kind": "ConfigMap", "metadata": {"name": name}, "data": {"ca.crt": text}}).to_string()
}

/// A policy of this hostname, `created` in seconds of a minute.
fn policy(name: &str, created: u32, targets: &str, validation: &str) -> String {
    format!(
        "{{kind: BackendTLSPolicy, metadata: {{name: {name}, creationTimestamp: '2026-01-01T00:00:{created:02}Z'}}, \
         spec: {{targetRefs: [{targets}], validation: {{hostname: {name}.example.com, {validation}}}}}}}"
    )
}

const WEB: &str = "{group: '', kind: Service, name: web}";
const ONE: &str = "{group: '', kind: Service, name: web, sectionName: one}";
const GIVEN: &str = "caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]";

/// Which hostname the Gateway `web` asks for at each port of the Service, `refused` where nobody is spoken to.
fn hostnames(gateways: &Gateways) -> Vec<String> {
    let ports: BTreeMap<_, _> = gateways.policies.ports_at(&ObjectKey::new("shop", "web")).collect();
    let port = |port| ServicePortKey::tcp(ObjectKey::new("shop", "web"), port);
    let found = [443, 8443].map(|number| ports.get(&port(number)));
    let say = |policy: Option<&policy::PortPolicy>| match policy {
        Some(Some(validation)) => validation.hostname.to_string(),
        Some(None) => "refused".to_owned(),
        None => "none".to_owned(),
    };
    found.map(say).to_vec()
}

/// A route of the Gateway `web` to these backends.
fn send(name: &str, parents: &str, backends: &str) -> String {
    route("HTTPRoute", name, &format!("parentRefs: [{parents}], rules: [{{backendRefs: [{backends}]}}]"))
}

/// The judgement of these beside a Gateway `web` that sends to the Service, and to one that is not there.
#[track_caller]
fn judge_sent(documents: &[&str]) -> Gateways {
    let gateway = gateway("{name: http, port: 80, protocol: HTTP}");
    let route = send("r", "{name: web}", "{name: web, port: 443}, {name: gone, port: 443}");
    judge(&[&[SERVICE, &*gateway, &*route], documents].concat())
}

/// What is said of a policy at the Gateway `web`.
fn said_of(gateways: &Gateways, name: &str) -> String {
    let judged = &gateways.policies.judged[&ObjectKey::new("shop", name)];
    let said = &judged.ancestors[&ObjectKey::new("shop", "web")];
    assert!(said.iter().all(|condition| condition.observed_generation == judged.generation));
    said.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The Gateways at which something is said of a policy.
fn ancestors_of(gateways: &Gateways, name: &str) -> Vec<String> {
    let judged = &gateways.policies.judged[&ObjectKey::new("shop", name)];
    judged.ancestors.keys().map(ToString::to_string).collect()
}

#[test]
fn one_port_comes_over_the_whole_service_and_the_older_over_the_younger() {
    let gateways = judge_sent(&[
        &authorities("ca"),
        &policy("young", 9, WEB, GIVEN),
        &policy("old", 1, WEB, GIVEN),
        &policy("port", 8, ONE, GIVEN),
        &policy("port-too", 9, ONE, GIVEN),
    ]);
    assert_eq!(hostnames(&gateways), ["port.example.com", "old.example.com"]);
    let fine = "Accepted=True Accepted; ResolvedRefs=True ResolvedRefs";
    assert_eq!((&*said_of(&gateways, "old"), &*said_of(&gateways, "port")), (fine, fine));
    for (name, first) in [("young", "old"), ("port-too", "port")] {
        let expected = format!(
            "Accepted=False Conflicted: targetRefs[0]: BackendTLSPolicy shop/{first} is for the same and came first; \
             ResolvedRefs=True ResolvedRefs"
        );
        assert_eq!(said_of(&gateways, name), expected);
    }
    assert_eq!(hostnames(&judge(&[SERVICE])), ["none", "none"]);
}

#[test]
fn a_policy_that_cannot_be_obeyed_refuses_and_says_why() {
    let refused = |reason: &str| {
        format!(
            "Accepted=False NoValidCACertificate: validation.caCertificateRefs[0]|ResolvedRefs=False {reason}"
        )
    };
    let unknown = "Accepted=False Invalid: validation.wellKnownCACertificates: example.com/own is not known|\
                   ResolvedRefs=True ResolvedRefs";
    for (validation, expected) in [
        ("caCertificateRefs: [{group: '', kind: ConfigMap, name: gone}]", refused("InvalidCACertificateRef")),
        (
            "caCertificateRefs: [{group: '', kind: ConfigMap, name: empty}]",
            refused("InvalidCACertificateRef"),
        ),
        (
            "caCertificateRefs: [{group: '', kind: ConfigMap, name: blank}]",
            refused("InvalidCACertificateRef"),
        ),
        ("caCertificateRefs: [{group: '', kind: Secret, name: ca}]", refused("InvalidKind")),
        ("caCertificateRefs: [{group: example.com, kind: ConfigMap, name: ca}]", refused("InvalidKind")),
        ("wellKnownCACertificates: example.com/own", unknown.to_owned()),
    ] {
        let empty = "{kind: ConfigMap, metadata: {name: empty}, data: {}}";
        let blank = "{kind: ConfigMap, metadata: {name: blank}, data: {ca.crt: ''}}";
        let broken = policy("broken", 1, WEB, validation);
        let gateways = judge_sent(&[&authorities("ca"), empty, blank, &broken]);
        assert_eq!(hostnames(&gateways), ["refused", "refused"], "{validation}");
        let said = said_of(&gateways, "broken");
        let (accepted, resolved) = expected.split_once('|').unwrap();
        assert!(said.starts_with(accepted) && said.contains(resolved), "{validation}: {said}");
    }
}

#[test]
fn a_policy_for_nothing_says_so_to_who_asks_for_the_same() {
    let missing = |name: &str, section: &str| {
        format!("{{group: '', kind: Service, name: {name}, sectionName: {section}}}")
    };
    for (target, message) in [
        (missing("gone", "one"), "Service shop/gone does not exist, or has no port"),
        (missing("web", "three"), "Service shop/web has no port three"),
    ] {
        let gateways = judge_sent(&[&authorities("ca"), &policy("lost", 1, &target, GIVEN)]);
        assert_eq!(hostnames(&gateways), ["none", "none"], "{target}");
        let said = said_of(&gateways, "lost");
        let expected = format!("Accepted=False TargetNotFound: targetRefs[0]: {message}; ");
        assert!(said.starts_with(&expected), "{said}");
    }
    // What nobody sends to, and what is no Service, is nobody's.
    for target in [missing("other", "one"), "{group: example.com, kind: Other, name: web}".to_owned()] {
        let gateways = judge_sent(&[&authorities("ca"), &policy("lost", 1, &target, GIVEN)]);
        assert_eq!(
            (hostnames(&gateways), ancestors_of(&gateways, "lost")),
            (vec!["none".to_owned(); 2], vec![])
        );
    }
}

#[test]
fn one_target_and_one_authority_are_enough_and_what_is_wrong_with_the_others_is_said() {
    let half = "caCertificateRefs: [{group: '', kind: ConfigMap, name: gone}, {group: '', kind: ConfigMap, name: ca}]";
    let targets =
        format!("{{group: '', kind: Service, name: gone}}, {{group: a, kind: Other, name: web}}, {ONE}");
    let own = policy("half", 1, &targets, half).replace("spec: {", "spec: {options: {example.com/x: own}, ");
    let gateways = judge_sent(&[&authorities("ca"), &own]);
    assert_eq!(hostnames(&gateways), ["half.example.com", "none"]);
    let expected = "Accepted=True Accepted: targetRefs[0]: Service shop/gone does not exist, or has no port; \
        spec.options: example.com/x is not applied; targetRefs[1]: Other of group \"a\" is no Service; \
        ResolvedRefs=False InvalidCACertificateRef: validation.caCertificateRefs[0]: ConfigMap shop/gone: does not exist";
    assert_eq!(said_of(&gateways, "half"), expected);
}

/// A Gateway by another name, with the same listeners as `web` has in the other tests, and one of TLS that passes through.
fn other_gateway(name: &str) -> String {
    let listeners = "{name: http, port: 80, protocol: HTTP}, {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}, \
        {name: bytes, port: 9000, protocol: TCP}";
    gateway(listeners).replace("name: web", &format!("name: {name}"))
}

#[test]
fn its_ancestors_are_the_gateways_that_send_there_and_may() {
    let own = [authorities("ca"), policy("p", 1, WEB, GIVEN), other_gateway("other")];
    let own = own.each_ref().map(String::as_str);
    let found = |documents: &[&str]| ancestors_of(&judge_sent(&[&own, documents].concat()), "p");
    assert_eq!(found(&[]), ["shop/web"], "nobody sends there by the other one");
    let to_web = "{name: web, port: 443}";
    let second = send("s", "{name: other}, {name: third}", to_web);
    assert_eq!(found(&[&second]), ["shop/other", "shop/web"], "and the third is not ours");
    assert_eq!(
        found(&[&send("s", "{name: other, sectionName: none}", to_web)]),
        ["shop/web"],
        "not accepted"
    );
    let mirror = "parentRefs: [{name: other}], rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 8443}}}], \
        backendRefs: [{name: v1, port: 80}]}]";
    assert_eq!(found(&[&route("HTTPRoute", "s", mirror)]), ["shop/other", "shop/web"]);
    for (kind, section, is_one) in
        [("TLSRoute", "tls", false), ("TCPRoute", "bytes", true), ("GRPCRoute", "http", true)]
    {
        let names = if kind == "TLSRoute" { "hostnames: [a.example.com], " } else { "" };
        let spec = format!(
            "parentRefs: [{{name: other, sectionName: {section}}}], {names}rules: [{{backendRefs: [{to_web}]}}]"
        );
        assert_eq!(found(&[&route(kind, "s", &spec)]).len(), if is_one { 2 } else { 1 }, "{kind}");
    }

    // From another namespace it takes a grant: nobody gets into a policy's status uninvited.
    let theirs = send("s", "{name: theirs}", "{name: web, namespace: shop, port: 443}");
    let [theirs, gateway] = [theirs, other_gateway("theirs")]
        .map(|text| text.replace("metadata: {", "metadata: {namespace: blog, "));
    assert_eq!(found(&[&theirs, &gateway]), ["shop/web"]);
    let grant = "{kind: ReferenceGrant, metadata: {name: g}, spec: {to: [{group: '', kind: Service}], \
        from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: blog}]}}";
    assert_eq!(found(&[&theirs, &gateway, grant]), ["blog/theirs", "shop/web"]);
}

#[test]
fn each_ancestor_is_told_of_the_targets_that_it_sends_to() {
    let both = format!("{WEB}, {{group: '', kind: Service, name: v1}}");
    let gateways = judge_sent(&[
        &authorities("ca"),
        &policy("first", 1, WEB, GIVEN),
        &policy("second", 2, &both, GIVEN),
        &other_gateway("other"),
        &send("s", "{name: other}", "{name: v1, port: 80}"),
    ]);
    assert!(said_of(&gateways, "second").starts_with("Accepted=False Conflicted: targetRefs[0]"));
    let judged = &gateways.policies.judged[&ObjectKey::new("shop", "second")];
    let said = &judged.ancestors[&ObjectKey::new("shop", "other")];
    assert_eq!(said[0].to_string(), "Accepted=True Accepted");
}

#[test]
fn where_its_status_has_no_room_for_a_gateway_that_gateway_refuses_and_says_so() {
    let entry = |controller: &str, name: &str| {
        format!(
            "{{controllerName: {controller}, ancestorRef: {{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop, name: {name}}}, \
             conditions: [{{type: Accepted, status: 'True', reason: Accepted, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}}]}}"
        )
    };
    let found = |entries: &[String]| {
        let status = format!("status: {{ancestors: [{}]}}, spec: {{targetRefs", entries.join(", "));
        let full = policy("p", 1, ONE, GIVEN).replace("spec: {targetRefs", &status);
        let gateways = judge_sent(&[&authorities("ca"), &full, &policy("whole", 2, WEB, GIVEN)]);
        let message = gateways.gateways[&ObjectKey::new("shop", "web")].accepted();
        assert_eq!(message.status, ConditionStatus::True);
        assert_eq!(said_of(&gateways, "p"), "Accepted=True Accepted; ResolvedRefs=True ResolvedRefs");
        let judged = &gateways.policies.judged[&ObjectKey::new("shop", "p")];
        let outcomes: Vec<String> = judged.outcomes().map(|(_, said)| said[0].to_string()).collect();
        (hostnames(&gateways), message.message, outcomes)
    };
    let others: Vec<String> =
        (0..16).map(|number| entry("example.com/other", &format!("g{number}"))).collect();
    let holds = |hostname: &str| {
        let hostnames = vec![hostname.to_owned(), "whole.example.com".to_owned()];
        (hostnames, String::new(), vec!["Accepted=True Accepted".to_owned()])
    };
    assert_eq!(found(&others[1..]), holds("p.example.com"), "there is room");
    let own = entry(GATEWAY_CONTROLLER_NAME, "web");
    assert_eq!(found(&[&others[1..], &[own]].concat()), holds("p.example.com"), "it is named");
    for last in [entry("example.com/other", "web"), entry(GATEWAY_CONTROLLER_NAME, "other")] {
        let (hostnames, message, outcomes) = found(&[&others[1..], &[last]].concat());
        assert_eq!(hostnames, ["refused", "whole.example.com"], "another policy's ports are left alone");
        assert!(message.starts_with("BackendTLSPolicy shop/p: status.ancestors has no room"), "{message}");
        assert_eq!(outcomes, ["Accepted=False Invalid: status.ancestors has no room for this Gateway"]);
    }
}

#[test]
fn names_and_authorities_are_read_as_they_are_written() {
    let names =
        "subjectAltNames: [{type: Hostname, hostname: A.Example.com}, {type: URI, uri: 'spiffe://a/B'}]";
    let system = format!("wellKnownCACertificates: System, {names}");
    let gateways = judge(&[SERVICE, &policy("names", 1, WEB, &system)]);
    let key = ServicePortKey::tcp(ObjectKey::new("shop", "web"), 443);
    let validation = gateways.policies.ports[&key].1.as_ref().unwrap();
    assert!(matches!(validation.authorities, BackendAuthorities::System));
    let expected = [BackendName::Dns("a.example.com".into()), BackendName::Uri("spiffe://a/B".into())];
    assert_eq!(validation.names, expected);
}

#[test]
fn a_route_leads_to_a_port_of_tls_where_a_policy_has_the_gateway_speak_it() {
    let service = "{kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.9, ports: [{name: https, port: 443}]}}";
    let gateway = gateway("{name: http, port: 80, protocol: HTTP}");
    let route = route(
        "HTTPRoute",
        "r",
        "parentRefs: [{name: web}], rules: [{backendRefs: [{name: web, port: 443}]}]",
    );
    let resolved = |documents: &[&str]| {
        let gateways = judge(&[&[service, &gateway, &route], documents].concat());
        let key = RouteRef { kind: RouteKind::Http, key: ObjectKey::new("shop", "r") };
        gateways.routes[&key].parents[0].conditions[1].reason
    };
    assert_eq!(resolved(&[]), ConditionReason::UnsupportedProtocol);
    let other = policy("p", 1, "{group: '', kind: Service, name: other}", GIVEN);
    assert_eq!(resolved(&[&other]), ConditionReason::UnsupportedProtocol);
    let own = |target: &str| resolved(&[&policy("p", 1, target, GIVEN), &authorities("ca")]);
    assert_eq!(own(WEB), ConditionReason::ResolvedRefs);
    assert_eq!(own(&ONE.replace("one", "https")), ConditionReason::ResolvedRefs);
    assert_eq!(own(ONE), ConditionReason::UnsupportedProtocol, "it is for another port");
}
