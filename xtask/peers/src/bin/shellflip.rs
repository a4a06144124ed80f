//! The service under shellflip: SIGUSR1 starts its successor.
//!
//! shellflip hands over no sockets, so the listener is inherited, under the number in a variable.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use peers::{Call, Connections};
use shellflip::RestartConfig;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd};
use std::pin::pin;
use tokio::signal::unix::{SignalKind, signal};

const LISTENER: &str = "PEER_LISTENER";

#[tokio::main]
async fn main() -> io::Result<()> {
    let call = Call::read()?;
    call.start_slowly();
    let inherited = std::env::var(LISTENER).ok().and_then(|number| number.parse().ok());
    let listener = match inherited {
        // SAFETY: the process before has opened it for this one, and nobody else in here knows of it.
        Some(descriptor) => unsafe { TcpListener::from_raw_fd(descriptor) },
        None => TcpListener::bind(call.address)?,
    };
    listener.set_nonblocking(true)?;
    fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let environment = vec![(LISTENER.into(), listener.as_raw_fd().to_string().into())];
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut restarted = pin!(RestartConfig { environment, ..RestartConfig::default() }.try_into_restart_task()?);
    let mut told_to_stop = signal(SignalKind::terminate())?;
    let connections = Connections::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => connections.serve(accepted?.0),
            restarted = &mut restarted => {
                restarted.map_err(io::Error::other)?;
                break;
            }
            _ = told_to_stop.recv() => break,
        }
    }
    drop(listener);
    connections.finish().await;
    Ok(())
}
