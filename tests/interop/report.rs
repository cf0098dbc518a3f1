//! What h2spec says of a server, read from the report in JUnit's format that it writes.

use std::collections::BTreeMap;

use regex::Regex;

/// What has become of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Skipped,
    /// With what was expected and what came.
    Failed(String),
}

/// The cases that were run, each by its section and its title, such as `http2/5.1.1 Sends ...`.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<(String, Outcome)>);

impl Report {
    /// The cases of a report.
    #[track_caller]
    pub(crate) fn read(xml: &str) -> Self {
        let case = r#"(?s)<testcase package="([^"]*)" classname="([^"]*)" time="[^"]*">(.*?)</testcase>"#;
        let cases = Regex::new(case).unwrap();
        let read = |found: regex::Captures<'_>| {
            let outcome = match found[3].trim() {
                "" => Outcome::Passed,
                text if text.starts_with("<skipped>") => Outcome::Skipped,
                text => Outcome::Failed(text.to_owned()),
            };
            (format!("{} {}", &found[1], unescaped(&found[2])), outcome)
        };
        let report = Self(cases.captures_iter(xml).map(read).collect());
        // What is not understood would be a case that is missing.
        assert_eq!(report.0.len(), xml.matches("<testcase ").count(), "{xml}");
        report
    }

    /// How many cases of each group there are: `generic`, `hpack`, `http2`.
    pub(crate) fn groups(&self) -> BTreeMap<&str, usize> {
        let mut groups = BTreeMap::new();
        for (title, _) in &self.0 {
            *groups.entry(title.split_once('/').map_or("", |(group, _)| group)).or_default() += 1;
        }
        groups
    }

    /// The titles of the cases that were not tried.
    pub(crate) fn skipped(&self) -> Vec<&str> {
        let skipped = self.0.iter().filter(|(_, outcome)| *outcome == Outcome::Skipped);
        skipped.map(|(title, _)| &**title).collect()
    }

    /// The titles of the cases that have failed, each with why.
    pub(crate) fn failed(&self) -> Vec<(&str, &str)> {
        let failed = self.0.iter().filter_map(|(title, outcome)| match outcome {
            Outcome::Failed(why) => Some((&**title, &**why)),
            Outcome::Passed | Outcome::Skipped => None,
        });
        failed.collect()
    }
}

fn unescaped(text: &str) -> String {
    text.replace("&#34;", "\"")
        .replace("&#39;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
}

#[test]
fn a_report_is_read_with_what_failed_and_what_was_skipped() {
    let case = |title: &str, inside: &str| {
        format!("<testcase package=\"http2/5.1\" classname=\"{title}\" time=\"0.1\">{inside}</testcase>\n")
    };
    let xml = [
        case("good &#34;one&#34;", ""),
        case("bad", "\n  <error>GOAWAY Frame\nTimeout</error>"),
        case("left out", "\n  <skipped></skipped>\n"),
    ];
    let report = Report::read(&xml.concat());
    assert_eq!(report.0[0], ("http2/5.1 good \"one\"".to_owned(), Outcome::Passed));
    assert_eq!(report.groups(), BTreeMap::from([("http2", 3)]));
    assert_eq!(report.skipped(), ["http2/5.1 left out"]);
    let failed = report.failed();
    assert!(matches!(failed[..], [("http2/5.1 bad", why)] if why.contains("Timeout")), "{failed:?}");
}
