//! Until when certificates hold, by this node's wall clock.
//!
//! A hop never outlives the leaf of either end (design D2) unless a newer one proves that both ends have newer leaves,
//! and takes no new streams for a while before: what begins on it shall have time to end in order. The clock may jump
//! and machines sleep, so that no wait of this module trusts one long timer.

use std::fmt;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::WorkloadCert;

/// The longest sleep before the wall clock is looked at again.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// For how long before its end a hop takes no new streams, unless its whole life is shorter than twice this.
const LAST_STREAMS: Duration = Duration::from_secs(60);

/// From when to when a certificate holds; `None` if it cannot be read.
#[must_use]
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(SystemTime, SystemTime)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let at = |seconds: i64| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?));
    let validity = certificate.validity();
    Some((at(validity.not_before.timestamp())?, at(validity.not_after.timestamp())?))
}

/// When the first of the two leaves of a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FirstEnd(SystemTime);

impl FirstEnd {
    /// Of our leaf and the chain that the peer has shown. A leaf that cannot be read has ended.
    #[must_use]
    pub fn of(own: &WorkloadCert, peer: Option<&[CertificateDer<'_>]>) -> Self {
        let peer = peer.and_then(<[_]>::first).and_then(validity);
        Self(peer.map_or(SystemTime::UNIX_EPOCH, |(_, not_after)| not_after.min(own.not_after())))
    }

    /// The time itself.
    #[must_use]
    pub const fn time(self) -> SystemTime {
        self.0
    }

    /// Whether it has come.
    #[must_use]
    pub fn is_over(self) -> bool {
        self.0 <= SystemTime::now()
    }

    /// How long it is until then.
    #[must_use]
    pub fn left(self) -> Duration {
        self.0.duration_since(SystemTime::now()).unwrap_or_default()
    }

    /// For how long from now on the connection takes anything new.
    #[must_use]
    pub fn usable_for(self) -> Duration {
        let left = self.left();
        left - LAST_STREAMS.min(left / 2)
    }
}

impl From<SystemTime> for FirstEnd {
    fn from(time: SystemTime) -> Self {
        Self(time)
    }
}

/// As logs have it.
impl fmt::Display for FirstEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        time::OffsetDateTime::from(self.0).fmt(f)
    }
}

/// Sleeps until the wall clock says `deadline`.
pub async fn sleep_until(deadline: SystemTime) {
    while let Ok(left) = deadline.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_takes_nothing_new_for_a_while_before_its_end() {
        let day = Duration::from_secs(24 * 3600);
        for (left, at_least, at_most) in [(day, 86_330, 86_340), (Duration::from_secs(20), 9, 10)] {
            let usable = FirstEnd(SystemTime::now() + left).usable_for().as_secs();
            assert!((at_least..=at_most).contains(&usable), "{left:?}: {usable}");
        }
        assert_eq!(FirstEnd(SystemTime::now() - day).usable_for(), Duration::ZERO);
    }
}
