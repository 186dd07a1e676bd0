//! `evaluate PLAN.toml`: combinations x prompts x seeds x rows, each piece of work a file.

mod file;
mod judges;
mod table;

use self::file::{Plan, shown};
use super::{
    make::{Maker, Shard},
    side_by_side,
    unit::{Cell, Unit, units},
};
use crate::{
    cli::{
        common::{DeviceArgs, note},
        score::judged,
    },
    error::{Error, Result},
    tensor::atomic::atomic_write,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What is done, and where.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The plan's file.
    pub plan: PathBuf,
    /// The folder for everything that is made.
    pub out: PathBuf,
    /// This process's part.
    pub shard: Shard,
    /// Where to compute.
    pub place: DeviceArgs,
}

impl Evaluation {
    /// Makes what is missing; with all of it there, the table and the page.
    ///
    /// # Errors
    /// Those of the plan, of training, sampling and scoring; [`Error::Interrupted`] after Ctrl-C.
    pub fn run(&self) -> Result<u8> {
        let plan = Plan::read(&self.plan)?;
        let root = self.plan.parent().map(Path::to_path_buf).unwrap_or_default();
        let mut all = vec![];
        for combination in &plan.combinations {
            let shown = shown(&plan, combination)?;
            let training = (plan.base.as_str(), &plan.training);
            all.extend(units(&shown, &plan.rows, &self.out, &|row| {
                row.config(training, &shown.subjects, &root)
            })?);
        }
        let how = (plan.base.clone(), plan.generate.clone(), plan.seeds.all());
        let maker = Maker::new(how, self.out.clone(), self.shard, self.place.clone());
        maker.write("plan.toml", &plan.text(&self.plan)?)?; // as it was last used, to be looked at
        maker.work(&all, &mut |unit| {
            unit.cells().try_for_each(|(_, cell)| {
                self.score(&plan, unit, &cell)?;
                maker.go_on(&cell)
            })
        })?;
        let judges = plan.score.name();
        let judged = |cell: &Cell| {
            let scores = cell.scores(&self.out, &judges);
            Ok(plan.score.none() || table::has_all(&scores, &maker.seeds)?)
        };
        if !maker.all_there(&all, &judged)? {
            return Ok(0);
        }
        if plan.score.none() {
            note("the plan has no [score]: the pictures were not judged");
        } else {
            table::write(&plan, &all, &self.out)?;
        }
        let page = self.out.join("side_by_side.html");
        side_by_side::write(&maker, &plan.rows, &all, &page)?;
        note(&page.display().to_string());
        Ok(0)
    }

    /// The scores of a cell, once.
    fn score(&self, plan: &Plan, unit: &Unit, cell: &Cell) -> Result<()> {
        let path = cell.scores(&self.out, &plan.score.name());
        if plan.score.none() || table::has_all(&path, &plan.seeds.all())? {
            return Ok(());
        }
        let by = plan.score.flags(unit.subjects_file()?, &cell.combination, &cell.prompt)?;
        let scores = judged(&cell.folder(&self.out), by, self.place.clone())?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        }
        atomic_write(&path, |w| w.write_all(format!("{scores:#}\n").as_bytes()))
    }
}
