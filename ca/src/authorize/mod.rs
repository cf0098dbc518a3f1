//! Who may ask for what: a token tells of which node the caller is the proxy, and that node's pods tell its identities; or
//! it tells which pod asks for itself, whose service account is its only identity.
//!
//! Stands before everything that reads a request's body. It must never say yes on anything that it could not read.

mod bearer;
pub mod cluster;
pub mod files;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use self::bearer::GATEWAY_NAME_LABEL;
pub use self::cluster::{OwnAccounts, TokenReviewer};
pub use self::files::TokenFile;
use crate::spiffe::SpiffeId;

/// Why a caller gets nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthorizeError {
    /// The token is good, and of somebody who runs no pods.
    #[error(
        "the bearer token is of `{username}`, which is no service account: only node proxies, the controller and the proxies of Gateways are served"
    )]
    NoServiceAccount {
        /// Whose it is.
        username: String,
    },
    /// The node has no live pod of that service account.
    #[error("node `{node}` has no running pod of service account `{}` in namespace `{}`", .identity.service_account(), .identity.namespace())]
    NoSuchPod {
        /// The caller's node.
        node: String,
        /// The identity asked for.
        identity: SpiffeId,
    },
    /// A pod asks for what is not its own.
    #[error("pod `{pod}` may have the identity of its own service account `{}` in namespace `{}`, and not `{identity}`", .pod.service_account, .pod.namespace)]
    NotOwn {
        /// The pod.
        pod: OwnPod,
        /// The identity asked for.
        identity: SpiffeId,
    },
    /// The API server does not take the token.
    #[error("the bearer token is not taken for the audience `{audience}`: {reason}")]
    NotTaken {
        /// What it has to be for.
        audience: String,
        /// What the API server said.
        reason: String,
    },
    /// The token is good, and says neither pod nor node.
    #[error("the bearer token is not bound to a pod, or the API server does not say of which node that is")]
    Unbound,
    /// The token is nobody's.
    #[error("the bearer token is not that of a node")]
    UnknownToken,
    /// What the answer depends on could not be read.
    #[error("callers cannot be checked now: {0}")]
    Unavailable(Arc<dyn Error + Send + Sync>),
    /// The pod that the token is bound to is not the one that it was made for, or none that is served.
    #[error("pod `{pod}` of the bearer token {problem}")]
    WrongPod {
        /// The pod, as `NAMESPACE/NAME`.
        pod: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A caller whose token was checked: what it is decides what it may have, and whose requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// The proxy of the node of this name: it may have the identities of the pods that the node runs.
    NodeProxy(String),
    /// A pod for itself, the controller's or that of a Gateway's proxy: it may have its own identity.
    Pod(OwnPod),
}

impl Caller {
    /// The node that the caller speaks for: a pod for itself speaks for none, wherever it runs.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::NodeProxy(node) => Some(node),
            Self::Pod(_) => None,
        }
    }

    /// The pod that asks for itself.
    #[must_use]
    pub const fn own_pod(&self) -> Option<&OwnPod> {
        match self {
            Self::NodeProxy(_) => None,
            Self::Pod(pod) => Some(pod),
        }
    }
}

/// A pod that asks for itself. It is shown as `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnPod {
    /// Its namespace, and that of its service account.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The service account that it runs as.
    pub service_account: String,
}

impl OwnPod {
    /// Whether this pod may have `identity`, whose trust domain has been checked already.
    ///
    /// # Errors
    /// [`AuthorizeError::NotOwn`] for any but that of its own service account.
    pub fn authorize(&self, identity: &SpiffeId) -> Result<(), AuthorizeError> {
        if (identity.namespace(), identity.service_account()) == (&self.namespace, &self.service_account) {
            return Ok(());
        }
        Err(AuthorizeError::NotOwn { pod: self.clone(), identity: identity.clone() })
    }
}

impl fmt::Display for OwnPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The answer of an [`Authorizer`], later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, AuthorizeError>> + Send + 'a>>;

/// Authenticates callers and says which identities they may have.
///
/// Behind it is a directory of token files, or the API server.
pub trait Authorizer: fmt::Debug + Send + Sync {
    /// Whether it need ask nobody who the bearer of `token` is.
    fn knows(&self, token: &str) -> bool;

    /// Who the bearer of `token` is.
    fn authenticate<'a>(&'a self, token: &'a str) -> Answer<'a, Caller>;

    /// Whether `caller` may have `identity`, whose trust domain has been checked already.
    fn authorize<'a>(&'a self, caller: &'a Caller, identity: &'a SpiffeId) -> Answer<'a, ()>;

    /// The nodes that have to know a root before it signs. Pods that ask for themselves are not waited for.
    fn nodes(&self) -> Answer<'_, Vec<String>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_the_identity_of_its_own_service_account_and_no_other() {
        let pod = OwnPod {
            namespace: "shop".to_owned(),
            name: "front-1".to_owned(),
            service_account: "front".to_owned(),
        };
        let ask = |text: &str| pod.authorize(&text.parse().unwrap()).map_err(|error| error.to_string());
        assert_eq!(ask("spiffe://td/ns/shop/sa/front"), Ok(()));
        for other in ["ns/shop/sa/front-1", "ns/shop/sa/web", "ns/other/sa/front", "ns/front/sa/shop"] {
            let identity = format!("spiffe://td/{other}");
            let expected = format!(
                "pod `shop/front-1` may have the identity of its own service account `front` in namespace `shop`, \
                 and not `{identity}`"
            );
            assert_eq!(ask(&identity), Err(expected));
        }
        assert_eq!((Caller::Pod(pod.clone()).node(), Caller::Pod(pod.clone()).own_pod()), (None, Some(&pod)));
        let proxy = Caller::NodeProxy("node-a".to_owned());
        assert_eq!((proxy.node(), proxy.own_pod()), (Some("node-a"), None));
    }
}
