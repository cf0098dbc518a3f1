//! What came of it: medians and ratios, for people as Markdown and for programs as JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::contender::Contender;
use crate::work::{Figures, Work};

/// All rounds of one contender at one work.
#[derive(Debug)]
struct Row {
    work: &'static str,
    contender: &'static str,
    rounds: Vec<Figures>,
    refused: Vec<String>,
}

/// All rows, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Table {
    description: Vec<String>,
    rows: Vec<Row>,
}

impl Table {
    pub(crate) const fn new(description: Vec<String>) -> Self {
        Self { description, rows: Vec::new() }
    }

    /// Adds a round.
    pub(crate) fn add(
        &mut self,
        work: &'static Work,
        contender: &Contender,
        outcome: Result<Figures, String>,
    ) {
        let is_its = |row: &&mut Row| row.work == work.name && row.contender == contender.name;
        if self.rows.iter_mut().find(is_its).is_none() {
            let (rounds, refused) = (Vec::new(), Vec::new());
            self.rows.push(Row { work: work.name, contender: contender.name, rounds, refused });
        }
        let row = self.rows.iter_mut().find(is_its).unwrap();
        match outcome {
            Ok(figures) => row.rounds.push(figures),
            Err(why) => row.refused.push(why),
        }
    }

    /// Whether the mesh has a round that counts at every work.
    pub(crate) fn has_ours_everywhere(&self) -> bool {
        self.rows.iter().all(|row| row.contender != "gammarus" || !row.rounds.is_empty())
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
        text += "\n| work | contender | CPU us per answer (spread) | times ours | answers/s | p50 us | p99 us | MiB | rounds |\n\
                 |---|---|---|---|---|---|---|---|---|\n";
        for row in &self.rows {
            writeln!(text, "| {} | {} | {} |", row.work, row.contender, self.cells(row)).unwrap();
        }
        text
    }

    fn cells(&self, row: &Row) -> String {
        let Row { rounds, refused, .. } = row;
        if rounds.is_empty() {
            let why = refused.first().map_or("", String::as_str);
            return format!("not counted: {why} | | | | | | 0");
        }
        let of = |figure: fn(&Figures) -> f64| Spread::of(rounds.iter().map(figure).collect());
        let cpu = of(|figures| figures.cpu_us);
        let ours = self.rows.iter().find(|other| other.work == row.work && other.contender == "gammarus");
        let ours = ours.filter(|ours| !ours.rounds.is_empty() && cpu.median > 0.0);
        let ratio = ours.map_or_else(String::new, |ours| {
            let own = Spread::of(ours.rounds.iter().map(|figures| figures.cpu_us).collect());
            format!("{:.2}", cpu.median / own.median)
        });
        format!(
            "{:.1} ({:.1}-{:.1}) | {ratio} | {:.0} | {:.0} | {:.0} | {:.0} | {}",
            cpu.median,
            cpu.least,
            cpu.most,
            of(|figures| figures.per_second).median,
            of(|figures| figures.p50_us).median,
            of(|figures| figures.p99_us).median,
            of(|figures| figures.resident_mib).median,
            rounds.len(),
        )
    }

    fn as_json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let rounds = row.rounds.iter().map(|figures| {
                    json!({
                        "per_second": figures.per_second, "cpu_us": figures.cpu_us, "p50_us": figures.p50_us,
                        "p99_us": figures.p99_us, "resident_mib": figures.resident_mib,
                    })
                });
                let rounds: Vec<Value> = rounds.collect();
                json!({"work": row.work, "contender": row.contender, "rounds": rounds, "refused": row.refused})
            })
            .collect();
        json!({"description": self.description, "rows": rows})
    }
}

/// The middle of several figures, and how far they lie apart.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let median = if figures.len().is_multiple_of(2) {
            f64::midpoint(figures[middle - 1], figures[middle])
        } else {
            figures[middle]
        };
        Self { median, least: figures[0], most: figures[figures.len() - 1] }
    }
}
