//! Extended CONNECT (RFC 8441): a stream of HTTP/2 that goes on with another protocol, such as WebSocket.
//!
//! It is planned as a request, with CONNECT as its method. From its 2xx on, bytes are passed on as they are, without a
//! limit of time: what the rule's timeouts are for has ended with the answer.

use http::Method;
use http::request::Parts;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::answer_body::Busy;
use crate::error::{FailureReason, with_causes};
use crate::telemetry::{Recording, RequestRecord};
use crate::turns;

/// Whether a request opens a tunnel to an endpoint, and not one to anywhere (RFC 9113 section 8.5).
pub(super) fn is_tunnel(parts: &Parts) -> bool {
    parts.method == Method::CONNECT && parts.extensions.get::<Protocol>().is_some()
}

/// Joins both ends once their answers have been sent; the record is written when the tunnel ends.
pub(super) fn join(mut record: Recording<RequestRecord>, client: OnUpgrade, upstream: OnUpgrade, busy: Busy) {
    turns::spawn(Box::pin(async move {
        let _busy = busy;
        let joined = async {
            let (client, upstream) = tokio::try_join!(client, upstream).map_err(std::io::Error::other)?;
            copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(upstream)).await
        };
        match joined.await {
            Ok((sent, received)) => {
                record.journey.bytes_sent = sent;
                record.journey.bytes_received = received;
            }
            Err(error) => record.journey.fail(FailureReason::UpstreamReset, with_causes(&error)),
        }
        record.finish();
    }));
}
