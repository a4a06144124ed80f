//! The service under ecdysis: SIGHUP starts its successor, to which it hands the listener.

use ecdysis::tokio_ecdysis::{SignalKind, StopOnShutdown, TokioEcdysisBuilder};
use futures_util::{Stream, future};
use peers::{Call, Connections};
use std::io;
use std::pin::{Pin, pin};

#[tokio::main]
async fn main() -> io::Result<()> {
    let call = Call::read()?;
    call.start_slowly();
    let mut builder = TokioEcdysisBuilder::new(SignalKind::hangup())?;
    builder.stop_on_signal(SignalKind::terminate())?;
    let mut incoming = builder.build_listen_tcp(StopOnShutdown::Yes, call.address, |socket, address| {
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        Ok(socket.into())
    })?;
    let (_ecdysis, ends) = builder.ready()?;
    let connections = Connections::default();
    let accepting = async {
        while let Some(accepted) = future::poll_fn(|context| Pin::new(&mut incoming).poll_next(context)).await {
            connections.serve(accepted?);
        }
        Ok::<_, io::Error>(())
    };
    // The stream ends when the successor is ready or the process is to stop.
    let (ended, accepted) = future::join(pin!(ends), pin!(accepting)).await;
    ended.map_err(io::Error::other)?;
    accepted?;
    connections.finish().await;
    Ok(())
}
