//! The suite that core has for every fetcher, against a server that verifies signatures.

mod store;

use overseer_core::conformance::{self, Source, Trouble};
use overseer_fetcher_s3::S3Fetcher;
use std::time::Duration;
use store::{ACCESS, BUCKET, Embedded, Publisher, SECRET};

const KEY: &str = "app";
const GET_TIMEOUT: Duration = Duration::from_secs(5);

struct Bucket {
    s3: Embedded,
    publisher: Publisher,
    release: Vec<u8>,
    is_gone: bool,
}

impl Bucket {
    fn remove(&self, key: &str) {
        self.publisher.wait(self.publisher.client.delete_object().bucket(BUCKET).key(key).send()).expect("removed");
    }
}

impl Source for Bucket {
    type Fetcher = S3Fetcher;

    fn fetcher(&self) -> S3Fetcher {
        self.s3.fetcher(KEY).get_timeout(GET_TIMEOUT)
    }

    fn publish(&mut self, release: &[u8]) {
        self.publisher.put(BUCKET, KEY, release, |put| put);
        // There need not be a signature to remove.
        let _ = self.publisher.wait(self.publisher.client.delete_object().bucket(BUCKET).key(format!("{KEY}.minisig")).send());
        self.release = release.to_vec();
    }

    fn suffer(&mut self, trouble: Trouble) -> Result<(), String> {
        if trouble == Trouble::Gone {
            self.remove(KEY);
            self.is_gone = true;
        } else {
            self.s3.suffer(Some(trouble));
        }
        Ok(())
    }

    fn recover(&mut self) {
        self.s3.suffer(None);
        if std::mem::take(&mut self.is_gone) {
            self.publish(&self.release.clone());
        }
    }

    fn secrets(&self) -> Vec<String> {
        vec![SECRET.to_owned()]
    }

    fn sign(&mut self, minisig: &str) -> Result<(), String> {
        self.publisher.put(BUCKET, &format!("{KEY}.minisig"), minisig.as_bytes(), |put| put);
        Ok(())
    }

    fn requests(&self) -> Option<u64> {
        Some(self.s3.looked())
    }

    fn sent_bytes(&self) -> Option<u64> {
        Some(self.s3.sent_bytes())
    }

    fn gives_up_after(&self) -> Option<Duration> {
        Some(GET_TIMEOUT + Duration::from_secs(20))
    }

    fn denial(&self) -> String {
        "AccessDenied".to_owned()
    }
}

#[test]
fn the_s3_fetcher_conforms() {
    let s3 = Embedded::start();
    let publisher = Publisher::new(s3.endpoint(), ACCESS, SECRET);
    conformance::run(Bucket { s3, publisher, release: Vec::new(), is_gone: false });
}
