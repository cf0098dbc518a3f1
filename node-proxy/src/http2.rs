//! The HTTP/2 wire (RFC 9113), by hyper: what the proxy adds to it.
//!
//! Bodies are passed on frame by frame, trailers included, and counted on the way.

use std::borrow::Cow;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::request::Parts;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::route::RequestHead;
use crate::turns;

/// Field section size, in bytes (RFC 9113 section 6.5.2).
pub const MAX_HEAD: u32 = 64 * 1024;

/// Runs hyper's tasks on the thread of the connection they belong to.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future<Output: 'static> + 'static,
{
    fn execute(&self, future: F) {
        turns::spawn(future);
    }
}

/// A body on its way upstream, counted.
#[derive(Debug)]
pub struct CountedBody {
    inner: Incoming,
    bytes: Rc<Cell<u64>>,
}

impl CountedBody {
    /// Counts the bytes of `inner` into `bytes`.
    #[must_use]
    pub const fn new(inner: Incoming, bytes: Rc<Cell<u64>>) -> Self {
        Self { inner, bytes }
    }
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.bytes.set(self.bytes.get() + data.remaining() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The head of an HTTP/2 request, for matching.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead2<'a>(pub &'a Parts);

impl RequestHead for RequestHead2<'_> {
    fn method(&self) -> &str {
        self.0.method.as_str()
    }

    fn path(&self) -> &str {
        self.0.uri.path()
    }

    fn query(&self) -> Option<&str> {
        self.0.uri.query()
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        // The authority is what an HTTP/1.1 client says in Host (RFC 9113 section 8.3.1).
        if name == "host"
            && let Some(authority) = self.0.uri.authority()
        {
            return Some(Cow::Borrowed(authority.as_str().as_bytes()));
        }
        let mut values = self.0.headers.get_all(name).iter();
        let first = values.next()?.as_bytes();
        let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
        // A cookie may come in crumbs, which are one value with another separator (RFC 9113 section 8.2.3).
        let separator = if name == "cookie" { b"; " } else { b", " };
        let mut joined = [first, second.as_bytes()].join(&separator[..]);
        for value in values {
            joined.extend_from_slice(separator);
            joined.extend_from_slice(value.as_bytes());
        }
        Some(Cow::Owned(joined))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[(&str, &str)], name: &str, expected: Option<&str>) {
        let mut request = http::Request::get("http://an.authority/a?b");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a good request").into_parts();
        let found =
            RequestHead2(&parts).header(name).map(|value| String::from_utf8_lossy(&value).into_owned());
        assert_eq!(found.as_deref(), expected, "{name} of {lines:?}");
    }

    #[test]
    fn several_lines_of_a_field_are_one_value_and_crumbs_one_cookie() {
        check(&[], "a", None);
        check(&[("a", "1")], "a", Some("1"));
        check(&[("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")], "a", Some("1, 3, 4"));
        check(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")], "cookie", Some("a=1; b=2; c=3"));
    }

    #[test]
    fn the_authority_is_the_host() {
        check(&[("host", "another")], "host", Some("an.authority"));
    }
}
