//! The image of the controller's own pod: the proxies of Gateways are made of it where no other is given, so that whoever names one
//! image for all that runs has named theirs, too.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::controller::write::{PAUSES, REQUEST_LIMIT};
use crate::error::Complaint;

/// The controller's container, as it is installed.
const CONTAINER: &str = "controller";

/// The image of this pod's container `controller`, as soon as the API server says it.
pub async fn find_own_image(client: &Client, namespace: &str, pod: &str) -> String {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<Pod>(&()));
    // Pods may be listed here anyway; to get one would be another right.
    let params = ListParams::default().fields(&format!("metadata.name={pod}"));
    let (mut complaint, mut tries) = (Complaint::default(), 0);
    loop {
        let why = match timeout(REQUEST_LIMIT, api.list(&params)).await {
            Ok(Ok(found)) => match found.items.first().and_then(|pod| image_of(&pod.data)) {
                Some(image) => return image.to_owned(),
                None => "there is no such pod, or no such container in it".to_owned(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        if let Some(error) = complaint.raise(why) {
            tracing::warn!(error, "the image of container {CONTAINER} of Pod {namespace}/{pod} is not known");
        }
        sleep(PAUSES.after(tries)).await;
        tries = tries.saturating_add(1);
    }
}

fn image_of(pod: &Value) -> Option<&str> {
    let containers = pod.pointer("/spec/containers")?.as_array()?;
    containers.iter().find(|own| own["name"] == CONTAINER)?["image"].as_str()
}
