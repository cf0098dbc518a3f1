//! A watch against answers that no server gives when it is asked to: told to come later, left in silence, a list that
//! grows too old between two of its pages.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, advance, pause, resume, timeout};

use super::super::objects::Kind;
use super::resource::Resource;
use super::watch::{SILENCE, Watcher, Word};
use crate::telemetry::Metrics;

/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(30);

/// Something that gives each request the next of its answers.
struct Server {
    /// What was asked for, and when.
    asked: mpsc::UnboundedReceiver<(String, Instant)>,
    /// The connections, which stay open.
    open: mpsc::UnboundedReceiver<TcpStream>,
    words: mpsc::Receiver<(Kind, Word)>,
}

impl Server {
    /// One that is watched for Namespaces.
    async fn watched(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (ask, asked) = mpsc::unbounded_channel();
        let (keep, open) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read_head(&mut stream).await;
                ask.send((request, Instant::now())).unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                keep.send(stream).unwrap();
            }
        });
        let (say, words) = mpsc::channel(100);
        let mut config = kube::Config::new(url.parse().unwrap());
        config.default_retry = false;
        let watcher = Watcher {
            client: kube::Client::try_from(config).unwrap(),
            kind: Kind::Namespace,
            resource: Resource::of(Kind::Namespace).unwrap(),
            words: say,
            reached: Arc::new(Notify::new()),
            metrics: Arc::new(Metrics::new().unwrap()),
            version: 0,
            streams: true,
        };
        tokio::spawn(watcher.run());
        Self { asked, open, words }
    }

    async fn asked(&mut self) -> (String, Instant) {
        timeout(PATIENCE, self.asked.recv()).await.expect("a request comes").unwrap()
    }

    /// The next word, in short.
    async fn word(&mut self) -> String {
        let word = timeout(PATIENCE, self.words.recv()).await.expect("a word comes").unwrap().1;
        match word {
            Word::Is(item, _) => format!("is {}", item.key.name),
            Word::Trouble(why) => format!("trouble: {why}"),
            Word::ListBegins => "list begins".to_owned(),
            Word::ListEnds => "list ends".to_owned(),
            Word::Well => "well".to_owned(),
            other => format!("{other:?}"),
        }
    }

    async fn says(&mut self, words: &[&str]) {
        for expected in words {
            assert_eq!(self.word().await, *expected);
        }
    }
}

/// The first line of a request, once all of it is there: none here has a body.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().lines().next().unwrap().to_owned()
}

fn refusal(status: &str, more: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{more}content-length: 0\r\nconnection: close\r\n\r\n")
}

fn page(version: &str, more: &str, names: &[&str]) -> String {
    let items: Vec<Value> = names.iter().map(|name| namespace(name, "1")).collect();
    let body =
        json!({"metadata": {"resourceVersion": version, "continue": more}, "items": items}).to_string();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// A watch that has said this and stays open.
fn watch(events: &[String]) -> String {
    format!("HTTP/1.1 200 OK\r\n\r\n{}", events.concat())
}

fn event(what: &str, object: &Value) -> String {
    json!({"type": what, "object": object}).to_string() + "\n"
}

fn namespace(name: &str, version: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": version}})
}

/// The bookmark at the end of a streamed list.
fn end_of_list(version: &str) -> String {
    let annotations = json!({"k8s.io/initial-events-end": "true"});
    event("BOOKMARK", &json!({"metadata": {"resourceVersion": version, "annotations": annotations}}))
}

#[tokio::test]
async fn a_server_that_says_when_to_come_again_is_left_alone_until_then() {
    let busy = refusal("429 Too Many Requests", "retry-after: 2\r\n");
    let mut server = Server::watched(vec![busy, watch(&[end_of_list("7")])]).await;
    let (_, first) = server.asked().await;
    server.says(&["trouble: the API server answers 429 Too Many Requests"]).await;
    let (_, second) = server.asked().await;
    // By itself it would have come within half a second.
    assert!(second - first >= Duration::from_secs(2), "{:?}", second - first);
    server.says(&["list begins", "well", "list ends"]).await;
}

#[tokio::test]
async fn a_watch_in_silence_is_given_up_and_goes_on_from_what_was_seen() {
    let list = watch(&[event("ADDED", &namespace("a", "5")), end_of_list("7")]);
    let mut server = Server::watched(vec![list, watch(&[])]).await;
    server.says(&["list begins", "well", "is a", "list ends"]).await;
    server.asked().await;
    let mut stream = server.open.recv().await.unwrap();
    pause();
    advance(SILENCE - Duration::from_secs(1)).await;
    resume();
    stream.write_all(event("MODIFIED", &namespace("a", "8")).as_bytes()).await.unwrap();
    server.says(&["is a"]).await;
    // What was said has the time begin anew.
    pause();
    advance(SILENCE - Duration::from_secs(1)).await;
    assert!(server.words.try_recv().is_err());
    advance(Duration::from_secs(2)).await;
    resume();
    server.says(&["trouble: the API server has said nothing for too long"]).await;
    let (again, _) = server.asked().await;
    assert!(again.contains("watch=true") && again.contains("resourceVersion=8 "), "{again}");
    server.says(&["well"]).await;
}

#[tokio::test]
async fn a_list_that_grows_too_old_between_two_pages_begins_anew() {
    let answers = vec![
        refusal("422 Unprocessable Entity", ""),
        page("3", "more-of-3", &["a", "b"]),
        refusal("410 Gone", ""),
        page("5", "more-of-5", &["a"]),
        page("5", "", &["c"]),
        watch(&[]),
    ];
    let mut server = Server::watched(answers).await;
    server.says(&["list begins", "is a", "is b", "list begins", "is a", "is c", "list ends", "well"]).await;
    let mut asked = Vec::new();
    for _ in 0..6 {
        asked.push(server.asked().await.0);
    }
    assert!(asked[0].contains("sendInitialEvents=true"), "{asked:?}");
    assert!(asked[1].contains("limit=500") && !asked[1].contains("continue"), "{asked:?}");
    assert!(asked[2].contains("continue=more-of-3"), "{asked:?}");
    assert!(!asked[3].contains("continue"), "{asked:?}");
    assert!(asked[4].contains("continue=more-of-5"), "{asked:?}");
    assert!(asked[5].contains("watch=true") && asked[5].contains("resourceVersion=5 "), "{asked:?}");
}
