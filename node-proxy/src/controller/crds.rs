//! Which CRDs of the Gateway API are there, and of which version. They are the user's: none is ever installed or changed here.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;

use futures::StreamExt as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use tokio::sync::watch;

use super::metrics::ControllerMetrics;
use super::subject::SubjectKind;
use crate::error::Complaint;

/// The versions that a GatewayClass says it supports: those of one minor release.
const SUPPORTED: [u32; 2] = [1, 6];
/// The version whose types are used here.
const BUNDLE_VERSION: &str = "v1.6.3";
/// Where a CRD says which version it is of.
const BUNDLE_ANNOTATION: &str = "gateway.networking.k8s.io/bundle-version";
/// Where a CRD says which channel it is of.
const CHANNEL_ANNOTATION: &str = "gateway.networking.k8s.io/channel";
/// The CRDs that are asked for, and whether the mesh can do without.
const CRDS: [(&str, Need); 11] = [
    ("backendtlspolicies.gateway.networking.k8s.io", Need::None),
    ("gatewayclasses.gateway.networking.k8s.io", Need::None),
    ("gateways.gateway.networking.k8s.io", Need::None),
    ("grpcroutes.gateway.networking.k8s.io", Need::Routes),
    ("httproutes.gateway.networking.k8s.io", Need::Routes),
    ("listenersets.gateway.networking.k8s.io", Need::None),
    ("referencegrants.gateway.networking.k8s.io", Need::None),
    ("tcproutes.gateway.networking.k8s.io", Need::Routes),
    ("tlsroutes.gateway.networking.k8s.io", Need::Routes),
    ("udproutes.gateway.networking.k8s.io", Need::None),
    ("xmeshes.gateway.networking.x-k8s.io", Need::None),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing is wrong without it.
    None,
    /// There are no routes of its kind without it.
    Routes,
}

/// What is found of a CRD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is of our version, or a newer one.
    Current,
    /// It is not there.
    Missing,
    /// It is of an older version.
    Older,
    /// It does not say of which version it is.
    Unversioned,
}

impl Found {
    /// The word for it in metrics.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Missing => "missing",
            Self::Older => "older",
            Self::Unversioned => "unversioned",
        }
    }
}

/// A CRD that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Crd {
    version: Option<String>,
    channel: Option<String>,
}

/// The CRDs of the Gateway API, once they have been listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    there: Option<BTreeMap<String, Crd>>,
}

/// What is said of a CRD at `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CrdStatus {
    crd: &'static str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    /// What is wrong with it; absent when nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Table {
    /// Whether the CRD of a kind is there; `None` while that is not known.
    #[must_use]
    pub fn has(&self, kind: SubjectKind) -> Option<bool> {
        self.there.as_ref().map(|there| there.contains_key(&kind.crd()))
    }

    /// What is wrong with the versions of the CRDs that are there, if anything is; `None` while that is not known.
    #[must_use]
    pub fn judge_versions(&self) -> Option<Result<(), String>> {
        let there = self.there.as_ref()?;
        let others = there.iter().filter_map(|(name, crd)| {
            let text = crd.version.as_deref();
            let is_supported =
                text.and_then(parse_version).is_some_and(|version| version.numbers.starts_with(&SUPPORTED));
            (!is_supported).then(|| format!("{name} is of {}", text.unwrap_or("an unnamed version")))
        });
        let others: Vec<String> = others.collect();
        let [major, minor] = SUPPORTED;
        Some(match others.as_slice() {
            [] => Ok(()),
            some => Err(format!("v{major}.{minor} of the Gateway API is supported: {}", some.join(", "))),
        })
    }

    /// Every CRD that is asked for, with what is wrong with it; nothing while that is not known.
    #[must_use]
    pub fn describe(&self) -> Vec<CrdStatus> {
        let Some(there) = &self.there else { return Vec::new() };
        let each = CRDS.iter().map(|(name, need)| {
            let crd = there.get(*name);
            let found = find(crd);
            CrdStatus {
                crd: name,
                state: found.as_label(),
                version: crd.and_then(|crd| crd.version.clone()),
                channel: crd.and_then(|crd| crd.channel.clone()),
                problem: problem(name, *need, crd, found),
            }
        });
        each.collect()
    }
}

fn find(crd: Option<&Crd>) -> Found {
    let Some(crd) = crd else { return Found::Missing };
    let ours = parse_version(BUNDLE_VERSION);
    match crd.version.as_deref().map(parse_version) {
        Some(Some(version)) if ours.is_some_and(|ours| version < ours) => Found::Older,
        Some(Some(_)) => Found::Current,
        Some(None) | None => Found::Unversioned,
    }
}

fn problem(name: &str, need: Need, crd: Option<&Crd>, found: Found) -> Option<String> {
    let version = crd.and_then(|crd| crd.version.as_deref()).unwrap_or_default();
    match (found, need) {
        (Found::Current, _) | (Found::Missing, Need::None) => None,
        (Found::Missing, Need::Routes) => Some(format!(
            "the CRD {name} is missing: there are no routes of its kind until somebody installs it \
             (Gateway API {BUNDLE_VERSION}, either channel); it is used when it comes"
        )),
        (Found::Older, _) => Some(format!(
            "the CRD {name} is of Gateway API {version}, and {BUNDLE_VERSION} is what is read here: versions and fields \
             that it does not have cannot be used"
        )),
        (Found::Unversioned, _) => Some(format!(
            "the CRD {name} does not say in {BUNDLE_ANNOTATION} of which version of the Gateway API it is ({version:?}); \
             {BUNDLE_VERSION} is what is read here"
        )),
    }
}

/// A version in the order of SemVer, as far as the Gateway API uses it: numbers, and what comes before a release.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    numbers: [u32; 3],
    /// `rc.1`; a release has none, and is later than all of them.
    candidate: Option<String>,
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let numbers = self.numbers.cmp(&other.numbers);
        Some(numbers.then_with(|| match (&self.candidate, &other.candidate) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(one), Some(other)) => one.cmp(other),
        }))
    }
}

fn parse_version(text: &str) -> Option<Version> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let text = text.split('+').next().unwrap_or(text);
    let (release, candidate) = match text.split_once('-') {
        Some((release, candidate)) => (release, Some(candidate.to_owned())),
        None => (text, None),
    };
    let mut numbers = release.split('.').map(|number| number.parse().ok());
    let mut next = || numbers.next().flatten();
    let version = Version { numbers: [next()?, next()?, next()?], candidate };
    numbers.next().is_none().then_some(version)
}

/// Follows the CRDs for ever: their names and annotations, never what is in them.
pub async fn follow(client: Client, metrics: ControllerMetrics, table: watch::Sender<Table>) -> Infallible {
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client);
    let mut events = pin!(watcher(api, Config::default()).default_backoff());
    let mut listed = BTreeMap::new();
    let mut complaint = Complaint::default();
    loop {
        let event = match events.next().await {
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                if let Some(error) = complaint.raise(error) {
                    tracing::warn!(error, "the CRDs of the cluster cannot be followed");
                }
                continue;
            }
            None => std::future::pending().await,
        };
        complaint.settle();
        let mut there = table.borrow().there.clone();
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(crd) => listed.extend(read(&crd)),
            Event::InitDone => there = Some(std::mem::take(&mut listed)),
            Event::Apply(crd) => there.iter_mut().for_each(|there| there.extend(read(&crd))),
            Event::Delete(crd) => there.iter_mut().for_each(|there| drop(there.remove(&crd.name_any()))),
        }
        let (before, after) = (table.borrow().clone(), Table { there });
        if before != after {
            tell(&before, &after);
            metrics.set_crds(
                CRDS.iter()
                    .map(|(name, _)| (*name, find(after.there.iter().find_map(|there| there.get(*name))))),
            );
            table.send_replace(after);
        }
    }
}

/// A CRD that is asked for.
fn read(crd: &PartialObjectMeta<CustomResourceDefinition>) -> Option<(String, Crd)> {
    let name = crd.name_any();
    if !CRDS.iter().any(|(known, _)| *known == name) {
        return None;
    }
    let annotation = |key| crd.annotations().get(key).cloned();
    let found = Crd { version: annotation(BUNDLE_ANNOTATION), channel: annotation(CHANNEL_ANNOTATION) };
    Some((name, found))
}

fn tell(before: &Table, after: &Table) {
    let before = before.describe();
    for now in after.describe() {
        let known = before.iter().find(|known| known.crd == now.crd);
        if known == Some(&now) {
            continue;
        }
        let is_news = known.is_some() || now.state != Found::Missing.as_label();
        match &now.problem {
            Some(problem) => tracing::warn!("{problem}"),
            None if is_news => tracing::info!(
                crd = now.crd,
                state = now.state,
                version = now.version.as_deref().unwrap_or_default(),
                channel = now.channel.as_deref().unwrap_or_default(),
                "a CRD of the Gateway API"
            ),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(version: Option<&str>, found: Found) {
        let crd = Crd { version: version.map(str::to_owned), channel: None };
        assert_eq!(find(Some(&crd)), found, "{version:?}");
    }

    #[test]
    fn versions_are_compared_as_such() {
        check(Some("v1.6.3"), Found::Current);
        check(Some("v1.6.10"), Found::Current);
        check(Some("v1.10.0"), Found::Current);
        check(Some("v2.0.0-rc.1"), Found::Current);
        check(Some("v1.6.3-rc.1"), Found::Older);
        check(Some("v1.6.2"), Found::Older);
        check(Some("v0.9.9"), Found::Older);
        check(Some("1.4.0"), Found::Older);
        check(Some("main"), Found::Unversioned);
        check(Some("v1.6"), Found::Unversioned);
        check(Some("v1.6.3.1"), Found::Unversioned);
        check(None, Found::Unversioned);
        assert_eq!(find(None), Found::Missing);
    }

    #[test]
    fn one_minor_release_is_supported() {
        assert_eq!(Table::default().judge_versions(), None);
        let check = |versions: &[Option<&str>], wrong: &[&str]| {
            let crd = |version: &Option<&str>| Crd { version: version.map(str::to_owned), channel: None };
            let there =
                CRDS.iter().zip(versions).map(|((name, _), version)| ((*name).to_owned(), crd(version)));
            let table = Table { there: Some(there.collect()) };
            let said = table.judge_versions().unwrap().err().unwrap_or_default();
            assert_eq!(said.is_empty(), wrong.is_empty(), "{said}");
            assert!(wrong.iter().all(|text| said.contains(text)), "{said}");
        };
        check(&[], &[]);
        check(&[Some("v1.6.3"), Some("v1.6.0"), Some("v1.6.99-rc.1")], &[]);
        check(
            &[Some("v1.6.3"), Some("v1.5.9")],
            &["v1.6 of the", "gatewayclasses.gateway.networking.k8s.io is of v1.5.9"],
        );
        check(&[Some("v1.7.0")], &["is of v1.7.0"]);
        check(
            &[Some("v1.60.0"), None, Some("main")],
            &["is of v1.60.0", "is of an unnamed version", "is of main"],
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_words_and_what_is_not_needed_is_not_missed() {
        let mut table = Table::default();
        assert_eq!((table.has(SubjectKind::Mesh), table.describe()), (None, Vec::new()));
        let old = Crd { version: Some("v1.2.0".to_owned()), channel: Some("standard".to_owned()) };
        table.there = Some(BTreeMap::from([("httproutes.gateway.networking.k8s.io".to_owned(), old)]));
        assert_eq!(table.has(SubjectKind::Mesh), Some(false));
        let said = table.describe();
        let problem = |name: &str| said.iter().find(|crd| crd.crd.starts_with(name)).unwrap().problem.clone();
        assert!(
            problem("httproutes")
                .unwrap()
                .contains("is of Gateway API v1.2.0, and v1.6.3 is what is read here")
        );
        assert!(problem("grpcroutes").unwrap().contains("is missing"));
        assert_eq!((problem("xmeshes"), problem("referencegrants")), (None, None));
    }
}
