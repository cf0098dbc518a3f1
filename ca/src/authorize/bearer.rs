//! Whose a token is, by the words of the API server, and what has to be so of the pod that it is bound to.
//!
//! Pure: nobody is asked here, and what is not said is never taken to be so.

use k8s_openapi::api::authentication::v1::UserInfo;
use kube::api::Object;
use serde::Deserialize;

use super::{AuthorizeError, OwnPod};

/// What is made for a Gateway has its name in this label (GEP-1762).
pub const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// Of a pod, what decides.
pub(super) type PodPart = Object<PodSpec, PodStatus>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) node_name: Option<String>,
    pub(super) service_account_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodStatus {
    phase: Option<String>,
}

/// Whether a pod has ended. One that is asked to end may go on for hours, and needs its leaf.
pub(super) fn has_ended(pod: &PodPart) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What a token says that the API server has taken: its service account, and the pod that it was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) pod: OwnPod,
    pub(super) node: String,
    uid: String,
}

impl Bearer {
    /// Reads what a TokenReview says of a user.
    ///
    /// # Errors
    /// [`AuthorizeError::NoServiceAccount`], or [`AuthorizeError::Unbound`] if pod or node are not said.
    pub(super) fn of(user: &UserInfo) -> Result<Self, AuthorizeError> {
        let username = user.username.as_deref().unwrap_or_default();
        let (namespace, service_account) = service_account(username)
            .ok_or_else(|| AuthorizeError::NoServiceAccount { username: username.to_owned() })?;
        let claim = |name| claim(user, name).map(str::to_owned).ok_or(AuthorizeError::Unbound);
        let pod = OwnPod {
            namespace: namespace.to_owned(),
            name: claim("pod-name")?,
            service_account: service_account.to_owned(),
        };
        Ok(Self { pod, node: claim("node-name")?, uid: claim("pod-uid")? })
    }

    /// The pod that the token is bound to has to be there still, on the node that the token names.
    ///
    /// # Errors
    /// [`AuthorizeError::WrongPod`].
    pub(super) fn check_pod<'a>(&self, found: Option<&'a PodPart>) -> Result<&'a PodPart, AuthorizeError> {
        let is = |text: Option<&str>, wanted: &str| text == Some(wanted);
        let account = &self.pod.service_account;
        let problem = match found {
            None => "is not there".to_owned(),
            Some(found) if !is(found.metadata.uid.as_deref(), &self.uid) => {
                "was replaced by another one of that name".to_owned()
            }
            Some(found) if !is(found.spec.node_name.as_deref(), &self.node) => {
                let actual = found.spec.node_name.as_deref().unwrap_or_default();
                format!("is on node `{actual}`, and not on `{}`", self.node)
            }
            Some(found) if !is(found.spec.service_account_name.as_deref(), account) => {
                format!("is not of service account `{account}`")
            }
            Some(found) if has_ended(found) => "has ended".to_owned(),
            Some(found) => return Ok(found),
        };
        Err(self.wrong(problem))
    }

    /// A pod that is neither a node proxy nor the controller has to say of which Gateway it is.
    ///
    /// # Errors
    /// [`AuthorizeError::WrongPod`].
    pub(super) fn check_label(&self, found: &PodPart) -> Result<(), AuthorizeError> {
        let labels = found.metadata.labels.as_ref();
        let has = match labels.and_then(|labels| labels.get(GATEWAY_NAME_LABEL)) {
            Some(gateway) if !gateway.is_empty() => return Ok(()),
            Some(_) => "an empty label",
            None => "no label",
        };
        Err(self.wrong(format!(
            "has {has} `{GATEWAY_NAME_LABEL}`: only node proxies, the controller and the proxies of Gateways are served"
        )))
    }

    fn wrong(&self, problem: String) -> AuthorizeError {
        AuthorizeError::WrongPod { pod: self.pod.to_string(), problem }
    }
}

/// Namespace and name of the service account that the API server calls by this name.
fn service_account(username: &str) -> Option<(&str, &str)> {
    let (namespace, name) = username.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// What the API server says of a token beside whose it is, if it says exactly one thing.
fn claim<'a>(user: &'a UserInfo, name: &str) -> Option<&'a str> {
    match user.extra.as_ref()?.get(&format!("authentication.kubernetes.io/{name}"))?.as_slice() {
        [value] if !value.is_empty() => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn user(username: &str, claims: &[(&str, &[&str])]) -> UserInfo {
        let extra = claims.iter().map(|(name, values)| {
            let values = values.iter().map(|&value| value.to_owned()).collect();
            (format!("authentication.kubernetes.io/{name}"), values)
        });
        UserInfo { username: Some(username.to_owned()), extra: Some(extra.collect()), ..UserInfo::default() }
    }

    const CLAIMS: [(&str, &[&str]); 3] =
        [("node-name", &["node-a"]), ("pod-name", &["front-1"]), ("pod-uid", &["1234"])];

    fn bearer() -> Bearer {
        Bearer::of(&user("system:serviceaccount:shop:front", &CLAIMS)).unwrap()
    }

    #[test]
    fn a_bearer_is_a_service_account_with_a_pod_on_a_node() {
        let Bearer { pod, node, uid } = bearer();
        assert_eq!((pod.namespace.as_str(), pod.service_account.as_str()), ("shop", "front"));
        assert_eq!((pod.to_string().as_str(), &*node, &*uid), ("shop/front-1", "node-a", "1234"));
        for username in [
            "",
            "admin",
            "system:node:node-a",
            "system:serviceaccount:",
            "system:serviceaccount:shop",
            "system:serviceaccount:shop:",
            "system:serviceaccount::front",
            "system:serviceaccount:shop:front:more",
            "System:serviceaccount:shop:front",
        ] {
            let error = Bearer::of(&user(username, &CLAIMS)).unwrap_err();
            let expected = format!("the bearer token is of `{username}`, which is no service account");
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn each_claim_has_to_be_there_with_one_value() {
        for missing in 0..CLAIMS.len() {
            for values in [&["a", "b"][..], &[""], &[]] {
                let mut claims = CLAIMS;
                claims[missing].1 = values;
                let outcome = Bearer::of(&user("system:serviceaccount:shop:front", &claims));
                assert!(matches!(outcome, Err(AuthorizeError::Unbound)), "{claims:?}: {outcome:?}");
            }
        }
        let nothing = Bearer::of(&user("system:serviceaccount:shop:front", &[]));
        assert!(matches!(nothing, Err(AuthorizeError::Unbound)));
    }

    /// The bearer's pod, with something else at a place.
    fn pod(place: &str, value: Value) -> PodPart {
        let mut pod = json!({
            "metadata": { "name": "front-1", "namespace": "shop", "uid": "1234", "labels": { GATEWAY_NAME_LABEL: "front" } },
            "spec": { "nodeName": "node-a", "serviceAccountName": "front" },
            "status": { "phase": "Running" },
        });
        if !place.is_empty() {
            *pod.pointer_mut(place).unwrap() = value;
        }
        serde_json::from_value(pod).unwrap()
    }

    #[track_caller]
    fn check(place: &str, value: Value, problem: &str) {
        let (bearer, pod) = (bearer(), pod(place, value));
        let outcome = bearer.check_pod(Some(&pod)).and_then(|pod| bearer.check_label(pod));
        let expected = format!("pod `shop/front-1` of the bearer token {problem}");
        match outcome {
            Ok(()) => assert!(problem.is_empty(), "{place}: it is taken"),
            Err(error) => assert_eq!(error.to_string(), expected, "{place}"),
        }
    }

    #[test]
    fn the_pod_has_to_be_the_one_that_the_token_is_bound_to() {
        check("", Value::Null, "");
        check("/status/phase", json!("Pending"), "");
        check("/metadata/uid", json!("5678"), "was replaced by another one of that name");
        check("/metadata/uid", Value::Null, "was replaced by another one of that name");
        check("/spec/nodeName", json!("node-b"), "is on node `node-b`, and not on `node-a`");
        check("/spec/nodeName", Value::Null, "is on node ``, and not on `node-a`");
        check("/spec/serviceAccountName", json!("web"), "is not of service account `front`");
        check("/status/phase", json!("Failed"), "has ended");
        check("/status/phase", json!("Succeeded"), "has ended");
        let gone = bearer().check_pod(None).unwrap_err();
        assert_eq!(gone.to_string(), "pod `shop/front-1` of the bearer token is not there");
    }

    #[test]
    fn the_pod_of_a_gateway_says_of_which() {
        let without = |has: &str| {
            format!(
                "has {has} `gateway.networking.k8s.io/gateway-name`: \
                 only node proxies, the controller and the proxies of Gateways are served"
            )
        };
        check("/metadata/labels", json!({ GATEWAY_NAME_LABEL: "" }), &without("an empty label"));
        check("/metadata/labels", json!({ "app": "front" }), &without("no label"));
        check("/metadata/labels", Value::Null, &without("no label"));
    }
}
