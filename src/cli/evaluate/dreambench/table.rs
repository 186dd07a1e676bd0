//! The table: means over subjects and prompts, for all subjects, the live ones, the objects, and each by itself.

use super::{
    data::{Data, Subject},
    judges::{Judges, METRICS, Scores},
};
use crate::{
    cli::{
        common::out as print,
        evaluate::{make::Maker, unit::Unit},
    },
    error::Result,
    metrics::interval::mean_and_interval,
};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// The means of a method's pictures of a subject, a prompt each.
struct Row {
    method: String,
    subject: usize,
    items: Vec<[Option<f64>; 4]>,
}

/// Subjects that are averaged together.
struct Group {
    key: String,
    title: String,
    subjects: Vec<usize>,
}

/// What the table is made of.
pub struct Table<'a> {
    data: &'a Data,
    methods: &'a [String],
    token: &'a str,
    pictures: usize,
    missing: Vec<(&'static str, String)>,
    rows: Vec<Row>,
}

impl<'a> Table<'a> {
    /// Reads the scores of `units`.
    ///
    /// # Errors
    /// Those of the files.
    pub fn read(
        (data, methods, token): (&'a Data, &'a [String], &'a str),
        (maker, judges): (&Maker, &Judges),
        units: &[Unit],
    ) -> Result<Self> {
        let mut rows: Vec<Row> = vec![];
        for (subject, s) in data.subjects.iter().enumerate() {
            for unit in units.iter().filter(|u| u.shown.name == s.config.id) {
                for (row, cell) in unit.cells() {
                    let item = Scores::read(&judges.path(maker, &cell))?.means();
                    let own = |r: &&mut Row| r.subject == subject && r.method == row.name;
                    match rows.iter_mut().find(own) {
                        Some(known) => known.items.push(item),
                        None => {
                            rows.push(Row { method: row.name.clone(), subject, items: vec![item] });
                        }
                    }
                }
            }
        }
        let pictures = maker.seeds.len();
        let missing = judges.missing(pictures)?;
        Ok(Self { data, methods, token, pictures, missing, rows })
    }

    /// Writes `table.json` and `table.md`, and prints the latter.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&self, maker: &Maker) -> Result<()> {
        maker.write("table.json", &format!("{:#}\n", self.as_json()))?;
        let text = self.as_text();
        maker.write("table.md", &text)?;
        print(&text);
        Ok(())
    }

    /// All, live, objects: those that have subjects.
    fn groups(&self) -> Vec<Group> {
        let group = |key: &str, title: &str, is: &dyn Fn(&Subject) -> bool| {
            let all = self.data.subjects.iter().enumerate();
            let subjects: Vec<usize> = all.filter(|(_, s)| is(s)).map(|(i, _)| i).collect();
            let title = format!("{title} ({})", subjects.len());
            Group { key: key.into(), title, subjects }
        };
        let all = [
            group("all", "All subjects", &|_| true),
            group("live", "Live subjects", &Subject::is_live),
            group("objects", "Objects", &|s| !s.is_live()),
        ];
        all.into_iter().filter(|g| !g.subjects.is_empty()).collect()
    }

    /// Each subject by itself.
    fn singles(&self) -> Vec<Group> {
        let single = |(i, s): (usize, &Subject)| Group {
            key: s.config.id.clone(),
            title: format!("{} ({})", s.config.id, s.config.class),
            subjects: vec![i],
        };
        self.data.subjects.iter().enumerate().map(single).collect()
    }

    /// The numbers of a metric over the items of a method and a group.
    fn numbers(&self, method: &str, group: &Group, metric: usize) -> Vec<f64> {
        let own = |r: &&Row| r.method == method && group.subjects.contains(&r.subject);
        let items = self.rows.iter().filter(own).flat_map(|r| &r.items);
        items.filter_map(|item| item[metric]).collect()
    }

    fn as_json(&self) -> Value {
        let values = |method: &str, group: &Group| -> Value {
            let one = |(i, (key, _)): (usize, &(&str, &str))| {
                let numbers = self.numbers(method, group, i);
                let value = mean_and_interval(&numbers).map(|(mean, interval)| {
                    json!({"mean": mean, "interval": interval, "items": numbers.len()})
                });
                ((*key).to_string(), value.unwrap_or_default())
            };
            Value::Object(METRICS.iter().enumerate().map(one).collect())
        };
        let method = |name: &String| {
            let mut all = Map::from_iter([("method".to_string(), json!(name))]);
            for group in self.groups() {
                all.insert(group.key.clone(), values(name, &group));
            }
            let singles = self.singles();
            let each = singles.iter().map(|g| (g.key.clone(), values(name, g)));
            all.insert("subjects".into(), Value::Object(each.collect()));
            Value::Object(all)
        };
        let reason = |(metric, why): &(&str, String)| ((*metric).to_string(), json!(why));
        json!({
            "prompts_from": self.data.source,
            "token": self.token,
            "pictures_per_prompt": self.pictures,
            "missing_subjects": self.data.missing,
            "subjects_left_out": self.data.left_out,
            "not_measured": Value::Object(self.missing.iter().map(reason).collect()),
            "methods": self.methods.iter().map(method).collect::<Vec<_>>(),
        })
    }

    fn as_text(&self) -> String {
        let d = self.data;
        let prompts: usize = d.subjects.iter().map(|s| s.prompts.len()).sum();
        let mut text = format!(
            "DreamBench. Subjects: {}; prompts: {prompts}, pictures of each: {}; classes and prompts from {}; identifier: \
             {}.\n\nMean over (subject, prompt), with the 95 % interval of the mean (bootstrap).\n",
            d.subjects.len(),
            self.pictures,
            d.source,
            self.token
        );
        for (title, names) in
            [("Missing subjects", &d.missing), ("Subjects not asked for", &d.left_out)]
        {
            if !names.is_empty() {
                let _ = writeln!(text, "\n{title}: {}.", names.join(", "));
            }
        }
        for (metric, why) in &self.missing {
            let _ = writeln!(text, "\nNot measured: {metric} ({why}).");
        }
        let heads: String = METRICS.iter().map(|(_, title)| format!(" {title} |")).collect();
        let cells = |method: &str, group: &Group| -> String {
            let cell = |metric| match mean_and_interval(&self.numbers(method, group, metric)) {
                Some((mean, [low, high])) => format!(" {mean:.4} ({low:.4} to {high:.4}) |"),
                None => " - |".into(),
            };
            (0..METRICS.len()).map(cell).collect()
        };
        for group in self.groups() {
            let _ = writeln!(text, "\n## {}\n\n| method |{heads}", group.title);
            let _ = writeln!(text, "|---|{}", "---|".repeat(METRICS.len()));
            for method in self.methods {
                let _ = writeln!(text, "| {method} |{}", cells(method, &group));
            }
        }
        let _ = writeln!(text, "\n## Each subject\n\n| subject | method |{heads}");
        let _ = writeln!(text, "|---|---|{}", "---|".repeat(METRICS.len()));
        for group in self.singles() {
            for method in self.methods {
                let _ = writeln!(text, "| {} | {method} |{}", group.title, cells(method, &group));
            }
        }
        text
    }
}
