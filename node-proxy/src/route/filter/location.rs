//! Where a request goes, rewritten (HTTPURLRewriteFilter), or where its client is sent (HTTPRequestRedirectFilter).

use http::StatusCode;

/// What becomes of a path (HTTPPathModifier).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// `ReplaceFullPath`.
    Full(Box<str>),
    /// `ReplacePrefixMatch`: the prefix that the rule's only match has, and what stands in its place. Neither
    /// ends in a slash.
    Prefix {
        /// What goes.
        matched: Box<str>,
        /// What comes.
        replacement: Box<str>,
    },
}

impl PathEdit {
    /// Replaces the prefix `matched` of a rule.
    #[must_use]
    pub fn prefix(matched: &str, replacement: &str) -> Self {
        let trim = |text: &str| text.trim_end_matches('/').into();
        Self::Prefix { matched: trim(matched), replacement: trim(replacement) }
    }

    /// The path that comes of `path`, which the rule has matched. Never empty.
    #[must_use]
    pub fn apply(&self, path: &str) -> String {
        let edited = match self {
            Self::Full(path) => path.to_string(),
            Self::Prefix { matched, replacement } => {
                let rest = path.strip_prefix(&**matched).unwrap_or(path);
                format!("{replacement}{rest}")
            }
        };
        if edited.starts_with('/') { edited } else { format!("/{edited}") }
    }
}

/// What a request says of its destination.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host, maybe with a port.
    pub authority: &'a str,
    /// The path without the query.
    pub path: &'a str,
    /// The query, without the question mark.
    pub query: Option<&'a str>,
    /// The port that the request arrived at.
    pub port: u16,
}

/// A `URLRewrite`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Takes the place of the host, port included.
    pub hostname: Option<Box<str>>,
    /// What becomes of the path.
    pub path: Option<PathEdit>,
}

impl Rewrite {
    /// This rewrite, overruled where another says something.
    #[must_use]
    pub fn then(&self, next: &Self) -> Self {
        Self {
            hostname: next.hostname.clone().or_else(|| self.hostname.clone()),
            path: next.path.clone().or_else(|| self.path.clone()),
        }
    }
}

/// A `RequestRedirect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`; the request's own when not given.
    pub scheme: Option<Box<str>>,
    /// The request's own when not given.
    pub hostname: Option<Box<str>>,
    /// The request's own when not given.
    pub path: Option<PathEdit>,
    /// Follows from the scheme, or is the listener's, when not given.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

impl Redirect {
    /// The `Location` for a request.
    #[must_use]
    pub fn location(&self, asked: &Asked<'_>) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(asked.scheme);
        let host = self.hostname.as_deref().unwrap_or_else(|| strip_port(asked.authority));
        let port =
            self.port.or_else(|| self.scheme.is_some().then(|| well_known(scheme))?).unwrap_or(asked.port);
        let path = self.path.as_ref().map(|edit| edit.apply(asked.path));
        let mut location = format!("{scheme}://{host}");
        if well_known(scheme) != Some(port) {
            location.push_str(&format!(":{port}"));
        }
        location.push_str(path.as_deref().unwrap_or(asked.path));
        if let Some(query) = asked.query {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}

fn well_known(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// The host of an authority; an IPv6 address keeps its brackets.
fn strip_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= gateway-api HTTPPathModifier.replacePrefixMatch
    //# For example, a request to "/foo/bar" with a prefix match of "/foo" and a ReplacePrefixMatch of "/xyz" would be
    //# modified to "/xyz/bar".
    #[test]
    fn a_prefix_is_replaced_as_the_apis_table_says() {
        for (path, matched, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
        ] {
            assert_eq!(
                PathEdit::prefix(matched, replacement).apply(path),
                expected,
                "{path} {matched} {replacement}"
            );
        }
    }

    #[track_caller]
    fn check(redirect: Redirect, expected: &str) {
        let asked = Asked {
            scheme: "http",
            authority: "my-server:8080",
            path: "/a/b",
            query: Some("c=d"),
            port: 8080,
        };
        assert_eq!(redirect.location(&asked), expected);
    }

    fn redirect() -> Redirect {
        Redirect { scheme: None, hostname: None, path: None, port: None, status: StatusCode::FOUND }
    }

    //= gateway-api HTTPRequestRedirectFilter.port
    //# If redirect scheme is not-empty, the redirect port MUST be the well-known port associated with the redirect
    //# scheme.
    #[test]
    fn the_port_follows_the_scheme_or_is_the_listeners() {
        check(redirect(), "http://my-server:8080/a/b?c=d");
        check(Redirect { scheme: Some("https".into()), ..redirect() }, "https://my-server/a/b?c=d");
        check(Redirect { port: Some(80), ..redirect() }, "http://my-server/a/b?c=d");
        let secure = Redirect { scheme: Some("https".into()), port: Some(8443), ..redirect() };
        check(secure, "https://my-server:8443/a/b?c=d");
        check(Redirect { hostname: Some("other".into()), ..redirect() }, "http://other:8080/a/b?c=d");
        let full = Redirect { path: Some(PathEdit::Full("/z".into())), ..redirect() };
        check(full, "http://my-server:8080/z?c=d");
    }

    #[test]
    fn an_ipv6_host_keeps_its_brackets() {
        for (authority, host) in [("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("a:80", "a"), ("a", "a")] {
            assert_eq!(strip_port(authority), host);
        }
    }
}
