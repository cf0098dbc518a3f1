//! The story: a world with two nodes, and the scenes in their order.
//!
//! A scene that cannot go on counts as a failed check, and the next one is played all the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::{typed, until};
use super::fault::DemoError;
use super::screen::{Screen, differs};
use super::world::World;
use super::{scenes, teardown};

/// The namespace of the Services; also that of users' objects that name none.
const HOME: &str = "shop";
/// How long a change may take until it is seen; what is checked after that is checked strictly.
const SETTLE: Duration = Duration::from_secs(10);

/// What to do when the story has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Afterwards {
    /// Leave the world running until a signal comes.
    Keep,
    /// Take it down.
    #[default]
    Remove,
}

/// What is played, and what happens then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programme {
    /// What to do at the end. With `manifests` the world is kept in any case.
    pub afterwards: Afterwards,
    /// A folder of the user's own YAML, instead of the demo's routes.
    pub manifests: Option<PathBuf>,
}

/// The world, and the terminal on which it is shown.
pub(crate) struct Story {
    pub(crate) world: World,
    pub(crate) screen: Screen,
}

type Scene = fn(&mut Story) -> Result<(), DemoError>;

/// Plays the demo. Returns how many checks failed.
///
/// # Errors
/// When the world cannot be made.
pub fn run(programme: &Programme) -> Result<usize, DemoError> {
    let outcome = play(programme);
    // What failed because an interrupt took the world away is not worth a word.
    teardown::yield_to_signal();
    outcome
}

fn play(programme: &Programme) -> Result<usize, DemoError> {
    let mut story = Story { screen: Screen::new(), world: World::builder().start()? };
    story.set_the_stage()?;
    if let Some(dir) = &programme.manifests {
        story.play_manifests(dir)?;
        let failed = story.screen.summary();
        story.invite();
        teardown::wait_for_signal(i32::from(failed > 0));
    }
    let scenes: [Scene; 10] = [
        scenes::no_route,
        scenes::header_route,
        scenes::split,
        scenes::consumer_route,
        scenes::path_query_method,
        scenes::filters,
        scenes::connections,
        scenes::identities,
        scenes::capture,
        scenes::running_pods_join,
    ];
    for scene in scenes {
        if let Err(error) = scene(&mut story) {
            teardown::yield_to_signal();
            story.screen.check("the scene can be played to its end", Some(error.to_string()));
        }
    }
    let failed = story.screen.summary();
    if programme.afterwards == Afterwards::Keep {
        story.invite();
        teardown::wait_for_signal(i32::from(failed > 0));
    }
    Ok(failed)
}

impl Story {
    fn set_the_stage(&mut self) -> Result<(), DemoError> {
        self.screen.scene("Two nodes, a CA, a proxy on each node");
        self.screen.say(
            "Network namespaces stand for nodes and pods. The pods run an application and nothing else;\n\
             the node's one proxy does the rest.",
        );
        for node in ["node-a", "node-b"] {
            self.world.node(node)?;
        }
        for (name, yaml) in scenes::STAGE {
            self.world.apply_in(HOME, name, yaml)?;
        }
        let world = &mut self.world;
        world.pod("client").namespace(HOME).service_account("client").on("node-a").start()?;
        world.pod("buyer").namespace("checkout").service_account("buyer").on("node-a").start()?;
        world.pod("outsider").namespace("outside").on("node-a").start()?;
        world.pod("outside-server").namespace("outside").on("node-b").app("outside-server")?.start()?;
        for version in ["v1", "v2"] {
            let name = format!("my-server-{version}");
            let pod = world.pod(&name).namespace(HOME).service_account("my-server").on("node-b");
            pod.labels(&[("app", "my-server"), ("version", version)]).app(&name)?.start()?;
        }
        for (node, pods) in [
            ("node-a", "client (shop), buyer (checkout), outsider (not in the mesh)"),
            ("node-b", "my-server-v1, my-server-v2 (shop), outside-server (not in the mesh)"),
        ] {
            self.screen.say(&format!("  {node}: {pods}"));
        }
        Ok(())
    }

    /// Applies one of the demo's own files, and shows that.
    pub(crate) fn apply(&mut self, name: &str, yaml: &str) -> Result<(), DemoError> {
        self.screen.typed("you", &format!("kubectl apply -f manifests/demo/{name}"));
        for object in self.world.apply_in(HOME, name, yaml)? {
            self.screen.shown(&format!("{} {}/{}", object.kind, object.namespace, object.name), 1);
        }
        Ok(())
    }

    /// Types `curl ARGS` in a pod, shows it with its answer, and returns the answer.
    pub(crate) fn curl(&self, pod: &str, args: &[&str]) -> Result<String, DemoError> {
        let answer = self.ask(pod, args)?;
        self.screen.typed(pod, &typed(&[&["curl"], args].concat()));
        self.screen.shown(&answer, 3);
        Ok(answer)
    }

    /// The same without showing it. What curl complains of is part of the answer.
    pub(crate) fn ask(&self, pod: &str, args: &[&str]) -> Result<String, DemoError> {
        let answer =
            self.world.exec(pod, &[&["curl", "-sS", "--fail-early", "--max-time", "5"], args].concat())?;
        Ok(answer.stdout + &answer.stderr)
    }

    /// Waits until a change is in effect, seen by one request.
    pub(crate) fn settle(&self, pod: &str, args: &[&str], expected: &str) {
        let in_effect = || self.ask(pod, args).is_ok_and(|answer| answerer(&answer) == expected);
        // If it never is, the checks that follow say so.
        let _checked_next = until(SETTLE, in_effect);
    }

    /// Types a request and checks who answers it.
    pub(crate) fn expect(
        &mut self,
        pod: &str,
        args: &[&str],
        expected: &str,
        claim: &str,
    ) -> Result<(), DemoError> {
        let answer = self.curl(pod, args)?;
        self.screen.check(claim, differs(expected, answerer(&answer)));
        Ok(())
    }

    fn play_manifests(&mut self, dir: &Path) -> Result<(), DemoError> {
        self.screen.scene(&format!("Your files from {}", dir.display()));
        let mut files = fs::read_dir(dir)
            .map_err(DemoError::file(dir))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|kind| kind == "yaml" || kind == "yml"))
            .collect::<Vec<_>>();
        files.sort();
        for path in &files {
            let yaml = fs::read_to_string(path).map_err(DemoError::file(path))?;
            match self.world.apply_in(HOME, &path.display().to_string(), &yaml) {
                Ok(applied) => {
                    for object in applied {
                        let line = format!("{} {}/{}", object.kind, object.namespace, object.name);
                        self.screen.say(&format!("  {}: {line}", path.display()));
                    }
                }
                Err(error) => self.screen.check("your file can be read", Some(error.to_string())),
            }
        }
        self.screen.check("there is a file to play", files.is_empty().then(|| "no *.yaml".to_owned()));
        // The proxies watch the folder; their judgement is asked for once they have read it.
        std::thread::sleep(Duration::from_secs(2));
        self.screen.say("\nWhat the proxy of node-a says of them:");
        let status = self.world.admin("node-a", "/status")?;
        let pretty = serde_json::from_str::<serde_json::Value>(&status)
            .and_then(|value| serde_json::to_string_pretty(&value))
            .unwrap_or(status);
        self.screen.shown(&pretty, usize::MAX);
        Ok(())
    }

    /// Says what can be typed while the world is kept.
    fn invite(&self) {
        let (prefix, objects) = (self.world.prefix(), self.world.objects_dir().display());
        let dir = self.world.dir().display();
        self.screen.scene("It is yours");
        self.screen.say(&format!(
            "From another terminal, as root:\n\
             \n  ip netns exec {prefix}client curl http://my-server\
             \n  ip netns exec {prefix}client curl -H 'version: new' http://my-server\
             \n  ip netns exec {prefix}buyer curl http://my-server.shop/buy\
             \n  ip netns exec {prefix}node-a curl http://127.0.0.1:15000/status\
             \n  ip netns exec {prefix}fabric tcpdump -i any -A tcp port 8080\
             \n  tail -f {dir}/node-a/access.log {dir}/node-b/access.log\
             \n\nThe objects are the files in {objects}: edit one, or add one, and it takes effect at once.\
             \nCtrl-C takes everything down."
        ));
    }
}

/// Who answered: the demo's application begins with its name and a colon.
pub(crate) fn answerer(answer: &str) -> &str {
    answer.split_once(':').map_or_else(|| answer.trim(), |(name, _)| name)
}
