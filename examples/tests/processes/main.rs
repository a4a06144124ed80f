//! The promises, shown with real processes: started, signalled and killed while clients keep connecting.
#![cfg(target_os = "linux")]

mod app;
mod load;
mod restart;
