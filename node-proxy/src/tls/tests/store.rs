//! The store of leaves: one request per identity, renewal, failure and forgetting.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gammarus_ca::answer::CertificateAuthority;
use gammarus_ca::authorize::TokenFile;
use gammarus_ca::bundle::TrustBundle;
use gammarus_ca::client::BundleAnswer;
use gammarus_ca::issue::LeafLifetime;
use gammarus_ca::keeper::Keeper;
use gammarus_ca::limit::{Rate, RateLimit};
use gammarus_ca::metrics::Metrics;
use gammarus_ca::rotation::Terms;
use gammarus_ca::server::serve;
use gammarus_ca::{CaClient, ClientError, SpiffeId, TrustDomain};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use tokio::runtime::Handle;

use super::handshake::handshake;
use super::{DB, Pki, WEB, id};
use crate::tls::store::Fetch;
use crate::tls::trust::Ask;
use crate::tls::{BundleSource, CertError, CertSource, CertStore, WorkloadCert};

/// A CA in this process, which can be made to fail.
struct Source {
    pki: Pki,
    lifetime: Mutex<Duration>,
    asked: AtomicUsize,
    broken: AtomicBool,
    /// What is trusted besides its own root.
    others: Mutex<Vec<CertificateDer<'static>>>,
    /// What it says about the next question.
    ask_again: Mutex<Duration>,
    /// The tags that were said to be in use.
    reports: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

impl Source {
    fn new(lifetime: Duration) -> Arc<Self> {
        let (asked, broken) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (lifetime, others, reports) = (Mutex::new(lifetime), Mutex::default(), Mutex::default());
        let ask_again = Mutex::new(Duration::from_millis(100));
        Arc::new(Self { pki: Pki::new(), lifetime, asked, broken, others, reports, ask_again })
    }

    fn bundle(&self) -> TrustBundle {
        let others = self.others.lock().unwrap().clone();
        TrustBundle::new(std::iter::once(self.pki.root.clone()).chain(others))
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl BundleSource for Source {
    fn ask<'a>(&'a self, held: Option<&'a str>) -> Ask<'a> {
        Box::pin(async move {
            self.reports.lock().unwrap().extend(held.map(str::to_owned));
            let bundle = Some(self.bundle()).filter(|bundle| held != Some(bundle.tag()));
            let ask_again = Some(*self.ask_again.lock().unwrap());
            Ok(BundleAnswer { bundle, ask_again })
        })
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
    assert!(store.find(&id(WEB)).is_none() && store.expiries().leaves.is_empty());
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

/// Waits until something holds.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let looking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), looking).await.expect(what);
}

#[tokio::test]
async fn a_new_root_is_trusted_with_the_same_leaf_and_reported_when_every_leaf_has_it() {
    let (source, other) = (Source::new(HOUR), Pki::new());
    let store = CertStore::new(Arc::<Source>::clone(&source), Handle::current());
    let (web, _) = (store.ensure(&id(WEB)).await.unwrap(), store.ensure(&id(DB)).await.unwrap());
    // It knows our root, and we do not know its.
    let both = TrustBundle::new([other.root.clone(), source.pki.root.clone()]);
    let stranger = other.workload(DB).with_bundle(Arc::new(both)).unwrap();
    let (_, judged) = handshake(stranger.client_config(&id(WEB)).unwrap(), web.server_config()).await;
    assert!(judged.is_err(), "its root is not known yet");
    let before = source.bundle();
    eventually("a first report", || source.reports.lock().unwrap().iter().any(|tag| tag == before.tag()))
        .await;
    source.others.lock().unwrap().push(other.root.clone());
    let after = source.bundle();
    eventually("a report", || source.reports.lock().unwrap().iter().any(|tag| tag == after.tag())).await;
    for identity in [WEB, DB] {
        assert_eq!(store.find(&id(identity)).unwrap().bundle().tag(), after.tag());
    }
    let now = store.find(&id(WEB)).unwrap();
    assert_eq!((now.not_after(), source.asked()), (web.not_after(), 2), "no leaf was renewed for it");
    let (_, judged) = handshake(stranger.client_config(&id(WEB)).unwrap(), now.server_config()).await;
    assert_eq!(judged.unwrap(), id(DB));
    // And it is gone again when the bundle says so.
    source.others.lock().unwrap().clear();
    eventually("the old bundle", || store.find(&id(WEB)).unwrap().bundle().tag() == before.tag()).await;
}

#[tokio::test]
async fn a_peer_whose_issuer_is_unknown_makes_it_ask_long_before_it_would_have() {
    let (source, other) = (Source::new(HOUR), Pki::new());
    *source.ask_again.lock().unwrap() = HOUR;
    let store = CertStore::new(Arc::<Source>::clone(&source), Handle::current());
    let web = store.ensure(&id(WEB)).await.unwrap();
    eventually("a first report", || source.reports.lock().unwrap().len() == 1).await;
    source.others.lock().unwrap().push(other.root.clone());
    store.doubt_trust();
    eventually("the new bundle", || store.find(&id(WEB)).unwrap().bundle() != web.bundle()).await;
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
    let terms = Terms::usual(LeafLifetime::new(HOUR).unwrap());
    let ca = CertificateAuthority {
        keeper: Arc::new(Keeper::open(&path("state"), &trust_domain, terms, None).unwrap()),
        authorizer: Box::new(TokenFile::new(path("tokens"), path("objects"))),
        limit: RateLimit::new(Rate { burst: 1000.0, per_second: 1000.0 }),
        metrics: Arc::new(Metrics::new().unwrap()),
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

#[tokio::test]
async fn a_leaf_of_another_process_is_used_at_once_and_renewed_at_half_its_life() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let first = CertStore::new(Source::new(HOUR), Handle::current()).telling(tell);
    let fetched = first.ensure(&id(WEB)).await.unwrap();
    assert!(Arc::ptr_eq(&fetched, &told.recv().await.unwrap()), "who wants to know is told");

    let source = Source::new(HOUR);
    let presented = source.pki.present(WEB, |params| {
        params.not_before = OffsetDateTime::now_utc();
        params.not_after = params.not_before + Duration::from_secs(6);
    });
    let original = source.pki.accept(WEB, presented).unwrap();
    let key = PrivateKeyDer::try_from(original.key_der()).unwrap();
    let copy = || Arc::new(WorkloadCert::new(&id(WEB), original.signed(), &key).unwrap());
    let store = CertStore::new(Arc::<Source>::clone(&source), Handle::current());
    store.adopt(copy());
    let adopted = store.find(&id(WEB)).unwrap();
    assert!(Arc::ptr_eq(&adopted, &store.ensure(&id(WEB)).await.unwrap()));
    store.adopt(copy());
    assert!(Arc::ptr_eq(&adopted, &store.find(&id(WEB)).unwrap()), "one that is here stays");
    let (server, client) =
        handshake(adopted.client_config(&id(WEB)).unwrap(), original.server_config()).await;
    assert_eq!((server.unwrap(), client.unwrap()), (id(WEB), id(WEB)));
    assert_eq!(source.asked(), 0, "nothing was asked for");
    let renewed = async {
        while Arc::ptr_eq(&adopted, &store.find(&id(WEB)).unwrap()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), renewed).await.unwrap();
}
