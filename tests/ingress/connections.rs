//! TLS that goes on, TLS that ends here, and bytes: whole connections by the routes of their listener.

use serde_json::Value;

use crate::rig::{Stage, stage};

/// Says something to the line protocol of the bytes' server, perhaps in TLS, and returns what it answers.
#[track_caller]
pub(crate) fn say(stage: &Stage, (host, port): (&str, &str), name: Option<(&str, &str)>) -> String {
    let target = format!("{host}:{port}");
    let script = match name {
        Some((name, file)) => {
            let trusted = stage.file(&format!("{file}.pem"));
            format!(
                "(printf '*1\\r\\n$4\\r\\nPING\\r\\n'; sleep 1) | openssl s_client -quiet -no_ign_eof -verify_return_error \
                 -verify_hostname {name} -CAfile {trusted} -servername {name} -connect {target} 2>&1"
            )
        }
        None => {
            format!("exec 3<>/dev/tcp/{host}/{port}; printf '*1\\r\\n$4\\r\\nPING\\r\\n' >&3; head -c 7 <&3")
        }
    };
    let done = stage.world().exec("client", &["timeout", "10", "bash", "-c", &script]).unwrap();
    done.stdout
}

#[test]
fn bytes_go_to_the_backend_of_their_tcp_route() {
    let stage = stage();
    let said = say(&stage, (&stage.gateway(), "9000"), None);
    assert_eq!(said, "+PONG\r\n");
    let line = stage.wait_line(&["direction=ingress", "route=TCPRoute/plain/bytes/0"]);
    assert!(line.contains("backend=plain/open:9000") && line.contains("protocol=opaque"), "{line}");
}

#[test]
fn tls_for_nobody_is_reset_where_it_may_be_anybodys() {
    let stage = stage();
    let unknown = stage.curl(&["-k", "https://nobody.example.org:8443/"]);
    assert!(unknown.status == 0 && unknown.error.contains("reset"), "{unknown:?}");
    stage.wait_line(&["direction=ingress", "reason=no_matching_rule", "nobody.example.org"]);
}

#[test]
fn tls_passes_through_to_the_backend_that_has_the_certificate() {
    let stage = stage();
    let trusted = stage.file("passed.pem");
    let answer = stage.curl(&["--cacert", &trusted, "https://passed.example.com:8443/"]);
    assert!(answer.status == 200 && answer.body.contains("s_server -accept 8443"), "{answer:?}");
    let line = stage.wait_line(&["direction=ingress", "route=TLSRoute/plain/passed/0"]);
    assert!(line.contains("protocol=tls") && line.contains("backend=plain/open:443"), "{line}");
}

#[test]
fn tls_that_ends_here_is_routed_by_its_name_or_as_bytes_beside_tls_that_passes() {
    let stage = stage();
    for (name, file, route) in [
        ("ended.example.com", "ended", "route=TLSRoute/plain/ended/0"),
        ("bytes.example.com", "bytes", "route=TCPRoute/plain/ended/0"),
    ] {
        let said = say(&stage, (&stage.gateway(), "8443"), Some((name, file)));
        assert!(said.contains("+PONG"), "{name}: {said}");
        let line = stage.wait_line(&["direction=ingress", route]);
        assert!(line.contains("backend=plain/open:9000"), "{line}");
    }
}

#[test]
fn the_gateway_tells_what_it_has_judged() {
    let stage = stage();
    stage.wait_status("what is wrong and what is not", |status| {
        let all = |about: &str| -> Vec<String> {
            let all = status["conditions"][about].as_array();
            all.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let says = |about: &str, what: &str| all(about).iter().any(|condition| condition.starts_with(what));
        says("Gateway edge/front, listener ended", "Accepted=True")
            && says("Gateway edge/front, listener ended", "Conflicted=False")
            && says("TLSRoute plain/ended on Gateway edge/front", "ResolvedRefs=True")
            && says("HTTPRoute plain/site on Gateway edge/front", "ResolvedRefs=False BackendNotFound")
    });
}
