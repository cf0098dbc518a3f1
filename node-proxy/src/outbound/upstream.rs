//! A connection to an endpoint for a request that hyper has read, by the version of HTTP that is spoken there.

use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use crate::connect::exchanges::ExchangeConnection;
use crate::connect::streams::Stream;
use crate::http2::RequestBody;
use crate::http2::translate::to_http1;
use crate::telemetry::Hop;

/// A connection that takes a request.
#[derive(Debug)]
pub(super) enum Upstream {
    /// HTTP/1.1, and nothing else is under way there.
    Version1(ExchangeConnection),
    /// HTTP/2.
    Version2(Stream),
}

impl Upstream {
    /// How the two pods are joined.
    pub(super) const fn hop(&self) -> Hop {
        match self {
            Self::Version1(connection) => connection.hop,
            Self::Version2(stream) => stream.hop,
        }
    }

    /// To be held until the answer has ended.
    pub(super) fn under_way(&self) -> Rc<()> {
        match self {
            Self::Version1(connection) => Rc::clone(&connection.under_way),
            Self::Version2(stream) => Rc::clone(&stream.under_way),
        }
    }

    /// Notes that a request begins on it. Says whether its server may have closed it just now, as one that was used before
    /// and carries nothing else.
    pub(super) fn begins(&self) -> bool {
        match self {
            Self::Version1(connection) => connection.begins(),
            Self::Version2(_) => false,
        }
    }

    /// Sends a request. It is given back with the error where nothing of it was sent.
    pub(super) async fn send(
        self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Self::Version1(connection) => {
                to_http1(&mut request);
                let sending = connection.sender.borrow_mut().try_send_request(request);
                sending.await
            }
            Self::Version2(Stream { mut sender, .. }) => sender.try_send_request(request).await,
        }
    }
}
