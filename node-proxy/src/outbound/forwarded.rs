//! What is told of a Gateway's client: to backends by `X-Forwarded-For` and `X-Forwarded-Proto`, to the matches of routes by
//! the same fields, and to the log.
//!
//! What has come in these fields could be anybody's word. It counts only as far as proxies in front are believed, which
//! append to the first: then the client is whom the outermost of them has seen.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::route::{FieldEdit, Filters, RequestHead};
use crate::telemetry::ClientAddress;

/// The fields that say what ours say. Nobody else's are passed on: of those that proxies do not append to it cannot be seen
/// who has written them, and one that does not know a field passes on what its client has said in it.
const OURS: [&str; 7] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-protocol",
    "x-forwarded-scheme",
    "x-forwarded-ssl",
    "x-real-ip",
];
/// Those that say of a request what only a proxy in front can know. They are passed on where one is believed.
const OF_PROXIES: [&str; 4] =
    ["x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-server"];

/// What is known of the client of one connection, and how many proxies in front are believed.
#[derive(Debug)]
pub(super) struct Forwarded {
    address: IpAddr,
    scheme: &'static str,
    trusted_hops: usize,
    /// What is told where nobody is believed.
    alone: Arc<Filters>,
}

/// What is told of one request.
#[derive(Debug)]
pub(super) struct Told {
    /// Its client, where that is not the connection's.
    pub(super) client: Option<ClientAddress>,
    /// What becomes of its fields.
    pub(super) filters: Arc<Filters>,
}

/// A request as backends are told of it.
#[derive(Debug)]
pub(super) struct AsTold<'a, H>(pub(super) &'a H, pub(super) &'a FieldEdit);

impl Forwarded {
    /// For a connection from `address`, on which requests are made by `scheme`.
    pub(super) fn new(address: IpAddr, scheme: &'static str, trusted_hops: usize) -> Self {
        let edit =
            say(&address.to_string(), scheme).removing_spellings(&OURS).removing_spellings(&OF_PROXIES);
        Self { address, scheme, trusted_hops, alone: filters(edit) }
    }

    /// What is told of a request. One that has not come by as many proxies as are believed, or of whose client the
    /// outermost of them knows no address, is taken for one that has come past them: nothing it says counts.
    pub(super) fn tell(&self, head: &impl RequestHead) -> Told {
        let believed = (self.trusted_hops > 0).then(|| head.header("x-forwarded-for")).flatten();
        let client = believed.as_deref().and_then(|came| find_client(came, self.trusted_hops));
        let (Some(came), Some(client)) = (believed, client) else {
            return Told { client: None, filters: Arc::clone(&self.alone) };
        };
        let came = String::from_utf8_lossy(&came);
        let scheme = head.header("x-forwarded-proto").and_then(|scheme| find_scheme(&scheme));
        let edit = say(&format!("{came}, {}", self.address), scheme.unwrap_or(self.scheme));
        Told { client: Some(client), filters: filters(edit.removing_spellings(&OURS)) }
    }
}

fn say(addresses: &str, scheme: &str) -> FieldEdit {
    FieldEdit::new(&[("x-forwarded-for", addresses), ("x-forwarded-proto", scheme)], &[], &[])
}

fn filters(request: FieldEdit) -> Arc<Filters> {
    Arc::new(Filters { request, ..Filters::default() })
}

/// The address that the outermost of `hops` proxies has appended: the value in that place from the right. Empty values of
/// a list do not count (RFC 9110 section 5.6.1).
fn find_client(values: &[u8], hops: usize) -> Option<ClientAddress> {
    let values = values.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let place = hops.checked_sub(1)?;
    read_address(values.filter(|value| !value.is_empty()).nth(place)?)
}

/// An address as proxies write it: alone or with a port, and of IPv6 with brackets or without.
fn read_address(value: &[u8]) -> Option<ClientAddress> {
    let text = std::str::from_utf8(value).ok()?;
    let alone =
        text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).filter(|text| text.contains(':'));
    let (ip, port) = match alone.unwrap_or(text).parse::<IpAddr>() {
        Ok(ip) => (ip, None),
        Err(_) => text.parse::<SocketAddr>().map(|address| (address.ip(), Some(address.port()))).ok()?,
    };
    Some(ClientAddress { ip: ip.to_canonical(), port })
}

/// One of the two schemes that there are; several are none.
fn find_scheme(value: &[u8]) -> Option<&'static str> {
    let value = value.trim_ascii();
    ["http", "https"].into_iter().find(|scheme| value.eq_ignore_ascii_case(scheme.as_bytes()))
}

impl<H: RequestHead> RequestHead for AsTold<'_, H> {
    fn method(&self) -> &str {
        self.0.method()
    }

    fn path(&self) -> &str {
        self.0.path()
    }

    fn query(&self) -> Option<&str> {
        self.0.query()
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        if !self.1.removes(name.as_bytes()) {
            return self.0.header(name);
        }
        let (_, value) = self.1.added().find(|(added, _)| added.eq_ignore_ascii_case(name))?;
        Some(Cow::Borrowed(value.as_bytes()))
    }
}

#[cfg(test)]
#[path = "forwarded_tests.rs"]
mod tests;
