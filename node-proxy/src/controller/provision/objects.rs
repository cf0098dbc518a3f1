//! The objects that are made for a Gateway. Pure.
//!
//! Only what is written here is ever compared or applied: fields that others add to these objects are theirs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gammarus_ca::bundle::fingerprint;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount, TopologySpreadConstraint};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ApiResource;
use serde_json::{Map, Value, json};

use super::demand::Demand;
use super::name::{label_of, name_of};
use crate::attach::gateway::{Autoscaling, Parameters, ServiceType};
use crate::cluster::objects::ObjectKey;
use crate::compile::workload::{GATEWAY_LABEL, GATEWAY_NAME_LABEL};
use crate::snapshot::transport::{Port, Transport};

/// What is written into all objects, so that they can be watched without all others.
pub(super) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "gammarus");
/// A hash of the object as it was applied last: what has been applied and is not wanted any more is found by it.
const APPLIED: &str = "gammarus.io/applied";
/// How the name begins of a port of a Service that is about to go.
const FORMER: &str = "gammarus-former-";
/// With how many replicas a Deployment begins where nobody says: one would be away whenever its node is drained.
const REPLICAS: i32 = 2;
/// Where every proxy has its metrics and its health, and where its admin server is, unless a listener is there.
const HEALTH: u16 = 15021;
const ADMIN: u16 = 15000;
/// How long a proxy serves who stays, unless its Gateway's parameters say it, in seconds; as it does by itself.
const DRAIN: u32 = 20;
/// Until everybody knows of a pod's end, and for what is left to do after it, in seconds.
const BEFORE_AND_AFTER_DRAIN: u32 = 20;

/// What the objects of all Gateways have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The image of the proxies; where it is absent, that of the controller's own pod, which has to be found first.
    pub image: Option<String>,
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
    /// How their number follows their load.
    HorizontalPodAutoscaler,
    /// How many of them may be away.
    PodDisruptionBudget,
}

impl Part {
    /// All of them, in the order in which they are made.
    pub const ALL: [Self; 6] = [
        Self::ServiceAccount,
        Self::ConfigMap,
        Self::Deployment,
        Self::Service,
        Self::HorizontalPodAutoscaler,
        Self::PodDisruptionBudget,
    ];
    /// Those that are there only as long as somebody asks for them.
    pub const CHOSEN: [Self; 2] = [Self::HorizontalPodAutoscaler, Self::PodDisruptionBudget];

    /// Where the API server has it.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        match self {
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::HorizontalPodAutoscaler => ApiResource::erase::<HorizontalPodAutoscaler>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
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
    /// Of a Deployment whose replicas are left to others: with how many it begins.
    pub first_replicas: Option<i32>,
}

impl Wanted {
    /// All objects of a Gateway. Without a trust bundle there is no ConfigMap yet, and without a port no Service: it must
    /// have one. Where its parameters cannot be told, nothing but the ConfigMap, by which its pods know the CA: that must not grow
    /// old meanwhile.
    #[must_use]
    pub fn all(demand: &Demand, settings: &Settings, trust: Option<&str>) -> Vec<Self> {
        let name = name_of(&demand.gateway, &demand.class_name);
        let parameters = demand.parameters.clone().unwrap_or_default();
        let made = Made { demand, settings, parameters: &parameters, name };
        let has_parameters = demand.parameters.is_some();
        let rest = |part| match part {
            Part::ConfigMap => trust.map(|trust| json!({ "data": { "ca.crt": trust } })),
            _ if !has_parameters => None,
            Part::ServiceAccount => Some(json!({ "automountServiceAccountToken": false })),
            Part::Deployment => Some(json!({ "spec": made.deployment() })),
            Part::Service => (!demand.ports.is_empty()).then(|| json!({ "spec": made.service() })),
            Part::HorizontalPodAutoscaler => made.autoscaler().map(|spec| json!({ "spec": spec })),
            Part::PodDisruptionBudget => made.disruption_budget().map(|spec| json!({ "spec": spec })),
        };
        Part::ALL.into_iter().filter_map(|part| Some(made.finish(part, rest(part)?))).collect()
    }

    /// The same as it is made first. Where the Gateway does not say how many replicas there are, a Deployment begins with some, and from
    /// then on their number is somebody else's, who scales it, and never applied again.
    #[must_use]
    pub fn to_create(&self) -> Value {
        let mut object = self.object.clone();
        if let Some(replicas) = self.first_replicas {
            object["spec"]["replicas"] = json!(replicas);
        }
        object
    }

    /// Whether an object is so already.
    #[must_use]
    pub fn is_in(&self, live: &Value) -> bool {
        holds(live, &self.object)
    }

    /// The places in `spec.ports` of a Service of ports that are not ours under a name of ours. Somebody has changed a port's number, by
    /// which the API server tells ports apart: applied, ours would come beside it, and two of one name are refused.
    #[must_use]
    pub fn in_the_way(&self, live: &Value) -> Vec<usize> {
        if self.part != Part::Service {
            return Vec::new();
        }
        let (live, own) = (ports_of(live), ports_of(&self.object));
        let is_ours = |port: &Value| own.iter().any(|own| port_key(own) == port_key(port));
        let is_in_the_way = |port: &Value| {
            let name = port["name"].as_str().unwrap_or_default();
            !is_ours(port) && (name.starts_with(FORMER) || own.iter().any(|own| own["name"] == name))
        };
        live.iter().enumerate().filter(|(_, port)| is_in_the_way(port)).map(|(place, _)| place).collect()
    }

    /// The object to apply where some ports are in the way: these under names of their own, so that all are taken. They may go then.
    #[must_use]
    pub fn beside(&self, live: &Value) -> Value {
        let mut object = self.object.clone();
        let others = self.in_the_way(live).into_iter().map(|place| {
            let port = &ports_of(live)[place];
            let (number, protocol) = port_key(port);
            let name = format!("{FORMER}{}-{number}", protocol.as_str().unwrap_or_default().to_lowercase());
            json!({ "name": name, "port": number, "protocol": protocol })
        });
        if let Some(ports) = object.pointer_mut("/spec/ports").and_then(Value::as_array_mut) {
            ports.extend(others);
        }
        object
    }
}

fn ports_of(service: &Value) -> &[Value] {
    service.pointer("/spec/ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// What the API server tells ports of a Service apart by.
fn port_key(port: &Value) -> (&Value, &Value) {
    (&port["port"], &port["protocol"])
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
    parameters: &'a Parameters,
    name: String,
}

impl Made<'_> {
    /// The Gateway's labels (GEP-1867), and over them ours.
    fn labels(&self) -> BTreeMap<&str, String> {
        let own = [
            (GATEWAY_NAME_LABEL, label_of(&self.demand.gateway.name)),
            ("gateway.networking.k8s.io/gateway-class-name", label_of(&self.demand.class_name)),
            (MANAGED_BY.0, MANAGED_BY.1.to_owned()),
            // The Deployment's selector, too, which cannot be changed: it depends on nothing that can.
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
        let first_replicas = self.first_replicas().filter(|_| part == Part::Deployment);
        Wanted { part, key: ObjectKey::new(&gateway.namespace, &self.name), object, first_replicas }
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
        let kind = self.parameters.service_type();
        let mut spec = json!({
            "type": kind,
            "selector": { GATEWAY_LABEL: self.name },
            "ports": self.demand.ports.iter().map(port).collect::<Value>(),
            "ipFamilyPolicy": "PreferDualStack",
        });
        if let (ServiceType::LoadBalancer, Some(address)) = (kind, &self.demand.address) {
            spec["loadBalancerIP"] = json!(address);
            // Who gives addresses of both families has one by request for one of them, if for any.
            if let Ok(address) = address.parse::<IpAddr>() {
                spec["ipFamilyPolicy"] = json!("SingleStack");
                spec["ipFamilies"] = json!([if address.is_ipv4() { "IPv4" } else { "IPv6" }]);
            }
        }
        let given = self.parameters.service.as_ref();
        if let Some(policy) = given.and_then(|own| own.external_traffic_policy) {
            spec["externalTrafficPolicy"] = json!(policy);
        }
        if let Some(class) = given.and_then(|own| own.load_balancer_class.as_ref()) {
            spec["loadBalancerClass"] = json!(class);
        }
        spec
    }

    /// With how many replicas a Deployment begins whose replicas are left to others.
    fn first_replicas(&self) -> Option<i32> {
        match (&self.parameters.autoscaling, self.parameters.replicas) {
            (Some(autoscaling), _) => Some(autoscaling.min_replicas),
            (None, Some(_)) => None,
            (None, None) => Some(REPLICAS),
        }
    }

    fn autoscaler(&self) -> Option<Value> {
        let Autoscaling { min_replicas, max_replicas, target_cpu_utilization } =
            self.parameters.autoscaling.as_ref()?;
        let target = json!({ "type": "Utilization", "averageUtilization": target_cpu_utilization });
        Some(json!({
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": self.name },
            "minReplicas": min_replicas,
            "maxReplicas": max_replicas,
            "metrics": [{ "type": "Resource", "resource": { "name": "cpu", "target": target } }],
        }))
    }

    fn disruption_budget(&self) -> Option<Value> {
        let mut spec = json!(self.parameters.pod_disruption_budget.as_ref()?);
        spec["selector"] = json!({ "matchLabels": self.own_labels() });
        Some(spec)
    }

    /// By what its pods are found, and no others.
    fn own_labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(GATEWAY_LABEL.to_owned(), self.name.clone())])
    }

    /// A cluster of one node has all of them.
    fn spread(&self) -> Vec<TopologySpreadConstraint> {
        let by_default = || {
            vec![TopologySpreadConstraint {
                max_skew: 1,
                topology_key: "kubernetes.io/hostname".to_owned(),
                when_unsatisfiable: "ScheduleAnyway".to_owned(),
                ..TopologySpreadConstraint::default()
            }]
        };
        let mut constraints = self.parameters.topology_spread_constraints.clone().unwrap_or_else(by_default);
        for constraint in &mut constraints {
            constraint.label_selector.get_or_insert_with(|| LabelSelector {
                match_labels: Some(self.own_labels()),
                ..LabelSelector::default()
            });
        }
        constraints
    }

    fn deployment(&self) -> Value {
        let mut labels = self.labels();
        // A Gateway is an end of its connections: nothing of it is ever redirected.
        labels.insert("gammarus.io/mesh", "disabled".to_owned());
        let mut nodes = BTreeMap::from([("kubernetes.io/os", "linux")]);
        let given = self.parameters.node_selector.iter().flatten();
        nodes.extend(given.map(|(name, value)| (name.as_str(), value.as_str())));
        let mut spec = json!({
            "selector": { "matchLabels": self.own_labels() },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "template": {
                "metadata": { "labels": labels, "annotations": self.demand.annotations },
                "spec": {
                    "serviceAccountName": self.name,
                    "automountServiceAccountToken": false,
                    // Variables named after Services would look like flags.
                    "enableServiceLinks": false,
                    "nodeSelector": nodes,
                    "terminationGracePeriodSeconds": self.parameters.drain_seconds.unwrap_or(DRAIN) + BEFORE_AND_AFTER_DRAIN,
                    "topologySpreadConstraints": self.spread(),
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
        });
        let Parameters { replicas, tolerations, priority_class_name, .. } = self.parameters;
        if let Some(replicas) = replicas {
            spec["replicas"] = json!(replicas);
        }
        let pod = &mut spec["template"]["spec"];
        if let Some(tolerations) = tolerations {
            pod["tolerations"] = json!(tolerations);
        }
        if let Some(class) = priority_class_name {
            pod["priorityClassName"] = json!(class);
        }
        spec
    }

    fn container(&self) -> Value {
        let Settings { image, image_pull_policy, .. } = self.settings;
        let by_default = || json!({ "requests": { "cpu": "50m", "memory": "64Mi" } });
        json!({
            "name": "proxy",
            "image": image,
            "imagePullPolicy": image_pull_policy,
            "command": ["/node-proxy", "ingress"],
            "env": self.environment(),
            // Those of listeners are not named: a listener that comes or goes would start all pods anew.
            "ports": [{ "name": "metrics", "containerPort": self.free_port(HEALTH), "protocol": "TCP" }],
            "readinessProbe": { "httpGet": { "path": "/readyz", "port": "metrics" }, "periodSeconds": 2 },
            "livenessProbe": {
                "httpGet": { "path": "/livez", "port": "metrics" }, "periodSeconds": 10, "failureThreshold": 6,
            },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            },
            "resources": self.parameters.resources.as_ref().map_or_else(by_default, |own| json!(own)),
            "volumeMounts": [
                { "name": "token", "mountPath": "/var/run/secrets/gammarus", "readOnly": true },
                { "name": "trust", "mountPath": "/etc/gammarus/trust", "readOnly": true },
                { "name": "state", "mountPath": "/var/lib/gammarus" },
            ],
        })
    }

    /// This port, or the next one on which there is no listener: those are asked for by clients, and the proxy's own by nobody who
    /// does not look them up.
    fn free_port(&self, first: u16) -> u16 {
        let is_free =
            |number: &u16| !self.demand.ports.contains(&Port { number: *number, transport: Transport::Tcp });
        (first..).find(is_free).unwrap_or(first)
    }

    fn environment(&self) -> Value {
        let admin = format!("127.0.0.1:{}", self.free_port(ADMIN));
        let health = format!("[::]:{}", self.free_port(HEALTH));
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
            ("GAMMARUS_ADMIN_LISTEN", &admin),
            ("GAMMARUS_HEALTH_LISTEN", &health),
            ("GAMMARUS_LOG_FORMAT", log_format),
            ("GAMMARUS_LOG_LEVEL", log_level),
        ];
        let given = given.map(|(name, value)| json!({ "name": name, "value": value }));
        let of_pod =
            [from_field("GAMMARUS_NODE", "spec.nodeName"), from_field("GAMMARUS_POD", "metadata.name")];
        let account = self.settings.feed_service_account.iter();
        let account =
            account.map(|account| json!({ "name": "GAMMARUS_FEED_SERVICE_ACCOUNT", "value": account }));
        of_pod.into_iter().chain(given).chain(account).chain(self.serving()).collect()
    }

    /// What the Gateway's parameters say of how it is served.
    fn serving(&self) -> impl Iterator<Item = Value> {
        let client = self.parameters.client.as_ref();
        let proxy_protocol = client.and_then(|client| client.proxy_protocol.as_ref());
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        let given = [
            ("GAMMARUS_TRUSTED_HOPS", number(client.and_then(|client| client.trusted_hops))),
            ("GAMMARUS_PROXY_PROTOCOL", proxy_protocol.map(|_| "true".to_owned())),
            (
                "GAMMARUS_PROXY_PROTOCOL_FROM",
                proxy_protocol.and_then(|own| Some(own.from.as_ref()?.join(","))),
            ),
            ("GAMMARUS_DRAIN_SECONDS", number(self.parameters.drain_seconds)),
        ];
        given.into_iter().filter_map(|(name, value)| Some(json!({ "name": name, "value": value? })))
    }
}
