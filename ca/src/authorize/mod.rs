//! Who may ask for what: the caller's token tells its node, and the node's pods tell its identities.
//!
//! Stands before everything that reads a request's body. It must never say yes on anything that it could not read.

pub mod cluster;
pub mod files;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use self::cluster::TokenReviewer;
pub use self::files::TokenFile;
use crate::spiffe::SpiffeId;

/// Why a caller gets nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthorizeError {
    /// The token is good, and not a node proxy's.
    #[error("the bearer token is of `{username}`: only node proxies, which are `{expected}`, are served")]
    ForeignAccount {
        /// Whose it is.
        username: String,
        /// Whose it has to be.
        expected: String,
    },
    /// The pod that the token is bound to is not a node proxy of the node that the token names.
    #[error("pod `{pod}` of the bearer token {problem}")]
    NoAgent {
        /// The pod.
        pod: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The node has no live pod of that service account.
    #[error("node `{node}` has no running pod of service account `{}` in namespace `{}`", .identity.service_account(), .identity.namespace())]
    NoSuchPod {
        /// The caller's node.
        node: String,
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
}

/// A caller whose token was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The node that it is the proxy of.
    pub node: String,
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

    /// The nodes that have to know a root before it signs.
    fn nodes(&self) -> Answer<'_, Vec<String>>;
}
