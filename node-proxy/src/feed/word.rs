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

use crate::cluster::line::{read_kind, read_line, write_line};
use crate::cluster::objects::{Change, Object, ObjectId, ObjectKey};

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

/// That the controller lives.
pub(super) const ALIVE: &[u8] = b"\n";

/// Writes how the one becomes the other, up to the end of that.
///
/// # Errors
/// When an object cannot be written as JSON.
pub(super) fn write_difference(
    out: &mut Vec<u8>,
    known: &BTreeMap<ObjectId, Object>,
    wanted: &BTreeMap<ObjectId, Object>,
) -> serde_json::Result<()> {
    for (id, object) in wanted.iter().filter(|(id, object)| known.get(id) != Some(object)) {
        out.push(b'+');
        write_line(out, id, object)?;
        out.push(b'\n');
    }
    for ObjectId { kind, key } in known.keys().filter(|id| !wanted.contains_key(id)) {
        out.push(b'-');
        serde_json::to_writer(&mut *out, &(kind.as_label(), &key.namespace, &key.name))?;
        out.push(b'\n');
    }
    out.extend_from_slice(b".\n");
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
    use std::sync::Arc;

    use super::*;
    use crate::attach::fixture;
    use crate::cluster::objects::Kind;

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
            let mut out = Vec::new();
            write_difference(&mut out, known, wanted).unwrap();
            let text = String::from_utf8(out).unwrap();
            text.lines().map(|line| read_word(line).unwrap()).collect::<Vec<_>>()
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
    fn other_lines_are_what_they_say_or_nothing() {
        assert_eq!(read_word(""), Ok(Word::Alive));
        let refusal = String::from_utf8(write_refusal("no\nGateway")).unwrap();
        assert_eq!(read_word(refusal.trim_end()), Ok(Word::Refused("no Gateway".to_owned())));
        assert_eq!(read_word("?"), Err("'?' begins no word".to_owned()));
        assert_eq!(read_word("-[\"Cod\",\"shop\",\"a\"]"), Err("Cod is no kind".to_owned()));
        assert!(read_word("+[\"Pod\",").unwrap_err().starts_with("EOF"));
    }
}
