//! The promises, shown with real processes: started, signalled and killed while clients keep connecting.
#![cfg(target_os = "linux")]

mod alone;
mod app;
mod broken;
mod commands;
mod datagrams;
mod files;
mod killed;
mod load;
mod managers;
mod manners;
mod notify;
mod own_sockets;
mod packed;
mod protocol;
mod reexec;
mod restart;
mod serving;
mod settings;
mod signals;
mod signed;
mod sockets;
mod source;
mod store;
mod surroundings;
mod tool;
mod upgrade;
