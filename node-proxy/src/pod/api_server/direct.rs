//! What the API server itself says of a pod and its namespace at this moment.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Api;

use super::{ApiServer, answer};
use crate::cluster::objects::{ObjectKey, Objects};
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
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let (namespace, pod) = self
            .runtime
            .block_on(async {
                let pod = async {
                    match known {
                        Some(known) => Ok(Some(known)),
                        None => {
                            let found = answer(pods.get_opt(&key.name)).await?;
                            Ok(found.map(|pod| Arc::new(trimmed::Pod::from(&pod))))
                        }
                    }
                };
                tokio::try_join!(answer(namespaces.get_opt(&key.namespace)), pod)
            })
            .map_err(|error| with_causes(&error))?;
        let mut objects = Objects::default();
        let namespace = namespace.map(|namespace| (ObjectKey::new("", &key.namespace), Arc::new(namespace)));
        objects.namespaces.extend(namespace);
        objects.pods.extend(pod.map(|pod| (key.clone(), pod)));
        Ok(objects)
    }
}
