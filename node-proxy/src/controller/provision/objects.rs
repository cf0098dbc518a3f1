//! The objects that are made for a Gateway. Pure.
//!
//! Only what is written here is ever compared or applied: fields that others add to these objects are theirs.

use std::collections::BTreeMap;

use gammarus_ca::bundle::fingerprint;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use kube::api::ApiResource;
use serde_json::{Map, Value, json};

use super::demand::Demand;
use super::name::{label_of, name_of};
use crate::cluster::objects::ObjectKey;
use crate::compile::workload::GATEWAY_NAME_LABEL;
use crate::snapshot::transport::{Port, Transport};

/// What is written into all objects, so that they can be watched without all others.
pub(super) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "gammarus");
/// Names the objects of a Gateway; the Deployment's selector, which cannot be changed and so depends on nothing that can.
const GATEWAY_LABEL: &str = "gammarus.io/gateway";
/// A hash of the object as it was applied last: what has been applied and is not wanted any more is found by it.
const APPLIED: &str = "gammarus.io/applied";
/// With how many replicas a Deployment begins.
const REPLICAS: u32 = 2;
/// Where every proxy has its metrics and its health.
const HEALTH: Port = Port { number: 15021, transport: Transport::Tcp };

/// What the objects of all Gateways have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The image of the proxies.
    pub image: String,
    /// `imagePullPolicy`.
    pub image_pull_policy: String,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// Where the CA listens, HOST:PORT.
    pub ca_address: String,
    /// Where the proxies hear what to serve, HOST:PORT.
    pub feed_address: String,
    /// Whom they expect there, NAMESPACE/NAME of a ServiceAccount; where it is absent, whom they expect by themselves.
    pub feed_service_account: Option<String>,
    /// `text` or `json`.
    pub log_format: String,
    /// [target=]level,...
    pub log_level: String,
}

/// A kind of object that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Who the proxies are.
    ServiceAccount,
    /// By what they know the CA.
    ConfigMap,
    /// The proxies.
    Deployment,
    /// How they are reached.
    Service,
}

impl Part {
    /// All of them, in the order in which they are made.
    pub const ALL: [Self; 4] = [Self::ServiceAccount, Self::ConfigMap, Self::Deployment, Self::Service];

    /// Where the API server has it.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        match self {
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
        }
    }
}

/// An object as it is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Its kind.
    pub part: Part,
    /// Its namespace and name.
    pub key: ObjectKey,
    /// All of it that is ours.
    pub object: Value,
}

impl Wanted {
    /// All objects of a Gateway. Without a trust bundle there is no ConfigMap yet, and without a port no Service: it must
    /// have one.
    #[must_use]
    pub fn all(demand: &Demand, settings: &Settings, trust: Option<&str>) -> Vec<Self> {
        let made = Made { demand, settings, name: name_of(&demand.gateway, &demand.class_name) };
        let rest = |part| match part {
            Part::ServiceAccount => Some(json!({ "automountServiceAccountToken": false })),
            Part::ConfigMap => trust.map(|trust| json!({ "data": { "ca.crt": trust } })),
            Part::Deployment => Some(json!({ "spec": made.deployment() })),
            Part::Service => (!demand.ports.is_empty()).then(|| json!({ "spec": made.service() })),
        };
        Part::ALL.into_iter().filter_map(|part| Some(made.finish(part, rest(part)?))).collect()
    }

    /// The same as it is made first. A Deployment begins with two replicas: one would be away whenever its node is drained. From then
    /// on their number is somebody else's, who scales it, and never applied again.
    #[must_use]
    pub fn to_create(&self) -> Value {
        let mut object = self.object.clone();
        if self.part == Part::Deployment {
            object["spec"]["replicas"] = json!(REPLICAS);
        }
        object
    }

    /// Whether an object is so already.
    #[must_use]
    pub fn is_in(&self, live: &Value) -> bool {
        holds(live, &self.object)
    }
}

/// Whether `live` has all that `wanted` has. Lists of objects have keys at the API server and may be longer, by what others
/// have put into them or by defaults; other lists are one value.
fn holds(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(name, wanted)| match live.get(name) {
                Some(live) => holds(live, wanted),
                // The API server keeps nothing that is empty.
                None => wanted.as_object().is_some_and(Map::is_empty),
            })
        }
        (Value::Array(live), Value::Array(wanted)) if wanted.iter().all(Value::is_object) => {
            wanted.iter().all(|wanted| live.iter().any(|live| holds(live, wanted)))
        }
        (live, wanted) => live == wanted,
    }
}

/// What the objects of one Gateway are made of.
struct Made<'a> {
    demand: &'a Demand,
    settings: &'a Settings,
    name: String,
}

impl Made<'_> {
    /// The Gateway's labels (GEP-1867), and over them ours.
    fn labels(&self) -> BTreeMap<&str, String> {
        let own = [
            (GATEWAY_NAME_LABEL, label_of(&self.demand.gateway.name)),
            ("gateway.networking.k8s.io/gateway-class-name", label_of(&self.demand.class_name)),
            (MANAGED_BY.0, MANAGED_BY.1.to_owned()),
            (GATEWAY_LABEL, self.name.clone()),
        ];
        let theirs = self.demand.labels.iter().map(|(name, value)| (name.as_str(), value.clone()));
        theirs.chain(own).collect()
    }

    fn finish(&self, part: Part, rest: Value) -> Wanted {
        let Demand { gateway, uid, annotations, .. } = self.demand;
        let resource = part.resource();
        let mut object = rest;
        object["apiVersion"] = json!(resource.api_version);
        object["kind"] = json!(resource.kind);
        object["metadata"] = json!({
            "name": self.name,
            "namespace": gateway.namespace,
            "labels": self.labels(),
            "annotations": annotations,
            // They go with it.
            "ownerReferences": [{
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "Gateway",
                "name": gateway.name,
                "uid": uid,
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        });
        let hash = fingerprint(object.to_string().as_bytes());
        object["metadata"]["annotations"][APPLIED] = json!(&hash[..16]);
        Wanted { part, key: ObjectKey::new(&gateway.namespace, &self.name), object }
    }

    fn service(&self) -> Value {
        let port = |port: &Port| {
            json!({
                "name": port.to_string(),
                "port": port.number,
                "targetPort": port.number,
                "protocol": port.transport.as_protocol(),
            })
        };
        let mut spec = json!({
            "type": "LoadBalancer",
            "selector": { GATEWAY_LABEL: self.name },
            "ports": self.demand.ports.iter().map(port).collect::<Value>(),
            "ipFamilyPolicy": "PreferDualStack",
        });
        if let Some(address) = &self.demand.address {
            spec["loadBalancerIP"] = json!(address);
        }
        spec
    }

    fn deployment(&self) -> Value {
        let own = json!({ GATEWAY_LABEL: self.name });
        let mut labels = self.labels();
        // A Gateway is an end of its connections: nothing of it is ever redirected.
        labels.insert("gammarus.io/mesh", "disabled".to_owned());
        json!({
            "selector": { "matchLabels": own },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "template": {
                "metadata": { "labels": labels, "annotations": self.demand.annotations },
                "spec": {
                    "serviceAccountName": self.name,
                    "automountServiceAccountToken": false,
                    // Variables named after Services would look like flags.
                    "enableServiceLinks": false,
                    "nodeSelector": { "kubernetes.io/os": "linux" },
                    "terminationGracePeriodSeconds": 40,
                    "topologySpreadConstraints": [{
                        "maxSkew": 1,
                        "topologyKey": "kubernetes.io/hostname",
                        // A cluster of one node has all of them.
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": { "matchLabels": own },
                    }],
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": 65532,
                        "runAsGroup": 65532,
                        "seccompProfile": { "type": "RuntimeDefault" },
                        // Port 80 without a capability; the setting is the pod's own and counts as safe.
                        "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "0" }],
                    },
                    "containers": [self.container()],
                    "volumes": [
                        // Shown to the CA and good for nothing else: no API server takes this audience.
                        { "name": "token", "projected": { "sources": [{ "serviceAccountToken":
                            { "path": "token", "audience": "gammarus-ca", "expirationSeconds": 3600 } }] } },
                        { "name": "trust", "configMap": { "name": self.name } },
                        // What it was told last has keys in it, which never touch a disk.
                        { "name": "state", "emptyDir": { "medium": "Memory" } },
                    ],
                },
            },
        })
    }

    fn container(&self) -> Value {
        let Settings { image, image_pull_policy, .. } = self.settings;
        json!({
            "name": "proxy",
            "image": image,
            "imagePullPolicy": image_pull_policy,
            "command": ["/node-proxy", "ingress"],
            "env": self.environment(),
            "ports": self.container_ports(),
            "readinessProbe": { "httpGet": { "path": "/readyz", "port": "metrics" }, "periodSeconds": 2 },
            "livenessProbe": {
                "httpGet": { "path": "/livez", "port": "metrics" }, "periodSeconds": 10, "failureThreshold": 6,
            },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            },
            "resources": { "requests": { "cpu": "50m", "memory": "64Mi" } },
            "volumeMounts": [
                { "name": "token", "mountPath": "/var/run/secrets/gammarus", "readOnly": true },
                { "name": "trust", "mountPath": "/etc/gammarus/trust", "readOnly": true },
                { "name": "state", "mountPath": "/var/lib/gammarus" },
            ],
        })
    }

    /// The listeners' and the one for health, which may be meant twice, and must not be written twice.
    fn container_ports(&self) -> Value {
        let port = |name: String, port: Port| json!({ "name": name, "containerPort": port.number, "protocol": port.transport.as_protocol() });
        let listeners = self.demand.ports.iter().filter(|port| **port != HEALTH);
        let listeners = listeners.map(|own| port(own.to_string(), *own));
        std::iter::once(port("metrics".to_owned(), HEALTH)).chain(listeners).collect()
    }

    fn environment(&self) -> Value {
        let Settings { trust_domain, ca_address, feed_address, log_format, log_level, .. } = self.settings;
        let gateway = self.demand.gateway.to_string();
        let from_field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
        let given = [
            ("GAMMARUS_GATEWAY", gateway.as_str()),
            ("GAMMARUS_SERVICE_ACCOUNT", &self.name),
            ("GAMMARUS_TRUST_DOMAIN", trust_domain),
            ("GAMMARUS_CA_ADDRESS", ca_address),
            ("GAMMARUS_CA_BUNDLE", "/etc/gammarus/trust/ca.crt"),
            ("GAMMARUS_TOKEN_FILE", "/var/run/secrets/gammarus/token"),
            ("GAMMARUS_FEED_ADDRESS", feed_address),
            ("GAMMARUS_STATE_DIR", "/var/lib/gammarus"),
            ("GAMMARUS_LOG_FORMAT", log_format),
            ("GAMMARUS_LOG_LEVEL", log_level),
        ];
        let given = given.map(|(name, value)| json!({ "name": name, "value": value }));
        let of_pod =
            [from_field("GAMMARUS_NODE", "spec.nodeName"), from_field("GAMMARUS_POD", "metadata.name")];
        let account = self.settings.feed_service_account.iter();
        let account =
            account.map(|account| json!({ "name": "GAMMARUS_FEED_SERVICE_ACCOUNT", "value": account }));
        of_pod.into_iter().chain(given).chain(account).collect()
    }
}
