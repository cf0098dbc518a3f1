//! The chained CNI plugin: one command of the specification per call, its answer on standard output.
//!
//! A container runtime calls it for every pod of the node, and always without arguments; with some, it is the program
//! that puts the plugin on a node ([`install`]). The plugin holds no credential and makes no call but one to the
//! node's proxy; whatever fails ends as the specification's JSON and exit code 1, never as a panic.

mod install;
mod netconf;
mod plugin;

use std::io::{self, Read, Write};
use std::process::ExitCode;

use netconf::{Environment, NetConf};
use plugin::PluginError;

/// More than any configuration with its previous result; a runtime that sends more is not one.
const MAX_STDIN: u64 = 16 * 1024 * 1024;

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 {
        return install::run(std::env::args_os().skip(1));
    }
    plugin()
}

fn plugin() -> ExitCode {
    let mut stdin = Vec::new();
    let read = io::stdin().lock().take(MAX_STDIN).read_to_end(&mut stdin);
    let environment = Environment::from_process();
    let answer = match read {
        // DEL goes on even so: there may be an id in the environment.
        Err(error) if environment.command.as_deref() != Some("DEL") => Err(PluginError::Stdin(error)),
        _ => plugin::run(&environment, &stdin, &mut io::stderr()),
    };
    let (text, exit) = match answer {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.to_json(&answered_version(&stdin)).to_string(), ExitCode::FAILURE),
    };
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}

/// An error is told in the version of the configuration, if that can be read at all.
fn answered_version(stdin: &[u8]) -> String {
    let conf = NetConf::parse(stdin).unwrap_or_default();
    if conf.cni_version().is_empty() { "1.1.0".to_owned() } else { conf.cni_version().to_owned() }
}
