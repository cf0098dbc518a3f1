//! Clients of a Gateway that stay with an endpoint, by a cookie and by a field, whichever of its pods they come to.

use std::collections::BTreeSet;

use crate::rig::Stage;
use crate::served::{OTHER, SERVED, WIRES, served};

/// Many requests, each on a connection of its own: curl cannot send two on one of HTTP/2 by prior knowledge.
const OFTEN: &str = r#"for n in $(seq "$0"); do curl -sS --max-time 10 -o /dev/null -w '%{http_code} %header{x-app} %header{x-session}%header{set-cookie}\n' "$@"; done"#;

/// What comes of so many requests to a pod of the Gateway: the status, who answers, and the session that begins, if one does.
#[track_caller]
fn ask(stage: &Stage, pod: &str, times: &str, arguments: &[&str]) -> Vec<[String; 3]> {
    let to = format!("::{}:", stage.address(pod));
    let said = stage.run("client", &[&["sh", "-c", OFTEN, times, "--connect-to", &to], arguments].concat());
    let parts = |line: &str| {
        let mut parts = line.splitn(3, ' ').map(str::to_owned);
        [(); 3].map(|()| parts.next().unwrap_or_default())
    };
    said.lines().map(parts).collect()
}

/// Twenty clients begin sessions, with both endpoints; each stays with its own, and the session is not begun anew.
#[track_caller]
fn check_sessions(stage: &Stage, (wire, url): (&[&str], &str), said: impl Fn(&str) -> String) {
    let begun = ask(stage, SERVED, "20", &[wire, &[url]].concat());
    let apps: BTreeSet<&str> = begun.iter().map(|[_, app, _]| &**app).collect();
    assert!(apps.iter().eq(&["go-1", "go-2"]), "clients without a session are spread: {begun:?}");
    for app in apps {
        let [_, _, token] = begun.iter().find(|[_, own, _]| own == app).unwrap();
        let field = said(token);
        let stays = [["200".to_owned(), app.to_owned(), String::new()]];
        for pod in [SERVED, OTHER] {
            let again = ask(stage, pod, "20", &[wire, &["-H", &field, url]].concat());
            assert!(
                again.len() == 20 && again.iter().all(|answer| stays.contains(answer)),
                "{url} {pod} {again:?}"
            );
        }
    }
}

#[test]
fn a_cookie_keeps_a_client_with_its_endpoint_at_every_pod_of_the_gateway() {
    let stage = served();
    let trusted = stage.file("secure.pem");
    let pair = |wanted: &'static str| {
        move |cookie: &str| {
            let (pair, attributes) = cookie.split_once("; ").unwrap();
            assert!(pair.starts_with("sticky=") && attributes == wanted, "{cookie}");
            format!("cookie: other=1; {pair}")
        }
    };
    let plain = "Path=/; HttpOnly; SameSite=Lax";
    for (wire, _) in WIRES {
        check_sessions(&stage, (&[wire], "http://sessions.example.com/cookie"), pair(plain));
    }
    let wire = ["--http2", "--cacert", &trusted];
    let secure = "Path=/; HttpOnly; SameSite=Lax; Secure";
    check_sessions(&stage, (&wire, "https://secure.example.com/cookie"), pair(secure));
}

#[test]
fn a_field_does_too() {
    let stage = served();
    for (wire, _) in WIRES {
        let field = |token: &str| format!("X-Session: {token}");
        check_sessions(&stage, (&[wire], "http://sessions.example.com/field"), field);
    }
}

#[test]
fn without_either_a_client_is_anybodys_and_nothing_is_said_of_sessions() {
    let stage = served();
    let answers = ask(&stage, SERVED, "40", &["http://sessions.example.com/none"]);
    let apps: BTreeSet<&str> = answers.iter().map(|[_, app, _]| &**app).collect();
    assert!(apps.iter().eq(&["go-1", "go-2"]), "{answers:?}");
    assert!(answers.iter().all(|[status, _, session]| status == "200" && session.is_empty()), "{answers:?}");
}
