//! Looking after what is installed: one look around says how things stand, and puts back what is not where it should be.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gammarus_cni::state;

use super::conflist::{self, PLUGIN};
use super::flags::Flags;
use super::health::{Health, Repair};
use super::network::{Change, ConfDir, Plan};
use super::pace::Pace;
use super::plugin_file::PluginFile;
use super::runtime::{self, Directories};
use super::watch::Watch;
use super::{InstallError, lock, log, place, with_causes};

/// Between two looks when nothing is told of a change.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);
/// The same while another installer leads: nobody tells that it has ended.
const BETWEEN_TRIES: Duration = Duration::from_millis(300);

/// Looks after one node.
pub(super) struct Keeper {
    flags: Flags,
    health: Health,
    directories: Option<Directories>,
    /// The folder of configuration, locked; `None` while another installer leads.
    lead: Option<File>,
    plugin: Option<PluginFile>,
    plugin_pace: Pace,
    entry_pace: Pace,
    /// Was it in place before? Then somebody has taken it away.
    has_placed: bool,
    has_chained: bool,
    told: String,
    told_broken: Vec<String>,
}

/// How things stand after a look around.
struct Standing {
    ready: bool,
    why: String,
    /// When to look again, at the latest.
    again: Duration,
}

impl Standing {
    fn ready(why: String) -> Self {
        Self { ready: true, why, again: BETWEEN_LOOKS }
    }

    fn unready(why: String) -> Self {
        Self { ready: false, why, again: BETWEEN_LOOKS }
    }
}

impl Keeper {
    pub(super) fn new(flags: Flags, health: Health) -> Self {
        Self {
            flags,
            health,
            directories: None,
            lead: None,
            plugin: None,
            plugin_pace: Pace::default(),
            entry_pace: Pace::default(),
            has_placed: false,
            has_chained: false,
            told: String::new(),
            told_broken: Vec::new(),
        }
    }

    /// Is this the one installer that writes?
    pub(super) const fn is_leading(&self) -> bool {
        self.lead.is_some()
    }

    /// Looks around, puts back what is missing, and tells how things stand. Returns for how long nothing has to be done
    /// unless something changes; fails if this process cannot go on.
    pub(super) fn look_around(&mut self, watch: &Watch) -> Result<Duration, InstallError> {
        let standing = match self.look(watch) {
            Ok(standing) => standing,
            Err(error @ InstallError::Gone { .. }) => return Err(error),
            Err(error) => Standing::unready(with_causes(&error)),
        };
        self.health.tell(standing.ready, &standing.why);
        if standing.why != self.told {
            log(if standing.ready { "INFO" } else { "WARN" }, &standing.why);
            self.told = standing.why;
        }
        Ok(standing.again)
    }

    /// Takes the plugin off the node, for good.
    pub(super) fn take_off(&self) -> Result<(), InstallError> {
        self.health.tell(false, "uninstalled");
        match &self.directories {
            Some(directories) => super::take_off(&conf_dir(directories), &self.flags.state_dir),
            None => Ok(()),
        }
    }

    fn look(&mut self, watch: &Watch) -> Result<Standing, InstallError> {
        let directories = match &self.directories {
            Some(directories) => directories.clone(),
            None => {
                let found = runtime::find(&self.flags)?;
                log("INFO", &found);
                self.directories.insert(found).clone()
            }
        };
        let missing = |path: &Path, flag| InstallError::Missing {
            path: path.to_owned(),
            said_by: directories.said_by.clone(),
            flag,
        };
        let bin_dir = directories.bin_dirs.iter().find(|dir| dir.is_dir());
        let bin_dir = bin_dir.ok_or_else(|| missing(&directories.bin_dirs[0], "--bin-dir"))?;
        if !directories.conf_dir.is_dir() {
            return Err(missing(&directories.conf_dir, "--conf-dir"));
        }
        directories.bin_dirs.iter().chain([&directories.conf_dir]).for_each(|dir| watch.cover(dir));
        watch.cover(&self.flags.state_dir);
        let conf_dir = conf_dir(&directories);
        if !self.lead(&conf_dir.dir, bin_dir)? {
            return follow(&conf_dir, bin_dir);
        }
        if state::is_uninstalled(&self.flags.state_dir) {
            state::mark_installed(&self.flags.state_dir)?;
        }
        if let Some(standing) = self.keep_plugin(bin_dir)? {
            return Ok(standing);
        }
        self.keep_entry(&conf_dir, &directories)
    }

    /// Does this installer lead, or can it now? What others have left unfinished goes when it begins to.
    fn lead(&mut self, dir: &Path, bin_dir: &Path) -> Result<bool, InstallError> {
        let failed = |source| InstallError::Io { action: "look at", path: dir.to_owned(), source };
        let there = fs::metadata(dir).map_err(failed)?;
        if there.nlink() == 0 {
            return Err(InstallError::Gone { path: dir.to_owned() });
        }
        let held = self.lead.as_ref().map(File::metadata).transpose().map_err(failed)?;
        if held.is_some_and(|held| (held.dev(), held.ino()) == (there.dev(), there.ino())) {
            return Ok(true);
        }
        self.lead = None;
        let Some(lead) = lock(dir)? else { return Ok(false) };
        place::sweep(dir)?;
        place::sweep(bin_dir)?;
        state::mark_installed(&self.flags.state_dir)?;
        self.lead = Some(lead);
        Ok(true)
    }

    /// The plugin's file; says how things stand if it is not there.
    fn keep_plugin(&mut self, bin_dir: &Path) -> Result<Option<Standing>, InstallError> {
        let plugin = match &mut self.plugin {
            Some(plugin) if plugin.path.parent() == Some(bin_dir) => plugin,
            plugin => plugin.insert(PluginFile::open(&self.flags.plugin, bin_dir)?),
        };
        if plugin.stands()? {
            self.has_placed = true;
            return Ok(None);
        }
        let (now, path) = (Instant::now(), plugin.path.clone());
        let left = self.plugin_pace.left(now);
        if !left.is_zero() {
            return Ok(Some(resting(&path, &self.plugin_pace, left)));
        }
        plugin.put()?;
        if self.has_placed {
            self.plugin_pace.repaired(now);
            self.health.count(Repair::Plugin);
            log("WARN", format!("{} was put back", path.display()));
        } else {
            log("INFO", format!("{} was written", path.display()));
        }
        self.has_placed = true;
        Ok(None)
    }

    /// The entry in the network's configuration.
    fn keep_entry(
        &mut self,
        conf_dir: &ConfDir,
        directories: &Directories,
    ) -> Result<Standing, InstallError> {
        for path in conf_dir.remove_orphans()? {
            log("INFO", format!("{} was removed: what it was made of is not there any more", path.display()));
        }
        let entry = conflist::entry(&self.flags.socket, &self.flags.state_dir);
        let survey = conf_dir.survey(&entry)?;
        for reason in survey.broken.iter().filter(|reason| !self.told_broken.contains(reason)) {
            log("WARN", format!("{reason}: it is left alone"));
        }
        self.told_broken = survey.broken;
        match survey.plan {
            Plan::Stands(path) => {
                self.has_chained = true;
                Ok(Standing::ready(format!("{} has the entry", path.display())))
            }
            Plan::Change(change) => self.write_entry(&change, &directories.bin_dirs),
            Plan::Refused(why) => Ok(Standing::unready(format!("the mesh cannot be chained: {why}"))),
            Plan::NoNetwork => {
                let dir = conf_dir.dir.display();
                let whose =
                    conf_dir.default_network.as_ref().map_or_else(String::new, |name| format!(" of {name}"));
                Ok(Standing::unready(format!("waiting for a network configuration{whose} in {dir}")))
            }
        }
    }

    fn write_entry(&mut self, change: &Change, bin_dirs: &[PathBuf]) -> Result<Standing, InstallError> {
        let path = change.path.display();
        if let Some(kind) = missing_plugin(&change.kinds, bin_dirs) {
            let dirs: Vec<_> = bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
            let dirs = dirs.join(", ");
            return Ok(Standing::unready(format!(
                "{path} calls the plugin {kind}, which is not in {dirs}: there the runtime would not find ours; \
                 see --bin-dir"
            )));
        }
        let now = Instant::now();
        let left = self.entry_pace.left(now);
        if !left.is_zero() {
            return Ok(resting(&change.path, &self.entry_pace, left));
        }
        if !change.write()? {
            let why = format!("{path} is being written");
            return Ok(Standing { ready: false, why, again: Duration::ZERO });
        }
        if self.has_chained {
            self.entry_pace.repaired(now);
            self.health.count(Repair::Entry);
            log("WARN", format!("the entry was put back into {path}"));
        } else {
            log("INFO", format!("the entry was put into {path}"));
        }
        self.has_chained = true;
        Ok(Standing::ready(format!("{path} has the entry")))
    }
}

fn conf_dir(directories: &Directories) -> ConfDir {
    ConfDir { dir: directories.conf_dir.clone(), default_network: directories.default_network.clone() }
}

/// What there is to say while another installer leads. Its plugin may be of another release, which is as good: a
/// release of proxy or plugin understands the one before it.
fn follow(conf_dir: &ConfDir, bin_dir: &Path) -> Result<Standing, InstallError> {
    let leads = "another installer looks after this node";
    let chained = conf_dir.chained()?.filter(|_| bin_dir.join(PLUGIN).is_file());
    let (ready, why) = match chained {
        Some(path) => (true, format!("{leads}, and {} has the entry", path.display())),
        None => (false, format!("{leads}, and the entry is missing")),
    };
    Ok(Standing { ready, why, again: BETWEEN_TRIES })
}

fn resting(path: &Path, pace: &Pace, left: Duration) -> Standing {
    let path = path.display();
    let why = if pace.is_fight() {
        format!(
            "somebody keeps undoing what is written to {path}: another installer, or a network that wants no other \
                 plugin (Cilium: cni.exclusive); it is put back more and more seldom"
        )
    } else {
        format!("{path} will be put back in a moment")
    };
    Standing { ready: false, why, again: left }
}

/// A plugin of the chain that is in no folder, if all folders can be looked into: a sign that the runtime's are others.
fn missing_plugin<'a>(kinds: &'a [String], bin_dirs: &[PathBuf]) -> Option<&'a str> {
    if !bin_dirs.iter().all(|dir| dir.is_dir()) {
        return None;
    }
    // A link of the node's may lead to where nothing is mounted here.
    let is_there = |kind: &str| bin_dirs.iter().any(|dir| dir.join(kind).symlink_metadata().is_ok());
    kinds.iter().map(String::as_str).find(|kind| !is_there(kind))
}
