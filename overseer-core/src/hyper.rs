//! An HTTP/1.1 and HTTP/2 server for any tower service, which leaves without failing a request. Feature `hyper`.
//!
//! ```no_run
//! use hyper::{Request, Response, body::Incoming};
//! use overseer_core::hyper::serve;
//! use overseer_core::{Config, State, run};
//! use std::convert::Infallible;
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     run(Config::new(program).address(":3000"))
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn program(state: State) -> std::io::Result<()> {
//!     // An axum::Router, tonic's Routes, or any other:
//!     let service = tower::service_fn(|_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new("hello\n".to_owned())) });
//!     serve(state.listener(), service, state.draining()).await
//! }
//! ```
//!
//! # How it leaves
//!
//! A server that closes an idle connection closes some just as their clients write to them (RFC 9112, section 9.5), and those requests fail. So from the beginning of
//! a drain:
//!
//! - Nobody is accepted any more; who waits in the backlog is left to the next generation.
//! - HTTP/1.1: requests that run are answered, and the next one on each connection too, all with `Connection: close`. An idle connection stays open until its
//!   client uses or closes it, at most for [`idle_grace`](Serve::idle_grace). One that was opened and has said nothing yet is idle too.
//! - HTTP/2: `GOAWAY` in the two steps of RFC 9113, section 6.8, so that what a client sent before it heard of it is answered.
//! - Upgraded connections (WebSocket) belong to their handler, which follows [`State::draining`](crate::State::draining), and are waited for.
//!
//! What is still open at the deadline of the drain is cut, when the process ends.

use crate::child::IDLE_LOOK;
use crate::listener::Listener;
use crate::state::Draining;
use crate::tokio::Connection;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::{TowerToHyperService, TowerToHyperServiceFuture};
use pin_project_lite::pin_project;
use std::fmt;
use std::future::{Future, IntoFuture, Ready, poll_fn, ready};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tower_service::Service;

/// How long an idle connection is kept in a drain, unless [`Serve::idle_grace`] says otherwise.
const IDLE_GRACE: Duration = Duration::from_secs(5);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where the client is, among the extensions of each [`Request`] that came by TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Serves HTTP/1.1 and HTTP/2 on the listener until the drain has begun and every connection is done. To be awaited; the settings come before that.
///
/// The service is cloned for each connection and each request. A panic in it ends its connection alone.
///
/// # Errors
/// The listener cannot be used; see [`Listener::incoming`].
#[doc(alias = "HttpServe")]
pub fn serve<S>(listener: Listener, service: S, draining: Draining) -> Serve<S> {
    let mut builder = Builder::new(TokioExecutor::new());
    // WebSocket over HTTP/2 (RFC 8441).
    builder.http2().enable_connect_protocol();
    Serve { listener, service, draining, idle_grace: IDLE_GRACE, builder, secure: |connection| ready(Ok(connection)) }
}

/// What [`Serve::over`] is given unless it is called: each connection as it is.
pub type Plain = fn(Connection) -> Ready<io::Result<Connection>>;

/// A server that is still to be awaited; made by [`serve`].
#[must_use = "it serves when it is awaited"]
pub struct Serve<S, F = Plain> {
    listener: Listener,
    service: S,
    draining: Draining,
    idle_grace: Duration,
    builder: Builder<TokioExecutor>,
    secure: F,
}

impl<S, F> Serve<S, F> {
    /// For how long an idle HTTP/1.1 connection is kept in a drain. Default: 5 s. It ends at the deadline of the drain at the latest.
    ///
    /// A client that pauses for longer between two requests may lose one, unless it repeats what failed on a connection that was used before, as
    /// browsers and most libraries do.
    pub fn idle_grace(mut self, time: Duration) -> Self {
        self.idle_grace = time;
        self
    }

    /// Sets what hyper-util's builder sets: time-outs, limits, one protocol alone. Default: [`Builder::new`], with WebSocket over HTTP/2.
    pub fn http(mut self, builder: Builder<TokioExecutor>) -> Self {
        self.builder = builder;
        self
    }

    /// Speaks HTTP on what `secure` makes of each connection: TLS, in most cases. The future is awaited in a task of its own, so it may take its time.
    ///
    /// With a `tokio_rustls::TlsAcceptor`: `.over(move |connection| acceptor.accept(connection))`.
    pub fn over<G, T, I>(self, secure: G) -> Serve<S, G>
    where
        G: Fn(Connection) -> T,
        T: Future<Output = io::Result<I>>,
    {
        let Self { listener, service, draining, idle_grace, builder, secure: _ } = self;
        Serve { listener, service, draining, idle_grace, builder, secure }
    }
}

impl<S, F> fmt::Debug for Serve<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve").field("listener", &self.listener).field("idle_grace", &self.idle_grace).finish_non_exhaustive()
    }
}

impl<S, B, F, T, I> IntoFuture for Serve<S, F>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    F: Fn(Connection) -> T + Send + 'static,
    T: Future<Output = io::Result<I>> + Send + 'static,
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = io::Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { listener, service, draining, idle_grace, builder, secure } = self;
            let mut listener = listener.to_tokio()?;
            let how = Arc::new(How { builder, draining, idle_grace });
            // Closed when the last connection is.
            let (open, mut all_closed) = mpsc::channel::<()>(1);
            while let Some(connection) = listener.accept().await? {
                let peer = connection.peer().map(Peer);
                let secured = secure(connection);
                tokio::spawn(serve_one(Arc::clone(&how), secured, peer, service.clone(), open.clone()));
            }
            drop(open);
            all_closed.recv().await;
            Ok(())
        })
    }
}

/// What holds for all connections of a server.
struct How {
    builder: Builder<TokioExecutor>,
    draining: Draining,
    idle_grace: Duration,
}

impl How {
    /// When the grace of a connection ends that is idle from now on. `None`: beyond the clock's range.
    fn end_of_grace(&self) -> Option<Instant> {
        Instant::now().checked_add(self.idle_grace)
    }

    /// Waits until a drain has begun and the grace of what has never been used is over.
    async fn grace_over(&self) {
        self.draining.clone().await;
        let end = self.end_of_grace();
        while let Some(rest) = self.draining.shared().idle_rest(end) {
            sleep(rest).await;
        }
    }
}

/// Serves one connection to its end.
async fn serve_one<S, B, T, I>(how: Arc<How>, secured: T, peer: Option<Peer>, service: S, open: mpsc::Sender<()>)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    T: Future<Output = io::Result<I>>,
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = tokio::select! {
        biased;
        stream = secured => stream,
        () = how.grace_over() => return,
    };
    let served = match stream {
        Ok(stream) => drive(&how, Open { stream, _open: open }, peer, service).await,
        Err(error) => Err(error.into()),
    };
    if let Err(error) = served {
        log::debug!(target: "overseer::child", "a connection has ended: {error}");
    }
}

async fn drive<S, B, I>(how: &How, io: Open<I>, peer: Option<Peer>, service: S) -> Result<(), BoxError>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let activity = Arc::new(Activity { draining: how.draining.clone(), requests: AtomicUsize::new(0), is_http2: AtomicBool::new(false) });
    let service = Watched { service: TowerToHyperService::new(service), peer, activity: Arc::clone(&activity) };
    let mut connection = pin!(how.builder.serve_connection_with_upgrades(TokioIo::new(io), service));
    tokio::select! {
        biased;
        served = connection.as_mut() => return served,
        () = how.draining.clone() => {}
    }
    // Who was idle before is so from now on.
    let mut end_of_grace = how.end_of_grace();
    loop {
        let doing = activity.doing();
        let pause = match doing {
            // It is told to go away, in its own way.
            Doing::Http2 => break,
            // It closes with its answer.
            Doing::Work => IDLE_LOOK,
            Doing::Nothing => match how.draining.shared().idle_rest(end_of_grace) {
                Some(rest) => rest,
                None => break,
            },
        };
        let mut pause = pin!(sleep(pause));
        // What it does changes when it is polled, and only then.
        let served = poll_fn(|context| match connection.as_mut().poll(context) {
            Poll::Ready(served) => Poll::Ready(Some(served)),
            Poll::Pending if activity.doing() != doing => Poll::Ready(None),
            Poll::Pending => pause.as_mut().poll(context).map(|()| None),
        });
        if let Some(served) = served.await {
            return served;
        }
        if doing == Doing::Work {
            end_of_grace = how.end_of_grace();
        }
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Nothing,
    Work,
    /// Whatever it does: it speaks HTTP/2.
    Http2,
}

/// What is known of that. It is written for each request, so that is no more than it has to be.
struct Activity {
    draining: Draining,
    /// Requests that are not yet answered to the end.
    requests: AtomicUsize,
    is_http2: AtomicBool,
}

impl Activity {
    fn doing(&self) -> Doing {
        match self.requests.load(Ordering::Acquire) {
            _ if self.is_http2.load(Ordering::Relaxed) => Doing::Http2,
            0 => Doing::Nothing,
            _ => Doing::Work,
        }
    }
}

/// One request, until its answer is written or given up.
struct Work(Arc<Activity>);

impl Work {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.requests.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Release);
    }
}

/// The user's service, with an eye on what runs.
struct Watched<S> {
    service: TowerToHyperService<S>,
    peer: Option<Peer>,
    activity: Arc<Activity>,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Watched<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
{
    type Response = Response<Answer<B>>;
    type Error = S::Error;
    type Future = Answering<S>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let is_http2 = request.version() == Version::HTTP_2;
        let work = Work::begin(&self.activity);
        if is_http2 {
            self.activity.is_http2.store(true, Ordering::Relaxed);
        }
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        Answering { future: self.service.call(request), work: Some(work), is_http2 }
    }
}

pin_project! {
    /// The answer of the user's service, which tells the client of a drain.
    struct Answering<S>
    where
        S: Service<Request<Incoming>>,
    {
        #[pin]
        future: TowerToHyperServiceFuture<S, Request<Incoming>>,
        work: Option<Work>,
        is_http2: bool,
    }
}

impl<S, B> Future for Answering<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
{
    type Output = Result<Response<Answer<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answered = std::task::ready!(this.future.poll(context));
        let work = this.work.take();
        Poll::Ready(answered.map(|mut response| {
            let is_draining = work.as_ref().is_some_and(|work| work.0.draining.begun());
            // HTTP/2 has no such header (RFC 9113, section 8.2.2), and an upgraded connection is HTTP no more.
            if is_draining && !*this.is_http2 && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response.map(|body| Answer { body, _work: work })
        }))
    }
}

pin_project! {
    /// The body of an answer, which is work until it is written.
    struct Answer<B> {
        #[pin]
        body: B,
        _work: Option<Work>,
    }
}

impl<B: Body> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection that the server waits for, whoever has it: an upgrade hands it on.
struct Open<I> {
    stream: I,
    _open: mpsc::Sender<()>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Open<I> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Open<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;
    use crate::state::Simulation;
    use http_body_util::{BodyExt, Empty};
    use hyper::body::Bytes;
    use std::convert::Infallible;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::JoinHandle;
    use tokio::runtime::Runtime;
    use tower::service_fn;

    /// Longer than anything here takes.
    const LONG: Duration = Duration::from_secs(20);

    /// A server in a thread, and the master that it does not have.
    struct Scene {
        address: String,
        simulation: Simulation,
        server: JoinHandle<io::Result<()>>,
        /// Lets one request to `/slow` be answered.
        go_on: Sender<()>,
    }

    /// Answers `hello`, the path's `slow` when it is told to, and `/stream` in two pieces with a wait in between.
    fn scene(idle_grace: Duration) -> Scene {
        let (state, simulation) = State::simulated(["127.0.0.1:0"]).expect("a state");
        let address = state.addresses()[0].to_owned();
        let (go_on, wait) = channel();
        let wait = Arc::new(Mutex::new(wait));
        let server = std::thread::spawn(move || {
            let service = service_fn(move |request: Request<Incoming>| answer(request, Arc::clone(&wait)));
            runtime().block_on(async move { serve(state.listener(), service, state.draining()).idle_grace(idle_grace).await })
        });
        Scene { address, simulation, server, go_on }
    }

    type Pieces = http_body_util::combinators::BoxBody<Bytes, Infallible>;

    async fn answer(request: Request<Incoming>, wait: Arc<Mutex<Receiver<()>>>) -> Result<Response<Pieces>, Infallible> {
        assert!(request.extensions().get::<Peer>().is_some_and(|peer| peer.0.ip().is_loopback()));
        let told = move || wait.lock().expect("no panic").recv_timeout(LONG).expect("told to go on");
        let text = |text: &'static str| http_body_util::Full::from(text).boxed();
        match request.uri().path() {
            "/slow" => {
                tokio::task::spawn_blocking(told).await.expect("no panic");
                Ok(Response::new(text("slow")))
            }
            "/stream" => {
                let (pieces, stream) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(2);
                pieces.try_send(Ok(Frame::data(Bytes::from("first")))).expect("room");
                tokio::task::spawn_blocking(move || {
                    told();
                    pieces.try_send(Ok(Frame::data(Bytes::from("second")))).expect("room");
                });
                Ok(Response::new(Receiving(stream).boxed()))
            }
            _ => Ok(Response::new(text("hello"))),
        }
    }

    struct Receiving(mpsc::Receiver<Result<Frame<Bytes>, Infallible>>);

    impl Body for Receiving {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_recv(context)
        }
    }

    fn runtime() -> Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    impl Scene {
        fn connect(&self) -> TcpStream {
            let stream = TcpStream::connect(&self.address).expect("it listens");
            stream.set_read_timeout(Some(LONG)).expect("a time-out");
            stream
        }

        /// Waits until everybody who has connected is accepted: that goes in their order.
        fn accepts_all(&self) {
            let mut last = self.connect();
            ask(&mut last, "/");
            hear(&mut last);
        }

        fn drain(&self) {
            self.simulation.drain(LONG);
        }

        /// Waits until the server has returned, which it does when the last connection is closed.
        fn ends(self) {
            self.server.join().expect("no panic").expect("it serves");
            self.simulation.finish();
        }
    }

    fn ask(stream: &mut TcpStream, path: &str) {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").expect("it is open");
    }

    /// The next answer: its head in lower case, and its body.
    fn hear(stream: &mut TcpStream) -> (String, String) {
        let mut bytes = Vec::new();
        let head_end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            bytes.push(byte[0]);
        };
        let head = String::from_utf8_lossy(&bytes[..head_end]).to_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().expect("a number"));
        let mut body = vec![0; length];
        stream.read_exact(&mut body).expect("the whole answer");
        (head, String::from_utf8(body).expect("text"))
    }

    fn is_closed(stream: &mut TcpStream) -> bool {
        stream.read(&mut [0]).expect("closed, not reset") == 0
    }

    #[test]
    fn in_a_drain_the_next_answer_of_each_connection_is_its_last() {
        let scene = scene(LONG);
        let mut kept = scene.connect();
        let mut silent = scene.connect();
        for _ in 0..2 {
            ask(&mut kept, "/");
            let (head, body) = hear(&mut kept);
            assert!(!head.contains("connection:") && body == "hello", "{head}");
        }
        let mut busy = scene.connect();
        ask(&mut busy, "/slow");
        scene.accepts_all();

        scene.drain();
        for (stream, path, answer) in [(&mut kept, "/", "hello"), (&mut silent, "/", "hello")] {
            ask(stream, path);
            let (head, body) = hear(stream);
            assert!(head.contains("connection: close") && body == answer, "{head}");
            assert!(is_closed(stream));
        }
        scene.go_on.send(()).expect("it waits");
        let (head, body) = hear(&mut busy);
        assert!(head.contains("connection: close") && body == "slow", "{head}");
        assert!(is_closed(&mut busy));
        scene.ends();
    }

    #[test]
    fn an_answer_that_was_begun_before_the_drain_leaves_its_connection_open_for_the_grace() {
        let scene = scene(LONG);
        let mut stream = scene.connect();
        ask(&mut stream, "/stream");
        let mut reader = [0; 4096];
        let mut seen = String::new();
        while !seen.contains("first") {
            let count = stream.read(&mut reader).expect("an answer");
            seen.push_str(&String::from_utf8_lossy(&reader[..count]));
        }
        scene.drain();
        scene.go_on.send(()).expect("it waits");
        while !seen.ends_with("0\r\n\r\n") {
            let count = stream.read(&mut reader).expect("the rest");
            seen.push_str(&String::from_utf8_lossy(&reader[..count]));
        }
        assert!(seen.contains("second") && !seen.to_lowercase().contains("connection: close"), "{seen}");
        ask(&mut stream, "/");
        let (head, body) = hear(&mut stream);
        assert!(head.contains("connection: close") && body == "hello", "{head}");
        assert!(is_closed(&mut stream));
        scene.ends();
    }

    #[test]
    fn who_stays_idle_is_closed_after_the_grace_and_no_one_is_accepted_any_more() {
        const GRACE: Duration = Duration::from_millis(300);
        let scene = scene(GRACE);
        let mut kept = scene.connect();
        let mut silent = scene.connect();
        ask(&mut kept, "/");
        hear(&mut kept);
        scene.accepts_all();
        let begun = Instant::now();
        scene.drain();
        assert!(is_closed(&mut kept) && is_closed(&mut silent));
        assert!(begun.elapsed() >= GRACE, "closed after {:?}", begun.elapsed());
        scene.ends();
    }

    #[test]
    fn the_deadline_of_the_drain_ends_the_grace_also_when_it_becomes_an_earlier_one() {
        let scene = scene(Duration::from_secs(3600));
        let mut kept = scene.connect();
        ask(&mut kept, "/");
        hear(&mut kept);
        scene.simulation.drain(Duration::from_secs(3600));
        scene.simulation.drain(Duration::from_millis(100));
        assert!(is_closed(&mut kept));
        scene.ends();
    }

    #[test]
    fn an_upgraded_connection_is_waited_for_and_told_nothing() {
        let (state, simulation) = State::simulated(["127.0.0.1:0"]).expect("a state");
        let address = state.addresses()[0].to_owned();
        let draining = state.draining();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let draining = draining.clone();
            async move {
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    use tokio::io::AsyncWriteExt;
                    let mut stream = TokioIo::new(upgrade.await.expect("upgraded"));
                    stream.write_all(b"up").await.expect("it is open");
                    draining.await;
                    stream.write_all(b"bye").await.expect("it is open");
                });
                let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header(CONNECTION, "upgrade");
                Ok::<_, Infallible>(response.header("upgrade", "test").body(String::new()).expect("a response"))
            }
        });
        let server =
            std::thread::spawn(move || runtime().block_on(async move { serve(state.listener(), service, state.draining()).await }));
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(LONG)).expect("a time-out");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: test\r\n\r\n").expect("it is open");
        let (head, _) = hear(&mut stream);
        assert!(head.starts_with("http/1.1 101") && head.contains("connection: upgrade"), "{head}");
        let mut two = [0; 2];
        stream.read_exact(&mut two).expect("upgraded");
        simulation.drain(LONG);
        let mut rest = String::new();
        stream.read_to_string(&mut rest).expect("closed, not reset");
        assert_eq!(rest, "bye");
        server.join().expect("no panic").expect("it serves");
    }

    #[test]
    fn http2_is_told_to_go_away_and_what_is_open_is_answered() {
        let scene = scene(LONG);
        let address = scene.address.clone();
        let (begun, has_begun) = channel();
        let client = async move {
            let stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("a server of HTTP/2");
            let connection = tokio::spawn(connection);
            let request = |path: &str| Request::get(format!("http://test{path}")).body(Empty::<Bytes>::new()).expect("a request");
            let first = sender.send_request(request("/")).await.expect("an answer");
            assert_eq!(first.into_body().collect().await.expect("a body").to_bytes(), "hello");
            let slow = tokio::spawn(sender.send_request(request("/slow")));
            // Answered on the same connection, so the one before has arrived.
            sender.send_request(request("/")).await.expect("an answer");
            begun.send(()).expect("the test waits");
            let slow = slow.await.expect("no panic").expect("an answer");
            assert!(slow.headers().get(CONNECTION).is_none());
            assert_eq!(slow.into_body().collect().await.expect("a body").to_bytes(), "slow");
            // The server closes it.
            connection.await.expect("no panic").expect("closed in order");
        };
        let client = std::thread::spawn(move || runtime().block_on(client));
        has_begun.recv_timeout(LONG).expect("a client");
        scene.drain();
        scene.go_on.send(()).expect("it waits");
        client.join().expect("no panic");
        scene.ends();
    }

    #[test]
    fn what_is_spoken_below_http_can_be_chosen_and_a_handshake_that_never_ends_is_given_up_in_a_drain() {
        let (state, simulation) = State::simulated(["127.0.0.1:0"]).expect("a state");
        let address = state.addresses()[0].to_owned();
        let service = service_fn(|_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new("hello".to_owned())) });
        // A "handshake" of one byte.
        let secure = |mut connection: Connection| async move {
            use tokio::io::AsyncReadExt;
            connection.read_u8().await?;
            Ok(connection)
        };
        let server = std::thread::spawn(move || {
            let serving =
                async move { serve(state.listener(), service, state.draining()).over(secure).idle_grace(Duration::from_millis(300)).await };
            runtime().block_on(serving)
        });
        let mut secured = TcpStream::connect(&address).expect("it listens");
        secured.set_read_timeout(Some(LONG)).expect("a time-out");
        let mut never = TcpStream::connect(&address).expect("it listens");
        never.set_read_timeout(Some(LONG)).expect("a time-out");
        let mut last = TcpStream::connect(&address).expect("it listens");
        last.write_all(b"x").expect("it is open");
        ask(&mut last, "/");
        assert_eq!(hear(&mut last).1, "hello");
        secured.write_all(b"x").expect("it is open");
        ask(&mut secured, "/");
        assert_eq!(hear(&mut secured).1, "hello");
        simulation.drain(LONG);
        assert!(is_closed(&mut never) && is_closed(&mut secured));
        server.join().expect("no panic").expect("it serves");
    }
}
