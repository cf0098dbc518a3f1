//! A world leaves nothing behind: not when it is dropped, not on a panic, not on SIGINT or SIGTERM; and
//! what a killed process left is swept when the next world is made.
//!
//! A world is its folder under [`WORLDS`]: the folder's name is the prefix of all its namespaces, and the
//! file `lock` in it is locked by the living owner. A folder that can be locked belongs to nobody.
//! Only processes found inside the world's own namespaces are ended, by their ids.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use super::command::{self, until};
use super::fault::DemoError;

/// Where the folders of all worlds of this machine are.
const WORLDS: &str = "/tmp/gammarus-worlds";
/// How long processes have between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(3);

static NEXT: AtomicU32 = AtomicU32::new(0);
static LIVE: Mutex<Vec<Arc<Claim>>> = Mutex::new(Vec::new());
static HANDLER: Once = Once::new();
/// Set when a signal has come: what fails from then on fails because of it.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The exit code that was settled before the signal, which is then the expected end: `--keep` waits for it.
static SETTLED: Mutex<Option<i32>> = Mutex::new(None);

/// A world's name and folder, taken until it is released.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Prefix of every namespace, with its dash.
    pub(crate) prefix: String,
    /// The folder with everything the world writes.
    pub(crate) dir: PathBuf,
    lock: Mutex<Option<File>>,
}

impl Claim {
    /// Sweeps what dead owners left, and takes a new name.
    pub(crate) fn take() -> Result<Arc<Self>, DemoError> {
        HANDLER.call_once(watch_signals);
        fs::create_dir_all(WORLDS).map_err(DemoError::file(WORLDS))?;
        let gate_path = Path::new(WORLDS).join("gate");
        // No world is made while another process looks for dead ones.
        let gate = File::create(&gate_path).map_err(DemoError::file(&gate_path))?;
        gate.lock().map_err(DemoError::file(&gate_path))?;
        sweep()?;
        let name = format!("gmr{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new(WORLDS).join(&name);
        fs::create_dir(&dir).map_err(DemoError::file(&dir))?;
        let lock_path = dir.join("lock");
        let lock = File::create(&lock_path).map_err(DemoError::file(&lock_path))?;
        lock.lock().map_err(DemoError::file(&lock_path))?;
        let claim = Arc::new(Self { prefix: format!("{name}-"), dir, lock: Mutex::new(Some(lock)) });
        live().push(Arc::clone(&claim));
        Ok(claim)
    }

    /// Runs `work`, which adds something that will have to be removed, unless removing has begun.
    pub(crate) fn hold<T>(&self, work: impl FnOnce() -> Result<T, DemoError>) -> Result<T, DemoError> {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            return Err(DemoError::Interrupted);
        }
        work()
    }

    /// Ends the world's processes and removes its namespaces and files. Doing it twice does nothing; a
    /// second caller waits for the first.
    pub(crate) fn release(&self) {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_some() {
            clear(&self.prefix, &self.dir);
        }
        *lock = None;
        drop(lock);
        live().retain(|other| other.prefix != self.prefix);
    }
}

fn live() -> std::sync::MutexGuard<'static, Vec<Arc<Claim>>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the worlds whose owner is gone.
fn sweep() -> Result<(), DemoError> {
    for entry in fs::read_dir(WORLDS).map_err(DemoError::file(WORLDS))?.flatten() {
        if entry.path().is_dir() && is_dead(&entry.path()) {
            clear(&format!("{}-", entry.file_name().to_string_lossy()), &entry.path());
        }
    }
    // What a command was still making when its world was swept.
    for netns in namespaces("gmr") {
        if let Some(world) = world_of(&netns).filter(|world| !Path::new(WORLDS).join(world).exists()) {
            clear(&format!("{world}-"), &Path::new(WORLDS).join(world));
        }
    }
    Ok(())
}

/// Whether nobody owns a world's folder. A world is made behind the gate, so one without a lock is half removed.
fn is_dead(dir: &Path) -> bool {
    match File::open(dir.join("lock")) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// The name of the world that a namespace is of, `gmrPID-NUMBER`, if its name is of that form.
fn world_of(netns: &str) -> Option<&str> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (process, rest) = netns.strip_prefix("gmr")?.split_once('-')?;
    let (number, _) = rest.split_once('-')?;
    let length = "gmr-".len() + process.len() + number.len();
    (is_number(process) && is_number(number)).then(|| &netns[..length])
}

/// Ends everything that carries `prefix`, collecting nothing: what is already gone is as it should be.
fn clear(prefix: &str, dir: &Path) {
    let namespaces = namespaces(prefix);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let left = namespaces.iter().flat_map(|netns| processes(netns)).collect::<Vec<_>>();
        for process in left {
            let _gone_meanwhile = kill(process, signal);
        }
        let _killed_next = until(GRACE, || namespaces.iter().all(|netns| processes(netns).is_empty()));
    }
    for netns in namespaces {
        let _gone_meanwhile = command::ip(&format!("netns delete {netns}"));
    }
    // A thread that was interrupted in the middle of making the world may still write a file: a folder that
    // cannot be removed because something new is in it can be, a moment later.
    let _left_to_the_next_sweep = until(GRACE, || {
        let names = resolver_folders(prefix);
        names.iter().chain([&dir.to_owned()]).all(|folder| {
            let removed = fs::remove_dir_all(folder);
            removed.is_ok() || !folder.exists()
        })
    });
    // Only if no other world, and nobody else, has anything in it.
    let _kept_if_used = fs::remove_dir("/etc/netns");
}

/// The folders with which pods of the world resolve names.
fn resolver_folders(prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir("/etc/netns").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect()
}

/// The names of the namespaces that begin with `prefix`.
pub(crate) fn namespaces(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

fn processes(netns: &str) -> Vec<Pid> {
    let Ok(found) = command::run("ip", &["netns", "pids", netns]) else { return Vec::new() };
    found.stdout.split_whitespace().filter_map(|id| id.parse().ok()).map(Pid::from_raw).collect()
}

/// This process' own children that still run: one that has just been started is in no namespace of a world yet.
fn children() -> Vec<Pid> {
    let own = std::process::id().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name of the program, which may hold anything, ends at the last parenthesis.
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            let (state, parent) = (fields.next()?, fields.next()?);
            let id = entry.file_name().to_str()?.parse().ok()?;
            (parent == own && state != "Z").then_some(Pid::from_raw(id))
        })
        .collect()
}

/// Whether a signal has come: nothing is started any more.
pub(crate) fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Acquire)
}

/// A thread that waits for SIGINT, SIGTERM and SIGHUP, takes all worlds down and ends the process.
fn watch_signals() {
    thread::spawn(|| {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        runtime.block_on(async {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else { return };
            let number = tokio::select! {
                _ = interrupt.recv() => Signal::SIGINT,
                _ = terminate.recv() => Signal::SIGTERM,
                _ = hangup.recv() => Signal::SIGHUP,
            } as i32;
            INTERRUPTED.store(true, Ordering::Release);
            let claims = live().clone();
            for claim in &claims {
                claim.release();
            }
            // What the interrupted thread was starting and writing meanwhile.
            let _kept_by_no_one = until(GRACE, || {
                let children = children();
                for child in &children {
                    let _gone_meanwhile = kill(*child, Signal::SIGKILL);
                }
                children.is_empty()
            });
            for claim in &claims {
                clear(&claim.prefix, &claim.dir);
            }
            let settled = *SETTLED.lock().unwrap_or_else(PoisonError::into_inner);
            std::process::exit(settled.unwrap_or(128 + number));
        });
    });
}

/// Waits for the signal that ends the process: it then takes all worlds down and exits with `code`.
pub(crate) fn wait_for_signal(code: i32) -> ! {
    *SETTLED.lock().unwrap_or_else(PoisonError::into_inner) = Some(code);
    park()
}

/// If a signal has come, leaves the end of the process to the thread that takes the worlds down.
pub(crate) fn yield_to_signal() {
    if is_interrupted() {
        park();
    }
}

fn park() -> ! {
    loop {
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::world_of;

    #[track_caller]
    fn check(netns: &str, world: Option<&str>) {
        assert_eq!(world_of(netns), world, "{netns}");
    }

    #[test]
    fn only_names_of_our_form_belong_to_a_world() {
        check("gmr12-0-client", Some("gmr12-0"));
        check("gmr12-0-node-a", Some("gmr12-0"));
        check("gmr12-0", None);
        check("gmr-0-client", None);
        check("gmrother-0-client", None);
        check("gmr12-x-client", None);
        check("host", None);
    }
}
