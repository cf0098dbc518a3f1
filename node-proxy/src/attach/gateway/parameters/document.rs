//! What an operator says of the pods and the Service of a Gateway: the document that `parametersRef` leads to. Pure.
//!
//! Kubernetes' own words where it has any. What it would refuse by itself and says well (a quantity above its limit, a class of
//! load balancers that cannot be changed) is left to it; what contradicts itself is refused here, by its field.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::serving::{ClientParameters, check_drain};
use crate::cluster::document::read_yaml;
use crate::cluster::schema::FieldError;
use crate::cluster::typed;

/// The fields of a document that have fields of their own.
const MAPS: [&str; 5] = ["autoscaling", "client", "podDisruptionBudget", "resources", "service"];

/// What the pods and the Service of a Gateway are to be like. What is not said is as it is without.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Parameters {
    /// How many pods there are; not together with `autoscaling`.
    pub replicas: Option<i32>,
    /// How their number follows their load.
    pub autoscaling: Option<Autoscaling>,
    /// How many of them may be away for the good of the cluster.
    pub pod_disruption_budget: Option<DisruptionBudget>,
    /// What each of them asks for, and the most that it gets.
    pub resources: Option<Resources>,
    /// The labels of the nodes that they run on.
    pub node_selector: Option<BTreeMap<String, String>>,
    /// The taints that do not keep them away.
    pub tolerations: Option<Vec<Toleration>>,
    /// How they are spread; a constraint without a `labelSelector` is about the Gateway's own pods.
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// Their PriorityClass.
    pub priority_class_name: Option<String>,
    /// How they are reached.
    pub service: Option<ServiceParameters>,
    /// Who says who a client is.
    pub client: Option<ClientParameters>,
    /// How long a pod that is to end serves who stays, in seconds.
    pub drain_seconds: Option<u32>,
}

/// The part of a HorizontalPodAutoscaler that is about numbers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Autoscaling {
    /// Never fewer pods than these.
    #[serde(default = "one")]
    pub min_replicas: i32,
    /// Never more.
    pub max_replicas: i32,
    /// How much of the CPU that they ask for they are to use on average, in percent.
    #[serde(default = "eighty", rename = "targetCPUUtilizationPercentage")]
    pub target_cpu_utilization: i32,
}

const fn one() -> i32 {
    1
}

const fn eighty() -> i32 {
    80
}

/// The part of a PodDisruptionBudget that is about numbers: one of both, a number or a percentage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DisruptionBudget {
    /// Never fewer pods than these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_available: Option<IntOrString>,
    /// Never more away than these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
}

/// A container's `resources`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Resources {
    /// What it asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<BTreeMap<String, Quantity>>,
    /// The most that it gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<BTreeMap<String, Quantity>>,
}

/// An amount as Kubernetes writes them: `50m`, `64Mi`, `2`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Value")]
pub struct Quantity(String);

impl TryFrom<Value> for Quantity {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            other => return Err(format!("must be a quantity like 50m or 64Mi, is {other}")),
        };
        if is_quantity(&text) {
            Ok(Self(text))
        } else {
            Err(format!("must be a quantity like 50m or 64Mi, is {text:?}"))
        }
    }
}

/// A number that is not negative, and what it is times (resource.Quantity).
fn is_quantity(text: &str) -> bool {
    let end = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let exponent = suffix.strip_prefix(['e', 'E']).filter(|rest| !rest.is_empty());
    let is_suffix = match exponent {
        Some(digits) => digits.parse::<i32>().is_ok(),
        None => ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]
            .contains(&suffix),
    };
    is_suffix && number.parse::<f64>().is_ok()
}

/// How the pods are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceParameters {
    /// The Service's `type`; `LoadBalancer` where it is not said.
    #[serde(rename = "type")]
    pub kind: Option<ServiceType>,
    /// Which nodes' pods take what comes from outside.
    pub external_traffic_policy: Option<ExternalTrafficPolicy>,
    /// Who gives it an address.
    pub load_balancer_class: Option<String>,
}

/// The `type` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum ServiceType {
    /// It is given an address of its own.
    #[default]
    LoadBalancer,
    /// It has an address in the cluster alone.
    ClusterIP,
    /// As before, and a port of every node.
    NodePort,
}

/// The `externalTrafficPolicy` of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum ExternalTrafficPolicy {
    /// All of them; clients' addresses may be lost on the way.
    Cluster,
    /// Those of the node that it comes to.
    Local,
}

impl Parameters {
    /// Reads a document.
    ///
    /// # Errors
    /// What is wrong with it, with its line or its field.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let value = match read_yaml(text)? {
            Value::Null => Value::Object(serde_json::Map::new()),
            value => value,
        };
        // A list would be read as the fields in their order.
        let fields = value.as_object().ok_or("must be a map of fields")?;
        let is_list = |name: &&str| fields.get(*name).is_some_and(Value::is_array);
        if let Some(name) = MAPS.iter().copied().find(is_list) {
            return Err(format!("{name}: must be a map of fields"));
        }
        let mut unknown = Vec::new();
        let read = typed::read::<Self>(value, &mut |field| unknown.push(field));
        // A field that is not known is the likelier mistake where another one is missing.
        if let Some(field) = unknown.first() {
            return Err(format!("{field}: is not a field"));
        }
        let parameters = read.map_err(|error| describe(&error))?;
        parameters.check()?;
        Ok(parameters)
    }

    /// What a Gateway says, over what its class does.
    pub(super) fn over(self, class: &Self) -> Self {
        let class = class.clone();
        let says_how_many = self.replicas.is_some() || self.autoscaling.is_some();
        let (replicas, autoscaling) = if says_how_many {
            (self.replicas, self.autoscaling)
        } else {
            (class.replicas, class.autoscaling)
        };
        let service = match (self.service, class.service) {
            (Some(own), Some(class)) => Some(own.over(class)),
            (own, class) => own.or(class),
        };
        Self {
            replicas,
            autoscaling,
            pod_disruption_budget: self.pod_disruption_budget.or(class.pod_disruption_budget),
            resources: self.resources.or(class.resources),
            node_selector: self.node_selector.or(class.node_selector),
            tolerations: self.tolerations.or(class.tolerations),
            topology_spread_constraints: self
                .topology_spread_constraints
                .or(class.topology_spread_constraints),
            priority_class_name: self.priority_class_name.or(class.priority_class_name),
            service,
            client: self.client.or(class.client),
            drain_seconds: self.drain_seconds.or(class.drain_seconds),
        }
    }

    /// The Service's `type`.
    #[must_use]
    pub fn service_type(&self) -> ServiceType {
        self.service.as_ref().and_then(|service| service.kind).unwrap_or_default()
    }

    /// Whether it fits together.
    ///
    /// # Errors
    /// The first field that does not, and why.
    pub(super) fn check(&self) -> Result<(), String> {
        let wrong = |field: &str, why: &str| Err(format!("{field}: {why}"));
        if self.replicas.is_some_and(|replicas| replicas < 0) {
            return wrong("replicas", "must not be negative");
        }
        if let Some(autoscaling) = &self.autoscaling {
            if self.replicas.is_some() {
                return wrong("replicas", "cannot be given with autoscaling, which says how many there are");
            }
            autoscaling.check()?;
            // A utilization is one of what is asked for.
            let asks_for_cpu = |resources: &Resources| {
                let has_cpu =
                    |own: &Option<BTreeMap<_, _>>| own.as_ref().is_some_and(|own| own.contains_key("cpu"));
                has_cpu(&resources.requests) || has_cpu(&resources.limits)
            };
            if self.resources.as_ref().is_some_and(|resources| !asks_for_cpu(resources)) {
                return wrong("resources.requests.cpu", "is required with autoscaling, which goes by it");
            }
        }
        self.pod_disruption_budget.as_ref().map_or(Ok(()), DisruptionBudget::check)?;
        self.client.as_ref().map_or(Ok(()), ClientParameters::check)?;
        self.drain_seconds.map_or(Ok(()), check_drain)?;
        let Some(service) = &self.service else { return Ok(()) };
        let kind = self.service_type();
        if kind == ServiceType::ClusterIP && service.external_traffic_policy.is_some() {
            return wrong("service.externalTrafficPolicy", "cannot be given with service.type ClusterIP");
        }
        if kind != ServiceType::LoadBalancer && service.load_balancer_class.is_some() {
            return wrong("service.loadBalancerClass", "can be given with service.type LoadBalancer only");
        }
        Ok(())
    }
}

impl Autoscaling {
    fn check(&self) -> Result<(), String> {
        if self.min_replicas < 1 {
            return Err("autoscaling.minReplicas: must be 1 at least".to_owned());
        }
        if self.max_replicas < self.min_replicas {
            let least = self.min_replicas;
            return Err(format!(
                "autoscaling.maxReplicas: must not be less than minReplicas, which is {least}"
            ));
        }
        if self.target_cpu_utilization < 1 {
            return Err("autoscaling.targetCPUUtilizationPercentage: must be 1 at least".to_owned());
        }
        Ok(())
    }
}

impl DisruptionBudget {
    fn check(&self) -> Result<(), String> {
        let (field, value) = match (&self.min_available, &self.max_unavailable) {
            (Some(value), None) => ("minAvailable", value),
            (None, Some(value)) => ("maxUnavailable", value),
            _ => return Err("podDisruptionBudget: has one of minAvailable and maxUnavailable".to_owned()),
        };
        let is_fine = match value {
            IntOrString::Int(number) => *number >= 0,
            IntOrString::String(text) => {
                let digits = text.strip_suffix('%');
                digits.is_some_and(|digits| {
                    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
                })
            }
        };
        if is_fine {
            Ok(())
        } else {
            Err(format!(
                "podDisruptionBudget.{field}: must be a number that is not negative, or a percentage like 50%"
            ))
        }
    }
}

impl ServiceParameters {
    /// A class's word for another type of Service is none for this one.
    fn over(self, class: Self) -> Self {
        let kind = self.kind.or(class.kind);
        let is_own_kind = self.kind.is_some();
        let (mut policy, mut balancers) = (class.external_traffic_policy, class.load_balancer_class);
        if is_own_kind && kind == Some(ServiceType::ClusterIP) {
            policy = None;
        }
        if is_own_kind && kind != Some(ServiceType::LoadBalancer) {
            balancers = None;
        }
        Self {
            kind,
            external_traffic_policy: self.external_traffic_policy.or(policy),
            load_balancer_class: self.load_balancer_class.or(balancers),
        }
    }
}

fn describe(error: &FieldError) -> String {
    if error.field.is_empty() { error.message.clone() } else { format!("{}: {}", error.field, error.message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn read(text: &str) -> Parameters {
        Parameters::read(text).unwrap()
    }

    #[test]
    fn a_document_says_what_it_says_and_nothing_else() {
        let all = read(
            "replicas: 3
podDisruptionBudget: {maxUnavailable: 25%}
resources: {requests: {cpu: 2, memory: 64Mi}, limits: {memory: 1.5Gi}}
nodeSelector: {pool: edge}
tolerations: [{key: edge, operator: Exists, effect: NoSchedule}]
topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]
priorityClassName: high
service: {type: NodePort, externalTrafficPolicy: Local}",
        );
        assert_eq!((all.replicas, &all.autoscaling), (Some(3), &None));
        let budget = all.pod_disruption_budget.as_ref().unwrap();
        assert_eq!(budget.max_unavailable, Some(IntOrString::String("25%".to_owned())));
        let resources = serde_json::to_value(all.resources.as_ref().unwrap()).unwrap();
        let expected =
            serde_json::json!({"requests": {"cpu": "2", "memory": "64Mi"}, "limits": {"memory": "1.5Gi"}});
        assert_eq!(resources, expected);
        assert_eq!(all.tolerations.as_ref().unwrap()[0].operator.as_deref(), Some("Exists"));
        assert_eq!(all.topology_spread_constraints.as_ref().unwrap()[0].topology_key, "zone");
        assert_eq!(all.service_type(), ServiceType::NodePort);
        let scaled = read("autoscaling: {maxReplicas: 5}").autoscaling.unwrap();
        assert_eq!((scaled.min_replicas, scaled.max_replicas, scaled.target_cpu_utilization), (1, 5, 80));
        for nothing in ["", "# nothing yet\n", "{}", "service:\nreplicas: ~"] {
            assert_eq!(read(nothing), Parameters::default(), "{nothing:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_or_its_field() {
        for (text, why) in [
            ("replicas: [", "line 1, column "),
            ("replica: 3", "replica: is not a field"),
            ("service: {class: a}", "service.class: is not a field"),
            ("autoscaling: {maximum: 5}", "autoscaling.maximum: is not a field"),
            ("tolerations: [{}, {keys: a}]", "tolerations[1].keys: is not a field"),
            ("resources: {claims: []}", "resources.claims: is not a field"),
            ("replicas: three", "replicas: invalid type"),
            ("replicas: -1", "replicas: must not be negative"),
            ("replicas: 2147483648", "replicas: "),
            ("- 3", "must be a map of fields"),
            ("autoscaling: [1, 2]", "autoscaling: must be a map of fields"),
            ("tolerations: [[a]]", "tolerations[0]: invalid type: sequence"),
            ("autoscaling: {minReplicas: 2}", "autoscaling: missing field `maxReplicas`"),
            ("autoscaling: {minReplicas: 0, maxReplicas: 2}", "autoscaling.minReplicas: must be 1 at least"),
            (
                "autoscaling: {minReplicas: 3, maxReplicas: 2}",
                "autoscaling.maxReplicas: must not be less than minReplicas, which is 3",
            ),
            (
                "autoscaling: {maxReplicas: 2, targetCPUUtilizationPercentage: 0}",
                "autoscaling.targetCPUUtilizationPercentage: must be 1",
            ),
            ("{replicas: 2, autoscaling: {maxReplicas: 2}}", "replicas: cannot be given with autoscaling"),
            (
                "{autoscaling: {maxReplicas: 2}, resources: {requests: {memory: 1Gi}}}",
                "resources.requests.cpu: is required with autoscaling",
            ),
            (
                "resources: {requests: {cpu: much}}",
                "resources.requests.cpu: must be a quantity like 50m or 64Mi, is \"much\"",
            ),
            ("resources: {limits: {memory: -1Gi}}", "resources.limits.memory: must be a quantity"),
            ("podDisruptionBudget: {}", "podDisruptionBudget: has one of minAvailable and maxUnavailable"),
            ("podDisruptionBudget: {minAvailable: 1, maxUnavailable: 1}", "podDisruptionBudget: has one of"),
            (
                "podDisruptionBudget: {minAvailable: most}",
                "podDisruptionBudget.minAvailable: must be a number",
            ),
            (
                "podDisruptionBudget: {maxUnavailable: -1}",
                "podDisruptionBudget.maxUnavailable: must be a number",
            ),
            ("service: {type: ExternalName}", "service.type: unknown variant `ExternalName`"),
            ("service: {externalTrafficPolicy: Both}", "service.externalTrafficPolicy: unknown variant"),
            (
                "service: {type: ClusterIP, externalTrafficPolicy: Local}",
                "service.externalTrafficPolicy: cannot be given with service.type ClusterIP",
            ),
            (
                "service: {type: NodePort, loadBalancerClass: a}",
                "service.loadBalancerClass: can be given with service.type LoadBalancer only",
            ),
        ] {
            let said = Parameters::read(text).unwrap_err();
            assert!(said.starts_with(why), "{text}: {said}");
        }
    }

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for fine in ["0", "2", "50m", "0.5", "1.5Gi", "64Mi", "1e3", "1E3", "12E", "100k", "5."] {
            assert!(is_quantity(fine), "{fine}");
        }
        for wrong in ["", "m", "-1", "1 Gi", "1GB", "1.2.3", "1e", "1eG", ".", "inf"] {
            assert!(!is_quantity(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_gateways_word_comes_over_its_classs_field_by_field() {
        let class = read(
            "replicas: 3
resources: {requests: {cpu: 1}}
nodeSelector: {pool: edge}
service: {externalTrafficPolicy: Local, loadBalancerClass: example.com/one}",
        );
        assert_eq!(Parameters::default().over(&class), class);
        let both = read("{nodeSelector: {}, service: {loadBalancerClass: example.com/two}}").over(&class);
        let service = both.service.clone().unwrap();
        assert_eq!((both.replicas, both.resources), (Some(3), class.resources.clone()));
        assert_eq!(both.node_selector, Some(BTreeMap::new()), "one value, whole");
        assert_eq!(service.load_balancer_class.as_deref(), Some("example.com/two"));
        assert_eq!(service.external_traffic_policy, Some(ExternalTrafficPolicy::Local));

        // How many there are is one thing, and so is what a type of Service has of its own.
        let scaled = read("autoscaling: {maxReplicas: 5}").over(&class);
        assert!(scaled.replicas.is_none() && scaled.autoscaling.is_some());
        let fixed = read("replicas: 1").over(&read("autoscaling: {maxReplicas: 5}"));
        assert!(fixed.replicas == Some(1) && fixed.autoscaling.is_none());
        for (kind, policy) in [("ClusterIP", None), ("NodePort", Some(ExternalTrafficPolicy::Local))] {
            let other = read(&format!("service: {{type: {kind}}}")).over(&class);
            assert_eq!(other.check(), Ok(()));
            let service = other.service.unwrap();
            assert_eq!((service.external_traffic_policy, service.load_balancer_class), (policy, None));
        }
        // A Gateway that contradicts its class is told so.
        let inside = read("service: {type: ClusterIP}");
        let said = read("service: {loadBalancerClass: a}").over(&inside).check().unwrap_err();
        assert!(said.starts_with("service.loadBalancerClass: "), "{said}");
        let said = read("autoscaling: {maxReplicas: 5}").over(&read("resources: {limits: {memory: 1Gi}}"));
        assert!(said.check().unwrap_err().starts_with("resources.requests.cpu: "));
    }
}
