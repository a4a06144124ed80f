//! The command line.

use crate::source::Source;
use std::fs;
use std::time::Duration;

/// What can be set, each as `--name value`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `--listen 127.0.0.1:3000`; may be given several times.
    pub(crate) listen: Vec<String>,
    /// `--fetch http://host/app`: where releases come from; see [`Source`] for what else it may be.
    pub(crate) fetch: Option<Source>,
    /// `--every 5s`: the pause between two looks at it.
    pub(crate) every: Option<Duration>,
    pub(crate) warm_up: Option<Duration>,
    pub(crate) probation: Option<Duration>,
    pub(crate) ready_timeout: Option<Duration>,
    pub(crate) terminate_timeout: Option<Duration>,
    /// `--overlap false`: the next generation begins when this one is gone.
    pub(crate) overlap: Option<bool>,
    pub(crate) pid_file: Option<String>,
    pub(crate) state_dir: Option<String>,
    /// `--trusted-key RW...`: a minisign key that may sign releases; may be given several times.
    pub(crate) trusted_keys: Vec<String>,
    /// `--allow-downgrade true`
    pub(crate) allow_downgrade: bool,
    /// `--upgrade-master false`
    pub(crate) keep_master: bool,
    /// `--debug true`
    pub(crate) debug: bool,
}

impl Settings {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// What is wrong with which argument.
    pub(crate) fn from_arguments(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut settings = Self::default();
        settings.read(&mut arguments.into_iter())?;
        if settings.listen.is_empty() {
            settings.listen.push("127.0.0.1:3000".to_owned());
        }
        Ok(settings)
    }

    fn read(&mut self, arguments: &mut dyn Iterator<Item = String>) -> Result<(), String> {
        let settings = self;
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            let time = || duration(&value).map(Some).ok_or_else(|| format!("{name} {value}: not a duration such as 5s, 200ms or 1m"));
            let yes_or_no = || value.parse().map_err(|_| format!("{name} {value}: not true or false"));
            match name.as_str() {
                "--listen" => settings.listen.push(value),
                "--fetch" => settings.fetch = Some(value.parse().map_err(|why| format!("--fetch {why}"))?),
                "--every" => settings.every = time()?,
                "--warm-up" => settings.warm_up = time()?,
                "--probation" => settings.probation = time()?,
                "--ready-timeout" => settings.ready_timeout = time()?,
                "--terminate-timeout" => settings.terminate_timeout = time()?,
                "--overlap" => settings.overlap = Some(yes_or_no()?),
                "--pid-file" => settings.pid_file = Some(value),
                "--state-dir" => settings.state_dir = Some(value),
                "--trusted-key" => settings.trusted_keys.push(value),
                "--allow-downgrade" => settings.allow_downgrade = yes_or_no()?,
                "--upgrade-master" => settings.keep_master = !yes_or_no()?,
                "--debug" => settings.debug = yes_or_no()?,
                // More of them, one word a line. Arguments stay for the life of the service; this file is read by each new generation.
                "--settings" => {
                    let text = fs::read_to_string(&value).map_err(|error| format!("--settings {value}: {error}"))?;
                    settings.read(&mut text.lines().map(str::to_owned))?;
                }
                _ => return Err(format!("{name} is not a setting of this program")),
            }
        }
        Ok(())
    }
}

/// Reads a duration: `200ms`, `5s`, `1m`, `2h`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Settings, String> {
        Settings::from_arguments(arguments.iter().map(ToString::to_string))
    }

    #[test]
    fn a_wrong_argument_is_named() {
        assert_eq!(read(&["--every", "often"]), Err("--every often: not a duration such as 5s, 200ms or 1m".to_owned()));
        assert_eq!(read(&["--allow-downgrade", "yes"]), Err("--allow-downgrade yes: not true or false".to_owned()));
        assert_eq!(read(&["--listen"]), Err("--listen needs a value".to_owned()));
        assert_eq!(read(&["--fetch", "ftp://host/app"]), Err("--fetch ftp://...: this program has no fetcher for that".to_owned()));
        assert_eq!(read(&["--port", "1"]), Err("--port is not a setting of this program".to_owned()));
    }

    #[test]
    fn the_last_of_two_values_holds_and_addresses_and_keys_add_up() {
        let settings = read(&["--every", "1m", "--every", "200ms", "--listen", ":1", "--listen", ":2"]).expect("settings");
        assert_eq!((settings.trusted_keys.len(), settings.allow_downgrade), (0, false));
        let signed = read(&["--trusted-key", "RW1", "--trusted-key", "RW2", "--allow-downgrade", "true"]).expect("settings");
        assert_eq!((signed.trusted_keys, signed.allow_downgrade), (vec!["RW1".to_owned(), "RW2".to_owned()], true));
        assert_eq!(settings.every, Some(Duration::from_millis(200)));
        assert_eq!(settings.listen, [":1", ":2"]);
    }

    #[test]
    fn a_file_has_more_of_them() {
        let file = std::env::temp_dir().join(format!("overseer-app-settings-{}", std::process::id()));
        let name = file.to_str().expect("text");
        fs::write(&file, "--listen\n:2\n--upgrade-master\nfalse\n").expect("written");
        let settings = read(&["--listen", ":1", "--settings", name]).expect("settings");
        assert_eq!((settings.listen, settings.keep_master), (vec![":1".to_owned(), ":2".to_owned()], true));
        fs::write(&file, "--port\n").expect("written");
        assert_eq!(read(&["--settings", name]), Err("--port needs a value".to_owned()));
        fs::remove_file(&file).expect("removed");
        assert!(read(&["--settings", name]).is_err_and(|why| why.starts_with(&format!("--settings {name}: "))));
    }

    #[test]
    fn a_duration_needs_a_number_and_a_unit() {
        assert_eq!(duration("2h"), Some(Duration::from_secs(7200)));
        for wrong in ["", "5", "s", "-1s", "5 s", "1d"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }
}
