//! wrk: HTTP/1.1 as fast as it is answered, on a number of connections.

use crate::measure::Said;

/// How many answers were not 2xx or 3xx, and how many connections failed.
pub(crate) fn count_failures(text: &str) -> f64 {
    let mut failures = 0.0;
    for line in text.lines().map(str::trim) {
        if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses:") {
            failures += count.trim().parse::<f64>().unwrap_or(f64::NAN);
        } else if let Some(counts) = line.strip_prefix("Socket errors:") {
            let words = counts.split([' ', ',']).filter_map(|word| word.parse::<f64>().ok());
            failures += words.sum::<f64>();
        }
    }
    failures
}

/// Reads what `wrk --latency` writes.
///
/// # Errors
/// When it was nothing.
pub(crate) fn read(text: &str) -> Result<Said, String> {
    let find = |start: &str| text.lines().find_map(|line| line.trim().strip_prefix(start)).map(str::trim);
    let answers = text.lines().find_map(|line| line.trim().split_once(" requests in "));
    let answers = answers.and_then(|(count, _)| count.parse::<f64>().ok()).filter(|count| *count > 0.0);
    let said = || {
        let per_second = find("Requests/sec:")?.parse().ok()?;
        let (p50_us, p99_us) = (microseconds(find("50%")?)?, microseconds(find("99%")?)?);
        Some(Said { answers: answers?, per_second, p50_us, p99_us })
    };
    said().ok_or_else(|| format!("wrk said: {text}"))
}

/// The same of a round in which nothing may fail.
///
/// # Errors
/// When something did, or when it was nothing.
pub(crate) fn read_good(text: &str) -> Result<Said, String> {
    let failures = count_failures(text);
    if failures == 0.0 { read(text) } else { Err(format!("{failures} requests failed")) }
}

/// A duration as wrk writes it: `1.50ms`.
fn microseconds(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let factor = match &text[unit..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(text[..unit].parse::<f64>().ok()? * factor)
}
