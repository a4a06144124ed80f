//! Which entry of an archive is the program.

use super::Wanted;
use crate::binary::{Refusal, header};

/// How many entries an archive may have.
pub(super) const ENTRIES_MAX: usize = 10_000;
/// How many bytes of an entry are looked at.
pub(super) const BEGINNING_BYTES: usize = 4;
/// How many names an error lists, and how long each may be.
const LISTED_MAX: usize = 20;
const LISTED_LETTERS_MAX: usize = 100;

/// What an archive says that an entry is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Contents<'a> {
    Directory,
    /// A regular file, and how it begins.
    File(&'a [u8]),
    /// Nothing that could be the program, and why not.
    Other(&'static str),
}

/// How well an entry fits, from worst to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    None,
    Executable,
    Named,
    NamedExecutable,
}

/// Finds the program among the entries of an archive, which are offered one after the other.
///
/// It is the regular file with the name of the program, by the last component of its path; or with the path that is set, by its last components. Of several, the one that
/// is an executable. If there is none with that name and none is set: the only executable. An executable is known by its first bytes, not by its mode,
/// which not every archive has.
#[derive(Debug)]
pub(super) struct Choice<'a> {
    wanted: &'a Wanted<'a>,
    best: Fit,
    /// How many entries fit as well as the best.
    equals: usize,
    /// What has the name and cannot be the program.
    unusable: Option<String>,
    listed: Vec<String>,
    entries: usize,
}

impl<'a> Choice<'a> {
    pub(super) fn new(wanted: &'a Wanted<'a>) -> Self {
        Self { wanted, best: Fit::None, equals: 0, unusable: None, listed: Vec::new(), entries: 0 }
    }

    /// Whether this entry is the best so far: its contents replace those of the one before.
    pub(super) fn is_better(&mut self, path: &[u8], contents: Contents<'_>) -> bool {
        self.entries += 1;
        if !matches!(contents, Contents::Directory) && self.listed.len() < LISTED_MAX {
            self.listed.push(printable(path));
        }
        let is_named = self.is_named(path);
        let beginning = match contents {
            Contents::File(beginning) => beginning,
            Contents::Directory => return false,
            Contents::Other(what) => {
                if is_named {
                    self.unusable = Some(format!("{} is {what}", printable(path)));
                }
                return false;
            }
        };
        let is_executable = header::begins_executable(beginning, self.wanted.scripts);
        let fit = match (is_named, is_executable) {
            (true, true) => Fit::NamedExecutable,
            (true, false) => Fit::Named,
            (false, true) if self.wanted.entry.is_none() => Fit::Executable,
            (false, _) => return false,
        };
        if fit > self.best {
            (self.best, self.equals) = (fit, 1);
            return true;
        }
        self.equals += usize::from(fit == self.best);
        false
    }

    fn is_named(&self, path: &[u8]) -> bool {
        let name = self.wanted.entry.unwrap_or(self.wanted.program).as_bytes();
        let name = name.strip_prefix(b"./").unwrap_or(name);
        let Some(before) = path.strip_suffix(name) else { return false };
        !name.is_empty() && (before.is_empty() || before.ends_with(b"/"))
    }

    /// All entries have been offered.
    ///
    /// # Errors
    /// None or several of them are the program.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        let name = self.wanted.entry.unwrap_or(self.wanted.program);
        if self.best < Fit::Named
            && let Some(unusable) = &self.unusable
        {
            return Err(self.refuse(&format!("{unusable} and cannot be the program")));
        }
        match (self.best, self.equals) {
            (Fit::None, _) if self.wanted.entry.is_some() => Err(self.refuse(&format!("there is no {name:?} in it (archive_entry)"))),
            (Fit::None, _) => Err(self.refuse(&format!("there is no {name:?} and no other executable in it"))),
            (_, 1) => Ok(()),
            (Fit::Executable, several) => {
                Err(self.refuse(&format!("there are {several} executables and no {name:?} in it; archive_entry sets the one")))
            }
            (_, several) => Err(self.refuse(&format!("there are {several} entries {name:?} in it"))),
        }
    }

    fn refuse(&self, why: &str) -> Refusal {
        let more = match self.entries - self.listed.len() {
            0 => String::new(),
            more if self.listed.len() < LISTED_MAX => format!(" and {more} directories"),
            more => format!(" and {more} more"),
        };
        let list = if self.listed.is_empty() { "nothing".to_owned() } else { self.listed.join(", ") };
        Refusal::reject(format!("is an archive, and {why}: it holds {list}{more}"))
    }
}

fn printable(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    let mut cut: String = path.chars().take(LISTED_LETTERS_MAX).collect();
    if cut.len() < path.len() {
        cut.push_str("...");
    }
    format!("{cut:?}")
}
