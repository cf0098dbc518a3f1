//! The store of leaves: one request per identity, renewal, failure and forgetting.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gammarus_ca::authorize::TokenFile;
use gammarus_ca::issue::LeafLifetime;
use gammarus_ca::root::Root;
use gammarus_ca::server::{CertificateAuthority, serve};
use gammarus_ca::{CaClient, ClientError, SpiffeId, TrustDomain};
use tokio::runtime::Handle;

use super::handshake::handshake;
use super::{DB, Pki, WEB, id};
use crate::tls::store::Fetch;
use crate::tls::{CertError, CertSource, CertStore};

/// A CA in this process, which can be made to fail.
struct Source {
    pki: Pki,
    lifetime: Mutex<Duration>,
    asked: AtomicUsize,
    broken: AtomicBool,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

impl Source {
    fn new(lifetime: Duration) -> Arc<Self> {
        let (asked, broken) = (AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(Self { pki: Pki::new(), lifetime: Mutex::new(lifetime), asked, broken })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl CertSource for Source {
    fn fetch<'a>(&'a self, identity: &'a SpiffeId) -> Fetch<'a> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            if self.broken.load(Ordering::SeqCst) {
                return Err(CertError::Ca { identity: identity.clone(), source: ClientError::Timeout });
            }
            let lifetime = *self.lifetime.lock().unwrap();
            Ok(self.pki.workload_for(&identity.to_string(), lifetime))
        })
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn calls_for_one_identity_share_one_request() {
    let source = Source::new(HOUR);
    let store = Arc::new(CertStore::new(Arc::<Source>::clone(&source), Handle::current()));
    assert!(store.find(&id(WEB)).is_none());
    let (web, db) = (id(WEB), id(DB));
    let (a, b, c) = tokio::join!(store.ensure(&web), store.ensure(&web), store.ensure(&db));
    assert!(Arc::ptr_eq(&a.unwrap(), &b.unwrap()));
    assert_eq!(*c.unwrap().identity(), id(DB));
    assert_eq!(source.asked(), 2);
    assert_eq!(*store.find(&id(WEB)).unwrap().identity(), id(WEB));
    store.ensure(&id(WEB)).await.unwrap();
    assert_eq!(source.asked(), 2, "what is there is not asked for again");
}

#[tokio::test]
async fn a_failed_fetch_is_tried_again_until_it_succeeds() {
    let source = Source::new(HOUR);
    source.broken.store(true, Ordering::SeqCst);
    let store = CertStore::new(Arc::<Source>::clone(&source), Handle::current());
    let waiting = tokio::time::timeout(Duration::from_millis(600), store.ensure(&id(WEB))).await;
    assert!(waiting.is_err(), "there is no leaf to give");
    assert!(store.find(&id(WEB)).is_none());
    source.broken.store(false, Ordering::SeqCst);
    let cert = tokio::time::timeout(Duration::from_secs(10), store.ensure(&id(WEB))).await;
    assert_eq!(*cert.unwrap().unwrap().identity(), id(WEB));
    assert!(source.asked() >= 2);
}

#[tokio::test]
async fn a_leaf_is_renewed_at_about_half_its_life() {
    let source = Source::new(Duration::from_secs(6));
    let store = CertStore::new(Arc::<Source>::clone(&source), Handle::current());
    let first = store.ensure(&id(WEB)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert_eq!(source.asked(), 1, "not before");
    tokio::time::sleep(Duration::from_millis(3300)).await;
    let second = store.find(&id(WEB)).unwrap();
    assert!(source.asked() >= 2 && !Arc::ptr_eq(&first, &second));
    assert!(second.not_after() > first.not_after());
}

#[tokio::test]
async fn a_failed_renewal_keeps_the_leaf_until_it_expires_and_no_longer() {
    let source = Source::new(Duration::from_secs(6));
    let store = CertStore::new(Arc::<Source>::clone(&source), Handle::current());
    let first = store.ensure(&id(WEB)).await.unwrap();
    source.broken.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(4000)).await;
    assert!(source.asked() >= 2, "a renewal was tried");
    assert!(Arc::ptr_eq(&first, &store.find(&id(WEB)).unwrap()), "and the old leaf is kept");
    tokio::time::sleep(Duration::from_millis(2400)).await;
    assert!(store.find(&id(WEB)).is_none(), "an expired leaf is not given out");
    source.broken.store(false, Ordering::SeqCst);
    *source.lifetime.lock().unwrap() = HOUR;
    let renewed = tokio::time::timeout(Duration::from_secs(15), store.ensure(&id(WEB))).await;
    assert!(!Arc::ptr_eq(&first, &renewed.unwrap().unwrap()), "the CA is back");
}

#[tokio::test]
async fn a_forgotten_identity_is_gone_and_no_longer_renewed() {
    let source = Source::new(Duration::from_secs(2));
    let store = Arc::new(CertStore::new(Arc::<Source>::clone(&source), Handle::current()));
    let leaf = Arc::downgrade(&store.ensure(&id(WEB)).await.unwrap());
    assert!(leaf.upgrade().is_some());
    store.forget(&id(WEB));
    tokio::task::yield_now().await;
    assert!(leaf.upgrade().is_none(), "its key is gone as well");
    assert!(store.find(&id(WEB)).is_none() && store.expiries().is_empty());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(source.asked(), 1);
    source.broken.store(true, Ordering::SeqCst);
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.ensure(&id(WEB)).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    store.forget(&id(WEB));
    assert!(matches!(waiting.await.unwrap(), Err(CertError::Forgotten(_))), "who waits is told");
}

#[tokio::test]
async fn workloads_of_the_real_ca_take_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for sub in ["tokens", "objects"] {
        std::fs::create_dir(path(sub)).unwrap();
    }
    std::fs::write(path("tokens/node-a"), "token-of-node-a-0123456789").unwrap();
    let pod = |account: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {account}, namespace: shop}}\n\
             spec: {{nodeName: node-a, serviceAccountName: {account}}}\n"
        )
    };
    std::fs::write(path("objects/web.yaml"), pod("web")).unwrap();
    let trust_domain = TrustDomain::new("cluster.local").unwrap();
    let ca = CertificateAuthority {
        root: Root::load_or_create(&path("state"), &trust_domain).unwrap(),
        trust_domain,
        authorizer: Box::new(TokenFile::new(path("tokens"), path("objects"))),
        leaf_lifetime: LeafLifetime::new(HOUR).unwrap(),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let names = vec!["gammarus-ca".to_owned()];
    tokio::spawn(serve(listener, Arc::new(ca), names, std::future::pending()));
    let client = CaClient::new(address, "gammarus-ca", path("state/ca.crt"), path("tokens/node-a")).unwrap();
    let store = CertStore::new(Arc::new(client), Handle::current());
    let web = store.ensure(&id(WEB)).await.unwrap();
    let refused = tokio::time::timeout(Duration::from_millis(500), store.ensure(&id(DB))).await;
    assert!(refused.is_err(), "node-a has no pod of that service account yet");
    std::fs::write(path("objects/db.yaml"), pod("db")).unwrap();
    let db = tokio::time::timeout(Duration::from_secs(10), store.ensure(&id(DB))).await.unwrap().unwrap();
    let (server, client) = handshake(db.client_config(&id(WEB)).unwrap(), web.server_config()).await;
    assert_eq!((server.unwrap(), client.unwrap()), (id(WEB), id(DB)));
}
