//! TLS that a Gateway begins with a backend (BackendTLSPolicy), within the hop where there is one.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio_rustls::TlsConnector;

use super::{ConnectError, Dialled, Transport};
use crate::error::{FailureReason, with_causes};
use crate::snapshot::gateway::BackendTls;

/// What is spoken on a connection to a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Content {
    /// HTTP/1.1.
    Version1,
    /// HTTP/2.
    Version2,
    /// Anything.
    #[default]
    Bytes,
}

/// TLS that is to be begun.
#[derive(Clone, Debug)]
pub struct Origination {
    tls: Arc<BackendTls>,
    content: Content,
}

impl Origination {
    /// For what is spoken in it.
    #[must_use]
    pub const fn new(tls: Arc<BackendTls>, content: Content) -> Self {
        Self { tls, content }
    }

    /// Differs where anything of the connection does.
    #[must_use]
    pub fn id(&self) -> (u64, Content) {
        (self.tls.id, self.content)
    }

    /// Shakes hands on a connection that is there.
    pub(super) async fn begin(&self, dialled: Dialled, address: SocketAddr) -> Result<Dialled, ConnectError> {
        let Some(handshake) = &self.tls.handshake else { return Err(ConnectError::NoBackendTls(address)) };
        let config = match self.content {
            Content::Version1 => &handshake.version1,
            Content::Version2 => &handshake.version2,
            Content::Bytes => &handshake.bytes,
        };
        let Dialled { transport, hop, usable_until, endpoint } = dialled;
        let connecting = TlsConnector::from(Arc::clone(config)).connect(handshake.name.clone(), transport);
        let stream = connecting.await.map_err(|error| {
            let (reason, text) = (FailureReason::HandshakeFailed, with_causes(&error));
            ConnectError::Handshake { address, reason, text }
        })?;
        Ok(Dialled { transport: Transport::Secured(Box::new(stream)), hop, usable_until, endpoint })
    }
}
