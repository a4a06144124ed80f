//! The key that the releases of one run are signed with.

use minisign::{KeyPair, SignatureBox};
use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

/// A key of minisign. It is in no file.
pub(crate) struct Key(KeyPair);

impl Key {
    pub(crate) fn new() -> Result<Self, String> {
        KeyPair::generate_unencrypted_keypair().map(Self).map_err(|error| format!("cannot make a key: {error}"))
    }

    /// What `--trusted-key` takes.
    pub(crate) fn public(&self) -> String {
        self.0.pk.to_base64()
    }

    /// The text of the `.minisig` file for a file that is published under this name, as `minisign -S` writes it.
    pub(crate) fn sign(&self, path: &Path, file_name: &str) -> Result<String, String> {
        let file = File::open(path).map_err(|error| format!("cannot sign {}: {error}", path.display()))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let comment = format!("timestamp:{now}\tfile:{file_name}\thashed");
        let signature = minisign::sign(None, &self.0.sk, file, Some(&comment), None);
        signature.map(SignatureBox::into_string).map_err(|error| format!("cannot sign {}: {error}", path.display()))
    }
}
