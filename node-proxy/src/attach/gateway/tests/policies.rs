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

/// Which hostname is asked for at each port of the Service, `refused` where nobody is spoken to.
fn hostnames(gateways: &Gateways) -> Vec<String> {
    let port = |port| ServicePortKey::tcp(ObjectKey::new("shop", "web"), port);
    let found = [443, 8443].map(|number| gateways.policies.ports.get(&port(number)));
    let say = |policy: Option<&policy::PortPolicy>| match policy {
        Some(Some(validation)) => validation.hostname.to_string(),
        Some(None) => "refused".to_owned(),
        None => "none".to_owned(),
    };
    found.map(say).to_vec()
}

fn said_of(gateways: &Gateways, name: &str) -> String {
    let judged = &gateways.policies.judged[&ObjectKey::new("shop", name)];
    judged.conditions().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn one_port_comes_over_the_whole_service_and_the_older_over_the_younger() {
    let gateways = judge(&[
        SERVICE,
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
    for (validation, reason) in [
        ("caCertificateRefs: [{group: '', kind: ConfigMap, name: gone}]", "InvalidCACertificateRef"),
        ("caCertificateRefs: [{group: '', kind: Secret, name: ca}]", "InvalidCACertificateKind"),
    ] {
        let gateways = judge(&[SERVICE, &authorities("ca"), &policy("broken", 1, WEB, validation)]);
        assert_eq!(hostnames(&gateways), ["refused", "refused"], "{validation}");
        let said = said_of(&gateways, "broken");
        assert!(
            said.starts_with("Accepted=False NoValidCACertificate: validation.caCertificateRefs[0]"),
            "{said}"
        );
        assert!(said.contains(&format!("ResolvedRefs=False {reason}")), "{said}");
    }
    let elsewhere = [
        ("{group: '', kind: Service, name: gone}", "TargetNotFound"),
        ("{group: '', kind: Service, name: web, sectionName: three}", "TargetNotFound"),
        ("{group: example.com, kind: Other, name: web}", "InvalidKind"),
    ];
    for (target, reason) in elsewhere {
        let gateways = judge(&[SERVICE, &authorities("ca"), &policy("lost", 1, target, GIVEN)]);
        assert_eq!(hostnames(&gateways), ["none", "none"], "{target}");
        let said = said_of(&gateways, "lost");
        assert!(said.starts_with(&format!("Accepted=False {reason}: targetRefs[0]")), "{said}");
    }
    // One authority that can be read is enough, and so is one target.
    let half = "caCertificateRefs: [{group: '', kind: ConfigMap, name: gone}, {group: '', kind: ConfigMap, name: ca}]";
    let targets = format!("{{group: '', kind: Service, name: gone}}, {ONE}");
    let gateways = judge(&[SERVICE, &authorities("ca"), &policy("half", 1, &targets, half)]);
    assert_eq!(hostnames(&gateways), ["half.example.com", "none"]);
    assert!(said_of(&gateways, "half").starts_with("Accepted=True"));
}

#[test]
fn names_and_authorities_are_read_as_they_are_written() {
    let names =
        "subjectAltNames: [{type: Hostname, hostname: A.Example.com}, {type: URI, uri: 'spiffe://a/B'}]";
    let system = format!("wellKnownCACertificates: System, {names}");
    let gateways = judge(&[SERVICE, &policy("names", 1, WEB, &system)]);
    let key = ServicePortKey::tcp(ObjectKey::new("shop", "web"), 443);
    let validation = gateways.policies.ports[&key].as_ref().unwrap();
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
    assert_eq!(resolved(&[&policy("p", 1, WEB, GIVEN), &authorities("ca")]), ConditionReason::ResolvedRefs);
}
