//! `http2_clients ADDRESS`: clients that speak HTTP/2, for the benchmark. 200 requests a second come due on ten connections in turn, until SIGTERM.
//!
//! It writes `begun`, a line for each request that failed and how many there were. A connection that the server wants no more requests on (GOAWAY) is replaced
//! by another one. What was never sent because of that is sent there; what was sent is never repeated.

use hyper::body::{Body, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::cell::Cell;
use std::error::Error;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

const CONNECTIONS: usize = 10;
const PER_SECOND: u32 = 200;
/// How long a client waits for its answer.
const PATIENCE: Duration = Duration::from_secs(10);

type Reason = Box<dyn Error>;
/// A connection, if there is one that requests can be sent on.
type Connection = Mutex<Option<SendRequest<String>>>;

fn main() -> ExitCode {
    match ask_until_told_to_stop() {
        Ok(asked) => {
            println!("asked: {asked}");
            ExitCode::SUCCESS
        }
        Err(wrong) => {
            eprintln!("http2_clients: {wrong}");
            ExitCode::FAILURE
        }
    }
}

fn ask_until_told_to_stop() -> Result<u64, Reason> {
    let address: SocketAddr = std::env::args().nth(1).ok_or("the address is missing")?.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async move {
        let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let connections: Vec<Rc<Connection>> = (0..CONNECTIONS).map(|_| Rc::default()).collect();
        let mut due = interval(Duration::from_secs(1) / PER_SECOND);
        due.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut asked, open) = (0, Rc::new(Cell::new(0_u64)));
        println!("begun");
        loop {
            tokio::select! {
                _ = stop.recv() => break,
                _ = due.tick() => {}
            }
            let (connection, open) = (Rc::clone(&connections[asked as usize % CONNECTIONS]), Rc::clone(&open));
            // Every tenth takes long.
            let target = if asked % 10 == 9 { "/?d=1500" } else { "/" };
            asked += 1;
            open.set(open.get() + 1);
            tokio::task::spawn_local(async move {
                match timeout(PATIENCE, ask(&connection, address, target)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => println!("failed: {}", in_words(why.as_ref())),
                    Err(_) => println!("failed: no answer within {PATIENCE:?}"),
                }
                open.set(open.get() - 1);
            });
        }
        // Each is over after its time at the latest.
        let mut look = interval(Duration::from_millis(10));
        while open.get() > 0 {
            look.tick().await;
        }
        Ok(asked)
    })
}

async fn ask(connection: &Connection, address: SocketAddr, target: &str) -> Result<(), Reason> {
    let mut request = Request::get(format!("http://{address}{target}")).body(String::new())?;
    loop {
        let mut sender = sender(connection, address).await?;
        match sender.try_send_request(request).await {
            Ok(response) => return read(response).await,
            Err(mut error) => match error.take_message() {
                // It never left this process.
                Some(unsent) => request = unsent,
                None => return Err(error.into_error().into()),
            },
        }
    }
}

/// A connection that takes requests: the one that there is, or a new one.
async fn sender(connection: &Connection, address: SocketAddr) -> Result<SendRequest<String>, Reason> {
    let mut connection = connection.lock().await;
    if let Some(sender) = connection.as_mut()
        && sender.ready().await.is_ok()
    {
        return Ok(sender.clone());
    }
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, driver) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    // Its end is seen by those who ask on it.
    tokio::spawn(async move { drop(driver.await) });
    *connection = Some(sender.clone());
    Ok(sender)
}

async fn read(response: Response<Incoming>) -> Result<(), Reason> {
    let (head, mut body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("status {}", head.status).into());
    }
    let mut length = 0;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        length += frame?.data_ref().map_or(0, |data| data.len());
    }
    if length == 0 { Err("an answer without a body".into()) } else { Ok(()) }
}

/// The error and what caused it.
fn in_words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
