//! What is asked of every contender.

use std::fmt;

/// One kind of load.
#[derive(Debug)]
pub(crate) struct Work {
    /// Its name in the table.
    pub(crate) name: &'static str,
    /// The path that is asked for, and how many bytes it answers.
    pub(crate) path: &'static str,
    pub(crate) bytes: usize,
    /// Connections at a time.
    pub(crate) connections: u32,
    /// How requests share connections.
    pub(crate) keep_alive: bool,
}

/// All works: HTTP/1.1, routed by a header, over mTLS between the nodes.
pub(crate) const WORKS: &[Work] = &[
    work("http1-1-100b", "/100", 100, 1, true),
    work("http1-32-100b", "/100", 100, 32, true),
    work("http1-256-100b", "/100", 100, 256, true),
    work("http1-1-10kib", "/10k", 10_240, 1, true),
    work("http1-32-10kib", "/10k", 10_240, 32, true),
    work("http1-256-10kib", "/10k", 10_240, 256, true),
    work("http1-32-100b-close", "/100", 100, 32, false),
];

const fn work(
    name: &'static str,
    path: &'static str,
    bytes: usize,
    connections: u32,
    keep_alive: bool,
) -> Work {
    Work { name, path, bytes, connections, keep_alive }
}

/// What one round of a work gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// Answers per second.
    pub(crate) per_second: f64,
    /// CPU of the contender's processes for one answer, in microseconds.
    pub(crate) cpu_us: f64,
    /// Latency, in microseconds.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Memory after the round, of both ends, in MiB.
    pub(crate) resident_mib: f64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { per_second, cpu_us, p50_us, p99_us, resident_mib } = self;
        write!(
            f,
            "{per_second:.0}/s, CPU {cpu_us:.1} us, p50 {p50_us:.0} us, p99 {p99_us:.0} us, {resident_mib:.0} MiB"
        )
    }
}

/// What `wrk --latency` has said, as answers, answers per second, and two percentiles in microseconds.
///
/// # Errors
/// When it was not only good answers, or nothing at all.
pub(crate) fn read_wrk(text: &str) -> Result<(f64, f64, f64, f64), String> {
    if let Some(bad) = text.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors")) {
        return Err(bad.trim().to_owned());
    }
    let find = |start: &str| text.lines().find_map(|line| line.trim().strip_prefix(start)).map(str::trim);
    let answers = text.lines().find_map(|line| line.trim().split_once(" requests in "));
    let answers = answers.and_then(|(count, _)| count.parse::<f64>().ok()).filter(|count| *count > 0.0);
    let figures = || {
        let per_second = find("Requests/sec:")?.parse().ok()?;
        Some((answers?, per_second, microseconds(find("50%")?)?, microseconds(find("99%")?)?))
    };
    figures().ok_or_else(|| format!("wrk said: {text}"))
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
