//! How long a rule's requests may take, how often they are tried, and whom their clients stay with (HTTPRouteTimeouts,
//! HTTPRouteRetry, SessionPersistence). Pure.

use std::sync::Arc;
use std::time::Duration;

use super::SessionPersistence;

/// The terms of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// `timeouts.request`: from the request's head to the last byte of its answer, all tries together.
    pub request: Option<Duration>,
    /// `timeouts.backendRequest`: one try.
    pub backend_request: Option<Duration>,
    /// `retry`.
    pub retry: Option<Retry>,
    /// `sessionPersistence`.
    pub session: Option<Arc<SessionPersistence>>,
}

/// When a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Statuses of answers that are not passed on as long as there is another try. A backend that was not reached,
    /// broke off or was late needs none.
    pub codes: Vec<u16>,
    /// Tries after the first.
    pub attempts: u32,
    /// The least time between two tries.
    pub backoff: Duration,
}

/// A duration as the Gateway API writes it (GEP-2257): one to four whole numbers with units, as in `1h10m` or `500ms`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit())?;
        let (number, unit) = rest.split_at(digits);
        let units = unit.find(|character: char| character.is_ascii_digit()).unwrap_or(unit.len());
        let milliseconds = match &unit[..units] {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        let number: u64 = number.parse().ok().filter(|_| digits <= 5)?;
        sum += Duration::from_millis(number * milliseconds);
        parts += 1;
        rest = &unit[units..];
    }
    (1..=4).contains(&parts).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    //= GEP-2257
    //# it MUST match the regular expression `^([0-9]{1,5}(h|m|s|ms)){1,4}$`
    #[test]
    fn durations_are_whole_numbers_with_units() {
        for (text, milliseconds) in [
            ("0s", Some(0)),
            ("10s", Some(10_000)),
            ("500ms", Some(500)),
            ("1h10m", Some(4_200_000)),
            ("1h1m1s1ms", Some(3_661_001)),
            ("99999h", Some(359_996_400_000)),
            ("1m1m", Some(120_000)),
            ("", None),
            ("1", None),
            ("s", None),
            ("1.5s", None),
            ("-1s", None),
            ("100000s", None),
            ("1d", None),
            ("1h1m1s1ms1s", None),
            (" 1s", None),
        ] {
            assert_eq!(parse_duration(text), milliseconds.map(Duration::from_millis), "{text:?}");
        }
    }
}
