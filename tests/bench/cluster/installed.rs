//! An API server on which the mesh was installed as a user does, and the ways to it of the mesh's own accounts: with
//! their rights, and on a relay that counts.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::api::{Api, Asked};
use crate::api_server::{ApiServer, Channel, TokenFor};
use crate::relay::Relay;

/// The namespace of the mesh.
pub(crate) const SYSTEM: &str = "gammarus-system";

/// The API server, until it is dropped.
pub(crate) struct Installed {
    pub(crate) server: ApiServer,
    pub(crate) api: Api,
}

impl Installed {
    pub(crate) fn start() -> Self {
        let server = ApiServer::start();
        server.install_gateway_api(Channel::Experimental);
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
        server.kubectl(&["apply", "-k", manifests.to_str().unwrap()]).output();
        let api = Api::new(&server.kubeconfig());
        Self { server, api }
    }

    /// A namespace with the account that every pod has, which a controller manager would make.
    pub(crate) fn namespace(&self, name: &str, labels: &[(&str, &str)]) {
        self.server.namespace(name, labels);
        self.server.service_account(name, "default");
    }

    /// A node with these pods' addresses.
    pub(crate) fn node(&self, name: &str, addresses: &[String], pods: &[&str]) {
        let spec = json!({ "podCIDR": pods[0], "podCIDRs": pods });
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name }, "spec": spec });
        self.api.send(Asked::create("/api/v1/nodes", node));
        let addresses: Vec<Value> =
            addresses.iter().map(|address| json!({ "type": "InternalIP", "address": address })).collect();
        let status = json!({ "status": { "addresses": addresses } });
        self.api.send(Asked::patch(format!("/api/v1/nodes/{name}/status"), status));
    }

    /// A relay in this network.
    pub(crate) fn relay(&self) -> Relay {
        self.relay_from(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// A relay for those who come to a listener.
    pub(crate) fn relay_from(&self, listener: TcpListener) -> Relay {
        Relay::start(listener, self.server.url().strip_prefix("https://").unwrap())
    }

    /// A kubeconfig of the agent of a node, whose token is bound to a pod there.
    pub(crate) fn agent(&self, node: &str, way: SocketAddr) -> PathBuf {
        let pod = format!("gammarus-node-{node}");
        self.server.pod(SYSTEM, &pod, "gammarus-node", node);
        let token = self.server.token(TokenFor {
            namespace: SYSTEM,
            service_account: "gammarus-node",
            audience: None,
            pod: Some(&pod),
        });
        by_way(&self.server.kubeconfig_with(&pod, &token), way)
    }

    /// A kubeconfig of the controller.
    pub(crate) fn controller(&self, way: SocketAddr) -> PathBuf {
        by_way(&self.server.kubeconfig_of(SYSTEM, "gammarus-controller"), way)
    }

    /// The process of the API server itself.
    pub(crate) fn process(&self) -> u32 {
        let [_etcd, server] = self.server.processes();
        server
    }
}

/// The same kubeconfig by another way, on which the server is known by its name.
fn by_way(kubeconfig: &Path, way: SocketAddr) -> PathBuf {
    let mut config: Value = serde_json::from_str(&fs::read_to_string(kubeconfig).unwrap()).unwrap();
    let cluster = &mut config["clusters"][0]["cluster"];
    cluster["server"] = json!(format!("https://{way}"));
    cluster["tls-server-name"] = json!("kubernetes.default.svc");
    config["contexts"][0]["context"]["namespace"] = json!(SYSTEM);
    fs::write(kubeconfig, config.to_string()).unwrap();
    kubeconfig.to_owned()
}
