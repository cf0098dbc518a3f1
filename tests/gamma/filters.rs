//! Filters on the wire: what backends, mirrors and clients see of them, over HTTP/1.1 and HTTP/2.

use node_proxy::demo::command::until;
use serde_json::Value;

use super::stage::{NEAR, PATIENCE, Stage, WEB, WIRES, http_route, route, to, under};

/// What the backend saw of a request.
#[track_caller]
fn seen(stage: &Stage, arguments: &[&str]) -> Value {
    let curl = ["curl", "-sS", "--max-time", "10", "-H", "accept: application/json"];
    let text = stage.world.exec("client", &[&curl, arguments].concat()).unwrap().stdout;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?} of {arguments:?}"))
}

/// The status and the fields that the client saw, in lower case, one a line.
#[track_caller]
fn head(stage: &Stage, arguments: &[&str]) -> Vec<String> {
    let curl = ["curl", "-sS", "--max-time", "10", "-o", "/dev/null", "-D", "-"];
    let text = stage.world.exec("client", &[&curl, arguments].concat()).unwrap().stdout;
    let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_lowercase()).collect();
    let status = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    lines[0] = status;
    lines
}

fn filters(filters: &[&str], rest: &str) -> String {
    format!("filters: [{}], {rest}", filters.join(", "))
}

#[test]
fn header_modifiers_change_requests_and_answers_for_the_rule_and_for_its_backend() {
    let mut stage = Stage::set();
    let edit = |kind: &str, field: &str, edits: &str| format!("{{type: {kind}, {field}: {{{edits}}}}}");
    let request = edit(
        "RequestHeaderModifier",
        "requestHeaderModifier",
        "set: [{name: X-Set, value: rule}, {name: X-Twice, value: rule}], add: [{name: X-Add, value: more}], remove: [X-Gone]",
    );
    let answer = edit(
        "ResponseHeaderModifier",
        "responseHeaderModifier",
        "set: [{name: X-App, value: hidden}], add: [{name: X-New, value: one}], remove: [content-type]",
    );
    let of_backend =
        edit("RequestHeaderModifier", "requestHeaderModifier", "set: [{name: X-Twice, value: backend}]");
    let backends = format!("backendRefs: [{{name: v1, namespace: shop, port: 80, filters: [{of_backend}]}}]");
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let rule = format!("{{{}}}", filters(&[&request, &answer], &backends));
        let applied = stage.apply(&route(kind, "shop/web", WEB, &rule));
        // A GRPCRoute takes gRPC alone, which is HTTP/2.
        let wires = if kind == "GRPCRoute" { &WIRES[1..] } else { &WIRES[..] };
        for wire in wires {
            let fields =
                ["-H", "x-set: client", "-H", "x-add: client", "-H", "X-GONE: client", "-H", "te: trailers"];
            let grpc = ["-X", "POST", "-H", "content-type: application/grpc"];
            let grpc = if kind == "GRPCRoute" { &grpc[..] } else { &[] };
            let arguments = [&[wire, "http://web/s.S/M"][..], &fields, grpc].concat();
            let headers = seen(&stage, &arguments)["headers"].clone();
            assert_eq!(headers["x-set"], serde_json::json!(["rule"]), "{kind} {wire}");
            assert_eq!(headers["x-add"], serde_json::json!(["client", "more"]), "{kind} {wire}");
            assert_eq!(headers["x-gone"], Value::Null, "{kind} {wire}");
            assert_eq!(headers["x-twice"], serde_json::json!(["backend"]), "{kind} {wire}");
            let head = head(&stage, &arguments);
            for line in ["x-app: hidden", "x-new: one"] {
                assert!(head.contains(&line.to_owned()), "{kind} {wire}: {line} in {head:?}");
            }
            assert!(!head.iter().any(|line| line.starts_with("content-type")), "{kind} {wire}: {head:?}");
        }
        stage.delete(&applied);
    }
}

#[test]
fn redirects_send_the_client_where_the_route_says() {
    let mut stage = Stage::set();
    let redirect =
        |fields: &str| format!("filters: [{{type: RequestRedirect, requestRedirect: {{{fields}}}}}]");
    let mut rules: Vec<String> = [301, 302, 303, 307, 308]
        .map(|code| under(&format!("/{code}"), &redirect(&format!("scheme: https, statusCode: {code}"))))
        .into();
    rules.push(under("/host", &redirect("hostname: other.example, port: 8443")));
    rules.push(under("/full", &redirect("path: {type: ReplaceFullPath, replaceFullPath: /there}")));
    rules.push(under("/prefix", &redirect("path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}")));
    stage.apply(&http_route("shop/web", WEB, &rules.join(", ")));
    for wire in WIRES {
        for code in [301, 302, 303, 307, 308] {
            let head = head(&stage, &[wire, &format!("http://web/{code}/x?y=z")]);
            assert_eq!(head[0], code.to_string());
            assert!(head.contains(&format!("location: https://web/{code}/x?y=z")), "{wire}: {head:?}");
        }
        for (path, location) in [
            ("/host/a", "http://other.example:8443/host/a"),
            ("/full/a?q", "http://web/there?q"),
            ("/prefix/a?q", "http://web/new/a?q"),
            ("/prefix", "http://web/new"),
        ] {
            let head = head(&stage, &[wire, &format!("http://web{path}")]);
            assert!(head.contains(&format!("location: {location}")), "{wire} {path}: {head:?}");
        }
    }
    // A request with a body is answered just the same, and the connection is not confused by what nobody read.
    let head = head(&stage, &["--http1.1", "-d", "body", "http://web/301/x", "http://web/302/x"]);
    assert_eq!(head.iter().filter(|line| line.starts_with("location: ")).count(), 2, "{head:?}");
}

#[test]
fn rewrites_change_the_path_and_the_host_that_the_backend_sees() {
    let mut stage = Stage::set();
    let rewrite =
        |fields: &str| filters(&[&format!("{{type: URLRewrite, urlRewrite: {{{fields}}}}}")], &to("v1"));
    let rules = [
        under("/full", &rewrite("path: {type: ReplaceFullPath, replaceFullPath: /one}")),
        under("/prefix/one", &rewrite("path: {type: ReplacePrefixMatch, replacePrefixMatch: /}")),
        under("/prefix", &rewrite("path: {type: ReplacePrefixMatch, replacePrefixMatch: /two/}")),
        under("/host", &rewrite("hostname: inner.example")),
    ];
    stage.apply(&http_route("shop/web", WEB, &rules.join(", ")));
    for wire in WIRES {
        for (path, target) in [
            ("/full/x?y=z", "/one?y=z"),
            ("/prefix/one/x?y", "/x?y"),
            ("/prefix/one", "/"),
            ("/prefix/x", "/two/x"),
            ("/prefix", "/two"),
            ("/host/x", "/host/x"),
        ] {
            assert_eq!(
                seen(&stage, &[wire, &format!("http://web{path}")])["target"],
                target,
                "{wire} {path}"
            );
        }
    }
    let host = seen(&stage, &["--http1.1", "http://web/host"])["headers"]["host"].clone();
    assert_eq!(host, serde_json::json!(["inner.example"]));
}

/// How many requests of this path node-b's log has that reached a pod as copies.
fn copies(stage: &Stage, service: &str) -> usize {
    let log = stage.world.access_log(NEAR).unwrap();
    let wanted = ["direction=mirror".to_owned(), format!("backend=shop/{service}"), "status=200".to_owned()];
    log.lines().filter(|line| wanted.iter().all(|text| line.contains(text))).count()
}

#[test]
fn mirrors_get_their_share_of_whole_requests_and_change_nothing_for_the_client() {
    let mut stage = Stage::set();
    let mirror = |service: &str, share: &str| {
        format!(
            "{{type: RequestMirror, requestMirror: {{backendRef: {{name: {service}, port: 80}}{share}}}}}"
        )
    };
    let rules = [
        under("/all", &filters(&[&mirror("v2", "")], &to("v1"))),
        under("/half", &filters(&[&mirror("v2", ", percent: 50")], &to("v1"))),
        under("/dead", &filters(&[&mirror("empty", "")], &to("v1"))),
    ];
    stage.apply(&http_route("shop/web", WEB, &rules.join(", ")));
    for wire in WIRES {
        let before = copies(&stage, "v2");
        let body = "x".repeat(100_000);
        let sent = seen(&stage, &[wire, "-d", &body, "http://web/all"]);
        assert_eq!((&sent["name"], &sent["body_bytes"]), (&"v1".into(), &100_000.into()), "{wire}");
        assert!(until(PATIENCE, || copies(&stage, "v2") == before + 1), "{wire}: one copy");
        let log = stage.world.access_log(NEAR).unwrap();
        let copy = log.lines().rfind(|line| line.contains("direction=mirror")).unwrap();
        assert!(copy.contains("bytes_sent=100000"), "{wire}: {copy}");
        stage.check("client", &[wire, "http://web/dead"], "200 v1");
    }
    let before = copies(&stage, "v2");
    stage.count("client", "http://web/half", 200);
    assert!(until(PATIENCE, || copies(&stage, "v2") > before + 60));
    let copied = copies(&stage, "v2") - before;
    assert!((60..140).contains(&copied), "{copied} of 200");
}

#[test]
fn cors_answers_preflights_and_says_for_whom_an_answer_is() {
    let mut stage = Stage::set();
    let cors = "{type: CORS, cors: {allowOrigins: ['https://*.example', 'https://one.test'], allowMethods: [GET, PUT], \
                allowHeaders: [x-a], exposeHeaders: [x-app], allowCredentials: true, maxAge: 60}}";
    stage.apply(&http_route("shop/web", WEB, &format!("{{{}}}", filters(&[cors], &to("v1")))));
    for wire in WIRES {
        let preflight = ["-X", "OPTIONS", "-H", "access-control-request-method: PUT"];
        let asked = head(
            &stage,
            &[&[wire, "http://web/", "-H", "origin: https://a.example"], &preflight[..]].concat(),
        );
        assert_eq!(asked[0], "204");
        for line in [
            "access-control-allow-origin: https://a.example",
            "access-control-allow-methods: get, put",
            "access-control-allow-headers: x-a",
            "access-control-allow-credentials: true",
            "access-control-max-age: 60",
        ] {
            assert!(asked.contains(&line.to_owned()), "{wire}: {line} in {asked:?}");
        }
        let refused = head(
            &stage,
            &[&[wire, "http://web/", "-H", "origin: https://evil.test"], &preflight[..]].concat(),
        );
        assert!(!refused.iter().any(|line| line.starts_with("access-control-")), "{wire}: {refused:?}");
        let answered = head(&stage, &[wire, "http://web/", "-H", "origin: https://one.test"]);
        assert_eq!(answered[0], "200");
        for line in ["access-control-allow-origin: https://one.test", "access-control-expose-headers: x-app"]
        {
            assert!(answered.contains(&line.to_owned()), "{wire}: {line} in {answered:?}");
        }
        let refused = head(&stage, &[wire, "http://web/", "-H", "origin: https://evil.test"]);
        assert_eq!(refused[0], "200");
        assert!(!refused.iter().any(|line| line.starts_with("access-control-")), "{wire}: {refused:?}");
    }
}
