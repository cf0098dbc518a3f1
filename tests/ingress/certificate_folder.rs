//! Certificates for servers that read them from a folder, as a pod has a Secret.

use std::fs;
use std::path::Path;

/// A folder with the certificate `DIR/NAME.pem` and its key under the names that they have in a Secret.
#[track_caller]
pub(crate) fn certificate_folder(dir: &Path, name: &str) -> String {
    let folder = dir.join(format!("{name}-certificate"));
    fs::create_dir_all(&folder).unwrap();
    for (file, end) in [("tls.crt", "pem"), ("tls.key", "key")] {
        fs::copy(dir.join(format!("{name}.{end}")), folder.join(file)).unwrap();
    }
    folder.display().to_string()
}
