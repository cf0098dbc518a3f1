//! One proxy of a node after another: the holder beside them, and hand-overs.

use std::fs;
use std::path::PathBuf;

use super::capture::Capture;
use super::command::{self, Process};
use super::fault::DemoError;
use super::node::{READY, WorldNode, start_proxy};
use super::world::{World, binary, require};

impl WorldNode {
    /// The unix socket on which the holder meets the proxies.
    #[must_use]
    pub fn holder_socket(&self) -> PathBuf {
        self.dir.join("holder/holder.sock")
    }
}

impl World {
    /// The process of a node's holder.
    ///
    /// # Errors
    /// When there is no such node, or it has no holder.
    pub fn holder(&mut self, node: &str) -> Result<&mut Process, DemoError> {
        let unknown = || DemoError::Unknown { kind: "holder", name: node.to_owned() };
        self.nodes.get_mut(node).and_then(|node| node.holder.as_mut()).ok_or_else(unknown)
    }

    /// Starts the holder of a node, in place of one that has ended, and waits until proxies may come.
    ///
    /// # Errors
    /// When there is no such node, or it does not come up.
    pub fn restart_holder(&mut self, name: &str) -> Result<(), DemoError> {
        let socket = self.running_node(name)?.holder_socket();
        // What a dead one has left says nothing of this one.
        let _there_may_be_none = fs::remove_file(&socket);
        let mut holder = self.start_holder(name, "holder.log")?;
        holder.wait_until("the socket", READY, || socket.exists())?;
        if let Some(node) = self.nodes.get_mut(name) {
            node.holder = Some(holder);
        }
        Ok(())
    }

    /// Starts another holder beside a node's, and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn next_holder(&self, node: &str) -> Result<Process, DemoError> {
        self.start_holder(node, "next-holder.log")
    }

    fn start_holder(&self, name: &str, log: &str) -> Result<Process, DemoError> {
        let node = self.running_node(name)?;
        let argv = [
            binary("node-proxy")?.display().to_string(),
            "holder".to_owned(),
            format!("--socket={}", node.holder_socket().display()),
            format!("--log-level={}", self.log_level),
        ];
        let command = command::within(&node.netns, &argv);
        Process::start(&format!("the holder of {name}"), command, &node.dir.join(log))
    }

    /// Starts another proxy beside a node's, with more or other arguments, and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn successor(&mut self, node: &str, arguments: &[&str]) -> Result<Process, DemoError> {
        start_proxy(self, node, arguments)
    }

    /// Starts another proxy beside a node's, and waits until it serves. Returns the old one, which drains.
    ///
    /// # Errors
    /// When the new one does not come to serve; the old one stays the node's.
    pub fn hand_over(&mut self, name: &str) -> Result<Process, DemoError> {
        let mut proxy = start_proxy(self, name, &[])?;
        let old = self.proxy(name)?.log_path().to_owned();
        // Until then, the old one answers whether the node's proxy is ready.
        let superseded = || fs::read_to_string(&old).is_ok_and(|text| text.contains("superseded by another"));
        proxy.wait_until("serving", READY, superseded)?;
        let unknown = || DemoError::Unknown { kind: "node proxy", name: name.to_owned() };
        self.nodes.get_mut(name).and_then(|node| node.proxy.replace(proxy)).ok_or_else(unknown)
    }

    /// Starts to record what passes through a node's namespace.
    ///
    /// # Errors
    /// As [`World::capture`], and when there is no such node.
    pub fn capture_on_node(&self, node: &str) -> Result<Capture, DemoError> {
        require("tcpdump", "install the Debian package tcpdump")?;
        let node = self.running_node(node)?;
        Capture::start(&node.netns, &node.dir)
    }
}
