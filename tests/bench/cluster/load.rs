//! Many pods: what the first list, a change of a pod and nothing at all cost the API server for each node, and what a
//! node keeps of them.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::counters::{Counters, cpu};
use crate::fakes::Fakes;
use crate::figures::{Report, kib, mib, milliseconds};
use crate::installed::Installed;
use crate::process::Running;
use crate::relay::Relay;

/// Pods that are replaced in a second.
const PER_SECOND: u32 = 5;
/// What a node watches that changes with pods.
const CHANGING: [&str; 2] = ["pods", "endpointslices"];

/// How much there is of everything.
struct Size {
    nodes: usize,
    pods: usize,
    /// Proxies beside each other.
    proxies: usize,
    /// For how long nothing is done, and for how long pods are replaced.
    while_at_rest: Duration,
    while_replaced: Duration,
    /// How long nothing is done before memory is read.
    rest: Duration,
}

/// Proxies that go one way to the API server.
struct Group {
    proxies: Vec<Running>,
    way: Relay,
}

pub(crate) fn run(is_quick: bool, report: &mut Report) {
    let seconds = Duration::from_secs;
    let [while_at_rest, while_replaced, rest] =
        if is_quick { [seconds(2), seconds(2), seconds(2)] } else { [seconds(60), seconds(30), seconds(8)] };
    let [nodes, pods, proxies] = if is_quick { [5, 50, 2] } else { [100, 5_000, 10] };
    let size = Size { nodes, pods, proxies, while_at_rest, while_replaced, rest };
    let installed = Installed::start();
    let mut fakes = Fakes::start(&installed, size.nodes, size.pods);
    thread::sleep(size.rest);
    report.section(&format!("{} pods on {} nodes", size.pods, size.nodes));
    let none = Window::at_rest(&installed, None, &size);
    let none_replaced = replace(&installed, None, &mut fakes, size.while_replaced);

    let mut group = Group { proxies: Vec::new(), way: installed.relay() };
    let ways = group.prepare(&installed, 0..size.proxies);
    let begun = Counted::now(&installed, Some(&group));
    group.start(&installed, &ways[..1]);
    let first = begun.until_now(&installed, Some(&group));
    report.line("the first list of a proxy", first.say_bytes());
    let (wall, server) = (milliseconds(first.wall), first.server_ms());
    report.line("until it is ready", format!("{wall:.0} ms, {server:.0} ms of the API server's CPU"));
    thread::sleep(size.rest);
    report.line("the node proxy then", group.proxies[0].memory());
    let state = group.proxies[0].folder.path().join("state/cluster.jsonl");
    report.line("the state on its disk", mib(fs::metadata(state).unwrap().len() as f64));
    let rest = Window::at_rest(&installed, Some(&group), &size);
    report.line("one proxy at rest", rest.say_rest(&none));
    let changed = replace(&installed, Some(&group), &mut fakes, size.while_replaced);
    report.line("one proxy, for each pod that is replaced", changed.say_replaced());
    report.line("its memory then", group.proxies[0].memory());

    let begun = Counted::now(&installed, Some(&group));
    group.start(&installed, &ways[1..]);
    let listed = begun.until_now(&installed, Some(&group));
    let more = (size.proxies - 1) as f64;
    let [seconds, server] = [listed.wall.as_secs_f64(), listed.server_ms() / more];
    let read = mib(listed.received / more);
    report.line(
        &format!("{more} more that begin at once"),
        format!(
            "ready after {seconds:.1} s, {server:.0} ms of the API server's CPU and {read} read for each"
        ),
    );
    thread::sleep(size.rest);
    let count = size.proxies;
    let rest = Window::at_rest(&installed, Some(&group), &size);
    report.line(&format!("{count} proxies at rest"), rest.say_rest(&none));
    let changed = replace(&installed, Some(&group), &mut fakes, size.while_replaced);
    report.line(&format!("{count} proxies, for each pod that is replaced"), changed.say_replaced());
    report.line("the same with none", none_replaced.say_replaced());
    let each = (changed.server_ms_each() - none_replaced.server_ms_each()) / count as f64;
    report.line("of the API server's CPU, for each proxy and replaced pod", format!("{each:.3} ms"));
    drop(group);
    say_controller(&installed, &mut fakes, &size, report);
}

fn say_controller(installed: &Installed, fakes: &mut Fakes, size: &Size, report: &mut Report) {
    let way = installed.relay();
    let controller = Running::controller(&installed.controller(way.address()));
    thread::sleep(size.rest);
    let passed = way.passed();
    report.line("the controller's first lists", mib(passed.received as f64));
    report.line("the controller then", controller.memory());
    let group = Group { proxies: vec![controller], way };
    let changed = replace(installed, Some(&group), fakes, size.while_replaced);
    report.line("the controller, for each pod that is replaced", changed.say_replaced());
}

impl Group {
    /// Makes what proxies of these numbers need: their nodes, and their ways to the API server.
    fn prepare(&self, installed: &Installed, numbers: std::ops::Range<usize>) -> Vec<(String, PathBuf)> {
        let prepare = |number: usize| {
            // A node without pods: a proxy would look for those of its own.
            let node = format!("proxy-{number}");
            let address = format!("192.168.250.{}", number + 1);
            installed.node(&node, &[address], &[&format!("10.127.{number}.0/24")]);
            let kubeconfig = installed.agent(&node, self.way.address());
            (node, kubeconfig)
        };
        numbers.map(prepare).collect()
    }

    /// Starts proxies, all at once, and waits until they are ready.
    fn start(&mut self, installed: &Installed, ways: &[(String, PathBuf)]) {
        // By this thread, with which they end.
        let start = |(node, kubeconfig): &(String, PathBuf)| Running::proxy(installed, node, kubeconfig);
        let started: Vec<Running> = ways.iter().map(start).collect();
        started.iter().for_each(Running::wait_until_ready);
        self.proxies.extend(started);
    }

    fn cpu(&self) -> Duration {
        self.proxies.iter().map(|proxy| cpu(proxy.id())).sum()
    }
}

/// Everything that is counted, at one moment.
struct Counted {
    counters: Counters,
    used: Used,
    at: Instant,
}

/// What was used until a moment.
struct Used {
    server: Duration,
    proxies: Duration,
    sent: f64,
    received: f64,
}

/// The differences between two moments.
struct Window {
    wall: Duration,
    server: Duration,
    proxies: Duration,
    sent: f64,
    received: f64,
    /// Watch events by what they are of.
    events: [f64; 2],
    /// All of them.
    all_events: f64,
    /// How many pods were replaced.
    replaced: f64,
    /// How many proxies there are.
    count: f64,
}

impl Used {
    fn now(installed: &Installed, group: Option<&Group>) -> Self {
        let passed = group.map(|group| group.way.passed()).unwrap_or_default();
        let [sent, received] = [passed.sent, passed.received].map(|bytes| bytes as f64);
        let proxies = group.map(Group::cpu).unwrap_or_default();
        Self { server: cpu(installed.process()), proxies, sent, received }
    }
}

impl Counted {
    fn now(installed: &Installed, group: Option<&Group>) -> Self {
        // The counters cost the server something, too, which is none of what comes then.
        let counters = Counters::read(&installed.api);
        Self { counters, used: Used::now(installed, group), at: Instant::now() }
    }

    fn until_now(&self, installed: &Installed, group: Option<&Group>) -> Window {
        let (wall, used) = (self.at.elapsed(), Used::now(installed, group));
        let counters = Counters::read(&installed.api);
        let events = |parts: &[&str]| counters.since(&self.counters, "apiserver_watch_events_total", parts);
        let before = &self.used;
        Window {
            wall,
            server: used.server - before.server,
            proxies: used.proxies.saturating_sub(before.proxies),
            sent: used.sent - before.sent,
            received: used.received - before.received,
            events: CHANGING.map(|resource| events(&[&format!("resource=\"{resource}\"")])),
            all_events: events(&[]),
            replaced: 0.0,
            count: group.map_or(0, |group| group.proxies.len()) as f64,
        }
    }
}

fn replace(installed: &Installed, group: Option<&Group>, fakes: &mut Fakes, time: Duration) -> Window {
    let count = PER_SECOND * u32::try_from(time.as_secs()).unwrap();
    let mut window = Window::of(installed, group, || {
        let begun = Instant::now();
        for number in 0..count {
            fakes.replace_one(installed);
            thread::sleep((time / count * (number + 1)).saturating_sub(begun.elapsed()));
        }
        // What is still on its way belongs to it.
        thread::sleep(Duration::from_secs(1));
    });
    window.replaced = f64::from(count);
    window
}

impl Window {
    fn of(installed: &Installed, group: Option<&Group>, act: impl FnOnce()) -> Self {
        let before = Counted::now(installed, group);
        act();
        before.until_now(installed, group)
    }

    fn at_rest(installed: &Installed, group: Option<&Group>, size: &Size) -> Self {
        Self::of(installed, group, || thread::sleep(size.while_at_rest))
    }

    fn server_ms(&self) -> f64 {
        milliseconds(self.server)
    }

    fn server_ms_each(&self) -> f64 {
        self.server_ms() / self.replaced
    }

    fn say_bytes(&self) -> String {
        format!("{} read, {} written, {:.0} events", mib(self.received), kib(self.sent), self.all_events)
    }

    /// What is there beyond what is there without a proxy.
    fn say_rest(&self, none: &Self) -> String {
        let seconds = self.wall.as_secs_f64();
        let share = |time: Duration| time.as_secs_f64() / seconds * 100.0;
        format!(
            "{:.0} bytes/s read by each, {:.1} events/s in all; the API server takes {:.1} % of a processor, {:.1} % \
             without; each proxy {:.2} %",
            self.received / seconds / self.count,
            self.all_events / seconds,
            share(self.server),
            share(none.server),
            share(self.proxies) / self.count,
        )
    }

    fn say_replaced(&self) -> String {
        let [pods, slices] = self.events.map(|events| events / self.replaced);
        let server = format!(
            "{:.2} ms of the API server's CPU, {pods:.1} events of pods and {slices:.1} of slices in all",
            self.server_ms_each()
        );
        if self.count == 0.0 {
            return server;
        }
        let read = kib(self.received / self.replaced / self.count);
        let spent = milliseconds(self.proxies) / self.replaced / self.count;
        format!("{server}; {read} read and {spent:.2} ms of CPU by each process")
    }
}
