//! Answers before the answer (RFC 9110 section 15.2), and those who wait for them before they send a body.

use crate::rig::{hex, stage};

#[test]
fn a_client_that_waits_for_100_continue_gets_it_from_the_server() {
    let stage = stage();
    let head = "POST /hash/expect HTTP/1.1\r\nHost: raw\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    let seen =
        stage.speak("raw", 80, &[&hex(head), "read:100 Continue\r\n\r\n", &hex("abc"), "read:ba7816bf"]);
    assert!(seen.text.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), "{seen:?}");
    stage.wait_lines("node-a", &["path=/hash/expect", "status=200"], 1);
}

#[test]
fn a_final_answer_to_expect_comes_without_the_body() {
    let stage = stage();
    let head = "POST /refused HTTP/1.1\r\nHost: raw\r\nExpect: 100-continue\r\nContent-Length: 3000\r\n\r\n";
    let seen = stage.speak("raw", 80, &[&hex(head), "rest"]);
    assert!(seen.text.starts_with("HTTP/1.1 417 Expectation Failed\r\n"), "{seen:?}");
    assert!(seen.text.contains("connection: close\r\n") && seen.end == "closed", "{seen:?}");
}

#[test]
fn a_client_that_waits_for_100_continue_under_a_route_gets_it_or_the_final_answer() {
    let stage = stage();
    let head = |path: &str| {
        hex(&format!(
            "POST {path} HTTP/1.1\r\nHost: routed\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        ))
    };
    let seen = stage.speak(
        "routed",
        80,
        &[&head("/ok/expect"), "read:100 Continue\r\n\r\n", &hex("abc"), "read:ba7816bf"],
    );
    assert!(seen.text.contains("\r\n\r\nHTTP/1.1 200 OK\r\n"), "{seen:?}");
    // The proxy's own answer is a final one, and the body is not waited for.
    let seen = stage.speak("routed", 80, &[&head("/no-rule/expect"), "rest"]);
    assert!(seen.text.starts_with("HTTP/1.1 404 ") && seen.end == "closed", "{seen:?}");
}

#[test]
fn interim_answers_are_passed_on_as_they_come() {
    let request = "GET /hints HTTP/1.1\r\nHost: raw\r\n\r\n";
    let seen = stage().speak("raw", 80, &[&hex(request), "read:102 Processing\r\n\r\n", "read:the answer"]);
    let expected = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
                    HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nthe answer";
    assert_eq!(seen.text, expected);
    let [_, interim, answer] = seen.times[..] else { panic!("{seen:?}") };
    assert!(answer - interim > 0.5, "the hints waited for the answer: {seen:?}");
}

#[test]
fn a_client_of_http_1_0_gets_the_final_answer_alone() {
    let seen = stage().speak("raw", 80, &[&hex("GET /hints HTTP/1.0\r\n\r\n"), "rest"]);
    assert!(
        seen.text.starts_with("HTTP/1.1 200 OK\r\n") && seen.text.ends_with("\r\n\r\nthe answer"),
        "{seen:?}"
    );
}

#[test]
fn a_client_of_http_2_that_expects_100_continue_is_answered() {
    let stage = stage();
    let post = ["--http2-prior-knowledge", "-H", "Expect: 100-continue", "-d", "abc", "http://go/expect"];
    let answer = stage.curl(&post);
    assert!(answer.contains(" HTTP/2.0 3 ba7816bf"), "{answer}");
}

#[test]
fn an_answer_of_http_2_comes_without_the_interim_ones_before_it() {
    let stage = stage();
    let heads = |wire: &str| {
        let head = stage.curl(&[wire, "-D", "-", "-o", "/dev/null", "http://go/hints"]);
        head.lines().filter(|line| line.starts_with("HTTP/")).map(|line| line.trim_end().to_owned()).collect()
    };
    let heads: [Vec<String>; 2] = ["--http1.1", "--http2-prior-knowledge"].map(heads);
    assert_eq!(heads[0], ["HTTP/1.1 103 Early Hints", "HTTP/1.1 200 OK"]);
    assert_eq!(heads[1], ["HTTP/2 200"]);
}
