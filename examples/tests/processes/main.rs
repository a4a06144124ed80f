//! The promises, shown with real processes: started, signalled and killed while clients keep connecting.
#![cfg(target_os = "linux")]

mod alone;
mod app;
mod broken;
mod files;
mod killed;
mod load;
mod managers;
mod manners;
mod packed;
mod protocol;
mod reexec;
mod restart;
mod signals;
mod signed;
mod source;
mod tool;
mod upgrade;
