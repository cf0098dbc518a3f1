//! Opaque TCP: whatever bytes, whoever speaks first, and every end as it was.

use std::fmt::Write;

use node_proxy::demo::command::until;

use crate::rig::{PATIENCE, hex, pattern, stage};

/// The ports of `raw` that lead to its opaque server: declared, undeclared, and declared as something of its own.
const PORTS: [u16; 3] = [9000, 9001, 6379];

fn hash_of_pattern(count: usize) -> String {
    let path = std::env::temp_dir().join(format!("gammarus-mesh-pattern-{}-{count}", std::process::id()));
    std::fs::write(&path, pattern(count)).unwrap();
    let hash = crate::rig::sha256(&path.display().to_string());
    std::fs::remove_file(path).unwrap();
    hash
}

#[test]
fn a_protocol_in_which_the_client_speaks_first_is_passed_on() {
    let stage = stage();
    for port in PORTS {
        let seen =
            stage.speak("raw", port, &[&hex("*1\r\n$4\r\nPING\r\n"), "read:+PONG\r\n", "half", "rest"]);
        assert_eq!((seen.text.as_str(), seen.end.as_str()), ("+PONG\r\n", "closed"), "{port}");
    }
}

#[test]
fn an_undeclared_port_counts_what_is_spoken() {
    let stage = stage();
    let labels = ["service=\"raw\"", "port=\"9001\"", "protocol=\"opaque\""];
    let before = stage.metric("gammarus_detected_protocol_total", &labels);
    stage.speak("raw", 9001, &[&hex("*1\r\n$4\r\nPING\r\n"), "read:+PONG\r\n"]);
    assert!(stage.metric("gammarus_detected_protocol_total", &labels) > before);
}

#[test]
fn a_half_close_is_kept_and_a_large_upload_is_whole() {
    const LARGE: usize = 30_000_000;
    let stage = stage();
    let hash = hash_of_pattern(LARGE);
    for port in PORTS {
        // The server answers only when the client has ended its half, and sees the client's own address.
        let seen = stage.speak("raw", port, &[&hex("hash\n"), &format!("bulk:{LARGE}"), "half", "rest"]);
        let client = seen.text.strip_prefix(&format!("{LARGE} {hash} ")).map(str::trim_end);
        assert!(client.is_some_and(|client| stage.is_address("client", client)), "{port}: {seen:?}");
    }
}

#[test]
fn a_server_that_ends_its_half_first_still_hears_the_client() {
    let stage = stage();
    let hash = hash_of_pattern(8_000_000);
    for port in PORTS {
        let word = hex(&format!("said after the end of {port}\n"));
        let seen = stage.speak("raw", port, &[&hex("send\n"), "rest", &word, "half"]);
        assert_eq!(
            (seen.length, seen.hash.as_str(), seen.end.as_str()),
            (8_000_000, hash.as_str(), "closed"),
            "{port}"
        );
        let heard =
            || stage.side_log("raw", "tcp").contains(&format!("AFTER b'said after the end of {port}'"));
        assert!(until(PATIENCE, heard), "{port}");
    }
}

#[test]
fn a_reset_of_the_server_stays_a_reset() {
    let stage = stage();
    for port in PORTS {
        let seen = stage.speak("raw", port, &[&hex("reset\n"), "rest"]);
        assert_eq!((seen.text.as_str(), seen.end.as_str()), ("a part", "reset"), "{port}");
    }
    let own = ["shop/raw ", "dst.port=9000 ", "bytes_recv=6 ", "reason=upstream_reset"];
    stage.wait_lines("node-a", &own, 1);
}

#[test]
fn a_reset_of_the_client_stays_a_reset() {
    let stage = stage();
    for port in PORTS {
        let count = || stage.side_log("raw", "tcp").matches("ENDED by a reset").count();
        let before = count();
        stage.speak("raw", port, &[&hex("wait\n"), "pause:0.2", "reset"]);
        assert!(until(PATIENCE, || count() > before), "{port}: {}", stage.side_log("raw", "tcp"));
    }
}

#[test]
fn a_client_that_is_silent_for_a_while_is_waited_for() {
    let stage = stage();
    for port in PORTS {
        let seen = stage.speak(
            "raw",
            port,
            &["pause:2", &hex("*1\r\n$4\r\n"), "pause:1", &hex("PING\r\n"), "read:+PONG"],
        );
        assert_eq!(seen.text, "+PONG\r\n", "{port}");
    }
}

#[test]
fn words_that_only_begin_like_http_are_passed_on() {
    let stage = stage();
    let mut expected = String::new();
    for word in ["GETTING along", "PUT it there", "HELO HTTP/1.1"] {
        let seen = stage.speak("raw", 9001, &[&hex(&format!("{word}\n")), "rest"]);
        let _ = writeln!(expected, "{word}");
        assert_eq!(seen.text, format!("unknown {word}\n"), "{word}");
    }
}

#[test]
fn each_connection_has_one_line_at_each_end_with_both_identities() {
    let stage = stage();
    // An address of its own tells this connection from those of other tests: no other comes from `near`.
    let before = stage.lines("node-a", &["src.workload=near", "dst.port=9000 "]).len();
    let seen = stage.speak_from(
        "near",
        "raw",
        9000,
        &[&hex("*1\r\n$4\r\nPING\r\n"), "read:+PONG\r\n", "half", "rest"],
    );
    assert_eq!(seen.end, "closed");
    let outbound =
        stage.wait_lines("node-a", &["src.workload=near", "dst.port=9000 "], before + 1).pop().unwrap();
    outbound.check(&[
        ("level", "INFO"),
        ("direction", "outbound"),
        ("protocol", "opaque"),
        ("mtls", "yes"),
        ("src.identity", "spiffe://cluster.local/ns/shop/sa/near"),
        ("dst.identity", "spiffe://cluster.local/ns/shop/sa/raw"),
        ("dst.workload", "raw"),
        ("dst.service", "shop/raw"),
        ("bytes_sent", "14"),
        ("bytes_recv", "7"),
        ("reason", ""),
    ]);
    let inbound =
        stage.wait_lines("node-b", &["direction=inbound", "src.workload=near", ":9000 "], 1).pop().unwrap();
    inbound.check(&[
        ("level", "INFO"),
        ("mtls", "yes"),
        ("src.identity", "spiffe://cluster.local/ns/shop/sa/near"),
        ("dst.identity", "spiffe://cluster.local/ns/shop/sa/raw"),
        ("bytes_sent", "14"),
        ("bytes_recv", "7"),
    ]);
}

#[test]
fn a_connection_that_finds_nobody_is_reset_with_its_reason() {
    let stage = stage();
    for (host, reason) in [("nobody", "no_endpoint"), ("deaf", "connect_failed")] {
        assert_eq!(stage.speak(host, 9000, &["rest"]).end, "reset", "{host}");
        // Refused by the one family, the client tries the other.
        let lines = stage.some_lines("node-a", &[&format!("shop/{host} "), "dst.port=9000 "]);
        lines.iter().for_each(|line| line.check(&[("reason", reason), ("level", "WARN")]));
    }
}

#[test]
fn tls_of_the_application_passes_untouched() {
    let stage = stage();
    let (key, certificate) = (stage.file("tls.key"), stage.file("tls.pem"));
    let make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ];
    let make = [&make[..], &["-subj", "/CN=the-application", "-keyout", &key, "-out", &certificate]].concat();
    stage.world.exec("raw", &make).unwrap().checked().unwrap();
    let serve =
        ["openssl", "s_server", "-accept", "8443", "-key", &key, "-cert", &certificate, "-www", "-quiet"];
    let _server = stage.world.spawn("raw", "tls", &serve).unwrap();
    let listens = || stage.world.exec("raw", &["ss", "-Hltn"]).unwrap().stdout.contains(":8443 ");
    assert!(until(PATIENCE, listens), "openssl s_server does not listen");
    for port in ["443", "8443"] {
        let target = format!("raw:{port}");
        let script = format!(
            "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | openssl s_client -connect {target} -CAfile {certificate} -ign_eof -brief 2>&1"
        );
        let said = stage.world.exec("client", &["sh", "-c", &script]).unwrap().stdout;
        assert!(
            said.contains("CN = the-application") || said.contains("CN=the-application"),
            "{port}: {said}"
        );
        assert!(said.contains("Verification: OK") && said.contains("HTTP/1.0 200 ok"), "{port}: {said}");
        assert!(said.contains("s_server -accept 8443"), "{port}: {said}");
    }
    let own = ["direction=outbound", "shop/raw ", "dst.port=8443 "];
    stage.wait_lines("node-a", &own, 1).iter().for_each(|line| line.check(&[("mtls", "yes")]));
}
