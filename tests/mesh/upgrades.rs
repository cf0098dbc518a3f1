//! WebSocket and other protocols that take a connection of HTTP/1.1 or a stream of HTTP/2 over, on ports that are routed.

use serde_json::{Value, json};

use crate::rig::{NODE, PYTHON, Stage, hex, stage, tool};

/// What became of a conversation with a silence of `pause` seconds in it.
#[track_caller]
fn talk(stage: &Stage, url: &str, pause: &str) -> Value {
    let done = stage.world.exec("client", &[PYTHON, &tool("websocket.py"), "talk", url, pause]).unwrap();
    serde_json::from_str(&done.checked().unwrap().stdout).unwrap()
}

// A timeout is of "the whole request-response transaction" (HTTPRouteTimeouts.request), which ends with the 101.
#[test]
fn a_websocket_is_a_conversation_that_no_rule_hurries() {
    let stage = stage();
    let whole = json!({
        "greeting": "the server speaks first", "text": "text", "large": true, "pong": true, "order": true,
        "close": [4001, "as told"],
    });
    for (url, pause) in [
        // Without a route, and under a rule whose requests may take 300 ms.
        ("ws://raw:7000/greet", "0"),
        ("ws://termed/raw/greet", "1.5"),
    ] {
        assert_eq!(talk(&stage, url, pause), whole, "{url}");
    }
    let line = &stage.wait_lines("node-a", &["path=/raw/greet"], 1)[0];
    line.check(&[("status", "101"), ("mtls", "yes"), ("backend", "shop/raw:7000"), ("reason", "")]);
    assert!(line.at("bytes_sent").parse::<u64>().unwrap() > 2_000_000, "{line:?}");
    assert!(line.at("duration_ms").parse::<f64>().unwrap() > 1500.0, "{line:?}");
}

#[test]
fn an_upgrade_that_nobody_can_take_says_why() {
    let stage = stage();
    assert_eq!(
        talk(&stage, "ws://termed/nobody/greet", "0"),
        json!({"status": 503, "reason": "no_endpoint"})
    );
}

#[test]
fn a_server_that_does_not_switch_answers_as_ever_and_the_connection_goes_on() {
    let stage = stage();
    let request =
        "GET /hash/no-switch HTTP/1.1\r\nHost: raw\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let next = "GET /204 HTTP/1.1\r\nHost: raw\r\nConnection: close\r\n\r\n";
    let seen = stage.speak("raw", 80, &[&hex(request), "read:0 e3b0", &hex(next), "rest"]);
    assert!(seen.text.starts_with("HTTP/1.1 200") && seen.text.contains("HTTP/1.1 204"), "{seen:?}");
    let heads = stage.requests("raw", "/hash/no-switch");
    let lines: Vec<&str> = heads[0]["lines"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(lines.contains(&"connection: upgrade") && lines.contains(&"upgrade: websocket"), "{lines:?}");
}

#[test]
fn a_switch_to_http2_is_not_offered_because_its_requests_would_have_no_rules() {
    let stage = stage();
    let fields = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__";
    let request = format!("GET /hash/h2c HTTP/1.1\r\nHost: raw\r\n{fields}\r\n\r\n");
    let seen = stage.speak("raw", 80, &[&hex(&request), "read:0 e3b0", "half", "rest"]);
    assert!(seen.text.starts_with("HTTP/1.1 200"), "{seen:?}");
    let head = stage.requests("raw", "/hash/h2c")[0].to_string().to_lowercase();
    assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
}

#[test]
fn bytes_right_behind_the_switch_belong_to_the_new_protocol_both_ways() {
    let stage = stage();
    let request = "GET /switch HTTP/1.1\r\nHost: raw\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nearly ";
    let seen = stage.speak("raw", 80, &[&hex(request), "read:early", &hex("late"), "half", "rest"]);
    let (head, rest) = seen.text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{seen:?}");
    assert_eq!((rest, &*seen.end), ("hello early late", "closed"), "{seen:?}");
}

/// What became of a tunnel with a silence of so many milliseconds in it.
#[track_caller]
fn tunnel(stage: &Stage, host: &str, path: &str, silence: &str) -> Value {
    let done = stage.world.exec("client", &[NODE, &tool("tunnel.mjs"), "talk", host, path, silence]).unwrap();
    serde_json::from_str(&done.checked().unwrap().stdout).unwrap()
}

//= RFC 8441 section 5
//# After successfully processing the opening handshake, the peers should proceed with the WebSocket Protocol using the
//# HTTP/2 stream from the CONNECT transaction as if it were the TCP connection referred to in RFC 6455.
#[test]
fn a_stream_of_http2_becomes_a_tunnel_by_extended_connect() {
    let stage = stage();
    // Without a route, and under a rule whose requests may take 300 ms.
    for (host, path) in [("raw:7001", "/free"), ("termed", "/tunnel/echo")] {
        let found = tunnel(&stage, host, path, "1000");
        let line = stage.lines("node-a", &[&format!("path={path}")]);
        assert_eq!(found["status"], 200, "{host}: {found} {line:?}");
        let text = found["text"].as_str().unwrap();
        assert!(text.starts_with("the server speaks first;early;late;xxx"), "{host}: {found}");
        assert_eq!(
            (&found["length"], &found["end"]),
            (&json!(24 + 11 + 1_000_000), &json!("whole")),
            "{host}"
        );
    }
    let line = &stage.wait_lines("node-a", &["path=/tunnel/echo"], 1)[0];
    line.check(&[("method", "CONNECT"), ("status", "200"), ("mtls", "yes"), ("backend", "shop/raw:7001")]);
    line.check(&[("bytes_sent", "1000011"), ("bytes_recv", "1000035"), ("reason", "")]);
}

#[test]
fn a_tunnel_that_is_not_opened_is_an_answer_like_any_other() {
    let stage = stage();
    for (host, path, status, reason) in [
        ("raw:7001", "/refused", 403, Value::Null),
        ("termed", "/nobody/tunnel", 503, json!("no_endpoint")),
        // Its server has not offered it.
        ("raw:7002", "/plain", 502, json!("upstream_reset")),
    ] {
        let found = tunnel(&stage, host, path, "0");
        assert_eq!((&found["status"], &found["reason"]), (&json!(status), &reason), "{host}{path}: {found}");
    }
}
