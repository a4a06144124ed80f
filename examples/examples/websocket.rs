//! A WebSocket server on axum. In a drain each client gets a close frame, code 1012 (service restart), and comes back to the next generation.
//!
//! `serve` waits for upgraded connections, to the deadline of the drain. With thousands of clients, spread the goodbyes over the time that the drain has: see the example of
//! `State::draining`.
//!
//! To try it: `cargo run -p overseer-examples --example websocket`, `websocat ws://127.0.0.1:3000`, and `kill -USR2 <the pid that it printed>` for a restart.

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::routing::any;
use overseer_core::hyper::serve;
use overseer_core::{Config, File, State, run};
use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut config = Config::new(program).address(arguments.next().unwrap_or_else(|| "127.0.0.1:3000".to_owned()));
    if let Some(releases) = arguments.next() {
        config = config.fetcher(File::new(releases));
    }
    run(config)
}

#[tokio::main]
async fn program(state: State) -> io::Result<()> {
    let (listener, draining) = (state.listener(), state.draining());
    let upgrade = |upgrade: WebSocketUpgrade| async move { upgrade.on_upgrade(move |socket| converse(socket, state)) };
    serve(listener, Router::new().route("/", any(upgrade)), draining).await
}

/// Greets the client for each message, until it leaves or this generation does.
async fn converse(mut socket: WebSocket, state: State) {
    let mut draining = state.draining();
    loop {
        tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Text(_))) => {
                    let greeting = format!("hello from generation {}", state.generation());
                    if socket.send(Message::Text(greeting.into())).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            () = &mut draining => {
                let goodbye = CloseFrame { code: close_code::RESTART, reason: "the service restarts".into() };
                let _ = socket.send(Message::Close(Some(goodbye))).await;
                break;
            }
        }
    }
    // The connection is over when the client has answered the close (RFC 6455, section 7.1.1).
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Close(_)) {
            return;
        }
    }
}
