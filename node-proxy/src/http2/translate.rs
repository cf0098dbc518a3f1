//! Requests from one version of HTTP to the other (RFC 9113 section 8.2.2 and 8.3, RFC 9112 section 3.2).
//!
//! What belongs to one connection stays there. Doing it twice changes nothing: a request may be tried again.

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, Version, header};

/// Fields that belong to one HTTP/1.1 connection besides those that `Connection` names.
const OF_THE_CONNECTION: [HeaderName; 6] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Makes a request one of HTTP/1.1.
pub fn to_http1<B>(request: &mut Request<B>) {
    if let Some(authority) = request.uri().authority().cloned() {
        if let Ok(host) = HeaderValue::try_from(authority.as_str()) {
            request.headers_mut().insert(header::HOST, host);
        }
        let target = request.uri().path_and_query().cloned();
        *request.uri_mut() = target.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
    }
    join_crumbs(request.headers_mut());
    request.headers_mut().remove(header::TE);
    *request.version_mut() = Version::HTTP_11;
}

/// Makes a request one of HTTP/2.
pub fn to_http2<B>(request: &mut Request<B>) {
    let headers = request.headers_mut();
    let host = headers.remove(header::HOST);
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let takes_trailers = headers.get_all(header::TE).iter().any(|value| value == "trailers");
    for name in named.iter().chain(&OF_THE_CONNECTION) {
        headers.remove(name);
    }
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    headers.remove(header::EXPECT);
    if request.uri().authority().is_none() {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
        parts.scheme = parts.authority.as_ref().map(|_| Scheme::HTTP);
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    }
    *request.version_mut() = Version::HTTP_2;
}

/// Makes one line of a cookie that has come in several (RFC 9113 section 8.2.3).
fn join_crumbs(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, uri: &str, lines: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::get(uri).version(version);
        for (name, value) in lines {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    #[track_caller]
    fn check(
        mut request: Request<()>,
        translate: fn(&mut Request<()>),
        uri: &str,
        expected: &[(&str, &str)],
    ) {
        for _ in 0..2 {
            translate(&mut request);
            assert_eq!(request.uri().to_string(), uri);
            let mut lines: Vec<_> = request
                .headers()
                .iter()
                .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
                .collect();
            lines.sort_unstable();
            assert_eq!(lines, expected);
        }
    }

    #[test]
    fn an_authority_becomes_a_host_and_crumbs_one_cookie() {
        let came = request(
            Version::HTTP_2,
            "https://a.example.com:8443/b?c",
            &[("te", "trailers"), ("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")],
        );
        let expected = [("cookie", "a=1; b=2"), ("host", "a.example.com:8443"), ("x", "y")];
        check(came, to_http1, "/b?c", &expected);
        check(
            request(Version::HTTP_2, "https://a.example.com", &[]),
            to_http1,
            "/",
            &[("host", "a.example.com")],
        );
    }

    //= RFC 9113 section 8.2.2
    //# An intermediary transforming an HTTP/1.x message to HTTP/2 MUST remove connection-specific header fields
    #[test]
    fn a_host_becomes_the_authority_and_nothing_of_the_connection_goes_on() {
        let came = request(
            Version::HTTP_11,
            "/b?c",
            &[
                ("host", "a.example.com"),
                ("connection", "keep-alive, X-Own"),
                ("x-own", "1"),
                ("keep-alive", "timeout=5"),
                ("transfer-encoding", "chunked"),
                ("expect", "100-continue"),
                ("x", "y"),
            ],
        );
        check(came, to_http2, "http://a.example.com/b?c", &[("x", "y")]);
        let trailers = [("host", "a"), ("te", "trailers"), ("connection", "te")];
        check(request(Version::HTTP_11, "/", &trailers), to_http2, "http://a/", &[("te", "trailers")]);
    }
}
