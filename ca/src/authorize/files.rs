//! Callers by files: a token per node, and pods in YAML. A file that is broken takes its own pods or its own token away,
//! and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use super::{Answer, AuthorizeError, Authorizer, Caller};
use crate::spiffe::SpiffeId;

/// The shortest token that is taken: an empty or truncated file must not open the door.
const MIN_TOKEN: usize = 16;
/// How deep directories of objects are followed.
const MAX_DEPTH: usize = 16;

/// One token file per node, and pods from a directory of YAML; both are read at each request.
#[derive(Clone, Debug)]
pub struct TokenFile {
    tokens: PathBuf,
    objects: PathBuf,
}

impl TokenFile {
    /// `tokens` holds a file per node, named as the node; `objects` the cluster's objects in YAML.
    #[must_use]
    pub const fn new(tokens: PathBuf, objects: PathBuf) -> Self {
        Self { tokens, objects }
    }
}

impl Authorizer for TokenFile {
    fn knows(&self, _: &str) -> bool {
        true
    }

    fn authenticate<'a>(&'a self, token: &'a str) -> Answer<'a, Caller> {
        let (directory, token) = (self.tokens.clone(), token.to_owned());
        Box::pin(off_the_runtime(move || find_node(&directory, &token)))
    }

    fn authorize<'a>(&'a self, caller: &'a Caller, identity: &'a SpiffeId) -> Answer<'a, ()> {
        let node = match caller {
            Caller::NodeProxy(node) => node.clone(),
            // No file speaks for a pod.
            Caller::Pod(_) => return Box::pin(std::future::ready(Err(AuthorizeError::UnknownToken))),
        };
        let (objects, identity) = (self.objects.clone(), identity.clone());
        Box::pin(off_the_runtime(move || {
            if has_pod(&objects, &node, &identity, MAX_DEPTH) {
                Ok(())
            } else {
                Err(AuthorizeError::NoSuchPod { node, identity })
            }
        }))
    }

    fn nodes(&self) -> Answer<'_, Vec<String>> {
        let directory = self.tokens.clone();
        Box::pin(off_the_runtime(move || Ok(token_files(&directory)?.into_keys().collect())))
    }
}

/// Runs what reads files on a thread that may block.
async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AuthorizeError> + Send + 'static,
) -> Result<T, AuthorizeError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(unavailable(io::Error::other(e))))
}

fn unavailable(error: io::Error) -> AuthorizeError {
    AuthorizeError::Unavailable(Arc::new(error))
}

/// The files of a directory of tokens, by their nodes.
fn token_files(directory: &Path) -> Result<BTreeMap<String, PathBuf>, AuthorizeError> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(unavailable)? {
        let path = entry.map_err(unavailable)?.path();
        let Some(node) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if !node.starts_with('.') && path.is_file() {
            files.insert(node.to_owned(), path);
        }
    }
    Ok(files)
}

/// The node whose file holds `token`. All files are compared, each in constant time.
fn find_node(directory: &Path, token: &str) -> Result<Caller, AuthorizeError> {
    let mut found = Vec::new();
    for (node, path) in token_files(directory)? {
        let content = match fs::read_to_string(&path) {
            Ok(content) => content,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "token file cannot be read");
                continue;
            }
        };
        let expected = content.trim_ascii_end();
        if expected.len() < MIN_TOKEN {
            tracing::warn!(file = %path.display(), at_least = MIN_TOKEN, "token is too short to be taken");
            continue;
        }
        if bool::from(expected.as_bytes().ct_eq(token.as_bytes())) {
            found.push(node);
        }
    }
    if found.len() > 1 {
        tracing::warn!(nodes = ?found, "nodes share one token, which is refused");
    }
    match found.pop() {
        Some(node) if found.is_empty() => Ok(Caller::NodeProxy(node)),
        _ => Err(AuthorizeError::UnknownToken),
    }
}

/// Of any object, what tells whether it is a pod that may have an identity.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Object {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: Option<Spec>,
    status: Option<Status>,
    /// Of a list, what it lists.
    items: Vec<Self>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    namespace: Option<String>,
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    service_account_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: Option<String>,
}

impl Object {
    /// Whether this is a pod on `node` that has `identity`, or a list with one among its items.
    fn lists(&self, node: &str, identity: &SpiffeId) -> bool {
        let is_list = self.kind.ends_with("List");
        self.gives(node, identity) || (is_list && self.items.iter().any(|item| item.lists(node, identity)))
    }

    /// Whether this is a pod on `node` that has `identity` and is not on its way out.
    fn gives(&self, node: &str, identity: &SpiffeId) -> bool {
        let (Some(spec), true) = (&self.spec, self.kind == "Pod" && self.api_version == "v1") else {
            return false;
        };
        let account =
            spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
        let phase = self.status.as_ref().and_then(|status| status.phase.as_deref());
        spec.node_name.as_deref() == Some(node)
            && self.metadata.namespace.as_deref().unwrap_or("default") == identity.namespace()
            && account == identity.service_account()
            && self.metadata.deletion_timestamp.is_none()
            && !matches!(phase, Some("Succeeded" | "Failed"))
    }
}

/// Whether any file under `directory` has a pod on `node` with `identity`.
fn has_pod(directory: &Path, node: &str, identity: &SpiffeId, depth: usize) -> bool {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "objects cannot be read");
            return false;
        }
    };
    entries.flatten().any(|entry| {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            false
        } else if path.is_dir() {
            depth > 0 && has_pod(&path, node, identity, depth - 1)
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            objects_of(&path).iter().any(|object| object.lists(node, identity))
        } else {
            false
        }
    })
}

/// The objects of one file; none of a file that cannot be read.
fn objects_of(path: &Path) -> Vec<Object> {
    let parsed = fs::read_to_string(path)
        .map_err(|e| e.to_string())
        .and_then(|text| serde_saphyr::from_multiple::<Object>(&text).map_err(|e| e.to_string()));
    parsed.unwrap_or_else(|error| {
        tracing::warn!(file = %path.display(), error, "file of objects cannot be read");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN_A: &str = "token-of-node-a-0123456789";
    const TOKEN_B: &str = "token-of-node-b-0123456789";

    fn tokens(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    #[track_caller]
    fn check_token(files: &[(&str, &str)], token: &str, node: Option<&str>) {
        let dir = tokens(files);
        let found = find_node(dir.path(), token).ok();
        assert_eq!(
            found,
            node.map(|node| Caller::NodeProxy(node.to_owned())),
            "token {token:?} among {files:?}"
        );
    }

    #[test]
    fn a_token_belongs_to_the_node_of_its_file() {
        let both = [("a", TOKEN_A), ("b", "token-of-node-b-0123456789\n")];
        check_token(&both, TOKEN_A, Some("a"));
        check_token(&both, TOKEN_B, Some("b"));
        check_token(&both, "token-of-node-c-0123456789", None);
        check_token(&both, "", None);
        check_token(&both, &TOKEN_A[..20], None);
        check_token(&[("a", TOKEN_A), ("b", TOKEN_A)], TOKEN_A, None);
        check_token(&[("a", "short")], "short", None);
        check_token(&[("a", "")], "", None);
        check_token(&[(".hidden", TOKEN_A)], TOKEN_A, None);
        check_token(&[("dir/a", TOKEN_A), ("b", TOKEN_B)], TOKEN_B, Some("b"));
    }

    fn pod(node: &str, account: &str, more: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: shop{more}}}\n\
             spec: {{nodeName: {node}, serviceAccountName: {account}}}\n"
        )
    }

    #[track_caller]
    fn check_pod(files: &[(&str, &str)], expected: bool) {
        let dir = tokens(files);
        let identity = "spiffe://td/ns/shop/sa/web".parse().unwrap();
        assert_eq!(has_pod(dir.path(), "a", &identity, MAX_DEPTH), expected, "{files:?}");
    }

    #[test]
    fn a_node_has_the_identities_of_its_own_live_pods() {
        check_pod(&[("x.yaml", &pod("a", "web", ""))], true);
        check_pod(&[("deep/er/x.yml", &pod("a", "web", ""))], true);
        check_pod(&[("x.txt", &pod("a", "web", ""))], false);
        check_pod(&[("x.yaml", &pod("b", "web", ""))], false);
        check_pod(&[("x.yaml", &pod("a", "default", ""))], false);
        check_pod(&[("x.yaml", &pod("a", "''", ""))], false);
        check_pod(&[("x.yaml", &pod("a", "web", ", deletionTimestamp: '2026-01-01T00:00:00Z'"))], false);
        check_pod(&[("x.yaml", &format!("{}status: {{phase: Succeeded}}\n", pod("a", "web", "")))], false);
        check_pod(&[("x.yaml", &format!("{}status: {{phase: Failed}}\n", pod("a", "web", "")))], false);
        check_pod(&[("x.yaml", &format!("{}status: {{phase: Pending}}\n", pod("a", "web", "")))], true);
        check_pod(&[("x.yaml", &pod("a", "web", "").replace("Pod", "Job"))], false);
        check_pod(&[], false);
    }

    #[test]
    fn a_broken_file_takes_no_other_down_and_documents_of_one_file_all_count() {
        let good = format!("kind: Service\nspec: {{ports: []}}\n---\n---\n{}---\n", pod("a", "web", ""));
        check_pod(&[("x.yaml", &good)], true);
        check_pod(&[("a.yaml", "{: ["), ("b.yaml", "\u{0}"), ("c.yaml", &good)], true);
        check_pod(&[("a.yaml", "{: [")], false);
    }

    #[test]
    fn pods_of_a_list_count_as_if_each_had_its_own_document() {
        let check = |kind: &str, pods: &[String], expected| {
            let mut text = format!("apiVersion: v1\nkind: {kind}\nitems:\n");
            for pod in pods {
                text += &format!("- {}\n", pod.trim_end().replace('\n', "\n  "));
            }
            check_pod(&[("x.yaml", &text)], expected);
        };
        let service = "apiVersion: v1\nkind: Service\nspec: {ports: []}\n".to_owned();
        let (here, there) = (pod("a", "web", ""), pod("b", "web", ""));
        check("List", &[service, there.clone(), here.clone()], true);
        check("PodList", std::slice::from_ref(&here), true);
        check("List", &[there], false);
        check("List", &[here.replace("Pod", "Job")], false);
        check("Deployment", &[here], false);
    }

    #[test]
    fn a_pod_without_a_service_account_has_the_default_one() {
        let dir =
            tokens(&[("x.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {nodeName: a}\n")]);
        let identity = "spiffe://td/ns/default/sa/default".parse().unwrap();
        assert!(has_pod(dir.path(), "a", &identity, MAX_DEPTH));
    }
}
