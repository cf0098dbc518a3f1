//! The `filters` of a rule or a backendRef → what is done (`route::filter`), with all that is refused by its path.
//!
//! The generated types repeat one shape four times (two kinds of route, two levels); here it is written once.

use std::sync::Arc;

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::backend::BackendRef;
use crate::route::filter::Filters;
use crate::route::filter::cors::{Cors, Names, OriginMatch};
use crate::route::filter::fields::{FieldEdit, is_reserved};
use crate::route::filter::location::{PathEdit, Redirect, Rewrite};

/// Filters on the way to their judgement: all but the mirrors' backends depends on no other object.
#[derive(Debug, Default)]
pub(super) struct FilterView {
    pub(super) filters: Filters,
    pub(super) mirrors: Vec<MirrorView>,
    /// Paths of what is not applied, each with the reason.
    pub(super) unsupported: Vec<String>,
}

/// A mirror whose backend is not resolved yet.
#[derive(Debug)]
pub(super) struct MirrorView {
    /// The path of its backendRef.
    pub(super) path: String,
    pub(super) backend: BackendRef,
    pub(super) numerator: u32,
    pub(super) denominator: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    r#type: String,
    request_header_modifier: Option<Header>,
    response_header_modifier: Option<Header>,
    request_mirror: Option<RequestMirror>,
    request_redirect: Option<RequestRedirect>,
    url_rewrite: Option<UrlRewrite>,
    cors: Option<CorsFilter>,
}

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    set: Vec<Field>,
    #[serde(default)]
    add: Vec<Field>,
    #[serde(default)]
    remove: Vec<String>,
}

#[derive(Deserialize)]
struct Field {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestMirror {
    backend_ref: MirrorRef,
    percent: Option<u32>,
    fraction: Option<Fraction>,
}

#[derive(Deserialize)]
struct MirrorRef {
    group: Option<String>,
    kind: Option<String>,
    name: String,
    namespace: Option<String>,
    port: Option<i32>,
}

#[derive(Deserialize)]
struct Fraction {
    numerator: u32,
    denominator: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestRedirect {
    scheme: Option<String>,
    hostname: Option<String>,
    path: Option<PathModifier>,
    port: Option<u16>,
    status_code: Option<u16>,
}

#[derive(Deserialize)]
struct UrlRewrite {
    hostname: Option<String>,
    path: Option<PathModifier>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PathModifier {
    replace_full_path: Option<String>,
    replace_prefix_match: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CorsFilter {
    #[serde(default)]
    allow_origins: Vec<String>,
    #[serde(default)]
    allow_credentials: bool,
    #[serde(default)]
    allow_methods: Vec<String>,
    #[serde(default)]
    allow_headers: Vec<String>,
    #[serde(default)]
    expose_headers: Vec<String>,
    max_age: Option<u32>,
}

/// Looks at the filters of one place, whose path is `path`; `prefix` is the prefix that the rule's only match has.
pub(super) fn view_filters(path: &str, filters: &[impl Serialize], prefix: Option<&str>) -> FilterView {
    let mut view = FilterView::default();
    for (place, filter) in filters.iter().enumerate() {
        let path = format!("{path}.filters[{place}]");
        let read = serde_json::to_value(filter).and_then(serde_json::from_value::<Filter>);
        match read {
            Ok(filter) => view.take(&path, filter, prefix),
            Err(error) => view.unsupported.push(format!("{path} ({error})")),
        }
    }
    view
}

impl FilterView {
    fn take(&mut self, path: &str, filter: Filter, prefix: Option<&str>) {
        let Filter { r#type, request_header_modifier, response_header_modifier, .. } = filter;
        let mut is_known = false;
        if let Some(header) = request_header_modifier {
            is_known = true;
            self.filters.request = self.edit(&format!("{path}.requestHeaderModifier"), &header);
        }
        if let Some(header) = response_header_modifier {
            is_known = true;
            self.filters.response = self.edit(&format!("{path}.responseHeaderModifier"), &header);
        }
        if let Some(mirror) = filter.request_mirror {
            is_known = true;
            self.mirrors.push(view_mirror(format!("{path}.requestMirror.backendRef"), mirror));
        }
        if let Some(redirect) = filter.request_redirect {
            is_known = true;
            self.filters.redirect = self.redirect(&format!("{path}.requestRedirect"), redirect, prefix);
        }
        if let Some(UrlRewrite { hostname, path: modifier }) = filter.url_rewrite {
            is_known = true;
            let path = self.path(&format!("{path}.urlRewrite.path"), modifier, prefix);
            self.filters.rewrite = Some(Rewrite { hostname: hostname.map(Into::into), path });
        }
        if let Some(cors) = filter.cors {
            is_known = true;
            self.filters.cors = Some(Arc::new(view_cors(&cors)));
        }
        if !is_known {
            self.unsupported.push(format!("{path} ({type})", r#type = r#type));
        }
    }

    fn edit(&mut self, path: &str, header: &Header) -> FieldEdit {
        let lists = [("set", &header.set), ("add", &header.add)];
        for (list, fields) in lists {
            for (place, field) in fields.iter().enumerate() {
                let path = format!("{path}.{list}[{place}]");
                self.check_name(&path, &field.name);
                if !is_field_value(&field.value) {
                    self.unsupported
                        .push(format!("{path}.value (no value of a field: RFC 9110 section 5.5)"));
                }
            }
        }
        for (place, name) in header.remove.iter().enumerate() {
            self.check_name(&format!("{path}.remove[{place}]"), name);
        }
        let [set, add] = lists
            .map(|(_, fields)| fields.iter().map(|field| (&*field.name, &*field.value)).collect::<Vec<_>>());
        let remove: Vec<&str> = header.remove.iter().map(String::as_str).collect();
        FieldEdit::new(&set, &add, &remove)
    }

    fn check_name(&mut self, path: &str, name: &str) {
        if is_reserved(name) {
            self.unsupported.push(format!("{path} ({name} is the proxy's own)"));
        }
    }

    fn redirect(&mut self, path: &str, asked: RequestRedirect, prefix: Option<&str>) -> Option<Redirect> {
        let code = asked.status_code.unwrap_or(302);
        let Some(status) = StatusCode::from_u16(code).ok().filter(StatusCode::is_redirection) else {
            self.unsupported.push(format!("{path}.statusCode ({code} is no redirect)"));
            return None;
        };
        Some(Redirect {
            scheme: asked.scheme.map(Into::into),
            hostname: asked.hostname.map(Into::into),
            path: self.path(&format!("{path}.path"), asked.path, prefix),
            port: asked.port,
            status,
        })
    }

    fn path(&mut self, path: &str, modifier: Option<PathModifier>, prefix: Option<&str>) -> Option<PathEdit> {
        let PathModifier { replace_full_path, replace_prefix_match } = modifier?;
        let is_full = replace_full_path.is_some();
        let replacement = replace_full_path.or(replace_prefix_match)?;
        if !replacement.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#')) {
            self.unsupported.push(format!("{path} ({replacement:?} is no path: RFC 3986 section 3.3)"));
            return None;
        }
        if is_full {
            return Some(PathEdit::Full(replacement.into()));
        }
        let Some(prefix) = prefix else {
            self.unsupported
                .push(format!("{path}.replacePrefixMatch (the rule has not one match by prefix)"));
            return None;
        };
        Some(PathEdit::prefix(prefix, &replacement))
    }
}

/// Whether a value stays in its line. The API's schema lets more pass.
fn is_field_value(value: &str) -> bool {
    value.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

/// Nothing said is every request.
fn view_mirror(path: String, mirror: RequestMirror) -> MirrorView {
    let MirrorRef { group, kind, name, namespace, port } = mirror.backend_ref;
    let (numerator, denominator) = match (mirror.percent, mirror.fraction) {
        (Some(percent), _) => (percent, 100),
        (None, Some(Fraction { numerator, denominator })) => (numerator, denominator.unwrap_or(100)),
        (None, None) => (1, 1),
    };
    let backend = BackendRef { group, kind, name, namespace, port, weight: 1 };
    MirrorView { path, backend, numerator, denominator }
}

/// "The default value is 5 (seconds)" (HTTPCORSFilter.maxAge).
fn view_cors(cors: &CorsFilter) -> Cors {
    Cors {
        origins: cors.allow_origins.iter().map(|origin| OriginMatch::new(origin)).collect(),
        allows_credentials: cors.allow_credentials,
        methods: Names::new(&cors.allow_methods),
        headers: Names::new(&cors.allow_headers),
        exposed: Names::new(&cors.expose_headers),
        max_age: cors.max_age.unwrap_or(5),
    }
}
