//! What the environment variable `OVERSEER` asks for.

use crate::supervisor::Command;

/// The environment variable.
pub(crate) const VARIABLE: &str = "OVERSEER";
/// What it can be, for whoever has written something else.
pub(crate) const VALUES: &str = "off, status, status.json, poll, retry, rollback, hold (or hold:REASON), unhold, restart";

/// The longest reason and user's name.
const WORDS_BYTES_MAX: usize = 1024;

/// What the environment asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To run the program alone.
    Off,
    Status {
        json: bool,
    },
    Command(Command),
}

impl Wish {
    /// Reads the value of the variable; `None` if it is none of ours.
    pub(crate) fn read(value: &str) -> Option<Self> {
        Some(match value {
            "off" => Self::Off,
            "status" => Self::Status { json: false },
            "status.json" => Self::Status { json: true },
            "poll" => Self::Command(Command::Poll),
            "retry" => Self::Command(Command::Retry),
            "rollback" => Self::Command(Command::Rollback),
            "unhold" => Self::Command(Command::Unhold),
            "restart" => Self::Command(Command::Restart),
            _ => {
                let reason = value.strip_prefix("hold")?;
                let reason = if reason.is_empty() { "" } else { reason.strip_prefix(':')? };
                let reason = Some(words(reason)).filter(|reason| !reason.is_empty());
                Self::Command(Command::Hold { reason: reason.unwrap_or_else(|| "no reason given".to_owned()) })
            }
        })
    }
}

/// One line of words for a log.
pub(crate) fn words(text: &str) -> String {
    let text: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    crate::message::cut(text.trim(), WORDS_BYTES_MAX).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_the_variable_is_read_and_no_other() {
        let hold = |reason: &str| Some(Wish::Command(Command::Hold { reason: reason.to_owned() }));
        for (value, wish) in [
            ("off", Some(Wish::Off)),
            ("status", Some(Wish::Status { json: false })),
            ("status.json", Some(Wish::Status { json: true })),
            ("poll", Some(Wish::Command(Command::Poll))),
            ("retry", Some(Wish::Command(Command::Retry))),
            ("rollback", Some(Wish::Command(Command::Rollback))),
            ("hold", hold("no reason given")),
            ("hold: ", hold("no reason given")),
            ("hold:the fair\nis on", hold("the fair is on")),
            ("unhold", Some(Wish::Command(Command::Unhold))),
            ("restart", Some(Wish::Command(Command::Restart))),
            ("holdfast", None),
            ("Status", None),
            ("on", None),
            ("", None),
        ] {
            assert_eq!(Wish::read(value), wish, "{value:?}");
            let name = value.split(':').next().unwrap_or_default();
            assert!(wish.is_none() || VALUES.contains(name), "{value:?} is not said");
        }
    }
}
