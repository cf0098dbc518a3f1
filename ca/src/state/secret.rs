//! The state in a Secret that all replicas share, and its bundle in a ConfigMap.
//!
//! Whoever writes names the version that it has read. So of replicas that take a step at once only one does, and the
//! others take over what it has made. The ConfigMap is looked at before the Secret, and written after it: a bundle that
//! does not follow from a Secret that was read later is not of another replica, but an edit, and is put back.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::{CA_CERT_FILE, News, STATE_FILE, State, StateError, Store};
use crate::cluster::{Cluster, ClusterError, FIELD_MANAGER};
use crate::issue::LeafLifetime;
use crate::spiffe::TrustDomain;

/// The Secret that has the state, under the key [`STATE_FILE`].
pub const STATE_SECRET: &str = "gammarus-ca";
/// The ConfigMap that has the bundle, under the key [`CA_CERT_FILE`].
pub const BUNDLE_CONFIG_MAP: &str = "gammarus-trust-bundle";
/// Between two looks at the Secret: so many in a leaf's life, and within these bounds.
const LOOKS_PER_LEAF_LIFE: u32 = 20;
const SHORTEST_PERIOD: Duration = Duration::from_millis(500);
const LONGEST_PERIOD: Duration = Duration::from_secs(5);
/// After so many looks that failed a replica does not know what the others do.
const LOOKS_UNTIL_LOST: u32 = 5;

/// The Secret and the ConfigMap of a cluster's CA.
pub struct StateSecret {
    cluster: Cluster,
    period: Duration,
    /// As it was read or written last.
    secret: Option<Secret>,
    /// The same of the ConfigMap.
    bundle: Result<Option<ConfigMap>, ClusterError>,
}

impl fmt::Debug for StateSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateSecret").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl StateSecret {
    /// In the namespace of `cluster`, looked at as often as leaves of this life need it.
    #[must_use]
    pub fn new(cluster: Cluster, leaf: LeafLifetime) -> Self {
        let period = (leaf.duration() / LOOKS_PER_LEAF_LIFE).clamp(SHORTEST_PERIOD, LONGEST_PERIOD);
        Self { cluster, period, secret: None, bundle: Ok(None) }
    }

    fn secrets(&self) -> Api<Secret> {
        self.cluster.own()
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        self.cluster.own()
    }

    fn bundle_place(&self) -> PathBuf {
        format!("ConfigMap {}/{BUNDLE_CONFIG_MAP}", self.cluster.namespace()).into()
    }

    fn failed(&self, error: ClusterError) -> StateError {
        match error {
            ClusterError::Conflict => StateError::Conflict(self.place()),
            source => StateError::Cluster { place: self.place(), source },
        }
    }

    /// Reads both, the ConfigMap first.
    fn read(&mut self) -> Result<Option<Secret>, StateError> {
        self.bundle = self.cluster.wait(self.config_maps().get_opt(BUNDLE_CONFIG_MAP));
        self.cluster.wait(self.secrets().get_opt(STATE_SECRET)).map_err(|error| self.failed(error))
    }

    /// Makes the Secret with nothing in it, if nobody has: by an apply, which a role can limit to this one name.
    fn make(&self) -> Result<Secret, StateError> {
        let empty = Patch::Apply(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": STATE_SECRET},
        }));
        let (api, params) = (self.secrets(), PatchParams::apply(FIELD_MANAGER));
        let secret = self.cluster.wait(api.patch(STATE_SECRET, &params, &empty));
        let secret = secret.map_err(|error| self.failed(error))?;
        if text_of(&secret).is_some() { Err(StateError::Conflict(self.place())) } else { Ok(secret) }
    }
}

/// The state's text, if the Secret has any.
fn text_of(secret: &Secret) -> Option<&[u8]> {
    let data = secret.data.as_ref()?.get(STATE_FILE)?;
    (!data.0.is_empty()).then_some(&data.0)
}

/// The bundle's text, if the ConfigMap has any.
fn pem_of(bundle: &ConfigMap) -> Option<&str> {
    bundle.data.as_ref()?.get(CA_CERT_FILE).map(String::as_str).filter(|pem| !pem.trim().is_empty())
}

impl Store for StateSecret {
    fn place(&self) -> PathBuf {
        format!("Secret {}/{STATE_SECRET}", self.cluster.namespace()).into()
    }

    fn period(&self) -> Duration {
        self.period
    }

    fn lag(&self) -> Duration {
        self.period * LOOKS_UNTIL_LOST
    }

    fn load(&mut self, trust_domain: &TrustDomain) -> Result<Option<State>, StateError> {
        self.secret = self.read()?;
        let bundle = self.bundle.clone().map_err(|error| self.failed(error))?;
        let place = self.place();
        match self.secret.as_ref().and_then(text_of) {
            Some(text) => State::parse(text, &place, trust_domain).map(Some),
            None if bundle.as_ref().and_then(pem_of).is_some() => {
                Err(StateError::KeyMissing { cert: self.bundle_place(), state: place })
            }
            None => Ok(None),
        }
    }

    fn news(&mut self, trust_domain: &TrustDomain) -> Result<News, StateError> {
        let found = self.read()?;
        let Some(text) = found.as_ref().and_then(text_of) else {
            self.secret = found;
            return Ok(News::Gone);
        };
        let version = |secret: &Secret| secret.metadata.resource_version.clone();
        if self.secret.as_ref().map(version) == found.as_ref().map(version) {
            return Ok(News::Nothing);
        }
        // One that cannot be taken is not noted: nothing is ever written over it.
        let theirs = State::parse(text, &self.place(), trust_domain)?;
        self.secret = found;
        Ok(News::Stored(theirs))
    }

    fn store(&mut self, state: &State) -> Result<(), StateError> {
        let text = state.to_json(&self.place())?;
        let mut secret = match self.secret.clone() {
            Some(secret) => secret,
            None => self.make()?,
        };
        let data = secret.data.get_or_insert_with(BTreeMap::new);
        data.insert(STATE_FILE.to_owned(), ByteString(text));
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written = self.cluster.wait(self.secrets().replace(STATE_SECRET, &params, &secret));
        self.secret = Some(written.map_err(|error| self.failed(error))?);
        Ok(())
    }

    fn give_out(&mut self, bundle_pem: &str) -> Result<(), StateError> {
        let place = self.bundle_place();
        let failed = |error| match error {
            ClusterError::Conflict => StateError::Conflict(place.clone()),
            source => StateError::Cluster { place: place.clone(), source },
        };
        let found = self.bundle.as_ref().map_err(|error| failed(error.clone()))?;
        if found.as_ref().and_then(pem_of) == Some(bundle_pem) {
            return Ok(());
        }
        // What was read is what is replaced: another replica may be further by now.
        let mut metadata = json!({"name": BUNDLE_CONFIG_MAP});
        if let Some(version) = found.as_ref().and_then(|found| found.metadata.resource_version.as_ref()) {
            metadata["resourceVersion"] = version.as_str().into();
        }
        let wanted = Patch::Apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {CA_CERT_FILE: bundle_pem},
        }));
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let written = self.cluster.wait(self.config_maps().patch(BUNDLE_CONFIG_MAP, &params, &wanted));
        self.bundle = Ok(Some(written.map_err(failed)?));
        tracing::info!(config_map = %place.display(), "the trust bundle was written");
        Ok(())
    }
}
