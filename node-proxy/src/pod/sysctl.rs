//! The settings below `/proc/sys/net` that local legs and redirected connections depend on.
//!
//! Every function works on the namespace that the calling thread is in.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::bare_proc;
use super::redirect::RedirectError;

/// A setting and its value.
type Setting = (&'static str, &'static str);

/// An accepted socket inherits the mark of its SYN, so that the application's replies carry it.
const ACCEPTED_SOCKETS_INHERIT_MARKS: Setting = ("/proc/sys/net/ipv4/tcp_fwmark_accept", "1");
/// Replies without a socket (resets) carry the mark of what they answer.
const REPLIES_REFLECT_MARKS: [Setting; 2] =
    [("/proc/sys/net/ipv4/fwmark_reflect", "1"), ("/proc/sys/net/ipv6/fwmark_reflect", "1")];
/// A stray segment out of the window does not cost a redirected connection its translation.
const CONNTRACK_IS_LIBERAL: Setting = ("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", "1");
/// A connection that is older than the rules stays unknown to conntrack, and so does its end. What conntrack picks up in
/// the middle of its end it takes for a live connection for minutes, and a new one with the same ports for part of it.
const CONNTRACK_PICKS_UP: Setting = ("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", "0");

/// Sets what must hold before the first connection is redirected.
pub(super) fn apply_before_rules() -> Result<(), RedirectError> {
    set(ACCEPTED_SOCKETS_INHERIT_MARKS)?;
    // Where conntrack is there already, it must not see a packet before it knows.
    if Path::new(CONNTRACK_PICKS_UP.0).exists() {
        set(CONNTRACK_PICKS_UP)?;
    }
    REPLIES_REFLECT_MARKS.into_iter().filter(|(path, _)| family_exists(path)).try_for_each(set)
}

/// Sets what exists only once the rules have brought conntrack into the namespace.
pub(super) fn apply_after_rules() -> Result<(), RedirectError> {
    [CONNTRACK_IS_LIBERAL, CONNTRACK_PICKS_UP].into_iter().try_for_each(set)
}

/// The settings that have not the value that is set here, with that value.
pub(super) fn different() -> Result<Vec<(PathBuf, &'static str)>, RedirectError> {
    let mut different = Vec::new();
    let all = [ACCEPTED_SOCKETS_INHERIT_MARKS, CONNTRACK_IS_LIBERAL, CONNTRACK_PICKS_UP];
    for (path, wanted) in all.into_iter().chain(REPLIES_REFLECT_MARKS) {
        match fs::read_to_string(path) {
            Ok(value) if value.trim() == wanted => {}
            // A kernel without IPv6 has none of its settings.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !family_exists(path) => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(RedirectError::Setting { path: path.into(), source: error });
            }
            Ok(_) | Err(_) => different.push((path.into(), wanted)),
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

fn family_exists(path: &str) -> bool {
    !path.starts_with("/proc/sys/net/ipv6") || Path::new("/proc/sys/net/ipv6").exists()
}

/// Writes only what differs.
fn set((path, value): Setting) -> Result<(), RedirectError> {
    let failed = |source| RedirectError::Setting { path: path.into(), source };
    if fs::read_to_string(path).map_err(failed)?.trim() == value {
        return Ok(());
    }
    bare_proc::write(Path::new(path), value).map_err(failed)
}
