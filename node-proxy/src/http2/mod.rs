//! The HTTP/2 wire (RFC 9113), by hyper: what the proxy adds to it.
//!
//! Bodies are passed on frame by frame, trailers included, and counted on the way.

pub mod body;
pub mod kept;
pub mod translate;

use std::borrow::Cow;
use std::future::Future;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use crate::route::{FieldEdit, Filters, RequestHead};
use crate::turns;
pub use body::{ClientBody, RequestBody};
pub use kept::{KeptRequest, keep};

/// Field section size, in bytes (RFC 9113 section 6.5.2).
pub const MAX_HEAD: u32 = 64 * 1024;

/// What a server says to a client whose connection preface is invalid (RFC 9113 section 3.4): its own preface, which is
/// an empty SETTINGS frame, and a GOAWAY frame with `PROTOCOL_ERROR`.
pub const INVALID_PREFACE: [u8; 26] = *b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01";

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

/// Changes a request's head as filters say.
pub fn apply(filters: &Filters, parts: &mut Parts) {
    let target = filters.target(&RequestHead2(parts));
    if target.is_some() || filters.host().is_some() {
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        if let Some(target) = target.and_then(|target| target.try_into().ok()) {
            uri.path_and_query = Some(target);
        }
        if let Some(host) = filters.host() {
            if parts.headers.contains_key(header::HOST) {
                edit(&FieldEdit::new(&[("host", host)], &[], &[]), &mut parts.headers);
            }
            if uri.authority.is_some() {
                uri.authority = host.parse().ok();
            }
        }
        // Its parts were a URI's before, of which none has gone.
        parts.uri = Uri::from_parts(uri).unwrap_or_default();
    }
    edit(&filters.request, &mut parts.headers);
}

/// Changes the fields of a head.
pub fn edit(edit: &FieldEdit, fields: &mut HeaderMap) {
    let is_gone = |name: &&HeaderName| edit.removes(name.as_str().as_bytes());
    let gone: Vec<HeaderName> = fields.keys().filter(is_gone).cloned().collect();
    for name in &gone {
        fields.remove(name);
    }
    for (name, value) in edit.added() {
        // Both were checked when the route was judged.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            fields.append(name, value);
        }
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
