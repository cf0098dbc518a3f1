//! containerd's `config.toml`: the folders of its CRI plugin, in the tables of each version of that file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Host, Said};
use crate::install::InstallError;

/// The CRI plugin, in configuration of version 3, 2 and 1. A file of one version may import another's.
const CRI: [&str; 3] = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "cri"];

/// Reads the file and what it imports; `None` when there is none, or this containerd does not run pods.
pub(super) fn read(host: Host<'_>, file: &str) -> Result<Option<Said>, InstallError> {
    let Some(main) = host.read(Path::new(file))? else { return Ok(None) };
    let mut said = Said::default();
    let mut waiting = vec![(PathBuf::from(file), main)];
    let real = |path: &Path| host.path(path).canonicalize().unwrap_or_else(|_| host.path(path));
    let mut seen = BTreeSet::from([real(Path::new(file))]);
    let mut disabled = false;
    while !waiting.is_empty() {
        let (path, table) = waiting.remove(0);
        disabled |= strings(table.get("disabled_plugins")).iter().any(|name| CRI.contains(&name.as_str()));
        CRI.iter().rev().filter_map(|plugin| cni(&table, plugin)).for_each(|cni| said.take(cni));
        // What is imported comes after the file that imports it, and wins.
        for pattern in strings(table.get("imports")) {
            let pattern = path.with_file_name(pattern);
            for imported in host.matching(&pattern) {
                if seen.insert(real(&imported))
                    && let Some(table) = host.read(&imported)?
                {
                    waiting.push((imported, table));
                }
            }
        }
    }
    Ok((!disabled).then_some(said))
}

fn cni<'a>(table: &'a Table, plugin: &str) -> Option<&'a Table> {
    table.get("plugins")?.get(plugin)?.get("cni")?.as_table()
}

impl Said {
    fn take(&mut self, cni: &Table) {
        let text = |key: &str| cni.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(dir) = text("conf_dir") {
            self.conf_dir = Some(dir.to_owned());
        }
        let mut dirs = strings(cni.get("bin_dirs"));
        if dirs.is_empty() {
            dirs.extend(text("bin_dir").map(ToOwned::to_owned));
        }
        if !dirs.is_empty() {
            self.bin_dirs = dirs;
        }
    }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let values = value.and_then(Value::as_array).into_iter().flatten();
    values.filter_map(Value::as_str).map(ToOwned::to_owned).collect()
}
