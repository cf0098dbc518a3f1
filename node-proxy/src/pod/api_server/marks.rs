//! The marks of enrolled pods as an annotation of the Pods, written through their status.
//!
//! A patch of the status subresource changes nothing of a Pod's spec. It names the uid, so that the server itself refuses
//! it for another pod of the same name.

use std::io;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use serde_json::{Value, json};

use super::super::facts::MarkWriter;
use super::{ApiServer, AskError};
use crate::cluster::objects::{MARK_ANNOTATION, Mark, ObjectKey};

/// Who the API server notes as the writer.
const FIELD_MANAGER: &str = "gammarus-node";
const NOT_FOUND: u16 = 404;
/// What a patch that names another uid is answered with: as a broken precondition, or as an immutable field.
const OTHER_UID: [u16; 2] = [409, 422];

/// Marks on Pods.
#[derive(Clone, Debug)]
pub struct PodMarks {
    server: ApiServer,
}

impl PodMarks {
    /// Marks the Pods of this server.
    #[must_use]
    pub const fn new(server: ApiServer) -> Self {
        Self { server }
    }

    fn patch(&self, pod: &ObjectKey, uid: &str, mark: &Value) -> io::Result<()> {
        let patch = json!({ "metadata": { "uid": uid, "annotations": { MARK_ANNOTATION: mark } } });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let pods: Api<PartialObjectMeta<Pod>> = Api::namespaced(self.server.client.clone(), &pod.namespace);
        match self.server.wait(pods.patch_status(&pod.name, &params, &Patch::Merge(patch))) {
            Ok(_) => Ok(()),
            Err(error) if self.is_of_nobody(&pods, (pod, uid), &error) => {
                Err(io::Error::new(io::ErrorKind::NotFound, error))
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Whether the pod has gone, be there another one of its name or not.
    fn is_of_nobody(
        &self,
        pods: &Api<PartialObjectMeta<Pod>>,
        (pod, uid): (&ObjectKey, &str),
        error: &AskError,
    ) -> bool {
        match error.code() {
            Some(NOT_FOUND) => true,
            // The server answers so for other reasons, too.
            Some(code) if OTHER_UID.contains(&code) => {
                let there = self.server.wait(pods.get_metadata_opt(&pod.name));
                there.is_ok_and(|there| there.and_then(|pod| pod.metadata.uid).as_deref() != Some(uid))
            }
            _ => false,
        }
    }
}

impl MarkWriter for PodMarks {
    fn write(&self, pod: &ObjectKey, mark: &Mark) -> io::Result<()> {
        let text = serde_json::to_string(mark).map_err(io::Error::other)?;
        self.patch(pod, &mark.uid, &Value::String(text))
    }

    fn remove(&self, pod: &ObjectKey, uid: &str) -> io::Result<()> {
        match self.patch(pod, uid, &Value::Null) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }
}
