//! One object, asked for by itself: what has not come by a watch yet.

use http::StatusCode;
use kube::Client;
use kube::api::GetParams;
use kube::core::Request;
use serde_json::Value;

use super::super::objects::{Kind, Object, ObjectKey};
use super::decode::{Part, read_item};
use super::resource::Resource;

/// What the API server has under a kind and key at this moment, if it has something.
///
/// # Errors
/// When it does not answer or refuses.
pub async fn ask(client: &Client, kind: Kind, key: &ObjectKey) -> kube::Result<Option<Value>> {
    let Some(resource) = Resource::of(kind) else { return Ok(None) };
    let path = resource.path_in(resource.versions[0], &key.namespace);
    let request = Request::new(path).get(&key.name, &GetParams::default());
    match client.request(request.map_err(kube::Error::BuildRequest)?).await {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.code == StatusCode::NOT_FOUND.as_u16() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads such an answer as what is watched is read.
///
/// # Errors
/// What does not fit our types, in words.
pub fn read_answer(kind: Kind, answer: Value) -> Result<Option<Object>, String> {
    let Some(item) = read_item(kind, answer) else { return Ok(None) };
    let broken = item.reports.into_iter().map(|report| report.to_string());
    match item.parts.into_iter().find(|(part, _)| *part == kind) {
        Some((_, Part::Good(object))) => Ok(Some(object)),
        Some((_, Part::Broken)) => Err(broken.collect::<Vec<_>>().join("; ")),
        Some((_, Part::None)) | None => Ok(None),
    }
}
