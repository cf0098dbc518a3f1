//! Pods, EndpointSlices and Nodes without all that is never asked of them: there are too many to keep whole (design D11).
//!
//! Texts are parsed once, here. What the API server says of defaults has been filled in before.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::core_kinds;
use super::objects::ObjectKey;
use crate::snapshot::AddressRange;
use crate::snapshot::transport::Transport;

/// The label that says whose slice it is.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The label that says which zone a node is in.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// What a node's own addresses are called in its status, whether they are reached from outside or not.
const NODE_ADDRESS_TYPES: [&str; 2] = ["InternalIP", "ExternalIP"];
/// The annotation by which a static pod's mirror names the uid that the runtime has.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// What our own annotations begin with.
const OWN_PREFIX: &str = "gammarus.io/";

/// Names with a text each, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Texts(Box<[(Box<str>, Box<str>)]>);

/// What is asked of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// `metadata.uid`.
    pub uid: Option<Arc<str>>,
    /// `metadata.creationTimestamp` in Unix seconds.
    pub created: Option<i64>,
    /// Whether it has a `metadata.deletionTimestamp`.
    pub is_leaving: bool,
    /// Whether its phase is `Succeeded` or `Failed`.
    pub is_finished: bool,
    /// Its condition `Ready`; a pod without one counts as ready, since no kubelet says otherwise.
    pub is_ready: bool,
    /// Whether it shares its node's network.
    pub is_on_host_network: bool,
    /// All its labels.
    pub labels: Texts,
    /// Its annotations that are ours, and [`MIRROR_ANNOTATION`].
    pub annotations: Texts,
    /// `status.podIPs`, or `status.podIP` where only that is there, each once.
    pub addresses: Box<[IpAddr]>,
    /// The node that it runs on.
    pub node: Option<Arc<str>>,
    /// Its service account.
    pub service_account: Option<Box<str>>,
    /// The TCP ports of its containers that have names; init containers that keep running (sidecars) count.
    pub named_ports: Box<[(Box<str>, i32)]>,
    /// The same of its UDP ports.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub named_udp_ports: Box<[(Box<str>, i32)]>,
}

/// What is asked of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSlice {
    /// The Service that it is of, if it is of any.
    pub service: Option<Arc<str>>,
    /// Its TCP ports, by name; a port without a name has an empty one.
    pub ports: Box<[(Box<str>, u16)]>,
    /// The same of its UDP ports.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub udp_ports: Box<[(Box<str>, u16)]>,
    /// Its endpoints that have an address.
    pub endpoints: Box<[SliceEndpoint]>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// The first of its addresses: "consumers SHOULD only use the first".
    pub address: IpAddr,
    /// The Pod that it is, if it is one.
    pub pod: Option<PodTarget>,
    /// The node that it is on.
    pub node: Option<Arc<str>>,
    /// Whether it takes new connections.
    pub is_ready: bool,
    /// Whether it still takes some where nobody else does.
    pub is_serving_terminating: bool,
    /// The zones whose clients it is for, as hints say.
    pub for_zones: Box<[Box<str>]>,
    /// The nodes whose clients it is for, as hints say.
    pub for_nodes: Box<[Box<str>]>,
}

/// Which Pod an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodTarget {
    /// Its namespace and name.
    pub key: ObjectKey,
    /// Its uid, where the slice names one.
    pub uid: Option<Box<str>>,
}

/// What is asked of a Node: of a status, which is told anew with every heartbeat and lists the node's images, next to nothing.
///
/// It is written as a Node with these fields alone, which is what another release takes it for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "core::Node", into = "core::Node")]
pub struct Node {
    /// Its label `topology.kubernetes.io/zone`.
    pub zone: Option<Box<str>>,
    /// `spec.podCIDRs`, and `spec.podCIDR` where that is none of them.
    pub pod_ranges: Box<[AddressRange]>,
    /// Its internal and external addresses.
    pub addresses: Box<[IpAddr]>,
}

impl Texts {
    /// The text of a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&str> {
        let place = self.0.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(&self.0[place].1)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (&**name, &**text))
    }
}

impl<'a> FromIterator<(&'a String, &'a String)> for Texts {
    /// Takes the entries of a map, which are in order.
    fn from_iter<T: IntoIterator<Item = (&'a String, &'a String)>>(entries: T) -> Self {
        Self(entries.into_iter().map(|(name, text)| (name.as_str().into(), text.as_str().into())).collect())
    }
}

impl From<&core_kinds::Pod> for Pod {
    fn from(pod: &core_kinds::Pod) -> Self {
        let (metadata, spec, status) = (&pod.metadata, pod.spec.as_ref(), pod.status.as_ref());
        let is_kept =
            |(name, _): &(&String, &String)| name.starts_with(OWN_PREFIX) || *name == MIRROR_ANNOTATION;
        let conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut ready = conditions.filter(|condition| condition.name == "Ready");
        let phase = status.and_then(|status| status.phase.as_deref());
        Self {
            uid: metadata.uid.as_deref().map(Into::into),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
            is_leaving: metadata.deletion_timestamp.is_some(),
            is_finished: matches!(phase, Some("Succeeded" | "Failed")),
            is_ready: ready.all(|condition| condition.status == "True"),
            is_on_host_network: spec.and_then(|spec| spec.host_network) == Some(true),
            labels: metadata.labels.iter().flatten().collect(),
            annotations: metadata.annotations.iter().flatten().filter(is_kept).collect(),
            addresses: status.map(addresses).unwrap_or_default(),
            node: spec.and_then(|spec| spec.node_name.as_deref()).map(Into::into),
            service_account: spec.and_then(|spec| spec.service_account_name.as_deref()).map(Into::into),
            named_ports: named_ports(spec, Transport::Tcp),
            named_udp_ports: named_ports(spec, Transport::Udp),
        }
    }
}

fn addresses(status: &core_kinds::PodStatus) -> Box<[IpAddr]> {
    let several = status.pod_ips.iter().flatten().map(|entry| entry.ip.as_str());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in several.chain(status.pod_ip.as_deref()).filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.into()
}

fn named_ports(spec: Option<&core_kinds::PodSpec>, transport: Transport) -> Box<[(Box<str>, i32)]> {
    let Some(spec) = spec else { return Box::default() };
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .flatten()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    let own = ports.filter(|port| Transport::find(port.protocol.as_deref()) == Some(transport));
    own.filter_map(|port| Some((port.name.as_deref()?.into(), port.container_port))).collect()
}

impl From<&discovery::EndpointSlice> for EndpointSlice {
    fn from(slice: &discovery::EndpointSlice) -> Self {
        let labels = slice.metadata.labels.as_ref();
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let ports = |transport| {
            let ports = slice.ports.iter().flatten();
            let own = ports.filter(move |port| Transport::find(port.protocol.as_deref()) == Some(transport));
            own.filter_map(|port| {
                let number = u16::try_from(port.port?).ok()?;
                Some((port.name.as_deref().unwrap_or_default().into(), number))
            })
        };
        let namespace: Arc<str> = namespace.into();
        let endpoints = slice.endpoints.iter().filter_map(|endpoint| slice_endpoint(&namespace, endpoint));
        Self {
            service: labels
                .and_then(|labels| labels.get(SERVICE_NAME_LABEL))
                .map(|name| name.as_str().into()),
            ports: ports(Transport::Tcp).collect(),
            udp_ports: ports(Transport::Udp).collect(),
            endpoints: endpoints.collect(),
        }
    }
}

impl From<&core::Node> for Node {
    fn from(node: &core::Node) -> Self {
        let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL));
        let mut pod_ranges = Vec::new();
        let ranges = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
        for range in ranges.filter_map(|text| text.parse().ok()) {
            if !pod_ranges.contains(&range) {
                pod_ranges.push(range);
            }
        }
        let listed = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let own = listed.filter(|entry| NODE_ADDRESS_TYPES.contains(&entry.type_.as_str()));
        Self {
            zone: zone.map(|zone| zone.as_str().into()),
            pod_ranges: pod_ranges.into(),
            addresses: own.filter_map(|entry| entry.address.parse().ok()).collect(),
        }
    }
}

impl From<core::Node> for Node {
    fn from(node: core::Node) -> Self {
        Self::from(&node)
    }
}

impl From<Node> for core::Node {
    fn from(Node { zone, pod_ranges, addresses }: Node) -> Self {
        let labels = zone.map(|zone| [(ZONE_LABEL.to_owned(), zone.into_string())].into());
        let ranges = pod_ranges.iter().map(ToString::to_string).collect();
        let address = |address: &IpAddr| core::NodeAddress {
            type_: NODE_ADDRESS_TYPES[0].to_owned(),
            address: address.to_string(),
        };
        let status = core::NodeStatus {
            addresses: Some(addresses.iter().map(address).collect()),
            ..core::NodeStatus::default()
        };
        Self {
            metadata: ObjectMeta { labels, ..ObjectMeta::default() },
            spec: Some(core::NodeSpec { pod_cidrs: Some(ranges), ..core::NodeSpec::default() }),
            status: Some(status),
        }
    }
}

/// Endpoints that are host names are none of ours.
fn slice_endpoint(namespace: &Arc<str>, endpoint: &discovery::Endpoint) -> Option<SliceEndpoint> {
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    let conditions = endpoint.conditions.as_ref();
    let hints = endpoint.hints.as_ref();
    let zones = hints.iter().flat_map(|hints| hints.for_zones.iter().flatten());
    let nodes = hints.iter().flat_map(|hints| hints.for_nodes.iter().flatten());
    // "A nil value should be interpreted as "true"", and of `serving` "should be interpreted as ready".
    let is_ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let is_serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(is_ready);
    let is_terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    Some(SliceEndpoint {
        address: endpoint.addresses.first()?.parse().ok()?,
        pod: target.map(|target| PodTarget {
            key: ObjectKey {
                namespace: match target.namespace.as_deref() {
                    Some(other) if *other != **namespace => other.into(),
                    _ => Arc::clone(namespace),
                },
                name: target.name.as_deref().unwrap_or_default().into(),
            },
            uid: target.uid.as_deref().map(Into::into),
        }),
        node: endpoint.node_name.as_deref().map(Into::into),
        is_ready,
        is_serving_terminating: is_serving && is_terminating,
        for_zones: zones.map(|zone| zone.name.as_str().into()).collect(),
        for_nodes: nodes.map(|node| node.name.as_str().into()).collect(),
    })
}
