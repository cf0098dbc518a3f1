//! Callers by the API server: it reviews their tokens, and says which pods are on their nodes.
//!
//! What a token is worth is remembered for seconds, by its hash. What a node runs is not: pods are asked for whenever a
//! leaf is, by a list that the API server keeps by node. So a pod that was bound a moment ago is seen, one that is gone is
//! not, and there is no cache that could be behind; a watch of all pods by every replica would cost more than a list of one
//! node's for each leaf.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ApiResource, ListParams, NotUsed, Object, PostParams};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use super::{Answer, AuthorizeError, Authorizer, Caller};
use crate::bundle::fingerprint;
use crate::cluster::{Cluster, ClusterError};
use crate::spiffe::SpiffeId;

/// How long a good token is remembered, a bad one, and that nobody answered.
const GOOD: Duration = Duration::from_secs(10);
const BAD: Duration = Duration::from_secs(2);
const UNANSWERED: Duration = Duration::from_secs(1);
/// Tokens that are remembered; further ones are reviewed each time.
const MAX_TOKENS: usize = 16 * 1024;
/// Calls to the API server at a time, for callers.
const MAX_CALLS: usize = 32;
/// Objects in one part of a list.
const PAGE: u32 = 500;
/// Pods that have not ended.
const LIVE: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// Of a pod, what decides.
type PodPart = Object<PodSpec, PodStatus>;
/// Of a node, what decides.
type NodePart = Object<NotUsed, NodeStatus>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    node_name: Option<String>,
    service_account_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// Whether a pod has ended. One that is asked to end may go on for hours, and needs its leaf.
fn has_ended(pod: &PodPart) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What a token was worth when it was reviewed.
#[derive(Debug)]
struct Known {
    outcome: Result<Caller, AuthorizeError>,
    until: Instant,
}

/// One token: whoever asks for it first asks for all.
type Slot = Arc<tokio::sync::Mutex<Option<Known>>>;

/// Reviews tokens that node proxies show, and knows what their nodes run.
#[derive(Debug)]
pub struct TokenReviewer {
    cluster: Cluster,
    audience: String,
    agent: String,
    known: Mutex<HashMap<String, Slot>>,
    calls: Semaphore,
}

impl TokenReviewer {
    /// Takes tokens for `audience` of pods of the service account `agent`, in the namespace of `cluster`.
    #[must_use]
    pub fn new(cluster: Cluster, audience: String, agent: String) -> Self {
        let calls = Semaphore::new(MAX_CALLS);
        Self { cluster, audience, agent, known: Mutex::default(), calls }
    }

    async fn ask<T>(&self, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, AuthorizeError> {
        let _permit = self.calls.acquire().await;
        self.cluster.ask(call).await.map_err(unavailable)
    }

    /// The pods of a namespace, of which only what decides is read.
    fn pods(&self, namespace: &str) -> Api<PodPart> {
        Api::namespaced_with(self.cluster.client(), namespace, &ApiResource::erase::<Pod>(&()))
    }

    /// The place where what is known of a token is kept.
    fn slot(&self, token: &str) -> Slot {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = fingerprint(token.as_bytes());
        if known.len() >= MAX_TOKENS && !known.contains_key(&hash) {
            let now = Instant::now();
            let holds = |slot: &Slot| {
                slot.try_lock().map_or(true, |known| known.as_ref().is_none_or(|known| now < known.until))
            };
            known.retain(|_, slot| holds(slot));
            if known.len() >= MAX_TOKENS {
                return Slot::default();
            }
        }
        Arc::clone(known.entry(hash).or_default())
    }

    async fn find_caller(&self, token: &str) -> Result<Caller, AuthorizeError> {
        let slot = self.slot(token);
        let mut known = slot.lock().await;
        if let Some(known) = known.as_ref().filter(|known| Instant::now() < known.until) {
            return known.outcome.clone();
        }
        let asked = Instant::now();
        let outcome = self.review(token).await;
        let lasts = match &outcome {
            Ok(_) => GOOD.min(time_left(token)),
            Err(AuthorizeError::Unavailable(_)) => UNANSWERED,
            Err(_) => BAD,
        };
        *known = Some(Known { outcome: outcome.clone(), until: asked + lasts });
        outcome
    }

    async fn review(&self, token: &str) -> Result<Caller, AuthorizeError> {
        let audiences = Some(vec![self.audience.clone()]);
        let spec = TokenReviewSpec { audiences, token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api = Api::<TokenReview>::all(self.cluster.client());
        let status = self.ask(api.create(&PostParams::default(), &review)).await?.status.unwrap_or_default();
        let not_taken = |reason: &str| AuthorizeError::NotTaken {
            audience: self.audience.clone(),
            reason: reason.chars().take(300).collect(),
        };
        if status.authenticated != Some(true) {
            return Err(not_taken(status.error.as_deref().unwrap_or("it is not valid")));
        }
        // Who looks at no audiences says so by naming none.
        if !status.audiences.is_some_and(|audiences| audiences.contains(&self.audience)) {
            return Err(not_taken("whoever has reviewed it does not look at audiences"));
        }
        let user = status.user.unwrap_or_default();
        let username = user.username.clone().unwrap_or_default();
        let expected = format!("system:serviceaccount:{}:{}", self.cluster.namespace(), self.agent);
        if username != expected {
            return Err(AuthorizeError::ForeignAccount { username, expected });
        }
        let claim = |name| claim(&user, name).ok_or(AuthorizeError::Unbound);
        let (node, pod, uid) = (claim("node-name")?, claim("pod-name")?, claim("pod-uid")?);
        self.check_agent(node, pod, uid).await?;
        Ok(Caller { node: node.to_owned() })
    }

    /// The pod that a token is bound to has to be there still, and on the node that the token names.
    async fn check_agent(&self, node: &str, pod: &str, uid: &str) -> Result<(), AuthorizeError> {
        let found = self.ask(self.pods(self.cluster.namespace()).get_opt(pod)).await?;
        let is = |text: Option<&str>, wanted: &str| text == Some(wanted);
        let problem = match &found {
            None => "is not there".to_owned(),
            Some(found) if !is(found.metadata.uid.as_deref(), uid) => {
                "was replaced by another one of that name".to_owned()
            }
            Some(found) if !is(found.spec.node_name.as_deref(), node) => {
                let actual = found.spec.node_name.as_deref().unwrap_or_default();
                format!("is on node `{actual}`, and not on `{node}`")
            }
            Some(found) if !is(found.spec.service_account_name.as_deref(), &self.agent) => {
                format!("is not of service account `{}`", self.agent)
            }
            Some(found) if has_ended(found) => "has ended".to_owned(),
            Some(_) => return Ok(()),
        };
        let pod = format!("{}/{pod}", self.cluster.namespace());
        Err(AuthorizeError::NoAgent { pod, problem })
    }

    async fn check_pod(&self, caller: &Caller, identity: &SpiffeId) -> Result<(), AuthorizeError> {
        let (node, account) = (&caller.node, identity.service_account());
        let fields = format!("spec.nodeName={node},spec.serviceAccountName={account},{LIVE}");
        let found = self.pods(identity.namespace());
        let found = self.ask(found.list(&ListParams::default().fields(&fields).limit(1))).await?;
        let is_one = |pod: &PodPart| {
            pod.spec.node_name.as_ref() == Some(node)
                && pod.spec.service_account_name.as_deref() == Some(account)
                && !has_ended(pod)
        };
        if found.items.iter().any(is_one) {
            return Ok(());
        }
        Err(AuthorizeError::NoSuchPod { node: node.clone(), identity: identity.clone() })
    }

    /// All objects of a list, part by part.
    async fn all<K>(&self, api: Api<K>, fields: &str) -> Result<Vec<K>, AuthorizeError>
    where
        K: Clone + Debug + DeserializeOwned,
    {
        let (mut params, mut all) = (ListParams::default().fields(fields).limit(PAGE), Vec::new());
        loop {
            let page = self.ask(api.list(&params)).await?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    /// Ready nodes that have a node proxy. One that is not ready asks for the bundle when it comes back.
    async fn find_nodes(&self) -> Result<Vec<String>, AuthorizeError> {
        let fields = format!("spec.serviceAccountName={},{LIVE}", self.agent);
        let agents = self.all(self.pods(self.cluster.namespace()), &fields).await?;
        let with_agent: Vec<_> = agents.into_iter().filter_map(|pod| pod.spec.node_name).collect();
        let nodes = Api::<NodePart>::all_with(self.cluster.client(), &ApiResource::erase::<Node>(&()));
        let is_ready = |node: &NodePart| {
            let mut conditions = node.status.iter().flat_map(|status| &status.conditions);
            conditions.any(|condition| condition.kind == "Ready" && condition.status == "True")
        };
        let ready = self.all(nodes, "").await?.into_iter().filter(is_ready);
        Ok(ready.filter_map(|node| node.metadata.name).filter(|name| with_agent.contains(name)).collect())
    }
}

impl Authorizer for TokenReviewer {
    fn knows(&self, token: &str) -> bool {
        let slot = self.slot(token);
        let known = slot.try_lock();
        let is_good = |known: &Known| known.outcome.is_ok() && Instant::now() < known.until;
        known.is_ok_and(|known| known.as_ref().is_some_and(is_good))
    }

    fn authenticate<'a>(&'a self, token: &'a str) -> Answer<'a, Caller> {
        Box::pin(self.find_caller(token))
    }

    fn authorize<'a>(&'a self, caller: &'a Caller, identity: &'a SpiffeId) -> Answer<'a, ()> {
        Box::pin(self.check_pod(caller, identity))
    }

    fn nodes(&self) -> Answer<'_, Vec<String>> {
        Box::pin(self.find_nodes())
    }
}

fn unavailable(error: ClusterError) -> AuthorizeError {
    AuthorizeError::Unavailable(Arc::new(error))
}

/// What the API server says of a token beside whose it is, if it says exactly one thing.
fn claim<'a>(user: &'a UserInfo, name: &str) -> Option<&'a str> {
    match user.extra.as_ref()?.get(&format!("authentication.kubernetes.io/{name}"))?.as_slice() {
        [value] if !value.is_empty() => Some(value),
        _ => None,
    }
}

/// For how long a token that was found good still is, by its own words (RFC 7519, 4.1.4); not at all if it says nothing.
fn time_left(token: &str) -> Duration {
    #[derive(Deserialize)]
    struct Claims {
        exp: i64,
    }
    let payload = token.split('.').nth(1).unwrap_or_default();
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
    let end = serde_json::from_slice(&payload).map_or(0, |Claims { exp }| exp);
    let left = end.saturating_sub(OffsetDateTime::now_utc().unix_timestamp());
    Duration::from_secs(left.try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_of_a_token_ends_with_it() {
        let token = |claims: &str| {
            let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
            format!("e30.{payload}.c2lnbmF0dXJl")
        };
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let left = time_left(&token(&format!("{{\"exp\": {}, \"aud\": [\"x\"]}}", now + 60)));
        assert!((59..=60).contains(&left.as_secs()), "{left:?}");
        assert_eq!(time_left(&token(&format!("{{\"exp\": {}}}", now - 1))), Duration::ZERO);
        assert_eq!(time_left(&token("{}")), Duration::ZERO);
        assert_eq!(time_left(&token("{\"exp\": \"soon\"}")), Duration::ZERO);
        assert_eq!(time_left("opaque"), Duration::ZERO);
        assert_eq!(time_left(""), Duration::ZERO);
    }

    #[test]
    fn a_claim_is_one_value() {
        let user = |values: &[&str]| UserInfo {
            extra: Some(
                [(
                    "authentication.kubernetes.io/node-name".to_owned(),
                    values.iter().map(|&value| value.to_owned()).collect(),
                )]
                .into(),
            ),
            ..UserInfo::default()
        };
        assert_eq!(claim(&user(&["a"]), "node-name"), Some("a"));
        assert_eq!(claim(&user(&["a"]), "pod-name"), None);
        for values in [&["a", "b"][..], &[""], &[]] {
            assert_eq!(claim(&user(values), "node-name"), None, "{values:?}");
        }
        assert_eq!(claim(&UserInfo::default(), "node-name"), None);
    }
}
