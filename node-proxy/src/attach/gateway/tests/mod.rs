//! Which listeners there are, which routes they take, and what is said of both.

mod datagrams;
mod extent;
mod policies;
mod whole;

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::attach::fixture;
use crate::route::RouteKind;

const CLASSES: &str = "
{kind: GatewayClass, metadata: {name: gammarus}, spec: {controllerName: gammarus.io/gateway-controller}}
---
{kind: GatewayClass, metadata: {name: other}, spec: {controllerName: example.com/other}}
---
{kind: Namespace, metadata: {name: shop, labels: {team: shop}}}
---
{kind: Namespace, metadata: {name: blog, labels: {team: blog}}}
---
{kind: Service, metadata: {name: v1}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
---
{kind: Service, metadata: {name: posts, namespace: blog}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}
";

#[track_caller]
fn judge(documents: &[&str]) -> Gateways {
    let text = [&[CLASSES], documents].concat().join("\n---\n");
    Gateways::new(&fixture::objects(&text))
}

/// A Gateway `web` of namespace shop with these listeners.
fn gateway(listeners: &str) -> String {
    format!(
        "{{kind: Gateway, metadata: {{name: web}}, spec: {{gatewayClassName: gammarus, listeners: [{listeners}]}}}}"
    )
}

fn route(kind: &str, name: &str, spec: &str) -> String {
    format!("{{kind: {kind}, metadata: {{name: {name}}}, spec: {{{spec}}}}}")
}

/// What is said of the listeners of the Gateway `web`, without messages.
fn said(gateways: &Gateways) -> Vec<String> {
    let gateway = &gateways.gateways[&ObjectKey::new("shop", "web")];
    let say = |(id, listener): (ListenerId, &Listener)| {
        let conditions = listener.conditions(None);
        let words = conditions.iter().filter(|condition| match condition.kind {
            ConditionType::Conflicted => condition.status == ConditionStatus::True,
            _ => true,
        });
        let words: Vec<String> =
            words.map(|condition| format!("{}={}", condition.status, condition.reason)).collect();
        format!("{}: {}", id.name, words.join(" "))
    };
    gateway.all_listeners().map(say).collect()
}

const FINE: &str = "True=Accepted True=ResolvedRefs";

/// Where the route `r` holds by its first parent, or why not.
#[track_caller]
fn held(gateways: &Gateways, kind: RouteKind) -> Result<Vec<String>, String> {
    let route = &gateways.routes[&RouteRef { kind, key: ObjectKey::new("shop", "r") }];
    let parent = &route.parents[0];
    let accepted = &parent.conditions[0];
    if accepted.status == ConditionStatus::False {
        assert_eq!(parent.listeners.len(), 0);
        return Err(accepted.reason.to_string());
    }
    let names = |names: &[Option<HostnameMatch>]| {
        let names: Vec<String> = names
            .iter()
            .map(|name| match name {
                Some(HostnameMatch::Exact(name)) => name.to_string(),
                Some(HostnameMatch::Below(name)) => format!("*.{name}"),
                None => "any".to_owned(),
            })
            .collect();
        names.join(" ")
    };
    Ok(parent.listeners.iter().map(|(id, own)| format!("{}: {}", id.name, names(own))).collect())
}

/// A Secret with a certificate and its key.
fn secret(namespace: &str, name: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["shop.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    let data = serde_json::json!({ "tls.crt": certificate.pem(), "tls.key": key.serialize_pem() });
    let metadata = serde_json::json!({ "name": name, "namespace": namespace });
    serde_json::json!({ "kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls", "stringData": data })
        .to_string()
}

#[test]
fn gateways_of_other_controllers_and_what_is_attached_to_them_are_left_alone() {
    let other = gateway("{name: http, port: 80, protocol: HTTP}").replace("gammarus", "other");
    let gateways = judge(&[&other, &route("HTTPRoute", "r", "parentRefs: [{name: web}], rules: []")]);
    assert!(gateways.gateways.is_empty() && gateways.routes.is_empty());
}

#[test]
fn listeners_that_cannot_be_told_apart_conflict_and_leave_the_others_alone() {
    let gateways = judge(&[
        &gateway(
            "{name: a, port: 80, protocol: HTTP, hostname: a.example},
         {name: b, port: 80, protocol: HTTP, hostname: '*.example'},
         {name: bytes, port: 81, protocol: TCP}, {name: text, port: 81, protocol: HTTP},
         {name: secure, port: 82, protocol: TLS, hostname: a.example, tls: {mode: Passthrough}},
         {name: twin, port: 82, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: cert}]}},
         {name: datagrams, port: 82, protocol: UDP}, {name: other, port: 84, protocol: example.com/other}",
        ),
        &secret("shop", "cert"),
    ]);
    let conflict =
        |name: &str, reason: &str| format!("{name}: False={reason} True={reason} True=ResolvedRefs");
    assert_eq!(
        said(&gateways),
        [
            format!("a: {FINE}"),
            format!("b: {FINE}"),
            conflict("bytes", "ProtocolConflict"),
            conflict("text", "ProtocolConflict"),
            conflict("secure", "HostnameConflict"),
            conflict("twin", "HostnameConflict"),
            format!("datagrams: {FINE}"),
            "other: False=UnsupportedProtocol True=ResolvedRefs".to_owned(),
        ]
    );
    let accepted = gateways.gateways[&ObjectKey::new("shop", "web")].accepted();
    assert_eq!(
        (accepted.status, accepted.reason),
        (ConditionStatus::True, ConditionReason::ListenersNotValid)
    );
}

#[test]
fn listener_sets_yield_to_the_gateway_and_to_older_sets() {
    let gateway = "{kind: Gateway, metadata: {name: web}, spec: {gatewayClassName: gammarus,
      allowedListeners: {namespaces: {from: Selector, selector: {matchLabels: {team: shop}}}},
      listeners: [{name: own, port: 80, protocol: HTTP, hostname: a.example}]}}";
    let set = |namespace: &str, name: &str, created: &str, host: &str| {
        format!(
            "{{kind: ListenerSet, metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{created}'}},
              spec: {{parentRef: {{name: web, namespace: shop}},
              listeners: [{{name: {name}, port: 80, protocol: HTTP, hostname: {host}}}]}}}}"
        )
    };
    let gateways = judge(&[
        gateway,
        &set("shop", "younger", "2026-01-02T00:00:00Z", "b.example"),
        &set("shop", "older", "2026-01-01T00:00:00Z", "b.example"),
        &set("shop", "twin", "2026-01-01T00:00:00Z", "a.example"),
        &set("blog", "stranger", "2026-01-01T00:00:00Z", "c.example"),
    ]);
    let conflict = "False=HostnameConflict True=HostnameConflict True=ResolvedRefs";
    assert_eq!(
        said(&gateways),
        [
            format!("own: {FINE}"),
            format!("older: {FINE}"),
            format!("twin: {conflict}"),
            format!("younger: {conflict}")
        ]
    );
    let sets = &gateways.gateways[&ObjectKey::new("shop", "web")].listener_sets;
    let accepted: Vec<String> = sets
        .iter()
        .map(|set| format!("{} {} {}", set.key.name, set.is_accepted(), set.accepted().reason))
        .collect();
    assert_eq!(
        accepted,
        [
            "stranger false NotAllowed",
            "older true Accepted",
            "twin false ListenersNotValid",
            "younger false ListenersNotValid"
        ]
    );
}

#[test]
fn certificates_are_read_and_those_of_other_namespaces_need_a_grant() {
    let listener = |name: &str, port: u16, reference: &str| {
        format!("{{name: {name}, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{reference}]}}}}")
    };
    let gateway = gateway(
        &[
            listener("fine", 443, "{name: cert}"),
            listener("gone", 444, "{name: gone}"),
            listener("other-kind", 445, "{kind: ConfigMap, name: cert}"),
            listener("foreign", 446, "{name: cert, namespace: blog}"),
            listener("granted", 447, "{name: granted, namespace: blog}"),
            listener("spoilt", 448, "{name: spoilt}"),
            listener("one-of-two", 449, "{name: gone}, {name: cert}"),
        ]
        .join(", "),
    );
    let spoilt = "{kind: Secret, metadata: {name: spoilt}, stringData: {tls.crt: none, tls.key: none}}";
    let grant = "{kind: ReferenceGrant, metadata: {name: grant, namespace: blog}, spec: {
      from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop}],
      to: [{group: '', kind: Secret, name: granted}]}}";
    let secrets = [secret("shop", "cert"), secret("blog", "cert"), secret("blog", "granted")];
    let gateways = judge(&[&gateway, &secrets[0], &secrets[1], &secrets[2], spoilt, grant]);
    let refused = |reason: &str| format!("True=Accepted False={reason}");
    let expected = [
        ("fine", FINE.to_owned(), true),
        ("gone", refused("InvalidCertificateRef"), false),
        ("other-kind", refused("InvalidCertificateRef"), false),
        ("foreign", refused("RefNotPermitted"), false),
        ("granted", FINE.to_owned(), true),
        ("spoilt", refused("InvalidCertificateRef"), false),
        ("one-of-two", refused("InvalidCertificateRef"), true),
    ];
    let listeners = &gateways.gateways[&ObjectKey::new("shop", "web")].listeners;
    for ((name, words, is_served), (listener, said)) in
        expected.iter().zip(listeners.iter().zip(said(&gateways)))
    {
        assert_eq!(said, format!("{name}: {words}"));
        assert_eq!(listener.is_served(), *is_served, "{name}");
    }
    let messages: Vec<String> =
        listeners.iter().map(|listener| listener.conditions(None)[2].message.clone()).collect();
    assert_eq!(messages[1], "tls.certificateRefs[0]: Secret shop/gone does not exist");
    assert!(
        messages[5].starts_with("tls.certificateRefs[0]: Secret shop/spoilt: tls.crt: "),
        "{}",
        messages[5]
    );
}

#[test]
fn kinds_that_a_listener_does_not_take_are_named() {
    let gateways = judge(&[&gateway(
        "{name: none, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: InvalidRoute}]}},
         {name: some, port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: InvalidRoute}, {kind: HTTPRoute}]}},
         {name: all, port: 82, protocol: HTTP},
         {name: passed, port: 83, protocol: TLS, tls: {mode: Passthrough}, allowedRoutes: {kinds: [{kind: TCPRoute}, {kind: TLSRoute}]}}",
    )]);
    let wrong = "True=Accepted False=InvalidRouteKinds";
    assert_eq!(
        said(&gateways),
        [
            format!("none: {wrong}"),
            format!("some: {wrong}"),
            format!("all: {FINE}"),
            format!("passed: {wrong}")
        ]
    );
    let listeners = &gateways.gateways[&ObjectKey::new("shop", "web")].listeners;
    let kinds: Vec<&[RouteKind]> = listeners.iter().map(|listener| &*listener.kinds).collect();
    assert_eq!(kinds, [&[][..], &[RouteKind::Http], &[RouteKind::Http, RouteKind::Grpc], &[RouteKind::Tls]]);
}

#[test]
fn a_route_holds_on_the_listeners_that_it_names_that_take_it_and_whose_names_it_shares() {
    let gateway = gateway(
        "{name: any, port: 80, protocol: HTTP},
         {name: wild, port: 80, protocol: HTTP, hostname: '*.example'},
         {name: one, port: 8080, protocol: HTTP, hostname: a.example},
         {name: grpc, port: 8081, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}},
         {name: blog, port: 8082, protocol: HTTP,
          allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: In, values: [blog]}]}}}},
         {name: bytes, port: 9000, protocol: TCP}",
    );
    let rules = "rules: [{backendRefs: [{name: v1, port: 80}]}]";
    let check = |kind: RouteKind, parent: &str, hostnames: &str, expected: Result<&[&str], &str>| {
        let hostnames =
            if hostnames.is_empty() { String::new() } else { format!("hostnames: [{hostnames}], ") };
        let spec = format!("parentRefs: [{{name: web{parent}}}], {hostnames}{rules}");
        let gateways = judge(&[&gateway, &route(kind.as_label(), "r", &spec)]);
        let expected = expected.map(|held| held.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(held(&gateways, kind), expected.map_err(str::to_owned), "{parent} {hostnames}");
    };
    let http = RouteKind::Http;
    check(http, "", "", Ok(&["any: any", "wild: *.example", "one: a.example"]));
    check(http, ", sectionName: wild", "", Ok(&["wild: *.example"]));
    check(http, ", port: 8080", "", Ok(&["one: a.example"]));
    check(http, ", port: 80, sectionName: one", "", Err("NoMatchingParent"));
    check(http, ", sectionName: none", "", Err("NoMatchingParent"));
    check(http, ", sectionName: grpc", "", Err("NotAllowedByListeners"));
    check(http, ", sectionName: blog", "", Err("NotAllowedByListeners"));
    check(http, ", sectionName: bytes", "", Err("NotAllowedByListeners"));
    check(
        http,
        "",
        "a.example, b.other",
        Ok(&["any: a.example b.other", "wild: a.example", "one: a.example"]),
    );
    check(http, ", sectionName: one", "b.example", Err("NoMatchingListenerHostname"));
    check(RouteKind::Grpc, ", port: 8081", "", Ok(&["grpc: any"]));
    check(RouteKind::Tcp, "", "", Ok(&["bytes: any"]));
}

#[test]
fn of_http_and_grpc_routes_that_share_a_hostname_the_older_one_holds() {
    let gateway = gateway("{name: http, port: 80, protocol: HTTP}");
    let route = |kind: &str, name: &str, day: u8, hostnames: &str| {
        format!(
            "{{kind: {kind}, metadata: {{name: {name}, creationTimestamp: '2026-01-0{day}T00:00:00Z'}}, spec: {{
              parentRefs: [{{name: web}}], hostnames: [{hostnames}], rules: [{{backendRefs: [{{name: v1, port: 80}}]}}]}}}}"
        )
    };
    let judge = |own: &str, other: &str| {
        held(&judge(&[&gateway, own, other]), RouteKind::Http).map(|held| held.join(", "))
    };
    let own = route("HTTPRoute", "r", 2, "a.example");
    let refused = Err("Conflicted".to_owned());
    assert_eq!(judge(&own, &route("GRPCRoute", "calls", 1, "a.example")), refused);
    assert_eq!(judge(&own, &route("GRPCRoute", "calls", 1, "'*.example'")), refused);
    let holds = Ok("http: a.example".to_owned());
    assert_eq!(judge(&own, &route("GRPCRoute", "calls", 3, "a.example")), holds);
    assert_eq!(judge(&own, &route("GRPCRoute", "calls", 1, "b.example")), holds);
    assert_eq!(judge(&own, &route("HTTPRoute", "calls", 1, "a.example")), holds);
}

#[test]
fn backends_of_other_namespaces_need_a_grant_from_a_gateways_route_and_none_from_a_services() {
    let gateway = gateway("{name: http, port: 80, protocol: HTTP}");
    let own = route(
        "HTTPRoute",
        "r",
        "parentRefs: [{name: web}, {group: '', kind: Service, name: v1}],
         rules: [{backendRefs: [{name: posts, namespace: blog, port: 80}]}]",
    );
    let grant = "{kind: ReferenceGrant, metadata: {name: grant, namespace: blog}, spec: {
      from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service}]}}";
    let resolved = |documents: &[&str]| {
        let gateways = judge(documents);
        let route = &gateways.routes[&RouteRef { kind: RouteKind::Http, key: ObjectKey::new("shop", "r") }];
        assert_eq!(route.parents.len(), 1, "the Service is no parent of this kind");
        route.parents[0].conditions[1].to_string()
    };
    assert_eq!(
        resolved(&[&gateway, &own]),
        "ResolvedRefs=False RefNotPermitted: spec.rules[0].backendRefs[0]: no ReferenceGrant of namespace blog allows \
         Service blog/posts"
    );
    assert_eq!(resolved(&[&gateway, &own, grant]), "ResolvedRefs=True ResolvedRefs");
    let text = [CLASSES, &gateway, &own].join("\n---\n");
    let mesh = crate::attach::Attachments::new(&fixture::objects(&text));
    let attached = mesh.find_route(RouteKind::Http, &ObjectKey::new("shop", "r")).unwrap();
    assert_eq!(attached.parents[0].conditions[1].to_string(), "ResolvedRefs=True ResolvedRefs");
}

#[test]
fn clients_certificates_are_judged_by_the_authorities_of_the_port() {
    let key = KeyPair::generate().unwrap();
    let authority = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem();
    let config_map = serde_json::json!({ "kind": "ConfigMap", "metadata": { "name": "ca" }, "data": { "ca.crt": authority } });
    let gateway = |default: &str, per_port: &str| {
        format!(
            "{{kind: Gateway, metadata: {{name: web}}, spec: {{gatewayClassName: gammarus, listeners: [
               {{name: a, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: cert}}]}}}},
               {{name: b, port: 8443, protocol: HTTPS, tls: {{certificateRefs: [{{name: cert}}]}}}},
               {{name: plain, port: 80, protocol: HTTP}}],
               tls: {{frontend: {{default: {{validation: {{caCertificateRefs: [{default}]}}}},
                 perPort: [{{port: 8443, tls: {{validation: {{mode: AllowInsecureFallback, caCertificateRefs: [{per_port}]}}}}}}]}}}}}}}}"
        )
    };
    let reference = |kind: &str, name: &str| format!("{{group: '', kind: {kind}, name: {name}}}");
    let judge = |default: &str, per_port: &str| {
        judge(&[&gateway(default, per_port), &secret("shop", "cert"), &config_map.to_string()])
    };
    let fine = reference("ConfigMap", "ca");
    let gateways = judge(&fine, &fine);
    assert_eq!(said(&gateways), [format!("a: {FINE}"), format!("b: {FINE}"), format!("plain: {FINE}")]);
    let modes: Vec<Option<(usize, bool)>> = gateways.gateways[&ObjectKey::new("shop", "web")]
        .listeners
        .iter()
        .map(|listener| match &listener.tls {
            ListenerTls::Terminate { validation: Some(validation), .. } => {
                Some((validation.authorities.len(), validation.is_fallback))
            }
            _ => None,
        })
        .collect();
    assert_eq!(modes, [Some((1, false)), Some((1, true)), None]);
    let none = |reason: &str| format!("False=NoValidCACertificate False={reason}");
    assert_eq!(
        said(&judge(&reference("ConfigMap", "gone"), &reference("Secret", "ca"))),
        [
            format!("a: {}", none("InvalidCACertificateRef")),
            format!("b: {}", none("InvalidCACertificateKind")),
            format!("plain: {FINE}")
        ]
    );
    // One that can be used is enough.
    let half = format!("{}, {fine}", reference("ConfigMap", "gone"));
    assert_eq!(said(&judge(&half, &fine))[0], "a: True=Accepted False=InvalidCACertificateRef");
}
