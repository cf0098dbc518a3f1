//! WebSocket from outside: in plain text and in TLS, to servers in the mesh and outside of it.

use serde_json::{Value, json};

use crate::rig::Stage;
use crate::served::{SERVED, served};

/// What became of a conversation with a silence of `pause` seconds in it.
#[track_caller]
fn talk(stage: &Stage, url: &str, pause: &str) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/mesh/websocket.py");
    let (host, trusted) = (stage.address(SERVED), stage.file("secure.pem"));
    let command = ["/usr/bin/python3", script, "talk", url, pause, &host, &trusted];
    serde_json::from_str(&stage.run("client", &command)).unwrap()
}

#[test]
fn a_conversation_goes_through_the_gateway_in_plain_text_and_in_tls() {
    let stage = served();
    let whole = json!({
        "greeting": "the server speaks first", "text": "text", "large": true, "pong": true, "order": true,
        "close": [4001, "as told"],
    });
    // A rule's timeout is over with the switch: longer than it may take somebody is silent.
    for (url, pause, mtls) in [
        ("ws://secure.example.com/ws/greet", "3", "mtls=yes"),
        ("wss://secure.example.com/wss/greet", "3", "mtls=yes"),
        ("ws://plain.example.com/plain/greet", "0", "mtls=no"),
    ] {
        assert_eq!(talk(&stage, url, pause), whole, "{url}");
        let path = format!("path=/{} ", url.split_once(".com/").unwrap().1);
        let line = stage.wait_line_of(SERVED, &[&path, "direction=ingress", "status=101", mtls]);
        assert!(line.contains("conversations:7000") && !line.contains(" reason="), "{line}");
        let sent = line.split_once("bytes_sent=").unwrap().1.split(' ').next().unwrap();
        assert!(sent.parse::<u64>().unwrap() > 2_000_000, "{line}");
    }
}

#[test]
fn one_that_nobody_can_take_is_told_why() {
    let stage = served();
    for url in ["ws://secure.example.com/nobody", "wss://secure.example.com/nobody"] {
        assert_eq!(talk(&stage, url, "0"), json!({"status": 500, "reason": "invalid_backend"}), "{url}");
    }
}
