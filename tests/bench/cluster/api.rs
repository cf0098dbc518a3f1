//! Requests to the API server without the rests that `kubectl` takes: one after the other, or many at once.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use http::Request;
use node_proxy::cluster::kubernetes::connect;
use serde_json::Value;

/// How many requests are under way at once.
const AT_ONCE: usize = 16;

/// A way to the API server as the one who may do everything.
pub(crate) struct Api {
    runtime: tokio::runtime::Runtime,
    client: kube::Client,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    method: &'static str,
    path: String,
    kind: &'static str,
    body: Value,
}

impl Asked {
    pub(crate) fn create(path: impl Into<String>, object: Value) -> Self {
        Self { method: "POST", path: path.into(), kind: "application/json", body: object }
    }

    pub(crate) fn patch(path: impl Into<String>, patch: Value) -> Self {
        Self { method: "PATCH", path: path.into(), kind: "application/merge-patch+json", body: patch }
    }

    pub(crate) fn delete(path: impl Into<String>, options: Value) -> Self {
        Self { method: "DELETE", path: path.into(), kind: "application/json", body: options }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), kind: "application/json", body: Value::Null }
    }

    fn into_request(self) -> Request<Vec<u8>> {
        let Self { method, path, kind, body } = self;
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        request.body(body).unwrap()
    }
}

impl Api {
    pub(crate) fn new(kubeconfig: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(connect(Some(kubeconfig))).unwrap();
        Self { runtime, client }
    }

    pub(crate) fn send(&self, asked: Asked) -> Value {
        self.runtime.block_on(self.client.request(asked.into_request())).unwrap()
    }

    /// The same where the answer may be that it is refused.
    pub(crate) fn is_taken(&self, asked: Asked) -> bool {
        self.runtime.block_on(self.client.request::<Value>(asked.into_request())).is_ok()
    }

    /// Sends many, some at once, and gives the answers in order.
    pub(crate) fn send_all(&self, asked: impl IntoIterator<Item = Asked>) -> Vec<Value> {
        let answers = futures::stream::iter(asked)
            .map(|asked| self.client.request::<Value>(asked.into_request()))
            .buffered(AT_ONCE)
            .try_collect();
        self.runtime.block_on(answers).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(path)).unwrap()
    }

    pub(crate) fn text(&self, path: &str) -> String {
        let request = Request::get(path).body(Vec::new()).unwrap();
        self.runtime.block_on(self.client.request_text(request)).unwrap()
    }

    /// Watches from now on: each line as soon as it is there, for as long as somebody listens.
    pub(crate) fn watch(&self, path: &str) -> Receiver<(std::time::Instant, Value)> {
        let request = Request::get(path).body(Vec::new()).unwrap();
        let lines = self.runtime.block_on(self.client.request_stream(request)).unwrap();
        let (tell, heard) = channel();
        self.runtime.spawn(async move {
            let mut lines = std::pin::pin!(lines.lines());
            while let Some(Ok(line)) = lines.next().await {
                let seen = (std::time::Instant::now(), serde_json::from_str(&line).unwrap());
                if tell.send(seen).is_err() {
                    break;
                }
            }
        });
        heard
    }
}
