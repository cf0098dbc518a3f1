//! What an operator says of how a Gateway's proxies serve: whose word about clients they take.

use serde::Deserialize;

use crate::snapshot::AddressRange;

/// More proxies in a row than anybody has.
pub const MOST_TRUSTED_HOPS: u32 = 100;
/// The longest that a proxy waits for those who stay, in seconds: 30 days.
pub const LONGEST_DRAIN_SECONDS: u32 = 30 * 24 * 3600;

/// Who says who a client is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientParameters {
    /// How many proxies in front append to `X-Forwarded-For` and are believed.
    pub trusted_hops: Option<u32>,
    /// Where it is there, connections begin with a header of the PROXY protocol.
    pub proxy_protocol: Option<ProxyProtocolParameters>,
}

/// The PROXY protocol on every connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ProxyProtocolParameters {
    /// Who may speak it, as ranges or addresses; anybody where nothing is said.
    pub from: Option<Vec<String>>,
}

impl ClientParameters {
    /// Whether it can be obeyed.
    ///
    /// # Errors
    /// The first field that cannot, and why.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.trusted_hops.is_some_and(|hops| hops > MOST_TRUSTED_HOPS) {
            return Err(format!("client.trustedHops: must be {MOST_TRUSTED_HOPS} at most"));
        }
        let Some(from) = self.proxy_protocol.as_ref().and_then(|own| own.from.as_ref()) else {
            return Ok(());
        };
        if from.is_empty() {
            return Err(
                "client.proxyProtocol.from: must name somebody, or not be there for anybody".to_owned()
            );
        }
        for (index, range) in from.iter().enumerate() {
            AddressRange::read(range)
                .map_err(|error| format!("client.proxyProtocol.from[{index}]: {error}"))?;
        }
        Ok(())
    }
}

/// Whether proxies can wait so many seconds for those who stay.
///
/// # Errors
/// The field, and why not.
pub(super) fn check_drain(seconds: u32) -> Result<(), String> {
    if (1..=LONGEST_DRAIN_SECONDS).contains(&seconds) {
        Ok(())
    } else {
        Err(format!("drainSeconds: must be between 1 and {LONGEST_DRAIN_SECONDS}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::Parameters;

    #[test]
    fn what_cannot_be_obeyed_is_said_with_its_field() {
        for (text, why) in [
            ("client: {trustedHops: 101}", "client.trustedHops: must be 100 at most"),
            ("client: {proxyProtocol: {from: []}}", "client.proxyProtocol.from: must name somebody"),
            (
                "client: {proxyProtocol: {from: [10.0.0.0/8, 10.0.0.1/8]}}",
                "client.proxyProtocol.from[1]: `10.0.0.1/8` has bits set behind its prefix",
            ),
            ("client: {proxyProtocol: {by: a}}", "client.proxyProtocol.by: is not a field"),
            ("drainSeconds: 0", "drainSeconds: must be between 1 and 2592000"),
        ] {
            let said = Parameters::read(text).unwrap_err();
            assert!(said.starts_with(why), "{text}: {said}");
        }
        let fine = "{client: {trustedHops: 0, proxyProtocol: {from: [192.0.2.7, '2001:db8::/32']}}, drainSeconds: 1}";
        assert!(Parameters::read(fine).is_ok());
    }
}
