//! What the API server itself says of a pod and its namespace at this moment.

use std::sync::Arc;

use super::{ApiServer, answer};
use crate::cluster::kubernetes::{ask, read_answer};
use crate::cluster::objects::{Kind, Object, ObjectKey, Objects};
use crate::cluster::trimmed;
use crate::error::with_causes;

impl ApiServer {
    /// A pod and its namespace, and nothing else, as the server has them now; a pod that is `known` is not asked for.
    /// What is not there is missing. On a thread that may block.
    ///
    /// # Errors
    /// When it does not answer, in words.
    pub(in crate::pod) fn look_up(
        &self,
        key: &ObjectKey,
        known: Option<Arc<trimmed::Pod>>,
    ) -> Result<Objects, String> {
        let own_namespace = ObjectKey::new("", &key.namespace);
        let namespace = answer(ask(&self.client, Kind::Namespace, &own_namespace));
        let pod = async {
            match known {
                Some(_) => Ok(None),
                None => answer(ask(&self.client, Kind::Pod, key)).await,
            }
        };
        let both = self.runtime.block_on(async { tokio::try_join!(namespace, pod) });
        let (namespace, pod) = both.map_err(|error| with_causes(&error))?;
        let read = |kind, answer: Option<_>| answer.map_or(Ok(None), |answer| read_answer(kind, answer));
        let mut objects = Objects::default();
        if let Some(Object::Namespace(namespace)) = read(Kind::Namespace, namespace)? {
            objects.namespaces.insert(own_namespace, namespace);
        }
        if let Some(Object::Pod(pod)) = read(Kind::Pod, pod)? {
            objects.pods.insert(key.clone(), pod);
        }
        objects.pods.extend(known.map(|pod| (key.clone(), pod)));
        Ok(objects)
    }
}
