//! HTTP/1.1 through the hop: connections kept, bodies of every framing, and heads as they were written.

use std::fs;
use std::time::Duration;

use node_proxy::demo::command::until;

use crate::rig::{PATIENCE, hex, pattern, sha256, stage};

/// More than fits any buffer on the way.
const LARGE: usize = 40_000_000;

#[test]
fn requests_of_one_connection_go_each_to_their_own_backend() {
    let stage = stage();
    let (plain, new) = ("http://routed/ok/keep-alive", "version: new");
    let each = ["-o", "/dev/null", "-w", "%{num_connects} %header{x-app}\n"];
    let next = [&["--next", "-sS"], &each[..]].concat();
    let first = [&each[..], &[plain]].concat();
    let second = [&next[..], &["-H", new, plain]].concat();
    let third = [&next[..], &[plain]].concat();
    let answers = stage.curl(&[first, second, third].concat());
    // The number of connections that each request opened: the last two came on the first one's.
    assert_eq!(answers, "1 go-1\n0 go-2\n0 go-1\n");
    stage.wait_lines("node-a", &["path=/ok/keep-alive"], 3);
}

#[test]
fn a_large_body_comes_down_byte_by_byte() {
    let stage = stage();
    for (path, service) in [("bytes", "raw"), ("chunked", "raw"), ("bytes", "near"), ("chunked", "near")] {
        let file = stage.file(&format!("{service}-{path}"));
        let url = format!("http://{service}/{path}/{LARGE}");
        stage.curl(&["-o", &file, &url]);
        let got = fs::read(&file).unwrap();
        assert!(got == pattern(LARGE), "{url}: {} bytes came", got.len());
        let line =
            &stage.wait_lines("node-a", &[&format!("path=/{path}/{LARGE}"), &format!("shop/{service} ")], 1)
                [0];
        line.check(&[("status", "200"), ("mtls", "yes")]);
        assert!(line.at("bytes_recv").parse::<usize>().unwrap() >= LARGE, "{line:?}");
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn a_large_body_goes_up_byte_by_byte() {
    let stage = stage();
    let file = stage.file("upload");
    fs::write(&file, pattern(LARGE)).unwrap();
    let expected = format!("{LARGE} {} ", sha256(&file));
    let data = format!("@{file}");
    for service in ["raw", "near"] {
        let url = format!("http://{service}/hash/{service}");
        assert_eq!(stage.curl(&["--data-binary", &data, &url]), expected, "Content-Length to {service}");
        let chunked = ["--data-binary", &data, "-H", "Transfer-Encoding: chunked", &url];
        assert_eq!(stage.curl(&chunked), expected, "chunked to {service}");
        let lines = stage.wait_lines("node-a", &[&format!("path=/hash/{service}")], 2);
        assert!(
            lines.iter().all(|line| line.at("bytes_sent").parse::<usize>().unwrap() >= LARGE),
            "{lines:?}"
        );
    }
}

#[test]
fn trailers_of_chunked_bodies_pass_both_ways() {
    let stage = stage();
    let request = "POST /hash/trailer HTTP/1.1\r\nHost: raw\r\nTE: trailers\r\nConnection: TE\r\n\
                   Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Said: yes\r\n\r\n";
    let seen = stage.speak("raw", 80, &[&hex(request), "read:yes"]);
    assert!(seen.text.ends_with(" X-Said: yes"), "{seen:?}");
    let request = "GET /chunked/5 HTTP/1.1\r\nHost: raw\r\nTE: trailers\r\nConnection: TE\r\n\r\n";
    let seen = stage.speak("raw", 80, &[&hex(request), "read:X-Last: yes\r\n\r\n"]);
    assert!(seen.text.contains("\r\n0\r\nX-Last: yes\r\n\r\n"), "{seen:?}");
}

#[test]
fn an_answer_is_passed_on_as_it_comes() {
    let seen = stage().speak(
        "raw",
        80,
        &[&hex("GET /slow HTTP/1.1\r\nHost: raw\r\n\r\n"), "read:first", "read:last"],
    );
    let [_, first, last] = seen.times[..] else { panic!("{seen:?}") };
    assert!(last - first > 0.5, "the first bytes waited for the last: {seen:?}");
}

#[test]
fn a_request_body_is_passed_on_as_it_comes() {
    let stage = stage();
    let head = "POST /hash/streamed HTTP/1.1\r\nHost: raw\r\nContent-Length: 6\r\n\r\nabc";
    let seen = std::thread::scope(|scope| {
        let speaking = scope.spawn(|| {
            stage.speak("raw", 80, &[&hex(head), "pause:1.5", &hex("def"), "read: \r\n", "half", "rest"])
        });
        let early = || !stage.requests("raw", "/hash/streamed").is_empty();
        assert!(until(Duration::from_millis(1400), early), "the head waited for the body");
        assert!(
            !stage.app_log("raw").contains("BODY /hash/streamed"),
            "the body was there before it was sent"
        );
        speaking.join().unwrap()
    });
    assert!(
        seen.text.contains("\r\n\r\n6 bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721"),
        "{seen:?}"
    );
}

#[test]
fn answers_without_a_body_end_with_their_head() {
    let stage = stage();
    // On one connection: a body that is taken for granted would swallow the next answer.
    let requests = "GET /204 HTTP/1.1\r\nHost: raw\r\n\r\nGET /304 HTTP/1.1\r\nHost: raw\r\n\r\n\
                    HEAD /head HTTP/1.1\r\nHost: raw\r\n\r\nGET /hash/last HTTP/1.1\r\nHost: raw\r\nConnection: close\r\n\r\n";
    let seen = stage.speak("raw", 80, &[&hex(requests), "rest"]);
    let statuses: Vec<_> = seen.text.split("\r\n").filter(|line| line.starts_with("HTTP/1.1 ")).collect();
    assert_eq!(
        statuses,
        ["HTTP/1.1 204 No Content", "HTTP/1.1 304 Not Modified", "HTTP/1.1 200 OK", "HTTP/1.1 200 OK"]
    );
    assert!(seen.text.contains("Content-Length: 12345\r\n"), "{seen:?}");
    assert!(seen.text.contains("Content-Length: 9\r\n") && seen.end == "closed", "{seen:?}");
}

#[test]
fn an_answer_without_a_length_ends_with_its_connection() {
    let stage = stage();
    let request = "GET /until-close HTTP/1.1\r\nHost: raw\r\n\r\n";
    let seen = stage.speak("raw", 80, &[&hex(request), "rest"]);
    assert!(seen.text.ends_with("\r\n\r\nuntil the end") && seen.end == "closed", "{seen:?}");
    assert_eq!(stage.curl(&["http://raw/until-close"]), "until the end");
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let stage = stage();
    let requests: String = (0..20)
        .map(|number| {
            let body = "x".repeat(number);
            format!("POST /hash/{number} HTTP/1.1\r\nHost: raw\r\nX-Pipelined: 1\r\nContent-Length: {number}\r\n\r\n{body}")
        })
        .chain(["GET /hash/end HTTP/1.1\r\nHost: raw\r\nConnection: close\r\n\r\n".to_owned()])
        .collect();
    let seen = stage.speak("raw", 80, &[&hex(&requests), "rest"]);
    let lengths: Vec<_> = seen
        .text
        .split("\r\n\r\n")
        .skip(1)
        .filter_map(|rest| rest.split(' ').next()?.parse::<usize>().ok())
        .collect();
    assert_eq!(lengths, (0..20).chain([0]).collect::<Vec<_>>(), "{}", seen.text);
    assert_eq!(stage.requests("raw", "X-Pipelined").len(), 20);
}

#[test]
fn pipelined_requests_are_routed_each_by_itself_and_answered_in_their_order() {
    let stage = stage();
    let request = |number: usize| {
        let version = if number.is_multiple_of(3) { "version: new\r\n" } else { "" };
        let body = "x".repeat(number);
        format!(
            "POST /ok/in-line/{number} HTTP/1.1\r\nHost: routed\r\n{version}Content-Length: {number}\r\n\r\n{body}"
        )
    };
    let last = "GET /ok/in-line/end HTTP/1.1\r\nHost: routed\r\nConnection: close\r\n\r\n".to_owned();
    let requests: String = (0..20).map(request).chain([last]).collect();
    let seen = stage.speak("routed", 80, &[&hex(&requests), "rest"]);
    let answered: Vec<_> = seen.text.lines().filter(|line| line.contains(" HTTP/1.1 ")).collect();
    let answer = |number: usize| {
        let server = if number < 20 && number.is_multiple_of(3) { "go-2" } else { "go-1" };
        format!("{server} HTTP/1.1 {} ", number % 20)
    };
    assert_eq!(answered.len(), 21, "{seen:?}");
    for (number, line) in answered.iter().enumerate() {
        assert!(line.starts_with(&answer(number)), "{number}: {line}");
    }
    stage.wait_lines("node-a", &["path=/ok/in-line/", "status=200", "route=HTTPRoute/shop/routed/"], 21);
}

#[test]
fn a_client_that_ends_its_half_after_the_request_is_answered() {
    let stage = stage();
    let request = "POST /hash/half HTTP/1.1\r\nHost: raw\r\nContent-Length: 3\r\n\r\nabc";
    let seen = stage.speak("raw", 80, &[&hex(request), "half", "rest"]);
    assert!(seen.text.contains("\r\n\r\n3 ba7816bf") && seen.end == "closed", "{seen:?}");
    stage.wait_lines("node-a", &["path=/hash/half", "status=200"], 1)[0]
        .check(&[("level", "INFO"), ("reason", "")]);
}

#[test]
fn a_server_learns_that_its_client_has_left() {
    let stage = stage();
    for (path, leave, how) in [("/hang/closed", "half", "in order"), ("/hang/reset", "reset", "by a reset")] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: raw\r\n\r\n");
        stage.speak("raw", 80, &[&hex(&request), "pause:0.3", leave]);
        let told = || stage.app_log("raw").contains(&format!("LEFT {path} {how}\n"));
        assert!(until(PATIENCE, told), "the server still works for a client that has left: {path}");
    }
    stage.wait_lines("node-a", &["path=/hang/reset "], 1)[0].check(&[("reason", "client_closed")]);
}

#[test]
fn a_connection_that_was_authenticated_stays_its_clients_own() {
    let stage = stage();
    let request = |field: &str| hex(&format!("GET /port HTTP/1.1\r\nHost: raw\r\n{field}\r\n"));
    let (authenticated, plain) = (request("Authorization: NTLM dHlwZTM=\r\n"), request(""));
    let ports = |steps: &[&str]| -> Vec<String> {
        let text = stage.speak("raw", 80, steps).text;
        text.split("port ").skip(1).map(|rest| rest.split('.').next().unwrap().to_owned()).collect()
    };
    std::thread::scope(|scope| {
        let own = scope.spawn(|| {
            ports(&[&authenticated, "read:.", &plain, "pause:2", &plain, "pause:0.5", "half", "rest"])
        });
        std::thread::sleep(Duration::from_millis(700));
        // Enough of them for every thread of the proxy.
        let others: Vec<_> =
            (0..6).map(|_| scope.spawn(|| ports(&[&plain, "pause:0.5", "half", "rest"]))).collect();
        let own = own.join().unwrap();
        assert!(own.len() == 3 && own.iter().all(|port| *port == own[0]), "{own:?}");
        for other in others {
            let other = other.join().unwrap();
            assert!(other.len() == 1 && other[0] != own[0], "{other:?} on the connection of {own:?}");
        }
    });
}

#[test]
fn http_1_0_is_served_as_such() {
    let stage = stage();
    let seen = stage.speak("raw", 80, &[&hex("GET /old HTTP/1.0\r\n\r\n"), "rest"]);
    assert!(seen.text.ends_with("\r\n\r\nGET /old HTTP/1.0") && seen.end == "closed", "{seen:?}");
    let kept =
        |number: u8| hex(&format!("GET /old/kept/{number} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    let seen = stage.speak("raw", 80, &[&kept(1), "read:kept/1 HTTP/1.0", &kept(2), "read:kept/2 HTTP/1.0"]);
    assert_eq!(seen.text.matches("connection: keep-alive\r\n").count(), 2, "{seen:?}");
    // Under a route, from a server that speaks 1.1: no chunks, and the end of the connection is that of the answer.
    let seen =
        stage.speak("routed", 80, &[&hex("GET /bytes/300000 HTTP/1.0\r\nHost: routed\r\n\r\n"), "rest"]);
    let head = "HTTP/1.1 200 OK\r\n".len();
    assert!(seen.end == "closed" && seen.length > 300_000 && seen.length < 301_000 + head as u64, "{seen:?}");
    let line = &stage.wait_lines("node-a", &["path=/bytes/300000 "], 1)[0];
    line.check(&[("status", "200"), ("bytes_recv", "300000"), ("dst.workload", "go-1")]);
    let refused = hex("GET /no-rule/old HTTP/1.0\r\nHost: routed\r\nConnection: keep-alive\r\n\r\n");
    let seen = stage.speak(
        "routed",
        80,
        &[&refused, "read:no_matching_rule\n", &refused, "read:no_matching_rule\n"],
    );
    assert!(seen.text.contains("\r\nconnection: keep-alive\r\n"), "{seen:?}");
}

#[test]
fn heads_arrive_as_they_were_written() {
    let stage = stage();
    let request = "GET /Case%20Kept?q=A%2fb&c=x;d HTTP/1.1\r\nhOsT: raw:80\r\nX-One: 1\r\nx-two:2\r\nX-ONE: 3\r\n\
                   Cookie: a=1\r\nX-Empty:\r\nX-Quoted: \"a, b\"\r\nX-Late: \u{e9}\r\n\r\n";
    let bytes: String = request.chars().map(|one| format!("{:02x}", one as u32)).collect();
    let seen = stage.speak("raw", 80, &[&bytes, "read:X-Late", "pause:0.1"]);
    let expected = "GET /Case%20Kept?q=A%2fb&c=x;d HTTP/1.1\r\nhOsT: raw:80\r\nX-One: 1\r\nx-two: 2\r\nX-ONE: 3\r\n\
                    Cookie: a=1\r\nX-Empty: \r\nX-Quoted: \"a, b\"\r\nX-Late: \u{e9}";
    assert!(seen.text.ends_with(&format!("\r\n\r\n{expected}")), "{seen:?}");
}

#[test]
fn fields_of_one_hop_stay_on_it() {
    let stage = stage();
    let request = "GET /fields HTTP/1.1\r\nHost: raw\r\nConnection: keep-alive, X-Mine, Content-Length\r\nX-Mine: 1\r\n\
                   Keep-Alive: timeout=9\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\
                   Content-Length: 0\r\nX-Kept: 1\r\n\r\n";
    let seen = stage.speak("raw", 80, &[&hex(request), "read:Content-Length: 0\r\n\r\n"]);
    let expected = "HTTP/1.1 200 Fine By Me\r\nX-Case: kept\r\nx-lower: kept\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
                    Content-Length: 0\r\n\r\n";
    assert_eq!(seen.text, expected);
    let arrived = &stage.requests("raw", "GET /fields ")[0]["lines"];
    let expected = ["GET /fields HTTP/1.1", "Host: raw", "Content-Length: 0", "X-Kept: 1"];
    assert_eq!(*arrived, serde_json::json!(expected));
}

#[test]
fn the_server_sees_the_address_of_the_client() {
    let stage = stage();
    for service in ["raw", "near"] {
        stage.curl(&[&format!("http://{service}/whose-address")]);
        let from = stage.requests(service, "/whose-address")[0]["from"].as_str().unwrap().to_owned();
        assert!(stage.is_address("client", &from), "{service}: {from}");
    }
}

#[test]
fn a_request_has_one_line_with_both_identities_route_and_backend() {
    let stage = stage();
    stage.curl(&["-H", "version: new", "http://routed/one-line?secret=1"]);
    stage.wait_lines("node-a", &["/one-line"], 1)[0].check(&[
        ("level", "INFO"),
        ("direction", "outbound"),
        ("protocol", "http1"),
        ("method", "GET"),
        ("path", "/one-line"),
        ("status", "200"),
        ("mtls", "yes"),
        ("src.workload", "client"),
        ("src.identity", "spiffe://cluster.local/ns/shop/sa/client"),
        ("dst.workload", "go-2"),
        ("dst.identity", "spiffe://cluster.local/ns/shop/sa/go-2"),
        ("dst.service", "shop/routed"),
        ("backend", "shop/go-2:80"),
        ("reason", ""),
    ]);
    let line = &stage.lines("node-a", &["/one-line"])[0];
    assert!(line.at("route").contains("shop/routed"), "{line:?}");
    let labels = [r#"service="routed""#, r#"backend="go-2""#, r#"status="200""#];
    assert!(stage.metric("gammarus_http_requests_total", &labels) >= 1.0);
}
