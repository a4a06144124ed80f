//! A file in the binary store that is to be the next generation, and that nobody here has staged: proved by the very process that then becomes it.
//!
//! The program that serves is started for it, so that its trusted keys decide. To read all of a file takes time that a master does not have; for the master this process is
//! the child from the beginning, which says hello a little later, or [`ToMaster::Unproved`].

use super::store::{NotProved, Unwritten, prove};
use super::{Demands, Identity, Packaged};
use crate::FetchError;
use crate::protocol::{ProofOrder, ToMaster};
use crate::role::RoleName;
use crate::sys::handover::Passed;
use crate::sys::link::{Link, Received};
use crate::sys::signals::Original;
use crate::sys::spawn;
use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::process::exit;

/// What such a process does: takes its order, proves the file, and becomes it. Exit code 1 if nothing comes of that.
pub(crate) fn run(mut link: Link, demands: &Demands) -> ! {
    let Ok(Received::Message(order, _)) = link.receive::<ProofOrder>() else { exit(1) };
    let Err(why) = become_proved(&link, &order, demands);
    if let Err(error) = link.send(&ToMaster::Unproved { why }, []) {
        eprintln!("the master could not be told: {}", FetchError::chain(&error));
    }
    exit(1)
}

/// Returns only if the file is not to be run; the text goes on from its path.
fn become_proved(link: &Link, order: &ProofOrder, demands: &Demands) -> Result<Infallible, String> {
    let file = match prove(&order.path, &order.state_dir, &order.packaged, demands) {
        Ok(found) => found.file,
        Err(NotProved::CopyOfPackaged) => copy_of_packaged(order)?,
        Err(NotProved::Bad(why)) => return Err(why),
    };
    let unable = |error: io::Error| format!("cannot be used: {error}");
    let identity = file.file().metadata().map(|metadata| Identity::of(&metadata)).map_err(unable)?;
    if identity != order.identity || !file.is_unwritten() {
        return Err("cannot be proved: somebody has changed it meanwhile".to_owned());
    }
    let original = Original::capture().map_err(unable)?;
    let variable = RoleName::Child.variable_from_parent(link).map_err(unable)?;
    Passed::of(link).and_then(|socket| socket.outlives_exec(true)).map_err(unable)?;
    Err(format!("cannot be executed: {}", spawn::execute(file.file().as_fd(), &original, Some(variable))))
}

/// The file, if it has the contents of the packaged one, which need no proof. What is remembered of that lies where the service's user can write, so both are read.
fn copy_of_packaged(order: &ProofOrder) -> Result<Unwritten, String> {
    let unreadable = |error: io::Error| format!("cannot be used: {error}");
    let mut file = Unwritten::open(&order.path).map_err(unreadable)?;
    let packaged = Packaged::hashed(&order.packaged_path).map_err(|error| format!("cannot be compared with the packaged file: {error}"))?;
    if file.sha256().map_err(unreadable)? != packaged.sha256 {
        return Err("is not what the packaged file holds".to_owned());
    }
    Ok(file)
}
