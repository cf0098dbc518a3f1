//! The one writer: changes → objects → snapshot, published through atomic pointers.
//!
//! Readers never wait for it and it never waits for them. How a snapshot is made of objects is given to it
//! (`attach` and `compile` behind one function), so that this module knows neither.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::objects::{Change, Changed, Objects};
use super::report::{Report, Severity};
use super::source::{ClusterError, ObjectSource, Update};
use crate::snapshot::Snapshot;

/// The latest snapshot: what the data path loads once per request or connection.
pub type SharedSnapshot = Arc<ArcSwap<Snapshot>>;

/// What everyone but the writer sees. Clones share one state.
#[derive(Clone, Debug)]
pub struct ClusterView {
    snapshot: SharedSnapshot,
    objects: Arc<RwLock<Objects>>,
    reports: Arc<ArcSwap<Vec<Report>>>,
    generation: watch::Receiver<u64>,
}

impl ClusterView {
    /// The pointer to the latest snapshot, empty (generation 0) until everything has been read once.
    #[must_use]
    pub const fn snapshot(&self) -> &SharedSnapshot {
        &self.snapshot
    }

    /// The latest objects: never older than the snapshot of the same moment.
    ///
    /// The writer waits for as long as they are looked at, so this is for a look, and never for the data path.
    pub fn objects(&self) -> RwLockReadGuard<'_, Objects> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every problem that the source has now, sorted.
    #[must_use]
    pub fn reports(&self) -> Arc<Vec<Report>> {
        self.reports.load_full()
    }

    /// Generations as they are published: when a number is seen here, its snapshot and objects are there.
    #[must_use]
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }

    /// Waits until everything has been read once. `None` if the writer ended before.
    pub async fn ready(&self) -> Option<()> {
        self.generation.clone().wait_for(|generation| *generation > 0).await.is_ok().then_some(())
    }

    /// Waits until `find` finds something in the objects, such as a Pod by its key.
    ///
    /// `None` if the writer ended before. The caller sets the deadline.
    pub async fn wait_for<T>(&self, mut find: impl FnMut(&Objects) -> Option<T>) -> Option<T> {
        let mut generation = self.generation.clone();
        loop {
            generation.borrow_and_update();
            if let Some(found) = find(&self.objects()) {
                return Some(found);
            }
            generation.changed().await.ok()?;
        }
    }
}

/// The task that alone changes what [`ClusterView`] shows.
#[derive(Debug)]
pub struct Writer<S, B> {
    source: S,
    build: B,
    view: ClusterView,
    generation: watch::Sender<u64>,
    known_reports: BTreeSet<Report>,
}

impl<S, B> Writer<S, B>
where
    S: ObjectSource,
    B: FnMut(&Objects, &Changed) -> Snapshot,
{
    /// A writer that reads `source` and builds snapshots by `build(objects, what changed since the last call)`.
    ///
    /// The first call is for everything there is. The generation is set here.
    pub fn new(source: S, build: B) -> (Self, ClusterView) {
        let (generation, receiver) = watch::channel(0);
        let view = ClusterView {
            snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            objects: Arc::default(),
            reports: Arc::new(ArcSwap::from_pointee(Vec::new())),
            generation: receiver,
        };
        let writer = Self { source, build, view: view.clone(), generation, known_reports: BTreeSet::new() };
        (writer, view)
    }

    /// Writes until the source fails.
    ///
    /// # Errors
    /// What ended the source. What was last published stays.
    pub async fn run(mut self) -> Result<Infallible, ClusterError> {
        loop {
            let update = self.source.next().await?;
            self.apply(update);
        }
    }

    fn apply(&mut self, update: Update) {
        self.log(&update.reports);
        self.view.reports.store(Arc::new(update.reports));
        let generation = *self.generation.borrow();
        if update.changes.is_empty() && generation > 0 {
            return;
        }
        let count = update.changes.len();
        let changed = self.change_objects(update.changes);
        let mut snapshot = (self.build)(&self.view.objects(), &changed);
        snapshot.generation = generation + 1;
        self.view.snapshot.store(Arc::new(snapshot));
        self.generation.send_replace(generation + 1);
        tracing::debug!(generation = generation + 1, changed = count, "snapshot published");
    }

    fn change_objects(&self, changes: Vec<Change>) -> Changed {
        let mut changed = Changed::default();
        let mut objects = self.view.objects.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            objects.apply(change, &mut changed);
        }
        changed
    }

    /// Each problem is logged when it comes up and when it has gone, however often files are read.
    fn log(&mut self, reports: &[Report]) {
        let reports: BTreeSet<Report> = reports.iter().cloned().collect();
        for report in reports.difference(&self.known_reports) {
            match report.severity {
                Severity::Error => tracing::error!(%report, "refused"),
                Severity::Warning => tracing::warn!(%report, "noticed"),
            }
        }
        for report in self.known_reports.difference(&reports) {
            tracing::info!(%report, "solved");
        }
        self.known_reports = reports;
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::sync::mpsc;

    use super::super::objects::{Kind, Object, ObjectId, ObjectKey};
    use super::super::trimmed::Pod;
    use super::*;

    struct Script(mpsc::Receiver<Update>);

    impl ObjectSource for Script {
        async fn next(&mut self) -> Result<Update, ClusterError> {
            match self.0.recv().await {
                Some(update) => Ok(update),
                None => {
                    Err(ClusterError::Read { path: PathBuf::from("x"), source: std::io::Error::other("end") })
                }
            }
        }
    }

    fn key() -> ObjectKey {
        ObjectKey::new("shop", "web")
    }

    fn changes(changes: Vec<Change>) -> Update {
        Update { changes, reports: Vec::new() }
    }

    fn applied() -> Update {
        changes(vec![Change::Applied(key(), Object::Pod(Arc::new(Pod::default())))])
    }

    #[tokio::test(start_paused = true)]
    async fn generations_count_changes_and_readers_see_them_when_they_are_told() {
        let (send, receive) = mpsc::channel(8);
        let mut built = Vec::new();
        let build = move |objects: &Objects, changed: &Changed| {
            built.push((objects.pods.len(), changed.pods.get(&key()).map(Option::is_some)));
            assert_eq!(built, [(0, None), (1, Some(false)), (0, Some(true))][..built.len()]);
            Snapshot::default()
        };
        let (writer, view) = Writer::new(Script(receive), build);
        let play = async {
            let mut generations = view.generations();
            assert_eq!((*generations.borrow(), view.snapshot().load().generation), (0, 0));
            // Nothing in the directory is a state, too.
            send.send(Update::default()).await.unwrap();
            view.ready().await.unwrap();
            assert_eq!(view.snapshot().load().generation, 1);
            send.send(Update::default()).await.unwrap();
            send.send(applied()).await.unwrap();
            view.wait_for(|objects| objects.pods.get(&key()).cloned()).await.unwrap();
            assert_eq!(*generations.wait_for(|generation| *generation > 1).await.unwrap(), 2);
            assert_eq!(view.snapshot().load().generation, 2);
            let gone = Change::Deleted(ObjectId { kind: Kind::Pod, key: key() });
            send.send(changes(vec![gone])).await.unwrap();
            view.wait_for(|objects| objects.pods.is_empty().then_some(())).await.unwrap();
            drop(send);
        };
        let (ended, ()) = tokio::join!(writer.run(), play);
        assert_eq!(ended.unwrap_err().to_string(), "the directory x cannot be read");
        assert_eq!(view.objects().pods.len(), 0);
        assert_eq!(view.wait_for(|objects| objects.pods.get(&key()).cloned()).await, None);
    }

    #[tokio::test]
    async fn reports_are_shown_while_they_last_and_logged_once() {
        let report = Report {
            file: Some(PathBuf::from("a.yaml")),
            object: Some("Pod shop/web".to_owned()),
            field: Some("metadata.uid".to_owned()),
            severity: Severity::Error,
            message: "is required".to_owned(),
        };
        assert_eq!(report.to_string(), "a.yaml: Pod shop/web: metadata.uid: is required");
        let (_send, receive) = mpsc::channel(1);
        let (mut writer, view) = Writer::new(Script(receive), |_: &Objects, _: &Changed| Snapshot::default());
        let text = logged(|| {
            for _ in 0..3 {
                writer.apply(Update { changes: Vec::new(), reports: vec![report.clone()] });
            }
            assert_eq!(*view.reports(), [report]);
            writer.apply(Update::default());
        });
        assert_eq!(view.reports().len(), 0);
        assert_eq!(*view.generations().borrow(), 1);
        assert_eq!(text.matches("refused").count(), 1, "{text}");
        assert_eq!(text.matches("solved").count(), 1, "{text}");
    }

    #[tokio::test]
    async fn a_warning_says_nothing_of_what_became_of_the_document() {
        let report = Report {
            file: Some(PathBuf::from("a.yaml")),
            object: Some("Ingress shop/web".to_owned()),
            field: None,
            severity: Severity::Warning,
            message: "kind Ingress of networking.k8s.io/v1 is not read yet".to_owned(),
        };
        let (_send, receive) = mpsc::channel(1);
        let (mut writer, _view) =
            Writer::new(Script(receive), |_: &Objects, _: &Changed| Snapshot::default());
        let text = logged(|| writer.apply(Update { changes: Vec::new(), reports: vec![report.clone()] }));
        assert!(text.contains("WARN") && text.contains("noticed"), "{text}");
        assert!(!text.contains("taken") && !text.contains("refused"), "{text}");
    }

    /// What is logged meanwhile.
    fn logged(run: impl FnOnce()) -> String {
        let lines = LogLines::default();
        let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
        tracing::subscriber::with_default(subscriber, run);
        lines.text()
    }

    #[derive(Clone, Default)]
    struct LogLines(Arc<std::sync::Mutex<Vec<u8>>>);

    impl LogLines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl std::io::Write for LogLines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().map_err(|_| std::io::ErrorKind::Other)?.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for LogLines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }
}
