//! Callers by the API server: it reviews their tokens, and says which pods are on their nodes.
//!
//! What a token is worth is remembered for seconds, by its hash; with it that the pod which it is bound to is there, whether
//! a node proxy's or one that asks for itself. What a node runs is not: pods are asked for whenever a
//! leaf is, by a list that the API server keeps by node. So a pod that was bound a moment ago is seen, one that is gone is
//! not, and there is no cache that could be behind; a watch of all pods by every replica would cost more than a list of one
//! node's for each leaf.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ApiResource, ListParams, NotUsed, Object, PostParams};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use super::bearer::{Bearer, PodPart, has_ended};
use super::{Answer, AuthorizeError, Authorizer, Caller, OwnPod};
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

/// Of a node, what decides.
type NodePart = Object<NotUsed, NodeStatus>;

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

/// The service accounts, in the CA's own namespace, whose pods are not taken for those of a Gateway.
#[derive(Clone, Debug)]
pub struct OwnAccounts {
    /// That of the node proxies.
    pub agent: String,
    /// That of the controller.
    pub controller: String,
}

/// What the pods of a service account are to the CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    NodeProxy,
    Controller,
    /// Any other account: its pod has to be of a Gateway.
    Gateway,
}

impl OwnAccounts {
    /// What `pod` is by its service account, where `own` is the CA's namespace. A node proxy's stays one with a label, too.
    fn role(&self, own: &str, pod: &OwnPod) -> Role {
        match pod.service_account.as_str() {
            account if pod.namespace == own && account == self.agent => Role::NodeProxy,
            account if pod.namespace == own && account == self.controller => Role::Controller,
            _ => Role::Gateway,
        }
    }
}

/// What a token was worth when it was reviewed.
#[derive(Debug)]
struct Known {
    outcome: Result<Caller, AuthorizeError>,
    until: Instant,
}

/// One token: whoever asks for it first asks for all.
type Slot = Arc<tokio::sync::Mutex<Option<Known>>>;

/// Reviews tokens that node proxies, the controller and Gateways' proxies show, and knows what nodes run.
#[derive(Debug)]
pub struct TokenReviewer {
    cluster: Cluster,
    audience: String,
    accounts: OwnAccounts,
    known: Mutex<HashMap<String, Slot>>,
    calls: Semaphore,
}

impl TokenReviewer {
    /// Takes tokens for `audience`, of pods of these service accounts in the namespace of `cluster`, and of pods of Gateways
    /// in any.
    #[must_use]
    pub fn new(cluster: Cluster, audience: String, accounts: OwnAccounts) -> Self {
        let calls = Semaphore::new(MAX_CALLS);
        Self { cluster, audience, accounts, known: Mutex::default(), calls }
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
        self.find_role(Bearer::of(&status.user.unwrap_or_default())?).await
    }

    /// What the bearer of a token is, once its pod is found to be there.
    async fn find_role(&self, bearer: Bearer) -> Result<Caller, AuthorizeError> {
        let found = self.ask(self.pods(&bearer.pod.namespace).get_opt(&bearer.pod.name)).await?;
        let found = bearer.check_pod(found.as_ref())?;
        match self.accounts.role(self.cluster.namespace(), &bearer.pod) {
            Role::NodeProxy => Ok(Caller::NodeProxy(bearer.node)),
            Role::Controller => Ok(Caller::Pod(bearer.pod)),
            Role::Gateway => {
                bearer.check_label(found)?;
                Ok(Caller::Pod(bearer.pod))
            }
        }
    }

    /// Whether `caller` may have `identity`. A node's pods are looked for now; what a pod is itself does not change.
    async fn check_identity(&self, caller: &Caller, identity: &SpiffeId) -> Result<(), AuthorizeError> {
        match caller {
            Caller::NodeProxy(node) => self.check_node(node, identity).await,
            Caller::Pod(pod) => pod.authorize(identity),
        }
    }

    async fn check_node(&self, node: &str, identity: &SpiffeId) -> Result<(), AuthorizeError> {
        let account = identity.service_account();
        let fields = format!("spec.nodeName={node},spec.serviceAccountName={account},{LIVE}");
        let found = self.pods(identity.namespace());
        let found = self.ask(found.list(&ListParams::default().fields(&fields).limit(1))).await?;
        let is_one = |pod: &PodPart| {
            pod.spec.node_name.as_deref() == Some(node)
                && pod.spec.service_account_name.as_deref() == Some(account)
                && !has_ended(pod)
        };
        if found.items.iter().any(is_one) {
            return Ok(());
        }
        Err(AuthorizeError::NoSuchPod { node: node.to_owned(), identity: identity.clone() })
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
        let fields = format!("spec.serviceAccountName={},{LIVE}", self.accounts.agent);
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
        Box::pin(self.check_identity(caller, identity))
    }

    fn nodes(&self) -> Answer<'_, Vec<String>> {
        Box::pin(self.find_nodes())
    }
}

fn unavailable(error: ClusterError) -> AuthorizeError {
    AuthorizeError::Unavailable(Arc::new(error))
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
    fn accounts_of_the_cas_own_namespace_alone_are_the_meshs_own() {
        let accounts = OwnAccounts { agent: "node".to_owned(), controller: "controller".to_owned() };
        let role = |namespace: &str, account: &str| {
            let (namespace, service_account) = (namespace.to_owned(), account.to_owned());
            accounts.role("mesh", &OwnPod { namespace, name: "controller".to_owned(), service_account })
        };
        assert_eq!(role("mesh", "node"), Role::NodeProxy);
        assert_eq!(role("mesh", "controller"), Role::Controller);
        for (namespace, account) in [("shop", "node"), ("shop", "controller"), ("mesh", "ca"), ("mesh", "")] {
            assert_eq!(role(namespace, account), Role::Gateway, "{namespace} {account}");
        }
    }
}
