//! The hops that have arrived at a pod, by their proofs, so that a newer one can continue an older one.
//!
//! The newer one may be another thread's. The register is looked at when a hop begins, is continued and ends.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gammarus_ca::SpiffeId;

use super::deadline::Deadline;
use super::proof::Proof;
use crate::tls::FirstEnd;

/// The hops of one pod. Clones are the same register.
#[derive(Clone, Debug, Default)]
pub struct Register(Arc<Mutex<HashMap<Proof, Arrived>>>);

/// Whose a hop is: proven by its handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The client pod's identity.
    pub identity: SpiffeId,
    /// Its address.
    pub address: IpAddr,
}

#[derive(Debug)]
struct Arrived {
    owner: Owner,
    deadline: Deadline,
}

/// Keeps a hop in the register.
#[derive(Debug)]
pub struct Registered {
    register: Register,
    proof: Proof,
}

impl Register {
    /// Enters a hop, for as long as what is returned is kept.
    #[must_use]
    pub fn enter(&self, proof: Proof, owner: Owner, deadline: Deadline) -> Registered {
        self.hops().insert(proof.clone(), Arrived { owner, deadline });
        Registered { register: self.clone(), proof }
    }

    /// Puts off the end of a hop until `end`, that of the leaves of a newer hop of the same owner. False when there is no
    /// such hop any more, or it is another's.
    #[must_use]
    pub fn put_off(&self, proof: &Proof, owner: &Owner, end: FirstEnd) -> bool {
        let hops = self.hops();
        hops.get(proof).is_some_and(|hop| hop.owner == *owner && hop.deadline.put_off(end))
    }

    /// Nothing that is done under this lock can panic half done.
    fn hops(&self) -> MutexGuard<'_, HashMap<Proof, Arrived>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.register.hops().remove(&self.proof);
    }
}
