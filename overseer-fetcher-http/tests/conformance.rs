//! The suite that core has for every fetcher.

mod server;

use overseer_core::conformance::{self, Source, Trouble};
use overseer_fetcher_http::HttpFetcher;
use server::{Answer, Published, Request, Server};
use std::sync::{Arc, Mutex};

const TOKEN: &str = "s3cret-t0ken";

/// A server that lets in who has the token.
struct Site {
    server: Server,
    file: Published,
    trouble: Arc<Mutex<Option<Trouble>>>,
    published: u64,
    has_head: bool,
}

impl Site {
    fn start(has_head: bool) -> Self {
        let file = Published::new("\"0\"", b"");
        let trouble = Arc::<Mutex<Option<Trouble>>>::default();
        let (published, suffered) = (file.clone(), Arc::clone(&trouble));
        let server = Server::start(move |request| {
            let trouble = *suffered.lock().expect("no panic");
            answer(request, &published, trouble, has_head)
        });
        Self { server, file, trouble, published: 0, has_head }
    }
}

fn answer(request: &Request, file: &Published, trouble: Option<Trouble>, has_head: bool) -> Answer {
    let is_let_in = request.header("Authorization") == Some(&format!("Bearer {TOKEN}"));
    match trouble {
        Some(Trouble::Down) => Answer::hang_up(),
        Some(Trouble::Denied) => Answer::status("403 Forbidden"),
        _ if !is_let_in => Answer::status("401 Unauthorized"),
        Some(Trouble::Gone) => Answer::status("404 Not Found"),
        _ if request.is_head() && !has_head => Answer::status("405 Method Not Allowed"),
        Some(Trouble::Truncated { after_bytes }) if !request.is_head() => file.answer(request).cut(after_bytes as usize),
        Some(Trouble::Stalled { after_bytes }) if !request.is_head() => file.answer(request).stall(after_bytes as usize),
        _ => file.answer(request),
    }
}

impl Source for Site {
    type Fetcher = HttpFetcher;

    fn fetcher(&self) -> HttpFetcher {
        HttpFetcher::new(self.server.url("/app")).bearer(TOKEN).no_proxy()
    }

    fn publish(&mut self, release: &[u8]) {
        self.published += 1;
        self.file.replace(&format!("\"{}\"", self.published), release);
    }

    fn suffer(&mut self, trouble: Trouble) -> Result<(), String> {
        *self.trouble.lock().expect("no panic") = Some(trouble);
        Ok(())
    }

    fn recover(&mut self) {
        let trouble = self.trouble.lock().expect("no panic").take();
        // The fetcher's own time-outs have tests of their own, which wait for them.
        if matches!(trouble, Some(Trouble::Stalled { .. })) {
            self.server.hang_up();
        }
    }

    fn secrets(&self) -> Vec<String> {
        vec![TOKEN.to_owned()]
    }

    fn requests(&self) -> Option<u64> {
        // Where HEAD is refused, a GET on condition follows.
        self.has_head.then(|| self.server.seen().len() as u64)
    }

    fn sent_bytes(&self) -> Option<u64> {
        Some(self.server.sent_bytes() as u64)
    }

    fn denial(&self) -> String {
        "403 Forbidden".to_owned()
    }
}

#[test]
fn the_http_fetcher_conforms() {
    conformance::run(Site::start(true));
}

#[test]
fn the_http_fetcher_conforms_where_head_is_refused() {
    conformance::run(Site::start(false));
}
