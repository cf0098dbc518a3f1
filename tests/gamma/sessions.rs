//! Clients that stay with an endpoint, by a cookie and by a field, over both wires.

use std::collections::BTreeSet;

use node_proxy::demo::command::until;

use super::stage::{PATIENCE, Stage, WEB, WIRES, http_route, route, to, under};

/// Many requests of a client, each on a connection of its own: curl cannot send two on one of HTTP/2 by prior knowledge.
const OFTEN: &str = r#"for n in $(seq 20); do curl -sS --max-time 10 -o /dev/null -w '%{http_code} %header{x-app}\n' "$@"; done"#;

/// Who answers, and each value of a field that comes with it.
#[track_caller]
fn ask(stage: &Stage, field: &str, arguments: &[&str]) -> (String, Vec<String>) {
    let curl = ["curl", "-sS", "--max-time", "10", "-o", "/dev/null", "-D", "-"];
    let text = stage.world.exec("client", &[&curl, arguments].concat()).unwrap().stdout;
    let values = |name: &str| {
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        let own = pairs.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        own.map(|(_, value)| value.trim().to_owned()).collect::<Vec<_>>()
    };
    (values("x-app").concat(), values(field))
}

/// Who answers many requests.
#[track_caller]
fn ask_often(stage: &Stage, arguments: &[&str]) -> BTreeSet<String> {
    let done = stage.world.exec("client", &[&["sh", "-c", OFTEN, "sh"], arguments].concat()).unwrap();
    done.stdout.lines().chain(done.stderr.lines()).map(ToOwned::to_owned).collect()
}

/// Of whom are the sessions that 30 clients begin.
#[track_caller]
fn begin_sessions(stage: &Stage, wire: &str, field: &str, url: &str) -> BTreeSet<(String, String)> {
    let begin = |_| {
        let (app, tokens) = ask(stage, field, &[wire, url]);
        assert_eq!(tokens.len(), 1, "{tokens:?}");
        (app, tokens[0].split(';').next().unwrap().to_owned())
    };
    (0..30).map(begin).collect()
}

#[test]
fn a_cookie_keeps_a_client_with_the_endpoint_that_answered_first() {
    let mut stage = Stage::set();
    let rule = format!("{{sessionPersistence: {{sessionName: sticky}}, {}}}", to("web"));
    stage.apply(&http_route("shop/web", WEB, &rule));
    for wire in WIRES {
        let sessions = begin_sessions(&stage, wire, "set-cookie", "http://web/");
        let apps: BTreeSet<&str> = sessions.iter().map(|(app, _)| &**app).collect();
        assert!(apps.iter().eq(&["v1", "v2"]), "clients without a session are spread: {sessions:?}");
        for (app, cookie) in &sessions {
            assert!(cookie.starts_with("sticky="), "{cookie}");
            let say = format!("cookie: other=1; {cookie}");
            assert_eq!(
                ask_often(&stage, &[wire, "-H", &say, "http://web/"]),
                BTreeSet::from([format!("200 {app}")])
            );
            let again = ask(&stage, "set-cookie", &[wire, "-H", &say, "http://web/"]);
            assert_eq!(again, (app.clone(), vec![]), "a session that goes on is not begun again");
        }
        let (_, cookies) = ask(&stage, "set-cookie", &[wire, "http://web/"]);
        assert!(cookies[0].ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookies:?}");
    }
}

#[test]
fn a_field_does_too_and_both_wires_and_proxies_understand_it() {
    let mut stage = Stage::set();
    let rule = format!("{{sessionPersistence: {{type: Header, sessionName: X-Session}}, {}}}", to("web"));
    stage.apply(&http_route("shop/web", WEB, &rule));
    for (app, token) in begin_sessions(&stage, WIRES[0], "x-session", "http://web/") {
        let say = format!("X-Session: {token}");
        for wire in WIRES {
            assert_eq!(
                ask_often(&stage, &[wire, "-H", &say, "http://web/"]),
                BTreeSet::from([format!("200 {app}")])
            );
        }
        // From the other node, by the other proxy.
        let other = if app == "v1" { "v2" } else { "v1" };
        let stays =
            || (0..20).all(|_| stage.ask(other, &["-H", &say, "http://web/"]) == format!("200 {app}"));
        assert!(until(PATIENCE, stays), "{app}");
    }
    for nonsense in ["X-Session: a", "X-Session;", "X-Session: 0.0.0", "X-Session: \u{e9}"] {
        let (app, tokens) = ask(&stage, "x-session", &["-H", nonsense, "http://web/"]);
        assert!(!app.is_empty() && tokens.len() == 1, "{nonsense} is no session: {app} {tokens:?}");
    }
}

#[test]
fn a_grpc_route_has_sessions_as_well() {
    let mut stage = Stage::set();
    let rule = format!("{{sessionPersistence: {{type: Header, sessionName: s}}, {}}}", to("web"));
    stage.apply(&route("GRPCRoute", "shop/web", WEB, &rule));
    let call = [WIRES[1], "-X", "POST", "-H", "content-type: application/grpc", "-H", "te: trailers"];
    let (app, tokens) = ask(&stage, "s", &[&call[..], &["http://web/a.B/C"]].concat());
    let say = format!("s: {}", tokens[0]);
    let answers = ask_often(&stage, &[&call[..], &["-H", &say, "http://web/a.B/C"]].concat());
    assert_eq!(answers, BTreeSet::from([format!("200 {app}")]));
}

//= GEP-1619
//# When a persistent session is established and traffic splitting is configured across services, the persistence to a
//# single backend MUST be maintained across services, even if the weight is set to 0.
#[test]
fn a_session_takes_precedence_over_weights_and_is_of_its_rule_alone() {
    let mut stage = Stage::set();
    let session = "sessionPersistence: {sessionName: s}";
    let split = |v1: u32, v2: u32| {
        format!(
            "{session}, backendRefs: [{{name: v1, port: 80, weight: {v1}}}, {{name: v2, port: 80, weight: {v2}}}]"
        )
    };
    stage.apply(&http_route(
        "shop/web",
        WEB,
        &[under("/a", &split(1, 0)), under("/b", &split(0, 1))].join(", "),
    ));
    let (app, cookies) = ask(&stage, "set-cookie", &["http://web/a"]);
    assert_eq!(app, "v1");
    let say = format!("cookie: {}", cookies[0].split(';').next().unwrap());
    // The same cookie is nothing to the other rule.
    assert_eq!(ask_often(&stage, &["-H", &say, "http://web/b"]), BTreeSet::from(["200 v2".to_owned()]));
    stage.apply(&http_route("shop/web", WEB, &under("/a", &split(0, 1))));
    assert_eq!(ask_often(&stage, &["-H", &say, "http://web/a"]), BTreeSet::from(["200 v1".to_owned()]));
    assert_eq!(stage.ask("client", &["http://web/a"]), "200 v2", "who has no session goes by the weights");
}

#[test]
fn a_session_whose_endpoint_has_gone_begins_anew_and_a_permanent_one_says_its_end() {
    let mut stage = Stage::set();
    let rule = format!(
        "{{sessionPersistence: {{sessionName: s, absoluteTimeout: 5m, cookieConfig: {{lifetimeType: Permanent}}}}, {}}}",
        to("web")
    );
    stage.apply(&http_route("shop/web", WEB, &rule));
    let (app, cookies) = ask(&stage, "set-cookie", &["http://web/"]);
    assert!(cookies[0].ends_with("; Max-Age=300"), "{cookies:?}");
    let say = format!("cookie: {}", cookies[0].split(';').next().unwrap());
    let left = if app == "v1" { "v2" } else { "v1" };
    stage.apply(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{selector: {{version: {left}}}, \
         ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}"
    ));
    let (other, cookies) = ask(&stage, "set-cookie", &["-H", &say, "http://web/"]);
    assert_eq!((&*other, cookies.len()), (left, 1), "{cookies:?}");
    // An old token is over, whoever it is for.
    let old =
        cookies[0].split(';').next().unwrap().split_once('.').map(|(_, ids)| format!("cookie: s=1.{ids}"));
    let (_, cookies) = ask(&stage, "set-cookie", &["-H", &old.unwrap(), "http://web/"]);
    assert_eq!(cookies.len(), 1, "{cookies:?}");
}
