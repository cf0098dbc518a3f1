//! Last good versions, and a live directory with every way of saving a file.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;

use super::super::objects::{Change, Changed, Mark, ObjectKey, Objects};
use super::super::source::{ObjectSource, Update};
use super::{Directory, remove_mark, write_mark};

/// How long a change may take to show.
const SOON: Duration = Duration::from_secs(20);

/// How long nothing must show where nothing may change.
const QUIET: Duration = Duration::from_millis(60);

fn map(name: &str, value: &str) -> String {
    format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{v: '{value}'}}\n")
}

const BROKEN: &str = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: [wrong]\n";
const TORN: &str = "---\napiVersion: v1\nkind: [\n";

/// A directory under watch, with what it has told so far.
struct Live {
    temp: TempDir,
    directory: Directory,
    objects: Objects,
    reports: Vec<String>,
}

impl Live {
    /// Watches a directory that holds `files`, read once.
    async fn start(files: &[(&str, String)]) -> Self {
        let temp = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = temp.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let directory = Directory::open(temp.path()).unwrap();
        let mut live = Self { temp, directory, objects: Objects::default(), reports: Vec::new() };
        live.step().await;
        live
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn write(&self, name: &str, text: String) {
        fs::write(self.path(name), text).unwrap();
    }

    fn take(&mut self, update: Update) -> Vec<Change> {
        for change in update.changes.clone() {
            self.objects.apply(change, &mut Changed::default());
        }
        self.reports = update.reports.iter().map(ToString::to_string).collect();
        update.changes
    }

    async fn step(&mut self) -> Vec<Change> {
        let update = timeout(SOON, self.directory.next()).await.expect("no update in time").unwrap();
        self.take(update)
    }

    /// The values of all ConfigMaps by name.
    fn maps(&self) -> String {
        let maps: BTreeMap<&str, &str> = self
            .objects
            .config_maps
            .iter()
            .map(|(key, map)| (&*key.name, map.data.as_ref().unwrap()["v"].as_str()))
            .collect();
        maps.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    /// Waits until the ConfigMaps are these.
    async fn until(&mut self, expected: &str) {
        let deadline = tokio::time::Instant::now() + SOON;
        while self.maps() != expected {
            let next = tokio::time::timeout_at(deadline, self.directory.next()).await;
            let update = next.unwrap_or_else(|_| panic!("{:?} is not {expected:?}", self.maps())).unwrap();
            self.take(update);
        }
    }

    /// Sees that nothing changes.
    async fn unchanged(&mut self) {
        let before = self.maps();
        while let Ok(update) = timeout(QUIET, self.directory.next()).await {
            assert_eq!(self.take(update.unwrap()), []);
        }
        assert_eq!(self.maps(), before);
    }
}

#[tokio::test]
async fn a_broken_object_keeps_its_last_good_version_and_its_neighbours_are_applied() {
    let mut live = Live::start(&[("x.yaml", map("a", "1") + &map("b", "1"))]).await;
    assert_eq!(live.maps(), "a=1 b=1");
    live.write("x.yaml", BROKEN.to_owned() + &map("b", "2"));
    live.until("a=1 b=2").await;
    assert_eq!(live.reports.len(), 1);
    assert!(
        live.reports[0].starts_with("x.yaml: ConfigMap default/a: data: invalid type"),
        "{:?}",
        live.reports
    );
    live.write("x.yaml", map("a", "3") + &map("b", "2"));
    live.until("a=3 b=2").await;
    assert_eq!(live.reports, [""; 0]);
}

#[tokio::test]
async fn a_version_that_is_not_read_takes_nothing_away() {
    let mut live = Live::start(&[("x.yaml", map("a", "1"))]).await;
    live.write("x.yaml", map("a", "2").replace("apiVersion: v1", "apiVersion: v2"));
    live.unchanged().await;
    assert_eq!(live.reports, ["x.yaml: ConfigMap default/a: apiVersion: must be v1, is \"v2\""]);
}

#[tokio::test]
async fn nothing_of_a_torn_file_goes() {
    let mut live = Live::start(&[("x.yaml", map("a", "1") + &map("b", "1"))]).await;
    live.write("x.yaml", map("a", "2") + TORN);
    live.until("a=2 b=1").await;
    assert!(live.reports[0].starts_with("x.yaml: document 2 (line 6): line "), "{:?}", live.reports);
    live.write("x.yaml", TORN.to_owned());
    live.unchanged().await;
    fs::write(live.path("x.yaml"), b"\xff\xfe").unwrap();
    live.unchanged().await;
    assert!(live.reports[0].starts_with("x.yaml: cannot be read"), "{:?}", live.reports);
    live.write("x.yaml", map("b", "1"));
    live.until("b=1").await;
}

#[tokio::test]
async fn an_object_that_was_never_good_is_not_there() {
    let mut live = Live::start(&[("x.yaml", BROKEN.to_owned())]).await;
    assert_eq!(live.maps(), "");
    live.write("x.yaml", map("a", "1"));
    live.until("a=1").await;
}

#[tokio::test]
async fn the_first_of_two_files_with_one_object_counts() {
    let mut live = Live::start(&[("b.yaml", map("a", "1")), ("c.yaml", map("a", "2"))]).await;
    assert_eq!(live.maps(), "a=1");
    assert_eq!(live.reports, ["c.yaml: ConfigMap default/a: is in b.yaml, too, which counts"]);
    live.write("a.yaml", map("a", "0"));
    live.until("a=0").await;
    fs::remove_file(live.path("a.yaml")).unwrap();
    live.until("a=1").await;
    fs::remove_file(live.path("b.yaml")).unwrap();
    live.until("a=2").await;
    assert_eq!(live.reports, [""; 0]);
    live.write("c.yaml", map("a", "3") + &map("a", "4"));
    live.until("a=3").await;
    assert_eq!(live.reports, ["c.yaml: ConfigMap default/a: is there twice in this file: the first counts"]);
}

#[tokio::test]
async fn a_broken_copy_takes_nothing_from_the_file_in_which_the_object_is_good() {
    let mut live = Live::start(&[("b.yaml", map("a", "1"))]).await;
    live.write("a.yaml", BROKEN.to_owned());
    live.unchanged().await;
    assert_eq!(live.reports[0], "a.yaml: ConfigMap default/a: is in b.yaml, too, which counts");
    live.write("b.yaml", map("a", "2"));
    live.until("a=2").await;
    // One that begins now says the same.
    live.directory = Directory::open(live.temp.path()).unwrap();
    live.objects = Objects::default();
    live.until("a=2").await;
    live.write("b.yaml", map("a", "3"));
    live.until("a=3").await;
    // As long as a file names it, it is what it last was.
    fs::remove_file(live.path("b.yaml")).unwrap();
    live.unchanged().await;
    live.write("a.yaml", map("a", "4"));
    live.until("a=4").await;
    // Once good in a.yaml, its last good version there counts, whatever comes in another file.
    live.write("a.yaml", BROKEN.to_owned());
    live.write("b.yaml", map("a", "5"));
    live.unchanged().await;
    assert_eq!(live.reports[1], "b.yaml: ConfigMap default/a: is in a.yaml, too, which counts");
    fs::remove_file(live.path("a.yaml")).unwrap();
    live.until("a=5").await;
}

#[tokio::test]
async fn an_object_that_moves_between_files_is_not_lost() {
    let mut live = Live::start(&[("x.yaml", map("a", "1") + &map("b", "1"))]).await;
    live.write("z.yaml", map("a", "1"));
    live.write("x.yaml", map("b", "1"));
    live.unchanged().await;
    assert_eq!(live.reports, [""; 0]);
    // Broken where it arrives, it is still what it was.
    live.write("y.yaml", BROKEN.to_owned());
    fs::remove_file(live.path("z.yaml")).unwrap();
    live.unchanged().await;
    assert_eq!(live.reports.len(), 1);
    fs::rename(live.path("x.yaml"), live.path("w.yaml")).unwrap();
    live.unchanged().await;
}

#[tokio::test]
async fn every_way_of_saving_takes_effect() {
    let mut live = Live::start(&[]).await;
    live.write("x.yaml", map("a", "1"));
    live.until("a=1").await;
    // In place, as shells and nano do.
    let mut file = File::create(live.path("x.yaml")).unwrap();
    file.write_all(&map("a", "2").into_bytes()[..20]).unwrap();
    file.sync_all().unwrap();
    live.unchanged().await;
    file.write_all(&map("a", "2").into_bytes()[20..]).unwrap();
    drop(file);
    live.until("a=2").await;
    // A new file over the old one, as sed -i and most editors do.
    live.write(".x.yaml.tmp", map("a", "3"));
    live.unchanged().await;
    fs::rename(live.path(".x.yaml.tmp"), live.path("x.yaml")).unwrap();
    live.until("a=3").await;
    // The old one moved to a backup first, as vim does.
    fs::rename(live.path("x.yaml"), live.path("x.yaml~")).unwrap();
    live.write("x.yaml", map("a", "4"));
    fs::remove_file(live.path("x.yaml~")).unwrap();
    live.until("a=4").await;
    // Appended.
    let mut file = OpenOptions::new().append(true).open(live.path("x.yaml")).unwrap();
    file.write_all(map("b", "1").as_bytes()).unwrap();
    drop(file);
    live.until("a=4 b=1").await;
    // From elsewhere: a move, a hard link, a symlink.
    let elsewhere = tempfile::tempdir_in(live.temp.path().parent().unwrap()).unwrap();
    for (name, value) in [("m", "1"), ("h", "1"), ("s", "1")] {
        fs::write(elsewhere.path().join(name), map(name, value)).unwrap();
    }
    fs::rename(elsewhere.path().join("m"), live.path("m.yml")).unwrap();
    fs::hard_link(elsewhere.path().join("h"), live.path("h.yaml")).unwrap();
    symlink(elsewhere.path().join("s"), live.path("s.yaml")).unwrap();
    live.until("a=4 b=1 h=1 m=1 s=1").await;
    fs::remove_file(live.path("x.yaml")).unwrap();
    fs::rename(live.path("m.yml"), elsewhere.path().join("m")).unwrap();
    live.until("h=1 s=1").await;
}

#[tokio::test]
async fn new_moved_and_removed_directories_are_followed() {
    let mut live = Live::start(&[("one/x.yaml", map("a", "1"))]).await;
    fs::create_dir_all(live.path("two/three")).unwrap();
    live.write("two/three/y.yaml", map("b", "1"));
    live.until("a=1 b=1").await;
    live.write("two/three/y.yaml", map("b", "2"));
    live.until("a=1 b=2").await;
    fs::rename(live.path("two"), live.path("four")).unwrap();
    live.unchanged().await;
    live.write("four/three/y.yaml", map("b", "3"));
    live.until("a=1 b=3").await;
    let elsewhere = tempfile::tempdir_in(live.temp.path().parent().unwrap()).unwrap();
    fs::rename(live.path("four"), elsewhere.path().join("four")).unwrap();
    live.until("a=1").await;
    fs::write(elsewhere.path().join("four/three/y.yaml"), map("b", "4")).unwrap();
    live.unchanged().await;
    fs::remove_dir_all(live.path("one")).unwrap();
    live.until("").await;
}

#[tokio::test]
async fn a_mounted_config_map_is_followed_through_its_links() {
    let mut live = Live::start(&[]).await;
    for (version, value) in [("..v1", "1"), ("..v2", "2")] {
        fs::create_dir(live.path(version)).unwrap();
        live.write(&format!("{version}/x.yaml"), map("a", value));
    }
    symlink("..v1", live.path("..data")).unwrap();
    symlink("..data/x.yaml", live.path("x.yaml")).unwrap();
    live.until("a=1").await;
    symlink("..v2", live.path("..data_tmp")).unwrap();
    fs::rename(live.path("..data_tmp"), live.path("..data")).unwrap();
    live.until("a=2").await;
}

#[tokio::test]
async fn a_linked_file_elsewhere_is_followed_where_it_lies() {
    let mut live = Live::start(&[("x.yaml", map("a", "1"))]).await;
    let temp = tempfile::tempdir_in(live.temp.path().parent().unwrap()).unwrap();
    let elsewhere = |name: &str| temp.path().join(name);
    fs::create_dir(elsewhere("other")).unwrap();
    fs::write(elsewhere("file"), map("l", "1")).unwrap();
    symlink(elsewhere("file"), live.path("l.yaml")).unwrap();
    live.until("a=1 l=1").await;
    fs::write(elsewhere("file"), map("l", "2")).unwrap();
    live.until("a=1 l=2").await;
    fs::write(elsewhere("draft"), map("l", "3")).unwrap();
    live.unchanged().await;
    fs::rename(elsewhere("draft"), elsewhere("file")).unwrap();
    live.until("a=1 l=3").await;
    fs::remove_file(elsewhere("file")).unwrap();
    live.until("a=1").await;
    fs::write(elsewhere("file"), map("l", "4")).unwrap();
    live.until("a=1 l=4").await;
    // Another file takes the old one's place, in a directory of its own.
    fs::write(elsewhere("other/file"), map("l", "5")).unwrap();
    symlink(elsewhere("other/file"), live.path("draft")).unwrap();
    fs::rename(live.path("draft"), live.path("l.yaml")).unwrap();
    live.until("a=1 l=5").await;
    fs::write(elsewhere("file"), map("l", "0")).unwrap();
    live.unchanged().await;
    fs::write(elsewhere("other/file"), map("l", "6")).unwrap();
    live.until("a=1 l=6").await;
    fs::rename(elsewhere("other"), elsewhere("gone")).unwrap();
    live.until("a=1").await;
}

#[tokio::test]
async fn a_link_within_the_directory_leaves_its_watch_as_it_was() {
    let mut live = Live::start(&[("file", map("l", "1")), ("sub/x.yaml", map("a", "1"))]).await;
    symlink("../file", live.path("sub/l.yaml")).unwrap();
    live.until("a=1 l=1").await;
    live.write("file", map("l", "2"));
    live.until("a=1 l=2").await;
    fs::remove_file(live.path("sub/l.yaml")).unwrap();
    live.until("a=1").await;
    live.write("y.yaml", map("b", "1"));
    live.until("a=1 b=1").await;
}

#[tokio::test]
async fn a_save_without_a_difference_changes_nothing() {
    let mut live = Live::start(&[("x.yaml", map("a", "1"))]).await;
    live.write("x.yaml", "# a comment\n".to_owned() + &map("a", "1"));
    live.write("readme.txt", "kind: [".to_owned());
    live.write("#x.yaml#", "kind: [".to_owned());
    live.unchanged().await;
    assert_eq!(live.reports, [""; 0]);
}

#[tokio::test]
async fn a_directory_that_goes_keeps_its_objects_and_is_found_again() {
    let mut live = Live::start(&[("in/x.yaml", map("a", "1"))]).await;
    let root = live.path("in");
    live.directory = Directory::open(&root).unwrap();
    live.step().await;
    fs::rename(&root, live.path("out")).unwrap();
    assert_eq!(live.step().await, []);
    assert_eq!(live.reports, [".: the directory has gone: what was last read stays"]);
    fs::create_dir(&root).unwrap();
    live.write("in/x.yaml", map("a", "2"));
    live.until("a=2").await;
    assert_eq!(live.reports, [""; 0]);
}

#[tokio::test]
async fn marks_are_files_under_status_and_nothing_else_there_is_an_object() {
    let mut live = Live::start(&[("status/pods/x.yaml", map("a", "1"))]).await;
    assert_eq!(live.maps(), "");
    let pod = ObjectKey::new("shop", "web.0");
    let addresses = ["10.1.0.1", "fd00::1"].map(|address| address.parse().unwrap());
    let mark = Mark { ports: vec![80, 443], ..Mark::of_captured("u", addresses.to_vec()) };
    write_mark(live.temp.path(), &pod, &mark).unwrap();
    live.step().await;
    assert_eq!(live.objects.marks.get(&pod), Some(&mark));
    // A mark of another pod with the same name stays.
    remove_mark(live.temp.path(), &pod, "other").unwrap();
    let changed = Mark { uid: "v".to_owned(), ..mark };
    write_mark(live.temp.path(), &pod, &changed).unwrap();
    live.step().await;
    assert_eq!(live.objects.marks.get(&pod), Some(&changed));
    live.write("status/pods/shop.web.0.yaml", "uid: v\naddresses: [x]\n".to_owned());
    assert_eq!(live.step().await, []);
    assert!(
        live.reports[0].starts_with("status/pods/shop.web.0.yaml: Mark shop/web.0: "),
        "{:?}",
        live.reports
    );
    remove_mark(live.temp.path(), &pod, "v").unwrap();
    live.step().await;
    assert_eq!(live.objects.marks.len(), 0);
    remove_mark(live.temp.path(), &pod, "v").unwrap();
    assert_eq!(fs::read_dir(live.path("status/pods")).unwrap().count(), 1);
}

#[test]
fn a_directory_that_is_not_there_is_an_error_that_names_it() {
    let error = Directory::open(std::path::Path::new("/nowhere/at/all")).unwrap_err();
    assert_eq!(error.to_string(), "the directory /nowhere/at/all cannot be read");
}

#[tokio::test]
async fn events_that_the_kernel_could_not_keep_are_made_up_for() {
    let mut live = Live::start(&[("gone.yaml", map("gone", "1"))]).await;
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    // Two files in turn, for equal events in a row are one.
    for name in ["x.yaml", "y.yaml"].into_iter().cycle().take(limit + 1) {
        File::create(live.path(name)).unwrap();
    }
    fs::create_dir(live.path("new")).unwrap();
    live.write("new/late.yaml", map("late", "1"));
    fs::remove_file(live.path("gone.yaml")).unwrap();
    live.until("late=1").await;
    live.write("new/late.yaml", map("late", "2"));
    live.until("late=2").await;
}
