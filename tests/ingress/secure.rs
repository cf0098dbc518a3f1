//! HTTPS: certificates by name, versions of TLS and of HTTP, and requests for another listener.

use crate::rig::{GATEWAY, stage};

#[test]
fn tls_ends_at_the_gateway_and_requests_are_routed_by_their_listener() {
    let stage = stage();
    let trusted = stage.file("secure.pem");
    for (version, protocol) in [("--http1.1", "protocol=http1"), ("--http2", "protocol=http2")] {
        let url = format!("https://secure.example.com/of-{}", &version[2..]);
        let seen = stage.ask(&[version, "--cacert", &trusted, &url]);
        assert_eq!(seen["name"], "inside", "{seen}");
        assert_eq!(seen["headers"]["x-forwarded-proto"], serde_json::json!(["https"]), "{seen}");
        let path = format!("path=/of-{} ", &version[2..]);
        stage.wait_line(&[&path, protocol, "mtls=yes", "status=200"]);
    }
}

#[test]
fn each_name_has_the_certificate_that_is_for_it() {
    let stage = stage();
    for (host, file) in [
        ("secure.example.com", "secure"),
        ("one.example.com", "below"),
        // An exact name before a wildcard, whatever the order of the list.
        ("special.example.com", "special"),
    ] {
        let seen = stage.ask(&["--cacert", &stage.file(&format!("{file}.pem")), &format!("https://{host}/")]);
        assert_eq!(seen["name"], "inside", "{host}: {seen}");
        let other = if file == "secure" { "below" } else { "secure" };
        let answer =
            stage.curl(&["--cacert", &stage.file(&format!("{other}.pem")), &format!("https://{host}/")]);
        assert!(answer.error.contains("certificate"), "{host}: {answer:?}");
    }
}

//= RFC 9110 section 15.5.20
//# The 421 (Misdirected Request) status code indicates that the request was directed at a server that is unable or
//# unwilling to produce an authoritative response for the target URI.
#[test]
fn a_request_for_another_listener_than_its_connection_is_misdirected() {
    let stage = stage();
    for version in ["--http1.1", "--http2"] {
        let ask = |connection: &str, host: &str| {
            let host = format!("host: {host}");
            stage.curl(&[version, "-k", "-H", &host, &format!("https://{connection}/")])
        };
        let answer = ask("secure.example.com", "one.example.com");
        assert_eq!(
            (answer.status, &*answer.fields["gammarus-reason"]),
            (421, "misdirected_request"),
            "{answer:?}"
        );
        assert_eq!(ask("one.example.com", "secure.example.com").status, 421);
        // For no listener at all, and for one's own listener without a route.
        assert_eq!(ask("secure.example.com", "elsewhere.example.org").status, 404);
        assert_eq!(ask("one.example.com", "two.example.com").status, 404);
        assert_eq!(ask("one.example.com", "special.example.com").status, 200);
    }
}

#[test]
fn tls_1_2_is_the_floor_and_a_name_without_a_listener_gets_an_alert() {
    let stage = stage();
    let ask = |flags: &[&str], host: &str| {
        let url = format!("https://{host}/");
        stage.curl(&[flags, &["-k", &url]].concat())
    };
    assert_eq!(ask(&["--tls-max", "1.2"], "secure.example.com").status, 200);
    assert_eq!(ask(&["--tlsv1.3"], "secure.example.com").status, 200);
    let old =
        ask(&["--tlsv1.0", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"], "secure.example.com");
    assert!(old.status == 0 && old.error.contains("alert"), "{old:?}");
    stage.wait_line(&["direction=ingress", "reason=handshake_failed"]);
    let unknown = ask(&[], "secure.example.org");
    assert!(unknown.status == 0 && unknown.error.contains("unrecognized name"), "{unknown:?}");
    stage.wait_line(&["direction=ingress", "reason=no_matching_rule", "secure.example.org"]);
    let plain = stage.curl(&["http://secure.example.com:443/"]);
    assert_eq!(plain.status, 0, "{plain:?}");
    stage.wait_line(&["direction=ingress", "reason=not_tls"]);
}

#[test]
fn the_gateway_says_when_each_certificate_ends() {
    let stage = stage();
    let probe = ["curl", "-s", "http://127.0.0.1:15000/metrics"];
    let metrics = stage.world().exec(GATEWAY, &probe).unwrap().stdout;
    for name in ["secure", "below", "special", "ended", "bytes"] {
        let start = format!("gammarus_listener_cert_expiry_seconds{{secret=\"edge/{name}\"}} ");
        let left = metrics.lines().find_map(|line| line.strip_prefix(&start)?.parse::<f64>().ok());
        let left = left.unwrap_or_else(|| panic!("no {start} in {metrics}"));
        let file = stage.file(&format!("{name}.pem"));
        let lasts = |seconds: f64| {
            let check = ["openssl", "x509", "-noout", "-in", &file, "-checkend", &format!("{seconds:.0}")];
            stage.world().exec("client", &check).unwrap().stdout.contains("will not expire")
        };
        assert!(lasts(left - 60.0) && !lasts(left + 60.0), "{name}: {left} s");
    }
    assert!(!metrics.contains("edge/passed"), "nobody shows that one here");
}
