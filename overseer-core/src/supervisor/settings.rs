//! The settings that the master goes by. A child names its own in `Hello`, and they hold from the moment it is the active generation.

use crate::config::Upgrades;
use crate::signal::Signal;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How many old generations may drain at once, unless the program says otherwise.
const MAX_DRAINING: usize = 4;

/// What happens with a proved release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Installation {
    /// It is started as candidate and committed once it has served.
    #[default]
    Proved,
    /// It is committed and not started.
    WithoutRestart,
    /// It waits for the next restart, which takes it as candidate. Also what a newer build asks for that is unknown here.
    #[serde(other)]
    AtNextRestart,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    pub(crate) restart_signal: Signal,
    pub(crate) stop_signals: Vec<Signal>,
    #[serde(rename = "terminate_timeout_ms", with = "milliseconds")]
    pub(crate) terminate_timeout: Duration,
    #[serde(rename = "warm_up_ms", with = "milliseconds")]
    pub(crate) warm_up: Duration,
    pub(crate) accept_in_warm_up: bool,
    #[serde(rename = "probation_ms", with = "milliseconds")]
    pub(crate) probation: Duration,
    /// `None`: a program that says nothing is ready when it has lived for the warm-up.
    #[serde(rename = "ready_timeout_ms", with = "optional_milliseconds")]
    pub(crate) ready_timeout: Option<Duration>,
    #[serde(rename = "check_timeout_ms", with = "milliseconds")]
    pub(crate) check_timeout: Duration,
    #[serde(rename = "fetch_timeout_ms", with = "milliseconds")]
    pub(crate) fetch_timeout: Duration,
    #[serde(rename = "min_fetch_interval_ms", with = "milliseconds")]
    pub(crate) min_fetch_interval: Duration,
    #[serde(rename = "interval_ms", with = "milliseconds")]
    pub(crate) interval: Duration,
    /// The source of releases; `None` without a fetcher.
    pub(crate) source: Option<String>,
    pub(crate) installation: Installation,
    /// Whether it may run beside another generation.
    #[serde(skip_serializing_if = "is_true")]
    pub(crate) overlap: bool,
    /// How many old generations may drain at once.
    #[serde(skip_serializing_if = "is_usual")]
    pub(crate) max_draining: usize,
    /// `None`: the program has not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upgrades: Option<Upgrades>,
    /// The program has not said, and a release would be gone with the container. The master finds that out, whatever a child says.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_ephemeral: bool,
    /// Whether the master becomes the file that the serving generation runs.
    #[serde(skip_serializing_if = "is_true")]
    pub(crate) upgrade_master: bool,
    /// Whether the program's process answers `Ping` where `Welcome` says that it will be asked, whatever the program does.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) answers_pings: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            restart_signal: Signal::USR2,
            stop_signals: vec![Signal::TERM, Signal::INT],
            terminate_timeout: Duration::from_secs(30),
            warm_up: Duration::from_secs(1),
            accept_in_warm_up: true,
            probation: Duration::from_secs(5 * 60),
            ready_timeout: None,
            check_timeout: Duration::from_secs(5),
            fetch_timeout: Duration::from_secs(10 * 60),
            min_fetch_interval: Duration::from_secs(1),
            interval: crate::fetcher::DEFAULT_INTERVAL,
            source: None,
            installation: Installation::Proved,
            overlap: true,
            max_draining: MAX_DRAINING,
            upgrades: None,
            is_ephemeral: false,
            upgrade_master: true,
            answers_pings: false,
        }
    }
}

impl Settings {
    /// What is done about a new release.
    pub(crate) fn upgrades(&self) -> Upgrades {
        self.upgrades.unwrap_or_default()
    }

    /// Whether the source is to be looked at.
    pub(crate) fn looks(&self) -> bool {
        self.source.is_some() && self.upgrades() != Upgrades::Off
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_true(is_so: &bool) -> bool {
    *is_so
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_usual(max_draining: &usize) -> bool {
    *max_draining == MAX_DRAINING
}

/// A duration as a number of milliseconds. Nobody configures less, and a year of them fits.
mod milliseconds {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

mod optional_milliseconds {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}
