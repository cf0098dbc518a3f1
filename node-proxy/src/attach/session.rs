//! `sessionPersistence` of a rule → whom its clients stay with (`route::session`).

use serde::{Deserialize, Serialize};

use crate::route::RouteRef;
use crate::route::filter::fields::is_reserved;
use crate::route::session::{Carrier, SessionPersistence};
use crate::route::terms::parse_duration;

/// The shape that both kinds of route have, with the defaults of the API.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Shape {
    absolute_timeout: Option<String>,
    cookie_config: CookieConfig,
    session_name: Option<String>,
    r#type: Kind,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CookieConfig {
    lifetime_type: LifetimeType,
}

#[derive(Default, Deserialize)]
enum LifetimeType {
    Permanent,
    #[default]
    Session,
}

#[derive(Default, Deserialize)]
enum Kind {
    #[default]
    Cookie,
    Header,
}

/// Reads the `sessionPersistence` of the rule that `rule` names within its route.
///
/// # Errors
/// What is not applied, from the rule's path on.
pub(super) fn view_session(
    (route, rule): (&RouteRef, &str),
    session: &impl Serialize,
) -> Result<SessionPersistence, String> {
    let shape = serde_json::to_value(session).and_then(serde_json::from_value);
    let Shape { absolute_timeout, cookie_config, session_name, r#type } =
        shape.map_err(|error| format!("sessionPersistence ({error})"))?;
    let absolute_timeout = match absolute_timeout.as_deref().map(parse_duration) {
        Some(None) => return Err("sessionPersistence.absoluteTimeout (no duration: GEP-2257)".to_owned()),
        known => known.flatten().filter(|timeout| !timeout.is_zero()),
    };
    let carrier = match r#type {
        Kind::Cookie => {
            Carrier::Cookie { is_permanent: matches!(cookie_config.lifetime_type, LifetimeType::Permanent) }
        }
        Kind::Header => Carrier::Header,
    };
    // The API lets an empty name stand for none.
    let name = session_name.as_deref().filter(|name| !name.is_empty());
    if let Some(name) = name {
        check_name(carrier, name).map_err(|reason| format!("sessionPersistence.sessionName ({reason})"))?;
    }
    Ok(SessionPersistence::new((route, rule), (carrier, name), absolute_timeout))
}

/// A cookie's name is a token (RFC 6265 section 4.1.1), and so is a field's (RFC 9110 section 5.1).
fn check_name(carrier: Carrier, name: &str) -> Result<(), String> {
    if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Err(format!("`{name}` cannot be the name of a cookie or field"));
    }
    if carrier == Carrier::Header && (is_reserved(name) || name.eq_ignore_ascii_case("set-cookie")) {
        return Err(format!("{name} has another meaning"));
    }
    Ok(())
}
