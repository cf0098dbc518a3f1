//! Clients and backends of different versions of HTTP: what one says, the other understands.

use std::fs;

use crate::rig::{Answer, Stage, stage};

const VERSIONS: [(&str, &str); 2] =
    [("--http1.1", "protocol=http1"), ("--http2-prior-knowledge", "protocol=http2")];

#[track_caller]
fn ask(stage: &Stage, version: &str, arguments: &[&str], path: &str) -> Answer {
    let url = format!("http://plain.example.com{path}");
    stage.curl(&[&[version], arguments, &[&url]].concat())
}

#[test]
fn a_backend_is_spoken_to_in_the_version_that_it_speaks() {
    let stage = stage();
    for (version, protocol) in VERSIONS {
        let answer = ask(&stage, version, &["-H", "cookie: a=1; b=2"], "/version1/some?x=y");
        assert_eq!(answer.status, 200, "{version}: {answer:?}");
        let lines: Vec<&str> = answer.body.lines().collect();
        assert_eq!(lines[0], "GET /some?x=y HTTP/1.1", "{version}: {answer:?}");
        for line in ["host: plain.example.com", "cookie: a=1; b=2", "x-forwarded-proto: http"] {
            let has = lines.iter().any(|own| own.eq_ignore_ascii_case(line));
            assert!(has, "{line} is not in what {version} became: {answer:?}");
        }
        let answer = ask(&stage, version, &[], "/version2/whatever");
        assert_eq!((answer.status, &*answer.body), (200, "a page over HTTP/2\n"), "{version}: {answer:?}");
        stage.wait_line(&["path=/version2/whatever", protocol, "status=200", "backend=plain/version2:80"]);
    }
}

#[test]
fn bodies_are_whole_both_ways_and_an_answer_that_breaks_off_is_seen_to() {
    let stage = stage();
    let file = stage.file("upload");
    fs::write(&file, crate::rig::pattern(1_000_000)).unwrap();
    let digest = stage.world().exec("client", &["sha256sum", &file]).unwrap().stdout;
    let digest = digest.split(' ').next().unwrap();
    for (version, _) in VERSIONS {
        let upload = ["--data-binary", &format!("@{file}"), "-H", "expect:"];
        let answer = ask(&stage, version, &upload, "/version1/hash");
        assert!(answer.body.starts_with(&format!("1000000 {digest}")), "{version}: {answer:?}");
        let download = ask(
            &stage,
            version,
            &["-o", "/dev/null", "-w", "%{http_code} %{size_download}"],
            "/version1/chunked/3000000",
        );
        // With `-o`, what is printed is what `-w` asks for.
        assert!(download.error.is_empty() && download.printed.starts_with("200 "), "{version}: {download:?}");
        let size: usize = download.printed.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(size >= 3_000_000, "{version}: {download:?}");
        for (path, status) in [("/version1/204", 204), ("/version1/304", 304)] {
            assert_eq!(ask(&stage, version, &[], path).status, status, "{version} {path}");
        }
        assert_eq!(ask(&stage, version, &["--head"], "/version1/head").fields["content-length"], "12345");
        let broken = ask(&stage, version, &[], "/version1/broken");
        assert!(!broken.error.is_empty(), "{version}: {broken:?}");
        let vanished = ask(&stage, version, &["-X", "POST"], "/version1/vanish");
        assert_eq!(
            (vanished.status, &*vanished.fields["gammarus-reason"]),
            (502, "upstream_reset"),
            "{vanished:?}"
        );
    }
}

#[test]
fn fields_of_a_backends_connection_stay_there() {
    let stage = stage();
    for (version, _) in VERSIONS {
        let answer = ask(&stage, version, &[], "/version1/fields");
        assert_eq!(answer.status, 200, "{version}: {answer:?}");
        assert_eq!((&*answer.fields["x-case"], &*answer.fields["x-lower"]), ("kept", "kept"), "{answer:?}");
        for gone in ["keep-alive", "proxy-connection", "x-mine"] {
            assert!(!answer.fields.contains_key(gone), "{gone} is in {answer:?}");
        }
    }
}

#[test]
fn many_requests_of_one_connection_are_answered_by_as_many_of_http1() {
    let stage = stage();
    check_load(&stage, "/version1/port", "20");
}

/// A server may close a connection just as the next request is on its way there.
#[test]
fn requests_meet_servers_that_leave_without_a_word_and_are_answered_all_the_same() {
    let stage = stage();
    for at_once in ["1", "5"] {
        check_load(&stage, "/version1/leaves", at_once);
    }
}

/// Two connections of HTTP/2 with so many requests at once: all are answered.
#[track_caller]
fn check_load(stage: &Stage, path: &str, at_once: &str) {
    let url = format!("http://{}{path}", stage.gateway());
    let load = [
        "h2load",
        "-n",
        "400",
        "-c",
        "2",
        "-m",
        at_once,
        "-H",
        "host: plain.example.com",
        "-H",
        ":authority: plain.example.com",
        &url,
    ];
    let done = stage.world().exec("client", &load).unwrap().checked().unwrap();
    assert!(done.stdout.contains("400 succeeded, 0 failed, 0 errored, 0 timeout"), "{}", done.stdout);
    assert!(done.stdout.contains("status codes: 400 2xx"), "{}", done.stdout);
}
