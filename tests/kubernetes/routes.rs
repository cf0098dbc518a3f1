//! What routes of Services mean, where the conformance suite does not look.

use node_proxy::demo::command::until;

use super::rig::{NODES, Namespace, PATIENCE};

/// Two versions of a server on the far node, a Service over both, and a client on the near node.
pub(super) fn stage(purpose: &str) -> Namespace {
    let namespace = Namespace::enrolled(purpose);
    for version in ["v1", "v2"] {
        namespace.server(version, NODES[1], 1);
    }
    namespace.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: v1},
           ports: [{name: http, port: 80, targetPort: 8080}]}}",
    );
    namespace.client("client", NODES[0]);
    namespace
}

fn route(name: &str, rules: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: {name}}},
          spec: {{parentRefs: [{{group: '', kind: Service, name: web, port: 80}}], rules: [{rules}]}}}}"
    )
}

#[test]
fn redirects_name_their_target_and_rewrites_change_the_path() {
    let namespace = stage("targets");
    namespace.apply(&route(
        "web",
        "{matches: [{path: {type: PathPrefix, value: /old}}], filters: [{type: RequestRedirect, requestRedirect:
           {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 301}}]},
         {matches: [{path: {type: PathPrefix, value: /away}}], filters: [{type: RequestRedirect, requestRedirect:
           {scheme: https, hostname: example.org, port: 8443}}]},
         {matches: [{path: {type: PathPrefix, value: /api}}], filters: [{type: URLRewrite, urlRewrite:
           {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}],
          backendRefs: [{name: v2, port: 80}]}",
    ));
    namespace.wait_for_condition("httproute/web", "Accepted", "True Accepted");
    let location = |path: &str| {
        let url = format!("http://web{path}");
        let said = namespace
            .exec("client", &["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", &url]);
        said.stdout
    };
    for (path, wanted) in
        [("/old/a?b=1", "301 http://web/new/a?b=1"), ("/away/x", "302 https://example.org:8443/away/x")]
    {
        assert!(until(PATIENCE, || location(path) == wanted), "{path}: {}", location(path));
    }
    let seen = namespace.ask_until("client", &["http://web/api/cart?id=7"], |seen| seen.is_of("v2"));
    assert_eq!(seen.target, "/cart?id=7");
    assert_eq!(seen.header("host").as_deref(), Some("inner.example"));
    // No rule matches, and nothing falls through to the Service.
    namespace.expect_status("client", &["http://web/else"], "404");
}

#[test]
fn a_consumer_route_holds_for_its_own_namespace_alone() {
    let (producer, consumer) = (stage("producer"), Namespace::enrolled("consumer"));
    consumer.client("client", NODES[0]);
    producer.apply(&route("web", "{backendRefs: [{name: v1, port: 80}]}"));
    consumer.apply(&format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: mine}}, spec: {{
          parentRefs: [{{group: '', kind: Service, name: web, namespace: {0}}}],
          rules: [{{backendRefs: [{{name: v2, namespace: {0}, port: 80}}]}}]}}}}",
        producer.name
    ));
    consumer.wait_for_condition("httproute/mine", "ResolvedRefs", "True ResolvedRefs");
    let url = format!("http://web.{}/", producer.name);
    consumer.ask_until("client", &[&url], |seen| seen.is_of("v2"));
    producer.ask_until("client", &[&url], |seen| seen.is_of("v1"));
    consumer.kubectl(&["delete", "httproute/mine"]).output();
    consumer.ask_until("client", &[&url], |seen| seen.is_of("v1"));
}

#[test]
fn routes_of_one_service_are_merged_and_one_of_them_is_taken_away_alone() {
    let namespace = stage("merged");
    namespace.apply(&route(
        "one",
        "{matches: [{path: {type: Exact, value: /one}}], backendRefs: [{name: v1, port: 80}]}",
    ));
    namespace.apply(&route(
        "two",
        "{matches: [{path: {type: Exact, value: /two}}], backendRefs: [{name: v2, port: 80}]}",
    ));
    namespace.ask_until("client", &["http://web/two"], |seen| seen.is_of("v2"));
    namespace.ask_until("client", &["http://web/one"], |seen| seen.is_of("v1"));
    namespace.kubectl(&["delete", "httproute/one"]).output();
    namespace.expect_status("client", &["http://web/one"], "404");
    namespace.ask_until("client", &["http://web/two"], |seen| seen.is_of("v2"));
}

#[test]
fn a_backend_that_is_not_there_fails_its_share_and_the_status_says_so() {
    let namespace = stage("share");
    namespace.apply(&route(
        "web",
        "{matches: [{path: {type: Exact, value: /lost}}], backendRefs: [{name: nobody, port: 80}]},
         {matches: [{path: {type: Exact, value: /half}}], backendRefs: [{name: v2, port: 80, weight: 1},
           {name: nobody, port: 80, weight: 1}]},
         {backendRefs: [{name: v2, port: 80}]}",
    ));
    namespace.wait_for_condition("httproute/web", "ResolvedRefs", "False BackendNotFound");
    namespace.wait_for_condition("httproute/web", "Accepted", "True Accepted");
    namespace.expect_status("client", &["http://web/lost"], "500");
    namespace.ask_until("client", &["http://web/"], |seen| seen.is_of("v2"));
    // 50 are expected with a deviation of 5; nothing goes to the Service's own pods in their place.
    let half = namespace.curl("client", &["http://web/half?[1-100]"]).stdout;
    let count = |text: &str| half.matches(text).count();
    let (failed, answered) = (count("\n500"), count("\"pod\": \"v2-"));
    assert!(failed + answered == 100 && (20..=80).contains(&failed), "{failed} and {answered}: {half}");
    // It comes, and the status follows although the route is as it was.
    namespace.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: nobody}, spec: {selector: {app: v1},
           ports: [{name: http, port: 80, targetPort: 8080}]}}",
    );
    namespace.wait_for_condition("httproute/web", "ResolvedRefs", "True ResolvedRefs");
    namespace.ask_until("client", &["http://web/lost"], |seen| seen.is_of("v1"));
}

#[test]
fn the_address_decides_and_not_the_host_and_a_pods_own_address_has_no_route() {
    let namespace = stage("address");
    namespace.apply(&route(
        "web",
        "{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-route, value: web}]}}],
          backendRefs: [{name: v1, port: 80}]}",
    ));
    namespace.ask_until("client", &["http://web/"], |seen| seen.header("x-route").is_some());
    let seen = namespace.ask("client", &["-H", "Host: v2", "http://web/"]);
    assert_eq!((seen.is_of("v1"), seen.header("x-route").as_deref()), (true, Some("web")), "{seen:?}");
    let seen = namespace.ask("client", &["-H", "Host: web", "http://v2/"]);
    assert_eq!((seen.is_of("v2"), seen.header("x-route")), (true, None), "{seen:?}");
    let address = namespace.pods_of("v1").remove(0).addresses[0];
    let seen = namespace.ask("client", &["-H", "Host: web", &format!("http://{address}:8080/")]);
    assert_eq!((seen.is_of("v1"), seen.header("x-route")), (true, None), "{seen:?}");
}

#[test]
fn a_backend_of_another_namespace_needs_no_grant() {
    let (namespace, far) = (stage("grants"), Namespace::enrolled("far"));
    far.server("far", NODES[1], 1);
    namespace.apply(&route(
        "web",
        &format!("{{backendRefs: [{{name: far, namespace: {}, port: 80}}]}}", far.name),
    ));
    namespace.wait_for_condition("httproute/web", "ResolvedRefs", "True ResolvedRefs");
    namespace.ask_until("client", &["http://web/"], |seen| seen.is_of("far"));
    // One that is about other routes takes nothing away.
    far.apply(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: others}, spec: {
           from: [{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: elsewhere}],
           to: [{group: '', kind: Service, name: another}]}}",
    );
    for _ in 0..20 {
        assert!(namespace.ask("client", &["http://web/"]).is_of("far"));
    }
    assert_eq!(namespace.condition("httproute/web", "ResolvedRefs"), "True ResolvedRefs");
}
