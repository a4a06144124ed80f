//! What came of the cases.

use std::fmt;

/// What came of all cases, in their order. Its `Display` is a table; secrets in it are blotted out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub(super) source: String,
    pub(super) cases: Vec<Case>,
}

/// One case of the suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    pub(super) name: &'static str,
    pub(super) outcome: Outcome,
}

/// What came of one case.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// What had to come came.
    Passed,
    /// The source cannot do what the case needs, and why.
    NotApplicable(String),
    /// Something else came: what, and what had to come.
    Failed(String),
}

impl Report {
    /// All cases.
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// Those that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(|case| matches!(case.outcome, Outcome::Failed(_)))
    }
}

impl Case {
    /// Its name, as in the table of the module's documentation.
    pub fn name(&self) -> &str {
        self.name
    }

    /// What came of it.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "conformance of the fetcher of {}", self.source)?;
        let (mut passed, mut not_applicable) = (0, 0);
        for Case { name, outcome } in &self.cases {
            match outcome {
                Outcome::Passed => {
                    passed += 1;
                    writeln!(f, "  passed          {name}")?;
                }
                Outcome::NotApplicable(why) => {
                    not_applicable += 1;
                    writeln!(f, "  not applicable  {name}: {why}")?;
                }
                Outcome::Failed(why) => writeln!(f, "  FAILED          {name}: {why}")?,
            }
        }
        let failed = self.failed().count();
        write!(f, "{passed} passed, {failed} failed, {not_applicable} not applicable")
    }
}
