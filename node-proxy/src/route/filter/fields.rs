//! Fields set, added and removed (HTTPHeaderFilter).

/// What becomes of the fields of a head: first some go, then others come.
///
/// A name that is set takes the place of every line of that name; one that is added gets a line more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldEdit {
    /// Names in lower case.
    removed: Vec<Box<str>>,
    /// Names in lower case of which every spelling goes.
    spellings: Vec<&'static str>,
    /// Names as the route writes them, with their values.
    added: Vec<(Box<str>, Box<str>)>,
}

impl FieldEdit {
    /// Sets, adds and removes. A name that is both set and removed is removed.
    #[must_use]
    pub fn new(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> Self {
        let is_removed = |name: &str| remove.iter().any(|removed| removed.eq_ignore_ascii_case(name));
        let gone = set.iter().map(|(name, _)| *name).chain(remove.iter().copied());
        let mut removed: Vec<Box<str>> = gone.map(|name| name.to_ascii_lowercase().into()).collect();
        removed.sort_unstable();
        removed.dedup();
        let came = set.iter().chain(add).filter(|(name, _)| !is_removed(name));
        let added = came.map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Self { removed, spellings: Vec::new(), added }
    }

    /// This, with what a head has of these names (in lower case) gone before anything comes.
    #[must_use]
    pub fn removing(mut self, names: &[&str]) -> Self {
        self.removed.extend(names.iter().map(|name| Box::<str>::from(*name)));
        self.removed.sort_unstable();
        self.removed.dedup();
        self
    }

    /// This, with what a head has of these names (in lower case) gone before anything comes, also where `_` is written for
    /// `-`: to a server that hands fields on as variables both are one (RFC 3875 section 4.1.18).
    #[must_use]
    pub fn removing_spellings(mut self, names: &[&'static str]) -> Self {
        self.spellings.extend(names);
        self
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.spellings.is_empty() && self.added.is_empty()
    }

    /// Whether lines of this name go. Case does not matter.
    #[must_use]
    pub fn removes(&self, name: &[u8]) -> bool {
        self.removed.iter().any(|removed| removed.as_bytes().eq_ignore_ascii_case(name))
            || self.spellings.iter().any(|removed| is_spelling(removed.as_bytes(), name))
    }

    /// The lines that come, in order.
    pub fn added(&self) -> impl Iterator<Item = (&str, &str)> {
        self.added.iter().map(|(name, value)| (&**name, &**value))
    }

    /// This edit, and then another one.
    #[must_use]
    pub fn then(&self, next: &Self) -> Self {
        let mut removed = [&self.removed[..], &next.removed].concat();
        removed.sort_unstable();
        removed.dedup();
        let kept = self.added.iter().filter(|(name, _)| !next.removes(name.as_bytes()));
        let spellings = [&self.spellings[..], &next.spellings].concat();
        Self { removed, spellings, added: kept.chain(&next.added).cloned().collect() }
    }
}

/// Whether a name, of any case, is `known`, but for `_` in place of `-`.
fn is_spelling(known: &[u8], name: &[u8]) -> bool {
    let is_one =
        |(known, byte): (&u8, &u8)| known.eq_ignore_ascii_case(byte) || (*known == b'-' && *byte == b'_');
    known.len() == name.len() && known.iter().zip(name).all(is_one)
}

/// Whether a filter may not touch this field, because it frames the message, belongs to one hop, or says where
/// the request goes (`URLRewrite` is for that).
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    const NAMES: [&str; 10] = [
        "connection",
        "content-length",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    name.starts_with(':') || NAMES.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a head after an edit, as a wire would write them.
    fn edit(edit: &FieldEdit, lines: &[(&str, &str)]) -> Vec<String> {
        let kept = lines.iter().copied().filter(|(name, _)| !edit.removes(name.as_bytes()));
        kept.chain(edit.added()).map(|(name, value)| format!("{name}: {value}")).collect()
    }

    //= gateway-api HTTPHeaderFilter.set
    //# Set overwrites the request with the given header (name, value) before the action.
    #[test]
    fn set_takes_the_place_of_every_line() {
        let set = FieldEdit::new(&[("My-Header", "bar")], &[], &[]);
        let lines = [("my-header", "foo"), ("other", "1"), ("MY-HEADER", "again")];
        assert_eq!(edit(&set, &lines), ["other: 1", "My-Header: bar"]);
        assert_eq!(edit(&set, &[]), ["My-Header: bar"]);
    }

    //= gateway-api HTTPHeaderFilter.add
    //# Add adds the given header(s) (name, value) to the request before the action. It appends to any existing
    //# values associated with the header name.
    #[test]
    fn add_is_a_line_more() {
        let add = FieldEdit::new(&[], &[("my-header", "bar,baz")], &[]);
        assert_eq!(edit(&add, &[("my-header", "foo")]), ["my-header: foo", "my-header: bar,baz"]);
    }

    //= gateway-api HTTPHeaderFilter.remove
    //# Note that the header names are case-insensitive
    #[test]
    fn remove_takes_every_line() {
        let remove = FieldEdit::new(&[], &[], &["my-header1", "My-Header3"]);
        let lines = [("My-Header1", "foo"), ("My-Header2", "bar"), ("my-header3", "baz")];
        assert_eq!(edit(&remove, &lines), ["My-Header2: bar"]);
    }

    #[test]
    fn every_spelling_of_a_name_goes_and_no_other_name() {
        let remove = FieldEdit::new(&[("x-real-ip", "1")], &[], &[]).removing_spellings(&["x-real-ip"]);
        let lines = [("X_Real-IP", "2"), ("x-real_ip", "3"), ("x-real-ips", "4"), ("x.real-ip", "5")];
        assert_eq!(edit(&remove, &lines), ["x-real-ips: 4", "x.real-ip: 5", "x-real-ip: 1"]);
        assert!(!FieldEdit::new(&[("x_real_ip", "1")], &[], &[]).removes(b"x-real-ip"));
        assert!(!FieldEdit::new(&[("x-real-ip", "1")], &[], &[]).removes(b"x_real_ip"));
    }

    #[test]
    fn one_edit_after_another_is_what_both_make_of_a_head() {
        let edits = [
            FieldEdit::new(&[("a", "1")], &[("b", "2")], &["c"]),
            FieldEdit::new(&[("b", "3")], &[("a", "4"), ("c", "5")], &[]),
            FieldEdit::new(&[], &[], &["a"]),
            FieldEdit::new(&[("a", "6")], &[], &[]).removing_spellings(&["b"]),
            FieldEdit::default(),
        ];
        let lines = [("a", "x"), ("A", "y"), ("b", "x"), ("c", "x"), ("d", "x")];
        for first in &edits {
            for second in &edits {
                let once = edit(first, &lines);
                let pairs: Vec<(&str, &str)> = once.iter().filter_map(|line| line.split_once(": ")).collect();
                assert_eq!(edit(&first.then(second), &lines), edit(second, &pairs), "{first:?} {second:?}");
            }
        }
    }

    #[test]
    fn what_frames_a_message_is_reserved() {
        for name in ["Content-Length", "TE", ":path", "host", "Transfer-Encoding"] {
            assert!(is_reserved(name), "{name}");
        }
        assert!(!is_reserved("x-host") && !is_reserved("cookie"));
    }
}
