//! Cross-origin requests (HTTPCORSFilter; the Fetch standard's CORS protocol): preflights are answered here, and
//! answers of the backend say for whom they are.

use std::borrow::Cow;

use crate::route::RequestHead;

/// The fields of an answer that are this filter's own.
pub const OWN_FIELDS: [&str; 6] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
];

/// Fields of an answer, names in lower case.
pub type Lines = Vec<(&'static str, String)>;

/// A preflight's answer: `204 No Content` with these fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preflight(pub Lines);

/// What a backend's answer may be read by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Whose scripts.
    pub origins: Vec<OriginMatch>,
    /// `allowCredentials`.
    pub allows_credentials: bool,
    /// `allowMethods`.
    pub methods: Names,
    /// `allowHeaders`.
    pub headers: Names,
    /// `exposeHeaders`.
    pub exposed: Names,
    /// For how many seconds a preflight's answer holds.
    pub max_age: u32,
}

/// Names of methods or fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// `*`.
    Any,
    /// These, of which there may be none.
    These(Vec<Box<str>>),
}

impl Names {
    /// The names as a route lists them.
    #[must_use]
    pub fn new(names: &[String]) -> Self {
        match names {
            [any] if any == "*" => Self::Any,
            these => Self::These(these.iter().map(|name| name.as_str().into()).collect()),
        }
    }

    /// How an answer says it. For requests with credentials `*` is a name like any other, so that what was asked for
    /// is said instead.
    fn say(&self, asked: Option<&str>, with_credentials: bool) -> Option<String> {
        match self {
            Self::Any if with_credentials => asked.map(str::to_owned),
            Self::Any => Some("*".to_owned()),
            Self::These(names) if names.is_empty() => None,
            Self::These(names) => Some(names.join(", ")),
        }
    }
}

/// One of `allowOrigins`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginMatch {
    /// `*`.
    Any,
    /// As it is.
    Exact(Box<str>),
    /// What a `*` stands between, as in `https://*.example.com`.
    Wildcard {
        /// Up to the star.
        start: Box<str>,
        /// Behind it.
        end: Box<str>,
    },
}

impl OriginMatch {
    /// An origin as a route writes it.
    #[must_use]
    pub fn new(text: &str) -> Self {
        match strip_default_port(text).split_once('*') {
            Some(("", "")) => Self::Any,
            Some((start, end)) => Self::Wildcard { start: start.into(), end: end.into() },
            None => Self::Exact(strip_default_port(text).into()),
        }
    }

    /// Whether an `Origin` is meant. Hosts and schemes are the same in any case.
    fn is_match(&self, origin: &str) -> bool {
        let origin = strip_default_port(origin);
        match self {
            Self::Any => true,
            Self::Exact(text) => text.eq_ignore_ascii_case(origin),
            Self::Wildcard { start, end } => {
                // The star is one label or more, never nothing.
                origin.len() > start.len() + end.len()
                    && origin.get(..start.len()).is_some_and(|text| text.eq_ignore_ascii_case(start))
                    && origin
                        .get(origin.len() - end.len()..)
                        .is_some_and(|text| text.eq_ignore_ascii_case(end))
            }
        }
    }
}

/// An origin without the port that its scheme has by itself.
fn strip_default_port(origin: &str) -> &str {
    let default = if origin.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http:")) {
        ":80"
    } else {
        ":443"
    };
    origin.strip_suffix(default).unwrap_or(origin)
}

impl Cors {
    /// The answer to a preflight; `None` for any other request, which goes on to the backend.
    #[must_use]
    pub fn preflight(&self, head: &impl RequestHead) -> Option<Preflight> {
        let origin = text(head.header("origin"))?;
        let method = text(head.header("access-control-request-method"))?;
        if head.method() != "OPTIONS" {
            return None;
        }
        let mut lines = self.lines_for(&origin);
        if lines.is_empty() {
            return Some(Preflight(lines));
        }
        let headers = text(head.header("access-control-request-headers"));
        let said = [
            ("access-control-allow-methods", self.methods.say(Some(&method), self.allows_credentials)),
            ("access-control-allow-headers", self.headers.say(headers.as_deref(), self.allows_credentials)),
            // Browsers look for it in the answer itself; the suite looks here, too.
            ("access-control-expose-headers", self.exposed.say(None, self.allows_credentials)),
            ("access-control-max-age", Some(self.max_age.to_string())),
        ];
        lines.extend(said.into_iter().filter_map(|(name, value)| Some((name, value?))));
        Some(Preflight(lines))
    }

    /// What is said on a backend's answer to a request from `origin`; nothing to one that may not read it.
    #[must_use]
    pub fn answer_lines(&self, origin: &str) -> Lines {
        let mut lines = self.lines_for(origin);
        if !lines.is_empty()
            && let Some(exposed) = self.exposed.say(None, self.allows_credentials)
        {
            lines.push(("access-control-expose-headers", exposed));
        }
        lines
    }

    fn lines_for(&self, origin: &str) -> Lines {
        if !self.origins.iter().any(|allowed| allowed.is_match(origin)) {
            return Lines::new();
        }
        let is_for_all = self.origins.contains(&OriginMatch::Any) && !self.allows_credentials;
        let allowed = if is_for_all { "*" } else { origin };
        let mut lines = vec![("access-control-allow-origin", allowed.to_owned())];
        if !is_for_all {
            lines.push(("vary", "origin".to_owned()));
        }
        if self.allows_credentials {
            lines.push(("access-control-allow-credentials", "true".to_owned()));
        }
        lines
    }
}

fn text(value: Option<Cow<'_, [u8]>>) -> Option<String> {
    value.and_then(|value| String::from_utf8(value.into_owned()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Head(&'static str, &'static [(&'static str, &'static str)]);

    impl RequestHead for Head {
        fn method(&self) -> &str {
            self.0
        }

        fn path(&self) -> &str {
            "/"
        }

        fn query(&self) -> Option<&str> {
            None
        }

        fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            let found = self.1.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| Cow::Borrowed(value.as_bytes()))
        }
    }

    fn cors(origins: &[&str]) -> Cors {
        Cors {
            origins: origins.iter().map(|origin| OriginMatch::new(origin)).collect(),
            allows_credentials: false,
            methods: Names::new(&["GET".to_owned(), "PUT".to_owned()]),
            headers: Names::new(&["x-a".to_owned()]),
            exposed: Names::new(&["x-b".to_owned()]),
            max_age: 5,
        }
    }

    //= gateway-api HTTPCORSFilter.allowOrigins
    //# `*` is a greedy match to the _left_, including any number of DNS labels to the left of its position.
    //# Note that, if not included, port `80` is assumed for `http` scheme origins, and port `443` is assumed for `https`
    //# origins.
    #[test]
    fn origins_are_exact_or_wildcards() {
        for (pattern, origin, expected) in [
            ("*", "https://any", true),
            ("https://example.com", "https://example.com", true),
            ("https://example.com", "https://EXAMPLE.com", true),
            ("https://example.com", "http://example.com", false),
            ("https://example.com", "https://example.com:8443", false),
            ("https://example.com:8443", "https://example.com:8443", true),
            ("https://example.com", "https://example.com:443", true),
            ("https://example.com:443", "https://example.com", true),
            ("http://*.example.com", "http://a.example.com:80", true),
            ("http://example.com", "http://example.com:443", false),
            ("https://*.example.com", "https://a.example.com", true),
            ("https://*.example.com", "https://a.b.example.com", true),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "https://.example.com", false),
            ("https://*.example.com", "https://a.example.com.evil", false),
            ("http://*", "http://any:80", true),
        ] {
            assert_eq!(OriginMatch::new(pattern).is_match(origin), expected, "{pattern} {origin}");
        }
    }

    #[test]
    fn a_preflight_is_answered_and_nothing_else_is() {
        let cors = cors(&["https://a.example"]);
        let asked: &[(&str, &str)] =
            &[("origin", "https://a.example"), ("access-control-request-method", "PUT")];
        let Some(Preflight(lines)) = cors.preflight(&Head("OPTIONS", asked)) else {
            unreachable!("this is a preflight")
        };
        let expected = [
            ("access-control-allow-origin", "https://a.example"),
            ("vary", "origin"),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-headers", "x-a"),
            ("access-control-expose-headers", "x-b"),
            ("access-control-max-age", "5"),
        ];
        assert_eq!(lines, expected.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(cors.preflight(&Head("GET", asked)), None);
        assert_eq!(cors.preflight(&Head("OPTIONS", &asked[..1])), None);
    }

    //= gateway-api HTTPCORSFilter.allowMethods
    //# If the `Access-Control-Request-Method` header is not present in the request, the gateway must omit the
    //# `Access-Control-Allow-Methods` response header.
    #[test]
    fn what_is_allowed_is_said_as_it_is_listed_and_a_star_only_without_credentials() {
        let names =
            |names: &[&str]| Names::new(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        for (listed, asked, with_credentials, said) in [
            (&["GET", "PUT"][..], Some("PATCH"), false, Some("GET, PUT")),
            (&["GET", "PUT"], Some("PATCH"), true, Some("GET, PUT")),
            (&["*"], Some("PATCH"), false, Some("*")),
            (&["*"], Some("PATCH"), true, Some("PATCH")),
            (&["*"], None, true, None),
            (&[], Some("PATCH"), false, None),
        ] {
            let found = names(listed).say(asked, with_credentials);
            assert_eq!(found.as_deref(), said, "{listed:?} {asked:?} {with_credentials}");
        }
    }

    //= gateway-api HTTPCORSFilter.allowOrigins
    //# If the request `Origin` does not match the configured allowed origins, the gateway returns 204/200 response but
    //# doesn't set the relevant cross-origin response headers.
    #[test]
    fn an_origin_that_is_not_allowed_is_told_nothing() {
        let cors = cors(&["https://a.example"]);
        let asked = &[("origin", "https://evil.example"), ("access-control-request-method", "PUT")];
        assert_eq!(cors.preflight(&Head("OPTIONS", asked)), Some(Preflight(Lines::new())));
        assert_eq!(cors.answer_lines("https://evil.example"), Lines::new());
    }

    //= gateway-api HTTPCORSFilter.allowCredentials
    //# If the configuration contains the wildcard `*` in `allowOrigins` and `allowCredentials` is set to `true`, the
    //# gateway must not return `*` in the `Access-Control-Allow-Origin` response header.
    #[test]
    fn with_credentials_no_star_is_said() {
        let open = Cors { methods: Names::Any, headers: Names::Any, exposed: Names::Any, ..cors(&["*"]) };
        assert_eq!(open.answer_lines("https://a.example")[0].1, "*");
        let closed = Cors { allows_credentials: true, ..open };
        let asked = &[
            ("origin", "https://a.example"),
            ("access-control-request-method", "PATCH"),
            ("access-control-request-headers", "x-c, x-d"),
        ];
        let Some(Preflight(lines)) = closed.preflight(&Head("OPTIONS", asked)) else {
            unreachable!("this is a preflight")
        };
        assert!(lines.iter().all(|(_, value)| value != "*"), "{lines:?}");
        assert!(lines.contains(&("access-control-allow-methods", "PATCH".to_owned())), "{lines:?}");
        assert!(lines.contains(&("access-control-allow-headers", "x-c, x-d".to_owned())), "{lines:?}");
    }
}
