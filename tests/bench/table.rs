//! What came of it: medians and ratios, for people as Markdown and for programs as JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::bare::Logs;
use crate::contender::Contender;
use crate::measure::{Figures, Measure, Spread};
use crate::targets;
use crate::work::Section;

/// All rounds of one contender at one work.
#[derive(Debug)]
struct Row {
    section: &'static Section,
    work: &'static str,
    contender: &'static str,
    with_logs: Vec<Figures>,
    without_logs: Vec<Figures>,
    /// Why rounds did not count.
    refused: Vec<String>,
    /// Why it took no part.
    absent: Option<&'static str>,
}

/// All rows, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Table {
    description: Vec<String>,
    rows: Vec<Row>,
}

impl Table {
    /// Adds lines to what stands above the tables, each once.
    pub(crate) fn describe(&mut self, lines: impl IntoIterator<Item = String>) {
        let new = lines.into_iter().filter(|line| !self.description.contains(line));
        let new: Vec<_> = new.collect();
        self.description.extend(new);
    }

    fn row(&mut self, section: &'static Section, work: &'static str, contender: &'static str) -> &mut Row {
        let found = self.rows.iter().position(|row| row.work == work && row.contender == contender);
        let index = found.unwrap_or_else(|| {
            let (with_logs, without_logs, refused) = (Vec::new(), Vec::new(), Vec::new());
            self.rows.push(Row { section, work, contender, with_logs, without_logs, refused, absent: None });
            self.rows.len() - 1
        });
        &mut self.rows[index]
    }

    /// Adds a round.
    pub(crate) fn add(
        &mut self,
        (section, work): (&'static Section, &'static str),
        (contender, logs): (&'static str, Logs),
        outcome: Result<Figures, String>,
    ) {
        match &outcome {
            Ok(figures) => println!("{work} {contender} (logs {logs:?}): {figures}"),
            Err(why) => println!("{work} {contender} (logs {logs:?}): not counted: {why}"),
        }
        let row = self.row(section, work, contender);
        match (outcome, logs) {
            (Ok(figures), Logs::On) => row.with_logs.push(figures),
            (Ok(figures), Logs::Off) => row.without_logs.push(figures),
            (Err(why), _) => row.refused.push(why),
        }
    }

    /// Says that a contender takes no part, and why.
    pub(crate) fn add_absent(
        &mut self,
        (section, work): (&'static Section, &'static str),
        contender: &'static str,
        reason: &'static str,
    ) {
        self.row(section, work, contender).absent = Some(reason);
    }

    /// The works of ours without a round that counts.
    pub(crate) fn works_ours_could_not_do(&self) -> Vec<&'static str> {
        let ours = self.rows.iter().filter(|row| row.contender == Contender::OURS);
        ours.filter(|row| row.with_logs.is_empty() && row.without_logs.is_empty())
            .map(|row| row.work)
            .collect()
    }

    /// The median with logs of one contender at one work.
    pub(crate) fn median(&self, work: &str, contender: &str, measure: Measure) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.work == work && row.contender == contender)?;
        spread(&row.with_logs, measure).map(|spread| spread.median)
    }

    /// Everybody but ours and the limit who has a row at a work, whether it took part or not.
    pub(crate) fn others(&self, work: &str) -> Vec<&'static str> {
        let rows = self.rows.iter().filter(|row| row.work == work);
        rows.map(|row| row.contender).filter(|name| ![Contender::OURS, "no proxy"].contains(name)).collect()
    }

    /// Writes `table.md` and `table.json` into a folder; the first is returned.
    pub(crate) fn write(&self, folder: &Path) -> std::io::Result<String> {
        fs::create_dir_all(folder)?;
        let markdown = self.as_markdown();
        fs::write(folder.join("table.md"), &markdown)?;
        fs::write(folder.join("table.json"), format!("{:#}\n", self.as_json()))?;
        Ok(markdown)
    }

    fn as_markdown(&self) -> String {
        let mut text = String::new();
        for line in &self.description {
            writeln!(text, "- {line}").unwrap();
        }
        let mut section = None;
        for row in &self.rows {
            if section != Some(row.section) {
                section = Some(row.section);
                text += &heading(row.section, self.has_column_without_logs(row.section));
            }
            writeln!(text, "| {} | {} | {} |", row.work, row.contender, self.cells(row)).unwrap();
        }
        text + &targets::as_markdown(self)
    }

    /// Some works are done with logs only.
    fn has_column_without_logs(&self, section: &Section) -> bool {
        self.rows.iter().any(|row| row.section == section && !row.without_logs.is_empty())
    }

    fn cells(&self, row: &Row) -> String {
        let first = row.section.measures[0];
        let has_second = self.has_column_without_logs(row.section);
        let width = row.section.measures.len() + if has_second { 4 } else { 2 };
        let nothing = |why: &str| format!("{why}{}", " |".repeat(width - 1));
        if let Some(reason) = row.absent {
            return nothing(&format!("not run: {reason}"));
        }
        if row.with_logs.is_empty() && row.without_logs.is_empty() {
            return nothing(&format!("not counted: {}", row.refused.first().map_or("", String::as_str)));
        }
        let ours =
            self.rows.iter().find(|other| other.work == row.work && other.contender == Contender::OURS);
        let mut cells = Vec::new();
        let columns = [|row: &Row| row.with_logs.clone(), |row: &Row| row.without_logs.clone()];
        for column in &columns[..if has_second { 2 } else { 1 }] {
            let own = spread(&column(row), first);
            cells.push(own.map_or_else(String::new, |own| {
                let [median, least, most] =
                    [own.median, own.least, own.most].map(|figure| first.show(figure));
                format!("{median} ({least}-{most})")
            }));
            let ours = ours.and_then(|ours| spread(&column(ours), first)).filter(|ours| ours.median > 0.0);
            let ratio = own.filter(|own| own.median > 0.0).zip(ours);
            cells.push(
                ratio.map_or_else(String::new, |(own, ours)| format!("{:.2}", own.median / ours.median)),
            );
        }
        let rounds = if row.with_logs.is_empty() { &row.without_logs } else { &row.with_logs };
        for measure in &row.section.measures[1..] {
            let spread = spread(rounds, *measure);
            cells.push(spread.map_or_else(String::new, |spread| measure.show(spread.median)));
        }
        let refused =
            if row.refused.is_empty() { String::new() } else { format!(", {} refused", row.refused.len()) };
        cells.push(format!("{}+{}{refused}", row.with_logs.len(), row.without_logs.len()));
        cells.join(" | ")
    }

    /// The ratio to ours of what counts, with logs.
    fn times_ours(&self, row: &Row) -> Option<f64> {
        let measure = row.section.measures[0];
        let ours = self.median(row.work, Contender::OURS, measure)?;
        Some(self.median(row.work, row.contender, measure)? / ours)
    }

    fn as_json(&self) -> Value {
        let rounds = |figures: &Vec<Figures>| {
            let each = figures.iter().map(|figures| {
                figures.each().map(|(measure, figure)| (measure.key(), json!(figure))).collect::<Map<_, _>>()
            });
            each.collect::<Vec<_>>()
        };
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "section": row.section.title, "work": row.work, "contender": row.contender,
                    "with_logs": rounds(&row.with_logs), "without_logs": rounds(&row.without_logs),
                    "medians_with_logs": medians(&row.with_logs),
                    "medians_without_logs": medians(&row.without_logs),
                    "times_ours": self.times_ours(row),
                    "refused": row.refused, "not_run": row.absent,
                })
            })
            .collect();
        json!({"description": self.description, "rows": rows, "targets": targets::as_json(self)})
    }
}

fn heading(section: &Section, has_second: bool) -> String {
    let first = section.measures[0].title();
    let own = [format!("{first} (spread)"), format!("{first}, logs off (spread)")];
    let mut columns = vec!["work", "contender", &own[0], "times ours"];
    if has_second {
        columns.extend([own[1].as_str(), "times ours"]);
    }
    columns.extend(section.measures[1..].iter().map(|measure| measure.title()));
    columns.push("rounds (with logs + without)");
    format!("\n## {}\n\n| {} |\n|{}\n", section.title, columns.join(" | "), "---|".repeat(columns.len()))
}

/// The spreads of all measures of some rounds, by name.
fn medians(rounds: &[Figures]) -> Map<String, Value> {
    let measures = rounds.iter().flat_map(Figures::each).map(|(measure, _)| measure);
    let each = measures.filter_map(|measure| {
        let Spread { median, least, most } = spread(rounds, measure)?;
        Some((measure.key(), json!({"median": median, "least": least, "most": most})))
    });
    each.collect()
}

fn spread(rounds: &[Figures], measure: Measure) -> Option<Spread> {
    Spread::of(rounds.iter().filter_map(|figures| figures.of(measure)).collect())
}
