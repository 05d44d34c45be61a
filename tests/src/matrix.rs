//! Who reaches whom: every test pod dials every other; two matrices are compared cell by cell.

pub mod paths;

use std::fmt::Write;
use std::net::SocketAddr;

use anyhow::{Result, ensure};

use crate::family::Family;
use crate::lab::{Lab, Pod};
use crate::wait;

/// How long a dial may take, in milliseconds: one lost SYN is sent again after a second. A refused cell takes this long,
/// all of them at once.
const TIMEOUT: &str = "1500";

/// Rows dial, columns answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// The pods, in the order of rows and columns.
    pub pods: Vec<Pod>,
    /// `cells[row][column]`: whether the column answered.
    pub cells: Vec<Vec<bool>>,
}

impl Matrix {
    /// Dials HTTP on `port` between all pairs, by the cluster's first family, from inside each pod's network namespace. A pod's
    /// row is one process, so sixty-four cells take about a second.
    ///
    /// # Errors
    /// A pod has no sandbox or no address.
    pub fn measure(lab: &Lab, pods: &[Pod], port: u16) -> Result<Self> {
        Self::measure_by(lab, pods, port, lab.families().first())
    }

    /// As [`Matrix::measure`], by this family.
    ///
    /// # Errors
    /// As [`Matrix::measure`].
    pub fn measure_by(lab: &Lab, pods: &[Pod], port: u16, family: Family) -> Result<Self> {
        let targets: Vec<String> = pods
            .iter()
            .map(|to| Ok(format!("http:{}", SocketAddr::new(to.of(family)?, port))))
            .collect::<Result<_>>()?;
        let mut words = vec!["nice", "-n", "-15", "/run/tools/probe", "dials", TIMEOUT];
        words.extend(targets.iter().map(String::as_str));
        let row = |from: &Pod| {
            let node = lab.node(&from.node);
            let answered = node.exec_in_pod(&from.namespace, &from.name, &words)?;
            let row: Vec<bool> = answered
                .lines()
                .map(|line| line.starts_with("yes "))
                .collect();
            ensure!(row.len() == pods.len(), "one answer a pod: {answered}");
            Ok(row)
        };
        Ok(Self {
            pods: pods.to_vec(),
            cells: wait::together(pods, row)?,
        })
    }

    /// Whether `from` reaches `to`, by name.
    pub fn reaches(&self, from: &str, to: &str) -> Option<bool> {
        let place = |name: &str| self.pods.iter().position(|pod| pod.name == name);
        self.cells.get(place(from)?)?.get(place(to)?).copied()
    }

    /// How many cells differ from an earlier matrix of the same pods.
    pub fn changed(&self, before: &Self) -> usize {
        let pairs = self
            .cells
            .iter()
            .flatten()
            .zip(before.cells.iter().flatten());
        pairs.filter(|(now, then)| now != then).count()
    }

    /// The matrix as text. `colour`: for a terminal; meaning never hangs on it. Cells that differ from `before` stand in
    /// brackets.
    pub fn render(&self, before: Option<&Self>, colour: bool) -> String {
        let titles = titles(&self.pods);
        let first = titles.iter().map(String::len).max().unwrap_or(0).max(9);
        let mut text = format!("  {:<first$}", "from \\ to");
        for title in &titles {
            let _ = write!(text, "  {title:^5}");
        }
        text.push('\n');
        for (row, (from, cells)) in titles.iter().zip(&self.cells).enumerate() {
            let _ = write!(text, "  {from:<first$}");
            for (column, (answered, title)) in cells.iter().zip(&titles).enumerate() {
                let then = before.and_then(|matrix| matrix.cells.get(row)?.get(column).copied());
                let word = if *answered { "yes" } else { "no" };
                let word = if then.is_some_and(|then| then != *answered) {
                    format!("[{word}]")
                } else {
                    word.to_owned()
                };
                let cell = format!("{word:^0$}", title.len().max(5));
                let _ = match (colour, *answered) {
                    (true, true) => write!(text, "  \x1b[32m{cell}\x1b[0m"),
                    (true, false) => write!(text, "  \x1b[31m{cell}\x1b[0m"),
                    (false, _) => write!(text, "  {cell}"),
                };
            }
            text.push('\n');
        }
        text
    }
}

/// What rows and columns are called: `web@a1`, and `web@a1#2` for the second of the same Deployment on the same node.
fn titles(pods: &[Pod]) -> Vec<String> {
    let mut titles: Vec<String> = Vec::with_capacity(pods.len());
    for (place, pod) in pods.iter().enumerate() {
        let title = format!("{}@{}", deployment(&pod.name), pod.node);
        let same = |earlier: &&Pod| {
            earlier.node == pod.node && deployment(&earlier.name) == deployment(&pod.name)
        };
        let earlier = pods.iter().take(place).filter(same).count();
        titles.push(if earlier == 0 {
            title
        } else {
            format!("{title}#{}", earlier + 1)
        });
    }
    titles
}

/// `web-7c9f8-x2x4v` → `web`: what follows is made up by Kubernetes and tells a reader nothing.
fn deployment(name: &str) -> &str {
    let mut parts = name.rsplitn(3, '-');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_pod), Some(_replica_set), Some(deployment)) => deployment,
        (_, _, _) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str) -> Pod {
        Pod {
            namespace: "demo".into(),
            name: name.into(),
            node: node.into(),
            address: String::new(),
            addresses: Vec::new(),
        }
    }

    #[test]
    fn changed_cells_stand_in_brackets() {
        let pods = vec![
            pod("web-7c9f8-x2x4v", "a1"),
            pod("db-55d4c-abcde", "b2"),
            pod("web-7c9f8-zzzzz", "a1"),
        ];
        let before = Matrix {
            pods: pods.clone(),
            cells: vec![vec![true; 3]; 3],
        };
        let mut after = before.clone();
        after.cells[1][0] = false;
        assert_eq!(after.changed(&before), 1);
        assert_eq!(
            after.reaches("db-55d4c-abcde", "web-7c9f8-x2x4v"),
            Some(false)
        );
        let expected = [
            "  from \\ to  web@a1  db@b2  web@a1#2",
            "  web@a1      yes     yes     yes   ",
            "  db@b2       [no]    yes     yes   ",
            "  web@a1#2    yes     yes     yes   ",
        ];
        assert_eq!(
            after
                .render(Some(&before), false)
                .lines()
                .collect::<Vec<_>>(),
            expected
        );
    }
}
