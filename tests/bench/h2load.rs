//! h2load: HTTP/2 by prior knowledge, many streams on a few connections.

use crate::measure::Said;

/// Reads what `h2load` writes, and the log of its requests.
///
/// # Errors
/// When it was not only good answers, or nothing at all.
pub(crate) fn read(text: &str, log: &str) -> Result<Said, String> {
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let count = |line: &str, what: &str| {
        let part = line.split(',').find_map(|part| part.trim().strip_suffix(what))?;
        part.trim().parse::<f64>().ok()
    };
    let requests = line("requests: ").ok_or_else(|| format!("h2load said: {text}"))?;
    let good = line("status codes: ").and_then(|line| count(line, "2xx"));
    let done = count(requests, "done").filter(|done| *done > 0.0);
    let failed = ["failed", "errored", "timeout"].map(|what| count(requests, what));
    let per_second = line("finished in ").and_then(|line| count(line, "req/s"));
    let (Some(good), Some(done), Some(per_second)) = (good, done, per_second) else {
        return Err(format!("h2load said: {text}"));
    };
    // A head may have come of an answer that was still under way at the end.
    if good < done || failed != [Some(0.0); 3] {
        return Err(format!("not all were good: {requests}"));
    }
    let mut latencies: Vec<f64> =
        log.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect();
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| percentile(&latencies, share).ok_or("h2load has logged nothing");
    Ok(Said { answers: done, per_second, p50_us: at(0.5)?, p99_us: at(0.99)? })
}

/// The value below which lies this share of values that are in order.
pub(crate) fn percentile(ordered: &[f64], share: f64) -> Option<f64> {
    let last = ordered.len().checked_sub(1)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a count is an index"
    )]
    let index = (share * last as f64).round() as usize;
    ordered.get(index).copied()
}
