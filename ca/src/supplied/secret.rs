//! A supplied signer in a Secret: without the Secret, our own signs; what is there changes as a whole.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Secret;

use super::{CHAIN, KEY, ROOTS, SignerSource, SignerText, SuppliedError};
use crate::cluster::Cluster;
use crate::signer::SignerFiles;

/// The Secret in which a person supplies a signer.
pub const SIGNER_SECRET: &str = "gammarus-ca-signer";

/// The Secret, in the namespace of the CA.
#[derive(Clone, Debug)]
pub struct SignerSecret(Cluster);

impl SignerSecret {
    /// Nothing is read yet.
    #[must_use]
    pub const fn new(cluster: Cluster) -> Self {
        Self(cluster)
    }

    fn place(&self) -> String {
        format!("Secret {}/{SIGNER_SECRET}", self.0.namespace())
    }
}

impl SignerSource for SignerSecret {
    fn files(&self) -> SignerFiles {
        let part = |name| PathBuf::from(format!("{} {name}", self.place()));
        SignerFiles { key: part(KEY), chain: part(CHAIN), roots: part(ROOTS) }
    }

    fn is_whole(&self) -> bool {
        true
    }

    fn read(&self) -> Result<Option<SignerText>, SuppliedError> {
        let found = self.0.wait(self.0.own::<Secret>().get_opt(SIGNER_SECRET));
        let place = || self.place().into();
        let Some(secret) = found.map_err(|source| SuppliedError::Cluster { place: place(), source })? else {
            return Ok(None);
        };
        let data = secret.data.unwrap_or_default();
        // What is not there, or no text, is found wrong where it is used.
        let text = |name| {
            data.get(name).map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
        };
        Ok(Some(SignerText { key: text(KEY), chain: text(CHAIN), roots: text(ROOTS) }))
    }
}
