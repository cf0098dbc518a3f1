//! The body of an answer that hyper sends: the endpoint's, watched to its end, or the proxy's own.

use std::cell::Cell;
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use super::Session;
use super::attempts::LATE;
use crate::balance::InFlight;
use crate::error::{FailureReason, with_causes};
use crate::hop;
use crate::snapshot::service::ServicePort;
use crate::telemetry::{Recording, RequestRecord};

/// The body of an answer.
#[derive(Debug)]
pub(super) enum AnswerBody {
    /// Passed on from upstream; the record is written when it ends.
    Upstream {
        inner: Incoming,
        sent: Rc<Cell<u64>>,
        record: Option<Recording<RequestRecord>>,
        /// By when it must have ended, and what is said when it has not.
        limit: Option<(Pin<Box<Sleep>>, FailureReason)>,
        /// Whose it is. The endpoint and the connection are busy as long as the answer lasts.
        origin: Origin,
    },
    /// Of the proxy's own making.
    Own(Option<Bytes>),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let (inner, sent, record, limit, origin) = match &mut *self {
            Self::Own(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream { inner, sent, record, limit, origin } => (inner, sent, record, limit, origin),
        };
        let frame = match Pin::new(&mut *inner).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let Some((end, late)) = limit else { return Poll::Pending };
                ready!(end.as_mut().poll(cx));
                if let Some(mut record) = record.take() {
                    if *late == FailureReason::BackendTimeout {
                        origin.session.note_failure(&origin.port, &origin.busy.0);
                    }
                    record.journey.bytes_sent = sent.get();
                    record.journey.fail(*late, LATE);
                    record.finish();
                }
                return Poll::Ready(Some(Err(LATE.into())));
            }
        };
        let Some(open) = record else { return Poll::Ready(frame.map(|frame| frame.map_err(Into::into))) };
        // Now and not at the end, which a client that leaves does not wait for.
        open.journey.bytes_sent = sent.get();
        match &frame {
            Some(Ok(frame)) => {
                open.journey.bytes_received += frame.data_ref().map_or(0, |data| data.remaining() as u64);
            }
            Some(Err(error)) => {
                open.journey.fail(FailureReason::UpstreamReset, with_causes(error));
                if is_of_the_endpoint(error) {
                    origin.session.note_failure(&origin.port, &origin.busy.0);
                }
            }
            None => {}
        }
        // hyper does not ask again after the last frame of a stream.
        let has_ended = !matches!(&frame, Some(Ok(_))) || inner.is_end_stream();
        if has_ended && !matches!(&frame, Some(Err(_))) {
            origin.session.note_end(&origin.port, &origin.busy.0, open.status);
        }
        if let Some(record) = record.take_if(|_| has_ended) {
            record.finish();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            // An open record must be finished by a last poll.
            Self::Upstream { inner, record, .. } => record.is_none() && inner.is_end_stream(),
            Self::Own(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream { inner, .. } => inner.size_hint(),
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}

/// What is held as long as an answer lasts: the endpoint and the connection are busy.
pub(super) type Busy = (InFlight, Rc<()>);

/// Where an answer comes from.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) session: Rc<Session>,
    pub(super) port: Arc<ServicePort>,
    pub(super) busy: Busy,
}

/// Whether an answer that broke off says something of its endpoint: the client's own side may be to blame.
pub(super) fn is_of_the_endpoint(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    let kind = cause.and_then(h2::Error::get_io).map(std::io::Error::kind);
    !matches!(kind, Some(hop::EXPIRED | hop::SHED))
}
