//! Where releases come from: one for each fetcher.

use super::bucket::Bucket;
use super::build::Build;
use super::folder::Folder;
use super::github::GitHub;
use super::server::Server;
use clap::ValueEnum;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// A place where releases are published.
pub(crate) trait Source {
    /// Adds the arguments and the environment by which the program finds its releases here.
    fn tell(&self, command: &mut Command);

    /// The name that the file has here, which its signature is for.
    fn file_name(&self) -> &str {
        "app"
    }

    /// Publishes a build in the place of the one before, whole, with the text of its `.minisig` file.
    fn publish(&self, build: &Build, signature: Option<&str>) -> Result<Instant, String>;

    /// How often the file was asked for; `None` where nobody can count.
    fn downloads(&self, build: &Build) -> Option<usize>;
}

impl Source for Box<dyn Source> {
    fn tell(&self, command: &mut Command) {
        (**self).tell(command);
    }

    fn file_name(&self) -> &str {
        (**self).file_name()
    }

    fn publish(&self, build: &Build, signature: Option<&str>) -> Result<Instant, String> {
        (**self).publish(build, signature)
    }

    fn downloads(&self, build: &Build) -> Option<usize> {
        (**self).downloads(build)
    }
}

/// A fetcher, as `--fetcher` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fetcher {
    /// An HTTP server
    Http,
    /// An object in a bucket of S3, which is a server of this machine
    S3,
    /// Releases of a repository on GitHub, which is a server of this tool
    Github,
    /// A file in another directory
    File,
}

impl Fetcher {
    /// Starts what it looks at, with nothing published. `directory` is its own.
    pub(crate) fn open(self, directory: &Path) -> Result<Box<dyn Source>, String> {
        Ok(match self {
            Self::Http => Box::new(Server::start()?),
            Self::S3 => Box::new(Bucket::start(directory)?),
            Self::Github => Box::new(GitHub::start()?),
            Self::File => Box::new(Folder::new(directory)),
        })
    }

    /// In the words of the story.
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::Http => "over HTTP",
            Self::S3 => "from a local S3",
            Self::Github => "from a local GitHub",
            Self::File => "from a file",
        }
    }

    /// The features that the program needs for it.
    pub(crate) fn features(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &["s3"],
            Self::Github => &["github"],
            Self::Http | Self::File => &[],
        }
    }
}
