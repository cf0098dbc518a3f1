//! Which endpoint a client stays with (SessionPersistence, GEP-1619). Pure.
//!
//! A session is a token that the client sends back: in a cookie, or in a field of its own. It names the backend and the
//! endpoint by hashes, so that no proxy keeps anything of it, every proxy understands it, and it tells no address.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{RequestHead, RouteRef};
use crate::snapshot::service::ServicePortKey;

/// Where a token travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// In a cookie, which the client keeps as long as it keeps anything (`Session`), or until the session's end
    /// (`Permanent`).
    Cookie {
        /// Whether it is `Permanent`.
        is_permanent: bool,
    },
    /// In a field, which the client must send back by itself.
    Header,
}

/// How the requests of one rule stay with the endpoint that answered their client first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPersistence {
    carrier: Carrier,
    /// Of the cookie or, in lower case, of the field.
    name: Box<str>,
    /// How old a session may get.
    absolute_timeout: Option<Duration>,
    /// Stands for the rule: the sessions of two rules have nothing to do with each other.
    scope: u64,
}

/// How a client speaks to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// In plain text, as an application to the proxy of its node: a cookie that is `Secure` would never come back.
    Plain,
    /// In TLS: its cookie goes nowhere without.
    InTls,
}

/// Whom a client stays with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionToken {
    /// See [`SessionPersistence::backend_id`].
    pub backend: u64,
    /// See [`endpoint_id`].
    pub endpoint: u64,
}

impl SessionPersistence {
    /// For the rule that `rule` names within its route: by its name, else by its place. Without a `name` for the cookie
    /// or field there is one that no other rule has.
    #[must_use]
    pub fn new(
        (route, rule): (&RouteRef, &str),
        (carrier, name): (Carrier, Option<&str>),
        absolute_timeout: Option<Duration>,
    ) -> Self {
        let scope = hash(&[route.kind.as_label(), &route.key.namespace, &route.key.name, rule]);
        let name = name.map_or_else(|| format!("gammarus-session-{scope:016x}"), str::to_owned);
        let name = match carrier {
            Carrier::Cookie { .. } => name,
            Carrier::Header => name.to_ascii_lowercase(),
        };
        Self { carrier, name: name.into(), absolute_timeout, scope }
    }

    /// What stands for a backend of this rule.
    #[must_use]
    pub fn backend_id(&self, backend: &ServicePortKey) -> u64 {
        let (scope, port) = (self.scope.to_string(), backend.port.to_string());
        hash(&[&scope, &backend.service.namespace, &backend.service.name, &port])
    }

    /// The session that a request belongs to, if it brings one that has not ended.
    #[must_use]
    pub fn find(&self, head: &impl RequestHead, now: SystemTime) -> Option<SessionToken> {
        match self.carrier {
            Carrier::Header => self.read(std::str::from_utf8(&head.header(&self.name)?).ok()?, now),
            Carrier::Cookie { .. } => {
                let cookies = head.header("cookie")?;
                let pairs =
                    std::str::from_utf8(&cookies).ok()?.split(';').filter_map(|pair| pair.split_once('='));
                let own = pairs.filter(|(name, _)| name.trim() == &*self.name);
                own.filter_map(|(_, value)| self.read(value, now)).next()
            }
        }
    }

    fn read(&self, token: &str, now: SystemTime) -> Option<SessionToken> {
        let mut parts =
            token.trim().trim_matches('"').split('.').map(|part| u64::from_str_radix(part, 16).ok());
        let (begun, backend, endpoint) = (parts.next()??, parts.next()??, parts.next()??);
        let age = Duration::from_secs(seconds(now).saturating_sub(begun));
        let is_over = self.absolute_timeout.is_some_and(|longest| age >= longest);
        (parts.next().is_none() && !is_over).then_some(SessionToken { backend, endpoint })
    }

    /// The field of an answer with which a session begins: its name and value.
    #[must_use]
    pub fn begin(&self, session: SessionToken, client: Client, now: SystemTime) -> (Box<str>, Box<str>) {
        let token = format!("{:x}.{:016x}.{:016x}", seconds(now), session.backend, session.endpoint);
        match self.carrier {
            Carrier::Header => (self.name.clone(), token.into()),
            Carrier::Cookie { is_permanent } => {
                let mut cookie = format!("{}={token}; Path=/; HttpOnly; SameSite=Lax", self.name);
                if client == Client::InTls {
                    cookie.push_str("; Secure");
                }
                if let Some(longest) = self.absolute_timeout.filter(|_| is_permanent) {
                    let _ = write!(cookie, "; Max-Age={}", longest.as_secs());
                }
                ("set-cookie".into(), cookie.into())
            }
        }
    }
}

/// What stands for an endpoint: the same on every node, and another one for another pod with the same address.
#[must_use]
pub fn endpoint_id(pod_uid: Option<&str>, address: std::net::SocketAddr) -> u64 {
    hash(&[pod_uid.unwrap_or_default(), &address.to_string()])
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// FNV-1a: tokens are read by other processes, of other versions, so that their hash may never change.
fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::cluster::objects::ObjectKey;
    use crate::route::RouteKind;

    const NOW: SystemTime = UNIX_EPOCH;
    const STAY: SessionToken = SessionToken { backend: 1, endpoint: 0xFFFF_FFFF_FFFF_FFFF };

    struct Fields(&'static str, String);

    impl RequestHead for Fields {
        fn method(&self) -> &'static str {
            "GET"
        }
        fn path(&self) -> &'static str {
            "/"
        }
        fn query(&self) -> Option<&str> {
            None
        }
        fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            (name == self.0).then_some(Cow::Borrowed(self.1.as_bytes()))
        }
    }

    fn of_rule(rule: &str, carrier: Carrier, name: Option<&str>, end: Option<u64>) -> SessionPersistence {
        let route = RouteRef { kind: RouteKind::Http, key: ObjectKey::new("shop", "r") };
        SessionPersistence::new((&route, rule), (carrier, name), end.map(Duration::from_secs))
    }

    const COOKIE: Carrier = Carrier::Cookie { is_permanent: false };

    #[test]
    fn a_token_comes_back_as_the_session_that_it_was_made_for() {
        let cookie = of_rule("0", COOKIE, Some("Sticky"), None);
        let (name, value) = cookie.begin(STAY, Client::Plain, NOW);
        assert_eq!(&*name, "set-cookie");
        assert_eq!(&*value, "Sticky=0.0000000000000001.ffffffffffffffff; Path=/; HttpOnly; SameSite=Lax");
        for sent in
            ["Sticky=0.0000000000000001.ffffffffffffffff", "a=b; Sticky=x; Sticky=0.1.ffffffffffffffff; c=d"]
        {
            assert_eq!(cookie.find(&Fields("cookie", sent.to_owned()), NOW), Some(STAY), "{sent}");
        }
        for sent in
            ["sticky=0.1.1", "Sticky=0.1", "Sticky=0.1.1.1", "Sticky=0.1.g", "Sticky", "", "xSticky=0.1.1"]
        {
            assert_eq!(cookie.find(&Fields("cookie", sent.to_owned()), NOW), None, "{sent}");
        }
        let field = of_rule("0", Carrier::Header, Some("X-Session"), None);
        let (name, value) = field.begin(STAY, Client::InTls, NOW);
        assert_eq!(&*name, "x-session");
        assert_eq!(field.find(&Fields("x-session", value.into()), NOW), Some(STAY));
    }

    //= GEP-1619
    //# `LifetimeType` being `Permanent`, `AbsoluteTimeout` MUST configure the `Expires` or `Max-Age` cookie attributes.
    #[test]
    fn a_session_ends_at_its_absolute_timeout_and_a_permanent_cookie_says_when() {
        for carrier in [COOKIE, Carrier::Cookie { is_permanent: true }] {
            let session = of_rule("0", carrier, Some("s"), Some(300));
            let (_, value) = session.begin(STAY, Client::InTls, NOW);
            assert!(value.contains("; SameSite=Lax; Secure"), "{value}");
            assert_eq!(value.ends_with("; Max-Age=300"), carrier != COOKIE, "{value}");
            let sent = || Fields("cookie", value.split(';').next().unwrap_or_default().to_owned());
            assert_eq!(session.find(&sent(), NOW + Duration::from_secs(299)), Some(STAY));
            assert_eq!(session.find(&sent(), NOW + Duration::from_secs(300)), None);
        }
    }

    //= GEP-1619
    //# Route rules referencing the same service MUST NOT share persistent sessions (i.e. the same cookie).
    #[test]
    fn rules_share_neither_names_nor_backends() {
        let (one, other) = (of_rule("0", COOKIE, None, None), of_rule("1", COOKIE, None, None));
        assert_ne!(one.name, other.name);
        let backend = ServicePortKey::tcp(ObjectKey::new("shop", "v1"), 80);
        assert_ne!(one.backend_id(&backend), other.backend_id(&backend));
        assert_eq!(one.backend_id(&backend), of_rule("0", COOKIE, Some("x"), None).backend_id(&backend));
    }

    #[test]
    fn an_address_that_another_pod_has_is_another_endpoint() {
        let address = "10.0.0.1:80".parse().expect("an address");
        assert_ne!(endpoint_id(Some("a"), address), endpoint_id(Some("b"), address));
        assert_eq!(
            hash(&["a"]),
            0x089b_e207_b544_f1e4,
            "a token of an earlier version must still be understood"
        );
    }
}
