//! The last good state on the node's disk, for a proxy that starts while the API server is away.
//!
//! One file, replaced as a whole: a line of JSON that says what follows, then a line per object. It is written in the
//! background soon after something has changed, and seldom enough to be no burden. With 5,000 pods with their slices
//! and 3,000 routes the thread of the source only counts up some 15,000 references for that, within a millisecond;
//! what is written are a few MiB, off that thread, and between two writes is twenty times as long as one takes, and five
//! seconds at least.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::line::{read_line, write_line};
use super::objects::{Object, ObjectId};

/// The file's name in the state directory.
const FILE: &str = "cluster.jsonl";
const FORMAT: &str = "gammarus-cluster";
/// Goes up when an older release could misunderstand what a newer one writes.
const VERSION: u32 = 1;
/// From a change until it is written: others are likely to follow.
const SOON: Duration = Duration::from_secs(1);
/// Between two writes, at least.
const REST: Duration = Duration::from_secs(5);
/// Between two writes, at least, as a multiple of what one takes.
const REST_FACTOR: u32 = 20;

/// What the file begins with.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    /// When it was true, in Unix seconds.
    read: u64,
    /// How many objects follow.
    objects: usize,
}

/// A state of an earlier time.
#[derive(Debug)]
pub(crate) struct OldState {
    /// When it was true.
    pub(crate) read: SystemTime,
    /// Everything there was.
    pub(crate) objects: Vec<(ObjectId, Object)>,
}

/// Why a state cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// Another release, or another program, has written it.
    #[error("{path} is not a state that this release can read: {found}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it says it is.
        found: String,
    },
    /// It cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A part of it is missing or wrong: half a state could leave out what keeps traffic from going in plain text.
    #[error("{path} is broken in line {line}: {message}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// Keeps the state on the disk.
#[derive(Debug)]
pub(crate) struct Keeper {
    path: PathBuf,
    /// When the next write is due, if something has changed.
    due: Option<Instant>,
    /// Before then nothing is written.
    rests_until: Instant,
    /// The write that is under way; it gives the time that it took.
    writing: Option<JoinHandle<Duration>>,
    /// How many writes have begun, and which of them was the last that got through: an older one must not undo it.
    begun: u64,
    done: Arc<Mutex<u64>>,
}

impl Keeper {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join(FILE),
            due: None,
            rests_until: Instant::now(),
            writing: None,
            begun: 0,
            done: Arc::default(),
        }
    }

    /// Reads what was written last; `None` if nothing was.
    pub(crate) fn read(&self) -> Result<Option<OldState>, StateError> {
        read(&self.path)
    }

    /// Something is to be written.
    pub(crate) fn note_change(&mut self) {
        if self.due.is_none() {
            self.due = Some((Instant::now() + SOON).max(self.rests_until));
        }
    }

    /// Waits until something is to be written now. Dropping the future loses nothing.
    pub(crate) async fn is_due(&mut self) {
        loop {
            if let Some(writing) = &mut self.writing {
                let took = writing.await.unwrap_or_default();
                self.writing = None;
                self.rests_until = Instant::now() + REST.max(took * REST_FACTOR);
                self.due = self.due.map(|due| due.max(self.rests_until));
            }
            match self.due {
                Some(due) => return sleep_until(due).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Begins to write.
    pub(crate) fn write(&mut self, objects: Vec<(ObjectId, Object)>) {
        let write = self.begin(objects);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let began = std::time::Instant::now();
            write();
            began.elapsed()
        }));
    }

    /// Writes what is still to be written, at the end.
    pub(crate) fn finish(&mut self, objects: impl FnOnce() -> Vec<(ObjectId, Object)>) {
        if self.due.is_some() {
            self.begin(objects())();
        }
    }

    fn begin(&mut self, objects: Vec<(ObjectId, Object)>) -> impl FnOnce() + Send + 'static + use<> {
        self.due = None;
        self.begun += 1;
        let (path, turn, done) = (self.path.clone(), self.begun, Arc::clone(&self.done));
        move || {
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            if *done > turn {
                return;
            }
            *done = turn;
            if let Err(error) = write(&path, &objects, SystemTime::now()) {
                tracing::warn!(path = %path.display(), %error, "the state of the cluster cannot be kept");
            }
        }
    }
}

/// Replaces the file as a whole.
fn write(path: &Path, objects: &[(ObjectId, Object)], read: SystemTime) -> io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(directory)?;
    // Two proxies share the directory while one takes over from the other.
    let draft = directory.join(format!(".{FILE}.{}", std::process::id()));
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let mut out = BufWriter::with_capacity(1 << 16, file);
    let seconds = read.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let header =
        Header { format: FORMAT.to_owned(), version: VERSION, read: seconds, objects: objects.len() };
    serde_json::to_writer(&mut out, &header)?;
    for (id, object) in objects {
        out.write_all(b"\n")?;
        write_line(&mut out, id, object)?;
    }
    out.write_all(b"\n")?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&draft, path)
}

fn read(path: &Path) -> Result<Option<OldState>, StateError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateError::Read { path: path.to_owned(), source }),
    };
    let mut lines = BufReader::new(file).lines().enumerate();
    let broken = |line: usize, message: String| StateError::Broken { path: path.to_owned(), line, message };
    let mut next = || match lines.next() {
        Some((index, Ok(line))) => Ok(Some((index + 1, line))),
        Some((_, Err(source))) => Err(StateError::Read { path: path.to_owned(), source }),
        None => Ok(None),
    };
    let first = next()?.map(|(_, line)| line).unwrap_or_default();
    let header: Header = serde_json::from_str(&first).map_err(|error| broken(1, error.to_string()))?;
    if header.format != FORMAT || header.version != VERSION {
        let found = format!("format {}, version {}", header.format, header.version);
        return Err(StateError::Foreign { path: path.to_owned(), found });
    }
    let mut objects = Vec::new();
    while let Some((number, line)) = next()? {
        objects.push(read_line(&line).map_err(|message| broken(number, message))?);
    }
    if objects.len() != header.objects {
        let message = format!("{} objects were written, {} are there", header.objects, objects.len());
        return Err(broken(objects.len() + 1, message));
    }
    let read = SystemTime::UNIX_EPOCH + Duration::from_secs(header.read);
    Ok(Some(OldState { read, objects }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::kubernetes::{MESH_KINDS, read_as_known};
    use super::super::objects::Kind;
    use super::*;

    /// One object of each kind that the mesh reads, as the API server sends them.
    fn objects() -> Vec<(ObjectId, Object)> {
        let metadata = json!({"name": "a", "namespace": "shop", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {"gammarus.io/enrolled": "{\"uid\":\"u\",\"addresses\":[\"10.0.0.1\",\"fd00::1\"]}"}});
        let backend = json!({"group": "", "kind": "Service", "name": "a", "port": 80, "weight": 1});
        let parent = json!({"group": "", "kind": "Service", "name": "a", "port": 80});
        let said = [
            (Kind::Namespace, json!({"spec": {}})),
            (
                Kind::Node,
                json!({"spec": {"podCIDR": "10.0.0.0/24"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.1.0.1"}]}}),
            ),
            (
                Kind::Service,
                json!({"spec": {"clusterIP": "10.2.0.1", "ports": [{"port": 80, "targetPort": "http"}]}, "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}),
            ),
            (
                Kind::EndpointSlice,
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a", "uid": "u"}, "hints": {"forZones": [{"name": "z"}]}}], "ports": [{"name": "http", "port": 80}]}),
            ),
            (
                Kind::Pod,
                json!({"spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}]}, "status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}),
            ),
            (
                Kind::HttpRoute,
                json!({"spec": {"parentRefs": [parent], "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "timeouts": {"request": "1s"}, "backendRefs": [backend]}]}}),
            ),
            (
                Kind::GrpcRoute,
                json!({"spec": {"parentRefs": [parent], "rules": [{"matches": [{"method": {"service": "a.B"}}], "backendRefs": [backend]}]}}),
            ),
            (
                Kind::TcpRoute,
                json!({"spec": {"parentRefs": [parent], "rules": [{"backendRefs": [backend]}]}}),
            ),
            (
                Kind::TlsRoute,
                json!({"spec": {"parentRefs": [parent], "hostnames": ["a.b"], "rules": [{"backendRefs": [backend]}]}}),
            ),
            (Kind::ReferenceGrant, json!({"spec": {"from": [], "to": []}})),
        ];
        let objects = read_as_known(said.map(|(kind, mut value)| {
            value["metadata"] = metadata.clone();
            (kind, value)
        }));
        assert_eq!(objects.len(), MESH_KINDS.len() + 1, "a mark, too");
        objects
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("below/cluster.jsonl");
        assert!(read(&path).unwrap().is_none());
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        write(&path, &objects(), now).unwrap();
        let found = read(&path).unwrap().unwrap();
        assert_eq!((found.read, found.objects), (now, objects()));
        let left: Vec<_> =
            fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["cluster.jsonl"], "no draft stays");
        write(&path, &[], now).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().objects, []);
    }

    #[test]
    fn what_is_of_another_release_or_not_whole_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("cluster.jsonl");
        write(&path, &objects(), SystemTime::now()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let refused = |text: String| {
            fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            error.strip_prefix(&format!("{} ", path.display())).unwrap_or(&error).to_owned()
        };
        let newer = text.replacen("\"version\":1", "\"version\":2", 1);
        let foreign = "is not a state that this release can read: format gammarus-cluster, version 2";
        assert_eq!(refused(newer), foreign);
        let short = lines[..lines.len() - 1].join("\n");
        assert_eq!(refused(short), "is broken in line 11: 11 objects were written, 10 are there");
        let cut = text[..text.len() - 5].to_owned();
        assert!(refused(cut).starts_with("is broken in line 12: EOF"));
        assert!(refused(text.replacen("[\"Pod\"", "[\"Cod\"", 1)).ends_with("Cod is no kind"));
        assert!(refused(String::new()).starts_with("is broken in line 1: EOF"));
    }

    #[tokio::test(start_paused = true)]
    async fn writes_are_put_together_and_rest_between() {
        let temp = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(temp.path());
        let start = Instant::now();
        keeper.note_change();
        keeper.note_change();
        keeper.is_due().await;
        assert_eq!(start.elapsed(), SOON);
        keeper.write(objects());
        keeper.note_change();
        keeper.is_due().await;
        assert!(start.elapsed() >= SOON + REST, "{:?}", start.elapsed());
        assert_eq!(keeper.read().unwrap().unwrap().objects.len(), 11);
        // At the end what is due is written at once, and what is not is not.
        keeper.finish(Vec::new);
        assert_eq!(keeper.read().unwrap().unwrap().objects.len(), 0);
        keeper.finish(|| panic!("nothing has changed"));
    }
}
