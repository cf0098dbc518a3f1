//! The settings below `/proc/sys/net` that local legs and redirected connections depend on.
//!
//! Every function works on the namespace that the calling thread is in.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::redirect::RedirectError;

/// An accepted socket inherits the mark of its SYN, so that the application's replies carry it.
const ACCEPTED_SOCKETS_INHERIT_MARKS: &str = "/proc/sys/net/ipv4/tcp_fwmark_accept";
/// Replies without a socket (resets) carry the mark of what they answer.
const REPLIES_REFLECT_MARKS: [&str; 2] =
    ["/proc/sys/net/ipv4/fwmark_reflect", "/proc/sys/net/ipv6/fwmark_reflect"];
/// A stray segment out of the window does not cost a redirected connection its translation.
const CONNTRACK_IS_LIBERAL: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

/// Sets what must hold before the first connection is redirected.
pub(super) fn apply_before_rules() -> Result<(), RedirectError> {
    enable(ACCEPTED_SOCKETS_INHERIT_MARKS)?;
    REPLIES_REFLECT_MARKS.iter().filter(|path| family_exists(path)).try_for_each(|path| enable(path))
}

/// Sets what exists only once the rules have brought conntrack into the namespace.
pub(super) fn apply_after_rules() -> Result<(), RedirectError> {
    enable(CONNTRACK_IS_LIBERAL)
}

/// The settings whose value is not the one set here.
pub(super) fn different() -> Result<Vec<PathBuf>, RedirectError> {
    let mut different = Vec::new();
    let all = [ACCEPTED_SOCKETS_INHERIT_MARKS, CONNTRACK_IS_LIBERAL].into_iter().chain(REPLIES_REFLECT_MARKS);
    for path in all.filter(|path| family_exists(path)) {
        match fs::read_to_string(path) {
            Ok(value) if value.trim() == "1" => {}
            Ok(_) => different.push(path.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => different.push(path.into()),
            Err(source) => return Err(RedirectError::Setting { path: path.into(), source }),
        }
    }
    Ok(different)
}

/// Whether IPv6 is switched off on every interface but the loopback: the addresses that the CNI result names
/// are not there then.
pub(super) fn is_ipv6_off() -> bool {
    let Ok(interfaces) = fs::read_dir("/proc/sys/net/ipv6/conf") else { return true };
    let counts = |name: &OsStr| !["all", "default", "lo"].iter().any(|other| name == *other);
    let is_off =
        |path: PathBuf| fs::read_to_string(path.join("disable_ipv6")).is_ok_and(|value| value.trim() == "1");
    interfaces.flatten().filter(|entry| counts(&entry.file_name())).all(|entry| is_off(entry.path()))
}

/// A kernel without IPv6 has none of its settings.
fn family_exists(path: &str) -> bool {
    !path.starts_with("/proc/sys/net/ipv6") || Path::new("/proc/sys/net/ipv6").exists()
}

/// Writes only what differs: `/proc/sys` may be read-only where everything is right already.
fn enable(path: &str) -> Result<(), RedirectError> {
    let failed = |source| RedirectError::Setting { path: path.into(), source };
    if fs::read_to_string(path).map_err(failed)?.trim() == "1" {
        return Ok(());
    }
    fs::write(path, "1").map_err(failed)
}
