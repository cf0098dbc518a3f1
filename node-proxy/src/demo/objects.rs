//! The part of an API server in a world: objects as files, with what a server fills in.
//!
//! `apply` does to each document what `kubectl apply` and the server do together as far as the mesh can
//! see it: namespace, uid, creation time, clusterIPs. Everything else is written as it was given.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use super::address::{Block, Families};
use super::fault::DemoError;

/// Kinds that have no namespace.
const CLUSTER_SCOPED: [&str; 2] = ["Namespace", "Node"];
/// The first clusterIP's host number: lower ones belong to a cluster's own Services.
const FIRST_SERVICE: u8 = 10;

/// Which object was applied, `Kind namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Applied {
    /// Its kind.
    pub kind: String,
    /// Its namespace, empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The folder of objects and what has been given out for them.
#[derive(Debug)]
pub(crate) struct ObjectFolder {
    dir: PathBuf,
    families: Families,
    applied: BTreeMap<Applied, Value>,
    services: u8,
}

impl ObjectFolder {
    pub(crate) fn create(dir: &Path, families: Families) -> Result<Self, DemoError> {
        fs::create_dir_all(dir).map_err(DemoError::file(dir))?;
        Ok(Self { dir: dir.to_owned(), families, applied: BTreeMap::new(), services: FIRST_SERVICE })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes every document of `yaml`; those without a namespace go to `namespace`.
    pub(crate) fn apply(
        &mut self,
        origin: &str,
        yaml: &str,
        namespace: &str,
    ) -> Result<Vec<Applied>, DemoError> {
        let wrong = |problem: String| DemoError::Object { origin: origin.to_owned(), problem };
        let documents =
            serde_saphyr::from_multiple::<Value>(yaml).map_err(|error| wrong(error.to_string()))?;
        let mut applied = Vec::new();
        for document in documents.into_iter().filter(|document| !document.is_null()) {
            applied.push(self.write(origin, document, namespace)?);
        }
        Ok(applied)
    }

    /// Writes one object.
    pub(crate) fn write(
        &mut self,
        origin: &str,
        mut object: Value,
        namespace: &str,
    ) -> Result<Applied, DemoError> {
        let wrong =
            |problem: &str| DemoError::Object { origin: origin.to_owned(), problem: problem.to_owned() };
        let kind = object["kind"].as_str().ok_or_else(|| wrong("an object without `kind`"))?.to_owned();
        let name =
            object["metadata"]["name"].as_str().ok_or_else(|| wrong("an object without `metadata.name`"))?;
        let namespace = match object["metadata"]["namespace"].as_str() {
            _ if CLUSTER_SCOPED.contains(&kind.as_str()) => "",
            Some(own) => own,
            None => namespace,
        };
        let key = Applied { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        self.fill_metadata(&key, &mut object)?;
        if key.kind == "Service" {
            self.fill_addresses(&key, &mut object)?;
        }
        let text = serde_saphyr::to_string(&object).map_err(|error| wrong(&error.to_string()))?;
        replace(&self.path(&key), &text)?;
        self.applied.insert(key.clone(), object);
        Ok(key)
    }

    /// Removes an object's file; one that is not there is as it should be.
    pub(crate) fn delete(&mut self, key: &Applied) -> Result<(), DemoError> {
        let path = self.path(key);
        match self.applied.remove(key) {
            Some(_) => fs::remove_file(&path).map_err(DemoError::file(path)),
            None => Ok(()),
        }
    }

    /// The lines of `/etc/hosts` for pods of `namespace`: every Service under the names that cluster DNS
    /// would answer, the short one only in the Service's own namespace.
    pub(crate) fn hosts(&self, namespace: &str) -> String {
        let mut lines = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        for (key, service) in self.applied.iter().filter(|(key, _)| key.kind == "Service") {
            let (name, home) = (&key.name, &key.namespace);
            let short = if home == namespace { format!("{name} ") } else { String::new() };
            for address in service["spec"]["clusterIPs"].as_array().into_iter().flatten() {
                let address = address.as_str().filter(|text| text.parse::<IpAddr>().is_ok());
                let Some(address) = address else { continue };
                lines += &format!(
                    "{address} {short}{name}.{home} {name}.{home}.svc {name}.{home}.svc.cluster.local\n"
                );
            }
        }
        lines
    }

    fn path(&self, key: &Applied) -> PathBuf {
        let kind = key.kind.to_lowercase();
        let place = if key.namespace.is_empty() { String::new() } else { format!("{}.", key.namespace) };
        self.dir.join(format!("{kind}.{place}{}.yaml", key.name))
    }

    fn fill_metadata(&self, key: &Applied, object: &mut Value) -> Result<(), DemoError> {
        let old = self.applied.get(key).map(|old| &old["metadata"]);
        let fresh = json!({ "uid": fresh_uid()?, "creationTimestamp": now()? });
        let metadata = &mut object["metadata"];
        if !key.namespace.is_empty() {
            metadata["namespace"] = json!(key.namespace);
        }
        for field in ["uid", "creationTimestamp"] {
            if metadata[field].is_null() {
                metadata[field] = old.unwrap_or(&fresh)[field].clone();
            }
        }
        Ok(())
    }

    fn fill_addresses(&mut self, key: &Applied, object: &mut Value) -> Result<(), DemoError> {
        let spec = &mut object["spec"];
        if spec["type"] == "ExternalName" || !spec["clusterIP"].is_null() {
            return Ok(());
        }
        if let Some(old) = self.applied.get(key).map(|old| &old["spec"]["clusterIPs"]) {
            spec["clusterIPs"] = old.clone();
        }
        if spec["clusterIPs"].is_null() {
            let host = self.services;
            self.services = host.checked_add(1).ok_or_else(|| DemoError::Object {
                origin: format!("Service {}/{}", key.namespace, key.name),
                problem: "all clusterIPs of this world are taken".to_owned(),
            })?;
            let addresses = self.families.each().iter();
            spec["clusterIPs"] =
                addresses.map(|family| json!(Block::Services.address(*family, host))).collect();
        }
        spec["clusterIP"] = spec["clusterIPs"][0].clone();
        spec["ipFamilies"] = self.families.each().iter().map(|family| json!(family.as_label())).collect();
        let policy = if self.families == Families::Dual { "PreferDualStack" } else { "SingleStack" };
        spec["ipFamilyPolicy"] = json!(policy);
        Ok(())
    }
}

/// A new random uid, as the API server gives them.
pub(crate) fn fresh_uid() -> Result<String, DemoError> {
    const SOURCE: &str = "/proc/sys/kernel/random/uuid";
    Ok(fs::read_to_string(SOURCE).map_err(DemoError::file(SOURCE))?.trim().to_owned())
}

/// The present second, as objects write it.
pub(crate) fn now() -> Result<String, DemoError> {
    let wrong = |problem: String| DemoError::Object { origin: "the clock".to_owned(), problem };
    let now =
        time::OffsetDateTime::now_utc().replace_nanosecond(0).map_err(|error| wrong(error.to_string()))?;
    now.format(&Rfc3339).map_err(|error| wrong(error.to_string()))
}

/// Replaces a file at once, so that nobody reads half of it.
fn replace(path: &Path, text: &str) -> Result<(), DemoError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.draft"));
    fs::write(&draft, text).map_err(DemoError::file(&draft))?;
    fs::rename(&draft, path).map_err(DemoError::file(path))
}
