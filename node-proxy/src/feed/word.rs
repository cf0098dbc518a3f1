//! What is said on a feed, line by line, from the controller to the proxy of a Gateway.
//!
//! ```text
//! +["Pod","shop","web",{...}]     it is there, and is this
//! -["Pod","shop","web"]            it is not there any more
//! .                               that was all for now: what was said since the last one holds together
//!                                 nothing; the controller lives
//! !why                            nothing will be said
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::line::{read_kind, read_line, write_line};
use crate::cluster::objects::{Change, Kind, Nodes, Object, ObjectId, ObjectKey};

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Word {
    Said(Change),
    /// What was said since the last one holds together.
    Complete,
    /// The controller lives.
    Alive,
    Refused(String),
}

/// All that a proxy has been told of, or is to be.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Told {
    /// Its Gateway's own objects.
    pub(super) own: BTreeMap<ObjectId, Object>,
    /// The Nodes, which every proxy is told of. Two that are one map are not compared Node by Node.
    pub(super) nodes: Nodes,
}

/// That the controller lives.
pub(super) const ALIVE: &[u8] = b"\n";

/// Writes how the one becomes the other, up to the end of that.
///
/// # Errors
/// When an object cannot be written as JSON.
pub(super) fn write_difference(out: &mut Vec<u8>, known: &Told, wanted: &Told) -> serde_json::Result<()> {
    for (id, object) in wanted.own.iter().filter(|(id, object)| known.own.get(id) != Some(object)) {
        write_applied(out, id, object)?;
    }
    for id in known.own.keys().filter(|id| !wanted.own.contains_key(id)) {
        write_deleted(out, id)?;
    }
    if !Arc::ptr_eq(&known.nodes, &wanted.nodes) {
        let id = |key: &ObjectKey| ObjectId { kind: Kind::Node, key: key.clone() };
        for (key, node) in wanted.nodes.iter().filter(|(key, node)| known.nodes.get(key) != Some(node)) {
            write_applied(out, &id(key), &Object::Node(Arc::clone(node)))?;
        }
        for key in known.nodes.keys().filter(|key| !wanted.nodes.contains_key(key)) {
            write_deleted(out, &id(key))?;
        }
    }
    out.extend_from_slice(b".\n");
    Ok(())
}

fn write_applied(out: &mut Vec<u8>, id: &ObjectId, object: &Object) -> serde_json::Result<()> {
    out.push(b'+');
    write_line(out, id, object)?;
    out.push(b'\n');
    Ok(())
}

fn write_deleted(out: &mut Vec<u8>, ObjectId { kind, key }: &ObjectId) -> serde_json::Result<()> {
    out.push(b'-');
    serde_json::to_writer(&mut *out, &(kind.as_label(), &key.namespace, &key.name))?;
    out.push(b'\n');
    Ok(())
}

/// Writes that nothing will be said, and why.
pub(super) fn write_refusal(why: &str) -> Vec<u8> {
    format!("!{}\n", why.replace('\n', " ")).into_bytes()
}

/// Reads a line, without its end.
///
/// # Errors
/// What is not understood.
pub(super) fn read_word(line: &str) -> Result<Word, String> {
    let Some(kind) = line.chars().next() else { return Ok(Word::Alive) };
    let rest = &line[kind.len_utf8()..];
    Ok(match kind {
        '+' => {
            let (ObjectId { key, .. }, object) = read_line(rest)?;
            Word::Said(Change::Applied(key, object))
        }
        '-' => {
            let (label, namespace, name): (String, String, String) =
                serde_json::from_str(rest).map_err(|error| error.to_string())?;
            let key = ObjectKey::new(&namespace, &name);
            Word::Said(Change::Deleted(ObjectId { kind: read_kind(&label)?, key }))
        }
        '.' => Word::Complete,
        '!' => Word::Refused(rest.to_owned()),
        _ => return Err(format!("{kind:?} begins no word")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::fixture;
    use crate::cluster::objects::Objects;
    use crate::cluster::trimmed::Node;

    fn said(known: &Told, wanted: &Told) -> Vec<Word> {
        let mut out = Vec::new();
        write_difference(&mut out, known, wanted).unwrap();
        let text = String::from_utf8(out).unwrap();
        text.lines().map(|line| read_word(line).unwrap()).collect()
    }

    #[test]
    fn what_is_written_of_a_difference_is_read_as_that() {
        let objects = fixture::objects(
            "---\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}\n\
             ---\nkind: Secret\nmetadata: {name: a}\ntype: kubernetes.io/tls\ndata: {tls.key: YQ==}\n",
        );
        let id = |kind, name| ObjectId { kind, key: ObjectKey::new("shop", name) };
        let (service, secret) = (id(Kind::Service, "web"), id(Kind::Secret, "a"));
        let all: BTreeMap<_, _> =
            [&service, &secret].map(|id| (id.clone(), objects.find(id).unwrap())).into();
        let said = |known: &BTreeMap<_, _>, wanted: &BTreeMap<_, _>| {
            let [known, wanted] = [known, wanted].map(|own| Told { own: own.clone(), ..Told::default() });
            said(&known, &wanted)
        };
        let none = BTreeMap::new();
        let applied = |id: &ObjectId| Word::Said(Change::Applied(id.key.clone(), all[id].clone()));
        let deleted = |id: &ObjectId| Word::Said(Change::Deleted(id.clone()));
        assert_eq!(said(&none, &all), [applied(&secret), applied(&service), Word::Complete]);
        assert_eq!(said(&all, &all), [Word::Complete]);
        assert_eq!(said(&all, &none), [deleted(&secret), deleted(&service), Word::Complete]);
        let mut other = all.clone();
        let Object::Service(before) = &all[&service] else { panic!("{all:?}") };
        let mut changed = (**before).clone();
        changed.spec.as_mut().unwrap().cluster_ip = Some("10.0.0.2".to_owned());
        let changed = Object::Service(Arc::new(changed));
        other.insert(service.clone(), changed.clone());
        let expected = Word::Said(Change::Applied(service.key.clone(), changed));
        assert_eq!(said(&all, &other), [expected, Word::Complete]);
    }

    #[test]
    fn of_nodes_what_counts_is_said_and_no_heartbeat() {
        let node = |name: &str, zone: &str, heard: &str| {
            format!(
                "---\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}, other: 'at-{heard}'}}}}\n\
                 spec: {{podCIDR: 10.0.0.0/24, podCIDRs: [10.0.0.0/24, 'fd00::/64']}}\n\
                 status: {{addresses: [{{type: InternalIP, address: 192.168.0.1}}, {{type: Hostname, address: x}}], \
                 conditions: [{{type: Ready, status: 'True', lastHeartbeatTime: '2026-01-01T00:00:0{heard}Z'}}]}}\n"
            )
        };
        let mut objects = Objects::default();
        let mut told = |text: &[String]| {
            fixture::replace(&mut objects, fixture::objects(&text.concat()));
            Told { nodes: Arc::clone(&objects.nodes), ..Told::default() }
        };
        let first = told(&[node("a", "east", "1"), node("b", "east", "1")]);
        let heard = told(&[node("a", "east", "2"), node("b", "east", "3")]);
        let moved = told(&[node("a", "west", "2")]);
        let key = |name| ObjectKey::new("", name);
        let applied = |name, told: &Told| {
            let node = Arc::clone(&told.nodes[&key(name)]);
            Word::Said(Change::Applied(key(name), Object::Node(node)))
        };
        let all = said(&Told::default(), &first);
        assert_eq!(
            all,
            [applied("a", &first), applied("b", &first), Word::Complete],
            "what is read is what was there"
        );
        assert!(first == heard && Arc::ptr_eq(&first.nodes, &heard.nodes));
        assert_eq!(said(&first, &heard), [Word::Complete]);
        let gone = Word::Said(Change::Deleted(ObjectId { kind: Kind::Node, key: key("b") }));
        assert_eq!(said(&heard, &moved), [applied("a", &moved), gone, Word::Complete]);
        let Node { zone, pod_ranges, addresses } = &*moved.nodes[&key("a")];
        assert_eq!((zone.as_deref(), pod_ranges.len(), addresses.len()), (Some("west"), 2, 1));
    }

    #[test]
    fn other_lines_are_what_they_say_or_nothing() {
        assert_eq!(read_word(""), Ok(Word::Alive));
        let refusal = String::from_utf8(write_refusal("no\nGateway")).unwrap();
        assert_eq!(read_word(refusal.trim_end()), Ok(Word::Refused("no Gateway".to_owned())));
        assert_eq!(read_word("?"), Err("'?' begins no word".to_owned()));
        assert_eq!(read_word("-[\"Cod\",\"shop\",\"a\"]"), Err("Cod is no kind".to_owned()));
        assert!(read_word("+[\"Pod\",").unwrap_err().starts_with("EOF"));
    }
}
