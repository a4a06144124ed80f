//! The service alone: nobody restarts it.

use peers::{Call, Connections};
use std::io;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> io::Result<()> {
    let call = Call::read()?;
    call.start_slowly();
    let listener = TcpListener::bind(call.address).await?;
    let connections = Connections::default();
    loop {
        connections.serve(listener.accept().await?.0);
    }
}
