//! What a Gateway and its class ask for as a whole, and what follows for its listeners and ListenerSets.

use super::*;

/// A Gateway `web` with this beside its one listener, and a ListenerSet of it.
fn with_set(more: &str) -> String {
    format!(
        "{{kind: Gateway, metadata: {{name: web, generation: 7}}, spec: {{gatewayClassName: gammarus, {more},
           allowedListeners: {{namespaces: {{from: All}}}}, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}}}
---
{{kind: ListenerSet, metadata: {{name: more}}, spec: {{parentRef: {{name: web}}, listeners: [{{name: other, port: 81, protocol: HTTP}}]}}}}"
    )
}

/// What is said of the Gateway `web`, of its first ListenerSet, and of which listeners are served.
fn verdict(gateways: &Gateways) -> (String, String, Vec<String>) {
    let gateway = &gateways.gateways[&ObjectKey::new("shop", "web")];
    let served = gateway.all_listeners().filter(|(_, listener)| listener.is_served());
    let set = gateway.listener_sets[0].accepted().to_string();
    (gateway.accepted().to_string(), set, served.map(|(id, _)| id.name.to_string()).collect())
}

#[test]
fn a_gateway_that_asks_for_what_is_not_there_serves_nothing() {
    let config_map = "{kind: ConfigMap, metadata: {name: settings}, data: {gateway.yaml: 'replicas: 3'}}";
    let parameters = |group: &str, kind: &str, name: &str| {
        let own = format!("{{group: {group}, kind: {kind}, name: {name}}}");
        with_set(&format!("infrastructure: {{parametersRef: {own}}}"))
    };
    let check = |gateway: &str, expected: Result<&str, &str>| {
        let (accepted, set, served) = verdict(&judge(&[gateway, config_map]));
        match expected {
            Ok(said) => assert_eq!(
                (accepted.as_str(), set.as_str(), served.join(" ")),
                (said, "Accepted=True Accepted", "http other".to_owned())
            ),
            Err(said) => assert_eq!(
                (accepted.as_str(), set.as_str(), served.len()),
                (said, "Accepted=False ParentNotAccepted: Gateway shop/web is not accepted", 0)
            ),
        }
    };
    check(&parameters("''", "ConfigMap", "settings"), Ok("Accepted=True Accepted"));
    let refused = "Accepted=False InvalidParameters: spec.infrastructure.parametersRef: ";
    // It is not accepted, and what was made for it serves on.
    let stays = |gateway: &str, why: &str| {
        let gateways = judge(&[gateway, config_map]);
        let (accepted, set, served) = verdict(&gateways);
        assert_eq!(accepted, format!("{refused}{why}"));
        assert_eq!((set.as_str(), served.join(" ")), ("Accepted=True Accepted", "http other".to_owned()));
        let gateway = &gateways.gateways[&ObjectKey::new("shop", "web")];
        assert!(gateway.stays_as_made() && gateway.parameters().is_none());
    };
    stays(&parameters("''", "ConfigMap", "gone"), "ConfigMap shop/gone does not exist");
    stays(
        &parameters("example.com", "ConfigMap", "settings"),
        "ConfigMap of group \"example.com\" is no ConfigMap",
    );
    check(
        &with_set("addresses: [{type: IPAddress, value: 10.0.0.1}, {value: 10.0.0.2}]"),
        Ok("Accepted=True Accepted"),
    );
    check(
        &with_set("addresses: [{value: 10.0.0.1}, {type: Hostname, value: a.example}]"),
        Err(
            "Accepted=False UnsupportedAddress: spec.addresses[1]: type Hostname is not supported: IPAddress is",
        ),
    );
    check(
        &with_set("defaultScope: All"),
        Ok("Accepted=True Accepted: spec.defaultScope is not applied: a route has to name the Gateway"),
    );
}

#[test]
fn what_a_gateway_is_to_show_to_backends_is_there_or_named() {
    let shows =
        |reference: &str| with_set(&format!("tls: {{backend: {{clientCertificateRef: {reference}}}}}"));
    let said = |documents: &[&str]| {
        let gateways = judge(documents);
        let gateway = &gateways.gateways[&ObjectKey::new("shop", "web")];
        assert!(gateway.is_accepted());
        let all = gateway.conditions();
        let found = all.iter().find(|condition| condition.kind == ConditionType::ResolvedRefs);
        (found.map(ToString::to_string), gateway.client_certificate.is_some())
    };
    assert_eq!(said(&[&with_set("defaultScope: None")]), (None, false));
    let fine = Some("ResolvedRefs=True ResolvedRefs".to_owned());
    assert_eq!(said(&[&shows("{name: cert}"), &secret("shop", "cert")]), (fine, true));
    for (reference, reason) in [
        ("{name: gone}", "InvalidClientCertificateRef"),
        ("{name: cert, kind: ConfigMap}", "InvalidClientCertificateRef"),
        ("{name: cert, namespace: blog}", "RefNotPermitted"),
    ] {
        let (said, is_there) = said(&[&shows(reference), &secret("shop", "cert"), &secret("blog", "cert")]);
        let said = said.unwrap();
        let expected = format!("ResolvedRefs=False {reason}: spec.tls.backend.clientCertificateRef: ");
        assert!(said.starts_with(&expected) && !is_there, "{said}");
    }
}

#[test]
fn a_class_whose_parameters_are_missing_takes_its_gateways_along() {
    let class = |parameters: &str| {
        format!(
            "{{kind: GatewayClass, metadata: {{name: gammarus, generation: 3}}, spec: {{controllerName: gammarus.io/gateway-controller,
               parametersRef: {{group: '', kind: ConfigMap, name: settings{parameters}}}}}}}"
        )
    };
    let judge = |parameters: &str, config_map: &str| {
        let gateways = judge(&[&class(parameters), &with_set("defaultScope: None"), config_map]);
        let said = gateways.classes["gammarus"].accepted();
        assert_eq!(said.observed_generation, Some(3));
        (said.to_string(), verdict(&gateways))
    };
    let there = "{kind: ConfigMap, metadata: {name: settings}, data: {gateway.yaml: 'replicas: 3'}}";
    let empty = "{kind: ConfigMap, metadata: {name: settings}, data: {gateway.yml: 'replicas: 3'}}";
    let broken = "{kind: ConfigMap, metadata: {name: settings}, data: {gateway.yaml: 'replica: 3'}}";
    let (said, (gateway, ..)) = judge(", namespace: shop", there);
    assert_eq!((said.as_str(), gateway.as_str()), ("Accepted=True Accepted", "Accepted=True Accepted"));
    for (parameters, config_map, why) in [
        (", namespace: blog", there, "ConfigMap blog/settings does not exist"),
        (", namespace: shop", "", "ConfigMap shop/settings does not exist"),
        ("", there, "the namespace of the ConfigMap is missing"),
        (", namespace: shop", empty, "ConfigMap shop/settings has no key gateway.yaml"),
        (", namespace: shop", broken, "ConfigMap shop/settings, gateway.yaml: replica: is not a field"),
    ] {
        let why = format!("spec.parametersRef: {why}");
        let (said, (gateway, _, served)) = judge(parameters, config_map);
        assert_eq!(said, format!("Accepted=False InvalidParameters: {why}"));
        let of_class = format!("GatewayClass gammarus is not accepted: {why}");
        assert_eq!(gateway, format!("Accepted=False InvalidParameters: {of_class}"));
        assert_eq!(served, ["http", "other"], "what was made for them serves on");
    }
}

#[test]
fn parameters_are_the_gateways_over_its_classs() {
    let class = "{kind: GatewayClass, metadata: {name: gammarus}, spec: {controllerName: gammarus.io/gateway-controller,
      parametersRef: {group: '', kind: ConfigMap, name: all, namespace: blog}}}";
    let of_class = "{kind: ConfigMap, metadata: {name: all, namespace: blog}, data: {gateway.yaml: '{replicas: 3, service: {type: ClusterIP}}'}}";
    let gateway = |document: &str| {
        let own = with_set("infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: own}}");
        let map =
            format!("{{kind: ConfigMap, metadata: {{name: own}}, data: {{gateway.yaml: '{document}'}}}}");
        let mut gateways = judge(&[class, of_class, &own, &map]);
        gateways.gateways.remove(&ObjectKey::new("shop", "web")).unwrap()
    };
    let both = gateway("priorityClassName: high");
    let parameters = both.parameters().unwrap();
    assert_eq!((parameters.replicas, parameters.service_type()), (Some(3), ServiceType::ClusterIP));
    assert_eq!(parameters.priority_class_name.as_deref(), Some("high"));
    assert_eq!(
        gateway("service: {loadBalancerClass: a}").accepted().to_string(),
        "Accepted=False InvalidParameters: spec.infrastructure.parametersRef: ConfigMap shop/own, gateway.yaml: with the parameters of \
         GatewayClass gammarus: service.loadBalancerClass: can be given with service.type LoadBalancer only"
    );
}

#[test]
fn a_listener_set_without_a_listener_that_can_be_served_is_not_accepted() {
    let secure = "{kind: ListenerSet, metadata: {name: more}, spec: {parentRef: {name: web}, listeners: [
      {name: secure, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}]}}";
    let gateway = with_set("defaultScope: None");
    let gateway = gateway.split("---").next().unwrap();
    let (_, set, served) = verdict(&judge(&[gateway, secure]));
    assert_eq!(set, "Accepted=False ListenersNotValid: listeners that are not valid: secure");
    assert_eq!(served, ["http"]);
    let (_, set, served) = verdict(&judge(&[gateway, secure, &secret("shop", "cert")]));
    assert_eq!((set.as_str(), served.join(" ")), ("Accepted=True Accepted", "http secure".to_owned()));
}

#[test]
fn what_yields_drives_nobody_out() {
    let set = |name: &str, day: u8, listener: &str| {
        format!(
            "{{kind: ListenerSet, metadata: {{name: {name}, creationTimestamp: '2026-01-0{day}T00:00:00Z'}},
               spec: {{parentRef: {{name: web}}, listeners: [{{name: {name}, port: 80, {listener}}}]}}}}"
        )
    };
    let gateway =
        with_set("defaultScope: None").replace("protocol: HTTP}]", "protocol: HTTP, hostname: a.example}]");
    let gateway = gateway.split("---").next().unwrap();
    let gateways = judge(&[
        gateway,
        &set("bytes", 1, "protocol: TCP"),
        &set("text", 2, "protocol: HTTP, hostname: b.example"),
        &set("twin", 3, "protocol: HTTP, hostname: b.example"),
        // Of neighbours in a set, too.
        &set("mixed", 4, "protocol: TCP}, {name: beside, port: 80, protocol: HTTP, hostname: c.example"),
        &set(
            "odd",
            5,
            "protocol: TCP}, {name: one, port: 82, protocol: TCP}, {name: other, port: 82, protocol: HTTP",
        ),
    ]);
    let conflict =
        |name: &str, reason: &str| format!("{name}: False={reason} True={reason} True=ResolvedRefs");
    assert_eq!(
        said(&gateways),
        [
            format!("http: {FINE}"),
            conflict("bytes", "ProtocolConflict"),
            format!("text: {FINE}"),
            conflict("twin", "HostnameConflict"),
            conflict("mixed", "ProtocolConflict"),
            format!("beside: {FINE}"),
            conflict("odd", "ProtocolConflict"),
            conflict("one", "ProtocolConflict"),
            conflict("other", "ProtocolConflict"),
        ]
    );
}

#[test]
fn listeners_with_tls_and_names_in_common_say_so() {
    let listener = |name: &str, port: u16, host: &str| {
        format!(
            "{{name: {name}, port: {port}, protocol: HTTPS, hostname: {host}, tls: {{certificateRefs: [{{name: cert}}]}}}}"
        )
    };
    let gateway = gateway(
        &[
            listener("one", 443, "foo.example.com"),
            listener("apart", 443, "foo.example.org"),
            listener("wild", 443, "'*.example.com'"),
            listener("elsewhere", 444, "foo.example.com"),
            "{name: passed, port: 445, protocol: TLS, tls: {mode: Passthrough}}".to_owned(),
            listener("named", 445, "a.example"),
            "{name: text, port: 80, protocol: HTTP, hostname: '*.example.com'}".to_owned(),
            "{name: texts, port: 80, protocol: HTTP, hostname: foo.example.com}".to_owned(),
        ]
        .join(", "),
    );
    let gateways = judge(&[&gateway, &secret("shop", "cert")]);
    let listeners = &gateways.gateways[&ObjectKey::new("shop", "web")].listeners;
    let overlapping = listeners.iter().filter_map(|listener| {
        let found = listener.conditions(Some(1)).into_iter().nth(3)?;
        let said = format!("{}={} {}", found.kind, found.status, found.reason);
        assert_eq!(said, "OverlappingTLSConfig=True OverlappingHostnames");
        assert!(!found.message.contains("example"), "of another's names nothing is told: {}", found.message);
        Some(listener.name.to_string())
    });
    assert_eq!(overlapping.collect::<Vec<_>>(), ["one", "wild", "passed", "named"]);
}

#[test]
fn a_gateway_that_lets_clients_without_a_certificate_in_says_so() {
    let mode = |default: &str, port: &str| {
        let validation = |mode: &str| {
            format!(
                "{{validation: {{mode: {mode}, caCertificateRefs: [{{group: '', kind: ConfigMap, name: ca}}]}}}}"
            )
        };
        let frontend = format!(
            "tls: {{frontend: {{default: {}, perPort: [{{port: 8443, tls: {}}}]}}}}",
            validation(default),
            validation(port)
        );
        let gateways = judge(&[&with_set(&frontend)]);
        let conditions = gateways.gateways[&ObjectKey::new("shop", "web")].conditions();
        conditions.iter().skip(1).map(ToString::to_string).collect::<Vec<_>>()
    };
    let said = |path: &str| {
        format!(
            "InsecureFrontendValidationMode=True ConfigurationChanged: spec.tls.frontend.{path}.validation lets clients in that \
             have no valid certificate"
        )
    };
    let none: [String; 0] = [];
    assert_eq!(mode("AllowValidOnly", "AllowValidOnly"), none);
    assert_eq!(mode("AllowInsecureFallback", "AllowValidOnly"), [said("default")]);
    assert_eq!(mode("AllowValidOnly", "AllowInsecureFallback"), [said("perPort[0].tls")]);
}

#[test]
fn what_gateways_name_is_known_whether_it_is_there_or_not() {
    let gateways = judge(&[
        "{kind: Gateway, metadata: {name: web}, spec: {gatewayClassName: gammarus,
          infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: settings}},
          tls: {frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: ca, namespace: blog}]}}}},
          listeners: [{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: one}, {name: two, namespace: blog}]}}]}}",
        "{kind: ListenerSet, metadata: {name: more, namespace: blog}, spec: {parentRef: {name: web, namespace: shop},
          listeners: [{name: b, port: 444, protocol: HTTPS, tls: {certificateRefs: [{name: three}]}}]}}",
        "{kind: Gateway, metadata: {name: foreign}, spec: {gatewayClassName: other,
          listeners: [{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: four}]}}]}}",
    ]);
    let named: Vec<String> = gateways.named.iter().map(ToString::to_string).collect();
    assert_eq!(
        named,
        [
            "ConfigMap blog/ca",
            "ConfigMap shop/settings",
            "Secret blog/three",
            "Secret blog/two",
            "Secret shop/one"
        ]
    );
}
