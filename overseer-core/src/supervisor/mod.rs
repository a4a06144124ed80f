//! The rules of the master.

mod settings;

pub(crate) use settings::{Installation, Settings};
