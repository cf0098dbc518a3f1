//! The values of flags: what each kind of them may be, and what is wrong with one that is not.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::HostPort;
use crate::cluster::name::{is_label, is_subdomain};
use crate::cluster::objects::ObjectKey;
use crate::snapshot::{AddressRange, BadRange};
use crate::telemetry::LogFormat;
use crate::telemetry::log::parse_filter;

pub(super) fn log_format(value: &str) -> Result<LogFormat, &'static str> {
    match value {
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        _ => Err("is neither text nor json"),
    }
}

pub(super) fn log_filter(value: &str) -> Result<String, &'static str> {
    parse_filter(value).map(|_| value.to_owned()).map_err(|_| "is not a list of [target=]level")
}

pub(super) fn path(value: &str) -> Result<PathBuf, &'static str> {
    Ok(value.into())
}

pub(super) fn directory(value: &str) -> Result<PathBuf, &'static str> {
    if Path::new(value).is_dir() { Ok(value.into()) } else { Err("is not a directory") }
}

pub(super) fn file(value: &str) -> Result<PathBuf, &'static str> {
    if Path::new(value).is_file() { Ok(value.into()) } else { Err("is not a file") }
}

/// Every Node's name is a subdomain, as other objects' names are.
pub(super) fn node_name(value: &str) -> Result<String, &'static str> {
    if is_subdomain(value) {
        Ok(value.to_owned())
    } else {
        Err("is not the name of a node: lower case letters, digits, '-' and '.'")
    }
}

/// The name of a Pod or a ServiceAccount.
pub(super) fn object_name(value: &str) -> Result<String, &'static str> {
    if is_subdomain(value) {
        Ok(value.to_owned())
    } else {
        Err("is not the name of an object: lower case letters, digits, '-' and '.'")
    }
}

pub(super) fn object_key(value: &str) -> Result<ObjectKey, &'static str> {
    match value.split_once('/') {
        Some((namespace, name)) if is_label(namespace) && is_subdomain(name) => {
            Ok(ObjectKey::new(namespace, name))
        }
        _ => Err("is not NAMESPACE/NAME"),
    }
}

pub(super) fn namespace(value: &str) -> Result<String, &'static str> {
    if is_label(value) {
        Ok(value.to_owned())
    } else {
        Err("is not the name of a namespace: lower case letters, digits and '-'")
    }
}

/// SPIFFE-ID section 2.1: "The characters in a trust domain name are limited to lowercase letters, numbers, dot,
/// dash, and underscore."
pub(super) fn trust_domain(value: &str) -> Result<String, &'static str> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    if value.len() <= 255 && value.bytes().all(is_allowed) {
        Ok(value.to_owned())
    } else {
        Err("is not a trust domain: lower case letters, digits, '.', '-' and '_'")
    }
}

pub(super) fn host(value: &str) -> Result<String, &'static str> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if value.parse::<IpAddr>().is_ok() || value.bytes().all(is_allowed) {
        Ok(value.to_owned())
    } else {
        Err("is not a host name or address")
    }
}

pub(super) fn host_port(value: &str) -> Result<HostPort, &'static str> {
    const PROBLEM: &str = "is not HOST:PORT";
    let (name, port) = value.rsplit_once(':').ok_or(PROBLEM)?;
    let port = number(port, 1..=u16::MAX).ok();
    let bare = match name.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|name| name.contains(':')).ok_or(PROBLEM)?,
        None if name.contains(':') => return Err("is an IPv6 address without brackets"),
        None => name,
    };
    if bare.is_empty() {
        return Err(PROBLEM);
    }
    Ok(HostPort { host: host(bare)?, port: port.ok_or(PROBLEM)? })
}

pub(super) fn socket_address(value: &str) -> Result<SocketAddr, &'static str> {
    SocketAddr::from_str(value).map_err(|_| "is not IP:PORT")
}

pub(super) fn loopback(value: &str) -> Result<SocketAddr, &'static str> {
    let address = socket_address(value)?;
    if address.ip().to_canonical().is_loopback() {
        Ok(address)
    } else {
        Err("is not a loopback address: whoever reaches it may change the log and read the configuration")
    }
}

pub(super) fn number<N: FromStr + PartialOrd>(
    value: &str,
    range: RangeInclusive<N>,
) -> Result<N, &'static str> {
    match value.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err("is not a number in range"),
    }
}

pub(super) fn address_ranges(value: &str) -> Result<Vec<AddressRange>, &'static str> {
    let ranges: Result<Vec<AddressRange>, _> =
        value.split(',').map(|range| AddressRange::read(range.trim())).collect();
    ranges.map_err(|error| match error {
        BadRange::BitsBehindPrefix(_) => "has a range with bits set behind its prefix",
        BadRange::NoRange(_) => "is not a list of ADDRESS/LENGTH",
    })
}
