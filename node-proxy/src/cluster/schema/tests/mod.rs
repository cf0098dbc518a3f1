//! Tables of routes against the vendored CRDs.

mod gateways;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::{CRDS, Compiled, Schemas, Verdict};

const GROUP: &str = "gateway.networking.k8s.io";

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(Schemas::default);

fn admit(kind: &str, spec: &str) -> (Value, Verdict) {
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": {"name": "a"},
        "spec": serde_saphyr::from_str::<Value>(spec).unwrap(),
    });
    let verdict = SCHEMAS.admit(kind, &format!("{GROUP}/v1"), &mut object);
    (object, verdict)
}

#[track_caller]
fn check(kind: &str, spec: &str, expected: &[(&str, &str)]) {
    let (_, verdict) = admit(kind, spec);
    let errors: Vec<(&str, &str)> =
        verdict.errors.iter().map(|error| (error.field.as_str(), error.message.as_str())).collect();
    assert_eq!(errors.len(), expected.len(), "{spec}\n{errors:#?}");
    for ((field, message), (expected_field, part)) in errors.iter().zip(expected) {
        assert_eq!(field, expected_field, "{spec}\n{errors:#?}");
        assert!(message.contains(part), "{message:?} has no {part:?}");
    }
}

#[track_caller]
fn check_default(kind: &str, spec: &str, pointer: &str, expected: Value) {
    let (object, verdict) = admit(kind, spec);
    assert_eq!(verdict, Verdict::default(), "{spec}");
    assert_eq!(object.pointer(pointer), Some(&expected), "{object:#}");
}

/// Each is compiled, which fails if a rule does not compile: there is none that this crate has to leave out.
#[test]
fn every_crd_compiles_and_its_rules_call_only_what_is_there() {
    let mut named = BTreeSet::new();
    let (mut versions, mut rules) = (0, 0);
    for (kind, text) in CRDS {
        let compiled = Compiled::read(text).unwrap();
        assert!(text.contains(&format!("kind: {kind}\n")), "{kind}");
        named.extend(compiled.rules.functions());
        versions += compiled.versions.len();
        rules += compiled.rules.len();
    }
    assert_eq!(versions, 19);
    assert!(rules > 40, "{rules}");
    let named: Vec<&str> =
        named.iter().map(String::as_str).filter(|name| name.starts_with(char::is_alphabetic)).collect();
    let known =
        ["contains", "duration", "endsWith", "isIP", "matches", "size", "split", "startsWith", "substring"];
    assert_eq!(named, known);
}

#[test]
fn a_route_gets_the_defaults_of_its_crd() {
    let spec = "{parentRefs: [{name: s, kind: Service, group: '', port: 80}], rules: [{backendRefs: [{name: b, port: 1}]}]}";
    let rule = "/spec/rules/0";
    check_default(
        "HTTPRoute",
        spec,
        &format!("{rule}/matches/0/path"),
        json!({"type": "PathPrefix", "value": "/"}),
    );
    check_default("HTTPRoute", spec, &format!("{rule}/backendRefs/0/weight"), json!(1));
    check_default("HTTPRoute", spec, &format!("{rule}/backendRefs/0/kind"), json!("Service"));
    check_default("HTTPRoute", spec, &format!("{rule}/backendRefs/0/group"), json!(""));
    let bare = "{parentRefs: [{name: gateway}]}";
    check_default("HTTPRoute", bare, "/spec/parentRefs/0/group", json!(GROUP));
    check_default("HTTPRoute", bare, "/spec/parentRefs/0/kind", json!("Gateway"));
    let headers = "{rules: [{matches: [{headers: [{name: version, value: new}]}]}]}";
    check_default("HTTPRoute", headers, &format!("{rule}/matches/0/headers/0/type"), json!("Exact"));
    check_default("HTTPRoute", headers, &format!("{rule}/matches/0/path/type"), json!("PathPrefix"));
    let half = "{rules: [{matches: [{path: {value: /a, type: null}}]}]}";
    check_default("HTTPRoute", half, &format!("{rule}/matches/0/path/type"), json!("PathPrefix"));
    let method = "{rules: [{matches: [{method: {service: a.B}}]}]}";
    check_default("GRPCRoute", method, &format!("{rule}/matches/0/method/type"), json!("Exact"));
}

#[test]
fn unknown_fields_are_named_and_taken_out() {
    let (object, verdict) =
        admit("HTTPRoute", "{rules: [{matchs: [], matches: [{path: {value: /, kind: Exact}}]}]}");
    assert_eq!(verdict.unknown, ["spec.rules[0].matchs", "spec.rules[0].matches[0].path.kind"]);
    assert_eq!(verdict.errors, []);
    assert_eq!(object.pointer("/spec/rules/0/matchs"), None);
}

#[test]
fn a_value_of_the_wrong_shape_is_refused_at_its_field() {
    check("HTTPRoute", "{rules: {}}", &[("spec.rules", "must be a list, is an object")]);
    check("HTTPRoute", "{rules: []}", &[("spec.rules", "at least 1 items")]);
    check("HTTPRoute", "{hostnames: [1]}", &[("spec.hostnames[0]", "must be a string, is the number 1")]);
    check("HTTPRoute", "{hostnames: [A.b]}", &[("spec.hostnames[0]", "must match")]);
    check("HTTPRoute", "{parentRefs: [{}]}", &[("spec.parentRefs[0].name", "is required")]);
    let weight =
        |weight: &str| format!("{{rules: [{{backendRefs: [{{name: b, port: 1, weight: {weight}}}]}}]}}");
    let field = "spec.rules[0].backendRefs[0].weight";
    check("HTTPRoute", &weight("1000000"), &[]);
    check("HTTPRoute", &weight("0"), &[]);
    check("HTTPRoute", &weight("1000001"), &[(field, "at most 1000000")]);
    check("HTTPRoute", &weight("-1"), &[(field, "at least 0")]);
    check("HTTPRoute", &weight("1.5"), &[(field, "must be an integer")]);
    check("HTTPRoute", &weight("'1'"), &[(field, "must be an integer, is the string")]);
    check("HTTPRoute", &weight("99999999999999999999"), &[(field, "must be")]);
    let path = "{rules: [{matches: [{}, {path: {type: Glob, value: /}}]}]}";
    check(
        "HTTPRoute",
        path,
        &[(
            "spec.rules[0].matches[1].path.type",
            "must be one of Exact, PathPrefix, RegularExpression, is Glob",
        )],
    );
    let twice = "{rules: [{matches: [{headers: [{name: a, value: b}, {name: a, value: c}]}]}]}";
    check("HTTPRoute", twice, &[("spec.rules[0].matches[0].headers[1]", "is there twice: name=a")]);
    check("ReferenceGrant", "{from: [{group: '', kind: X, namespace: a}]}", &[("spec.to", "is required")]);
}

/// As for kubectl, whose YAML is 1.1 here: a header's value `y` must be quoted.
#[test]
fn plain_words_that_are_booleans_must_be_quoted() {
    let header =
        |value: &str| format!("{{rules: [{{matches: [{{headers: [{{name: a, value: {value}}}]}}]}}]}}");
    let field = "spec.rules[0].matches[0].headers[0].value";
    let message = |value: &str| format!("must be a string, is the boolean {value}: put it in quotes");
    check("HTTPRoute", &header("y"), &[(field, &message("true"))]);
    check("HTTPRoute", &header("off"), &[(field, &message("false"))]);
    check("HTTPRoute", &header("1"), &[(field, "must be a string, is the number 1: put it in quotes")]);
    check("HTTPRoute", &header("'y'"), &[]);
}

#[test]
fn rules_in_cel_hold() {
    let path = |kind: &str, value: &str| {
        format!("{{rules: [{{matches: [{{path: {{type: {kind}, value: '{value}'}}}}]}}]}}")
    };
    let field = "spec.rules[0].matches[0].path";
    check("HTTPRoute", &path("PathPrefix", "/a"), &[]);
    check("HTTPRoute", &path("RegularExpression", "a.*"), &[]);
    check("HTTPRoute", &path("Exact", "a"), &[(field, "value must be an absolute path and start with '/'")]);
    check("HTTPRoute", &path("Exact", "/a//b"), &[(field, "must not contain '//'")]);
    check("HTTPRoute", &path("PathPrefix", "/a/.."), &[(field, "must not end with '/..'")]);
    check("HTTPRoute", &path("Exact", "/a b"), &[(field, "must only contain valid characters")]);

    let filter = |filter: &str| format!("{{rules: [{{filters: [{filter}]}}]}}");
    let field = "spec.rules[0].filters[0]";
    check("HTTPRoute", &filter("{type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}}"), &[]);
    check(
        "HTTPRoute",
        &filter("{type: RequestHeaderModifier, urlRewrite: {hostname: a.b}}"),
        &[
            (field, "filter.requestHeaderModifier must be specified for RequestHeaderModifier filter.type"),
            (field, "filter.urlRewrite must be nil if the filter.type is not URLRewrite"),
        ],
    );
    let redirect = "{rules: [{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: b, port: 1}]}]}";
    check(
        "HTTPRoute",
        redirect,
        &[("spec.rules[0]", "RequestRedirect filter must not be used together with backendRefs")],
    );

    let backend = "spec.rules[0].backendRefs[0]";
    check(
        "HTTPRoute",
        "{rules: [{backendRefs: [{name: b}]}]}",
        &[(backend, "Must have port for Service reference")],
    );
    check(
        "GRPCRoute",
        "{rules: [{backendRefs: [{name: b}]}]}",
        &[(backend, "Must have port for Service reference")],
    );
    check(
        "GRPCRoute",
        "{rules: [{matches: [{method: {}}]}]}",
        &[("spec.rules[0].matches[0].method", "One or both of")],
    );
    let method = |kind: &str| format!("{{rules: [{{matches: [{{method: {{{kind}, service: 'a/b'}}}}]}}]}}");
    check(
        "GRPCRoute",
        &method("type: Exact"),
        &[("spec.rules[0].matches[0].method", "service must only contain valid characters")],
    );
    check("GRPCRoute", &method("type: RegularExpression"), &[]);
    check("GRPCRoute", "{rules: [{matches: [{method: {service: a.B_c}}]}]}", &[]);
}

#[test]
fn a_tls_route_names_servers_and_each_route_of_connections_has_one_rule() {
    let rule = "{backendRefs: [{name: b, port: 1}]}";
    let tls = |names: &str| format!("{{hostnames: [{names}], rules: [{rule}]}}");
    for names in ["a.test", "'*.a.test'", "a", "1.2.3.test", "xn--a.test"] {
        check("TLSRoute", &tls(names), &[]);
    }
    check("TLSRoute", &tls("1.2.3.4"), &[("spec.hostnames", "Hostnames cannot contain an IP")]);
    for names in ["'*'", "'a.*.test'", "'*.*.test'", "A.test", "'a_b.test'"] {
        check("TLSRoute", &tls(names), &[("spec.hostnames[0]", "must match")]);
    }
    check("TLSRoute", &tls(""), &[("spec.hostnames", "at least 1 items")]);
    check("TLSRoute", &format!("{{rules: [{rule}]}}"), &[("spec.hostnames", "is required")]);
    check("TCPRoute", &format!("{{rules: [{rule}]}}"), &[]);
    for (kind, names) in [("TCPRoute", ""), ("TLSRoute", "hostnames: [a], ")] {
        check(kind, &format!("{{{names}rules: [{rule}, {rule}]}}"), &[("spec.rules", "at most 1 items")]);
        check(kind, &format!("{{{names}rules: []}}"), &[("spec.rules", "at least 1 items")]);
        let backends = |list: &str| format!("{{{names}rules: [{{backendRefs: [{list}]}}]}}");
        check(kind, &backends(""), &[("spec.rules[0].backendRefs", "at least 1 items")]);
        let field = "spec.rules[0].backendRefs[0]";
        check(kind, &backends("{name: b}"), &[(field, "Must have port for Service reference")]);
        check_default(kind, &backends("{name: b, port: 1}"), "/spec/rules/0/backendRefs/0/weight", json!(1));
        let (object, verdict) =
            admit(kind, &format!("{{{names}rules: [{{filters: [], backendRefs: [{{name: b, port: 1}}]}}]}}"));
        assert_eq!(verdict.unknown, ["spec.rules[0].filters"], "{object:#}");
    }
}

#[test]
fn a_backend_request_may_not_take_longer_than_its_request() {
    let timeouts = |request: &str, backend: &str| {
        format!("{{rules: [{{timeouts: {{request: {request}, backendRequest: {backend}}}}}]}}")
    };
    let refused =
        [("spec.rules[0].timeouts", "backendRequest timeout cannot be longer than request timeout")];
    check("HTTPRoute", &timeouts("1s", "500ms"), &[]);
    check("HTTPRoute", &timeouts("1m", "59s1000ms"), &[]);
    check("HTTPRoute", &timeouts("0s", "1h"), &[]);
    check("HTTPRoute", &timeouts("1s", "1001ms"), &refused);
    check("HTTPRoute", &timeouts("1h", "1h1ms"), &refused);
    check("HTTPRoute", &timeouts("1s", "soon"), &[("spec.rules[0].timeouts.backendRequest", "must match")]);
}

#[test]
fn parents_must_differ_in_port_or_section() {
    let parents = |first: &str, second: &str| {
        let parent = "group: '', kind: Service, name: s";
        format!("{{parentRefs: [{{{parent}{first}}}, {{{parent}{second}}}]}}")
    };
    check("HTTPRoute", &parents(", port: 80", ", port: 81"), &[]);
    check("HTTPRoute", &parents(", namespace: a", ", namespace: b"), &[]);
    for (first, second) in [("", ""), (", port: 80", ""), (", port: 80", ", port: 80")] {
        let (_, verdict) = admit("HTTPRoute", &parents(first, second));
        assert!(!verdict.errors.is_empty(), "{first} {second}");
        assert!(verdict.errors.iter().all(|error| error.field == "spec.parentRefs"), "{verdict:?}");
    }
}

#[test]
fn rule_names_are_unique_and_matches_are_counted_over_all_rules() {
    check("HTTPRoute", "{rules: [{name: a}, {name: b}, {}]}", &[]);
    check(
        "HTTPRoute",
        "{rules: [{name: a}, {name: a}]}",
        &[("spec.rules", "Rule name must be unique within the route")],
    );
    let rule = format!("{{matches: [{}]}}", vec!["{}"; 64].join(", "));
    check("HTTPRoute", &format!("{{rules: [{rule}, {rule}]}}"), &[]);
    let three = format!("{{rules: [{rule}, {rule}, {{matches: [{{}}]}}]}}");
    check("HTTPRoute", &three, &[("spec.rules", "total number of matches across all rules")]);
}

/// A rule that could not be evaluated would refuse a good route: this one carries every field with rules.
#[test]
fn a_route_that_uses_everything_is_taken() {
    let route = "
parentRefs:
- {group: '', kind: Service, name: s, port: 80, sectionName: a}
- {group: '', kind: Service, name: s, port: 81, sectionName: b}
- {group: '', kind: Service, namespace: other, name: s, port: 80}
- {name: gateway, namespace: infra}
hostnames: [a.example, '*.b.example']
rules:
- name: first
  matches:
  - path: {type: PathPrefix, value: /a%20b}
    method: GET
    headers: [{name: x, value: v, type: RegularExpression}]
    queryParams: [{name: q, value: r}]
  filters:
  - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d e}], remove: [f]}}
  - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [f]}}
  - {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}, fraction: {numerator: 1, denominator: 2}}}
  - {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}, percent: 50}}
  - {type: URLRewrite, urlRewrite: {hostname: c.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}
  - {type: CORS, cors: {allowOrigins: ['https://*.example'], allowMethods: ['*'], maxAge: 5}}
  - {type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: auth, port: 80}, http: {path: /auth}}}
  - {type: ExtensionRef, extensionRef: {group: x.y, kind: Z, name: z}}
  backendRefs:
  - {name: b, port: 8080, weight: 9, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [g]}}]}
  - {group: multicluster.x-k8s.io, kind: ServiceImport, name: i}
  timeouts: {request: 10s, backendRequest: 2s}
  retry: {codes: [503], attempts: 2, backoff: 100ms}
  sessionPersistence: {type: Cookie, sessionName: name, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}
- name: second
  filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301, port: 443, path: {type: ReplaceFullPath, replaceFullPath: /}}}]
";
    let (_, verdict) = admit("HTTPRoute", route);
    assert_eq!(verdict, Verdict::default());
    let route = "
parentRefs: [{group: '', kind: Service, name: s, port: 80}, {group: '', kind: Service, name: s, port: 81}]
rules:
- name: first
  matches: [{method: {type: Exact, service: a.b.C, method: D_e}, headers: [{name: x, value: v}]}, {}]
  filters:
  - {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}, percent: 50}}
  - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: a, value: b}]}}
  backendRefs: [{name: b, port: 8080, filters: [{type: ExtensionRef, extensionRef: {group: x.y, kind: Z, name: z}}]}]
- {name: second}
";
    let (_, verdict) = admit("GRPCRoute", route);
    assert_eq!(verdict, Verdict::default());
}
