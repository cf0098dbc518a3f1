//! CRI-O's `crio.conf` and its drop-ins: the table `crio.network`.

use std::path::Path;

use toml::Value;

use super::{Host, Said};
use crate::install::InstallError;

/// The main file, which may be missing where there are drop-ins.
pub(super) const FILE: &str = "/etc/crio/crio.conf";
const DROP_INS: &str = "/etc/crio/crio.conf.d/*";

/// Reads the file and the drop-ins, later ones over earlier ones; `None` when there is no CRI-O.
pub(super) fn read(host: Host<'_>) -> Result<Option<Said>, InstallError> {
    let mut said = None;
    let drop_ins = host.matching(Path::new(DROP_INS));
    for file in std::iter::once(FILE.into()).chain(drop_ins) {
        let Some(table) = host.read(&file)? else { continue };
        let said = said.get_or_insert_with(Said::default);
        let Some(network) = table.get("crio").and_then(|crio| crio.get("network")) else { continue };
        let text = |key: &str| network.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(dir) = text("network_dir") {
            said.conf_dir = Some(dir.to_owned());
        }
        let dirs = network.get("plugin_dirs").and_then(Value::as_array).into_iter().flatten();
        let mut dirs: Vec<_> = dirs.filter_map(Value::as_str).map(ToOwned::to_owned).collect();
        if dirs.is_empty() {
            dirs.extend(text("plugin_dir").map(ToOwned::to_owned));
        }
        if !dirs.is_empty() {
            said.bin_dirs = dirs;
        }
        if let Some(name) = text("cni_default_network") {
            said.default_network = Some(name.to_owned());
        }
    }
    Ok(said)
}
