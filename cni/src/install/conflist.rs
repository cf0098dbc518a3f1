//! The text of a network configuration: with our entry at the end of its chain, or without it.
//!
//! Everything else stays byte for byte: keys and formats of others are theirs, and taking the entry out gives back the
//! very text that it was put into. Nothing here touches a file.

use std::path::Path;

use gammarus_cni::attachment::is_cni_name;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::netconf::SUPPORTED;

/// The `type` of our entry, and the name of the plugin's file.
pub(super) const PLUGIN: &str = "gammarus-cni";

/// Why a text is no network configuration, or none that can be chained; it follows the name of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// A runtime could not use it either.
    Broken(String),
    /// A runtime can, and a plugin after it could not.
    Unchainable(String),
}

/// Our entry as it is written; the paths are UTF-8, since they were flags.
pub(super) fn entry(socket: &Path, state_dir: &Path) -> String {
    let json = |path: &Path| Value::from(path.to_string_lossy());
    format!(r#"{{"type":"{PLUGIN}","socket":{},"stateDir":{}}}"#, json(socket), json(state_dir))
}

/// What is read of a list of plugins, or of a single one's configuration.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys<'a> {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    cni_versions: Vec<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    r#type: String,
    #[serde(borrow, default)]
    plugins: Vec<&'a RawValue>,
}

impl Keys<'_> {
    fn read(text: &str) -> Result<Keys<'_>, Unfit> {
        let keys: Keys<'_> = serde_json::from_str(text)
            .map_err(|error| Unfit::Broken(format!("is not the JSON of a network: {error}")))?;
        if is_cni_name(&keys.name) {
            return Ok(keys);
        }
        Err(Unfit::Broken(format!("has {:?} for the name of a network", keys.name)))
    }

    /// Can a plugin follow another one, and understand its result, in every version that a runtime may choose?
    fn check_versions(&self) -> Result<(), String> {
        let mut versions = std::iter::once(&self.cni_version).chain(&self.cni_versions);
        let is_supported =
            |version: &&String| SUPPORTED.iter().any(|known| known.as_str() == version.as_str());
        match versions.find(|version| !is_supported(version)) {
            None => Ok(()),
            Some(version) => {
                let (first, last) = (SUPPORTED[0].as_str(), SUPPORTED[SUPPORTED.len() - 1].as_str());
                Err(format!("has cniVersion {version:?}, and a plugin can be chained from {first} to {last}"))
            }
        }
    }
}

/// A list of plugins (`*.conflist`), and where each stands in its text.
#[derive(Debug)]
pub(super) struct Conflist<'a> {
    text: &'a str,
    name: String,
    plugins: Vec<Plugin>,
    chainable: Result<(), String>,
}

#[derive(Debug)]
struct Plugin {
    kind: String,
    start: usize,
    end: usize,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    r#type: String,
}

impl<'a> Conflist<'a> {
    /// Reads a list that a runtime would take.
    pub(super) fn read(text: &'a str) -> Result<Self, Unfit> {
        let keys = Keys::read(text)?;
        let place = |plugin: &&RawValue| {
            let start = plugin.get().as_ptr().addr() - text.as_ptr().addr();
            let kind =
                serde_json::from_str(plugin.get()).map_or_else(|_| String::new(), |kind: Kind| kind.r#type);
            Plugin { kind, start, end: start + plugin.get().len() }
        };
        let plugins: Vec<_> = keys.plugins.iter().map(place).collect();
        if let Some(at) = plugins.iter().position(|plugin| plugin.kind.is_empty()) {
            return Err(Unfit::Broken(format!("has no type in plugins[{at}]")));
        }
        if plugins.iter().all(|plugin| plugin.kind == PLUGIN) {
            return Err(Unfit::Broken("has no plugin before ours".to_owned()));
        }
        Ok(Self { text, chainable: keys.check_versions(), name: keys.name, plugins })
    }

    /// The network's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The plugins of others.
    pub(super) fn others(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(|plugin| plugin.kind.as_str()).filter(|kind| *kind != PLUGIN)
    }

    /// Is an entry of ours in it, whatever it says, where it can work?
    pub(super) fn is_chained(&self) -> bool {
        self.plugins.iter().skip(1).any(|plugin| plugin.kind == PLUGIN)
    }

    /// The text with `entry` as the last plugin; `None` when it has exactly that one already, after whatever plugin.
    pub(super) fn with_entry(&self, entry: &str) -> Result<Option<String>, Unfit> {
        self.chainable.clone().map_err(Unfit::Unchainable)?;
        let ours: Vec<_> = self.plugins.iter().filter(|plugin| plugin.kind == PLUGIN).collect();
        let value = |text: &str| serde_json::from_str::<Value>(text).ok();
        if let [plugin] = ours[..]
            && self.is_chained()
            && value(&self.text[plugin.start..plugin.end]) == value(entry)
        {
            return Ok(None);
        }
        let without = self.without_entry();
        let bare = Conflist::read(without.as_deref().unwrap_or(self.text))?;
        let Some(last) = bare.plugins.last() else { return Ok(None) };
        let (before, after) = bare.text.split_at(last.end);
        // What separates the last plugin from what is before it separates ours from it.
        let led = bare.text[..last.start].trim_end().len();
        let space = &bare.text[led..last.start];
        Ok(Some(format!("{before},{space}{entry}{after}")))
    }

    /// The text without any entry of ours; `None` when there is none.
    pub(super) fn without_entry(&self) -> Option<String> {
        let mut kept = String::with_capacity(self.text.len());
        let mut from = 0;
        let mut cut = |until: usize, to: usize| {
            kept.push_str(&self.text[from..until]);
            from = to;
        };
        let first_of_others = self.plugins.iter().position(|plugin| plugin.kind != PLUGIN)?;
        if first_of_others > 0 {
            cut(self.plugins[0].start, self.plugins[first_of_others].start);
        }
        for pair in self.plugins[first_of_others..].windows(2) {
            if pair[1].kind == PLUGIN {
                cut(pair[0].end, pair[1].end);
            }
        }
        if from == 0 {
            return None;
        }
        kept.push_str(&self.text[from..]);
        Some(kept)
    }
}

/// The configuration of a single plugin (`*.conf`, `*.json`).
#[derive(Debug)]
pub(super) struct Single<'a> {
    text: &'a str,
    pub(super) name: String,
    pub(super) kind: String,
    version: String,
    /// Or why not.
    pub(super) chainable: Result<(), String>,
}

impl<'a> Single<'a> {
    /// Reads a configuration that a runtime would take.
    pub(super) fn read(text: &'a str) -> Result<Self, Unfit> {
        let keys = Keys::read(text)?;
        if keys.r#type.is_empty() {
            return Err(Unfit::Broken("has no type".to_owned()));
        }
        let chainable = keys.check_versions();
        Ok(Self {
            text: text.trim(),
            name: keys.name,
            kind: keys.r#type,
            version: keys.cni_version,
            chainable,
        })
    }

    /// A list of this plugin and ours.
    pub(super) fn as_list(&self, entry: &str) -> Result<String, Unfit> {
        self.chainable.clone().map_err(Unfit::Unchainable)?;
        let (version, name) = (Value::from(self.version.as_str()), Value::from(self.name.as_str()));
        Ok(format!(
            "{{\n  \"cniVersion\": {version},\n  \"name\": {name},\n  \"plugins\": [\n{},\n{entry}\n  ]\n}}\n",
            self.text
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::{Conflist, Single, Unfit, entry};

    const OURS: &str = r#"{"type":"gammarus-cni","socket":"/s","stateDir":"/d"}"#;

    /// Lists as primary CNIs write them, with numbers, orders and spaces of their own.
    const LISTS: [&str; 4] = [
        r#"{"cniVersion":"0.3.1","name":"cbr0","plugins":[{"type":"flannel"}]}"#,
        "{\n  \"name\": \"k8s-pod-network\",\n  \"cniVersion\": \"0.3.1\",\n  \"plugins\": [\n    {\n      \"type\": \"calico\",\n      \
         \"mtu\": 1.50e3,\n      \"z\": {\"b\": \"\\u00e9\", \"a\": null}\n    },\n    {\"type\": \"portmap\", \"snat\": true}\n  ],\n  \"later\": [ ]\n}\n",
        "{ \"cniVersion\" : \"1.1.0\",\"plugins\" : [\t{\"type\":\"ptp\"}\t, {\"type\":\"gamma\\u0072us\"} ] , \"name\":\"a\",\"disableCheck\":true }",
        "{\"cniVersions\":[\"0.4.0\",\"1.0.0\"],\"cniVersion\":\"0.4.0\",\"name\":\"n\",\"plugins\":[{\"type\":\"a\"}\r\n]}",
    ];

    #[test]
    fn our_entry_is_what_the_plugin_reads() {
        assert_eq!(entry("/s".as_ref(), "/d".as_ref()), OURS);
    }

    #[test]
    fn the_entry_comes_last_and_nothing_else_changes() {
        for text in LISTS {
            let list = Conflist::read(text).unwrap();
            assert!(!list.is_chained() && list.without_entry().is_none(), "{text}");
            let with = list.with_entry(OURS).unwrap().unwrap();
            let chained = Conflist::read(&with).unwrap();
            assert!(chained.is_chained(), "{with}");
            assert_eq!(chained.plugins.last().unwrap().kind, "gammarus-cni", "{with}");
            assert_eq!(chained.with_entry(OURS), Ok(None), "{with}");
            assert_eq!(chained.without_entry().as_deref(), Some(text), "{with}");
        }
    }

    #[test]
    fn the_entry_stands_as_its_neighbours_do() {
        let with = Conflist::read(LISTS[1]).unwrap().with_entry(OURS).unwrap().unwrap();
        assert!(with.contains(&format!("\"snat\": true}},\n    {OURS}\n  ],\n")), "{with}");
    }

    #[track_caller]
    fn check_mended(plugins: &str, expected: &str) {
        let text = |plugins: &str| format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{plugins}]}}"#);
        let list = text(plugins);
        let got = Conflist::read(&list).unwrap().with_entry(OURS).unwrap();
        assert_eq!(got, Some(text(expected)), "{plugins}");
    }

    #[test]
    fn what_is_wrong_with_an_entry_is_mended() {
        let (ours, old) = (OURS, OURS.replace("/s", "/old"));
        check_mended(&format!(r#"{{"type":"a"}},{old}"#), &format!(r#"{{"type":"a"}},{ours}"#));
        check_mended(&format!(r#"{ours},{{"type":"a"}}"#), &format!(r#"{{"type":"a"}},{ours}"#));
        let twice = format!(r#"{ours}, {old} ,{{"type":"a"}},{ours},{{"type":"b"}},{old}"#);
        check_mended(&twice, &format!(r#"{{"type":"a"}},{{"type":"b"}},{ours}"#));
    }

    #[test]
    fn an_entry_that_others_come_after_stays_where_it_is() {
        let spaced = OURS.replace(',', " , ");
        let text = format!(
            r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"a"}},{spaced},{{"type":"b"}}]}}"#
        );
        assert_eq!(Conflist::read(&text).unwrap().with_entry(OURS), Ok(None));
    }

    #[test]
    fn a_single_plugin_becomes_a_list_with_its_own_text() {
        let text = "\n{ \"type\": \"bridge\", \"name\": \"n\",\n \"cniVersion\": \"0.4.0\", \"mtu\": 1e3 }\n";
        let list = Single::read(text).unwrap().as_list(OURS).unwrap();
        assert!(list.contains(text.trim()), "{list}");
        let read = Conflist::read(&list).unwrap();
        assert_eq!((read.name(), read.is_chained()), ("n", true));
        assert_eq!(read.others().collect::<Vec<_>>(), ["bridge"]);
        assert_eq!(read.with_entry(OURS), Ok(None));
    }

    #[test]
    fn what_no_runtime_would_take_is_broken() {
        for (text, named) in [
            ("", "JSON"),
            ("{", "JSON"),
            ("[]", "name"),
            (r#"{"plugins":[{"type":"a"}]}"#, "name"),
            (r#"{"name":"n"}"#, "no plugin"),
            (r#"{"name":"n","plugins":[]}"#, "no plugin"),
            (r#"{"name":"n","plugins":[{"type":"a"},{}]}"#, "plugins[1]"),
            (r#"{"name":"n","plugins":[{"type":"gammarus-cni"}]}"#, "no plugin before ours"),
        ] {
            let unfit = Conflist::read(text).unwrap_err();
            assert!(matches!(&unfit, Unfit::Broken(reason) if reason.contains(named)), "{text}: {unfit:?}");
        }
        assert_eq!(Single::read(LISTS[0]).unwrap_err(), Unfit::Broken("has no type".to_owned()));
    }

    #[test]
    fn a_version_without_chains_or_after_ours_is_left_alone() {
        for versions in
            [r#""cniVersion":"0.2.0","#, "", r#""cniVersion":"1.1.0","cniVersions":["1.1.0","2.0.0"],"#]
        {
            let list = format!(r#"{{{versions}"name":"n","plugins":[{{"type":"a"}}]}}"#);
            let unfit = Conflist::read(&list).unwrap().with_entry(OURS).unwrap_err();
            assert!(
                matches!(&unfit, Unfit::Unchainable(reason) if reason.contains("cniVersion")),
                "{unfit:?}"
            );
            let single = format!(r#"{{{versions}"name":"n","type":"a"}}"#);
            assert!(matches!(Single::read(&single).unwrap().as_list(OURS), Err(Unfit::Unchainable(_))));
        }
    }
}
