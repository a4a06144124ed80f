//! Kills of the master at random moments of upgrades, under systemd: a test of the example programs, for longer.

use crate::ci;

const TEST: &str = "managers::systemd::a_master_killed_at_random_moments_of_upgrades_is_started_again_and_refuses_nobody";

/// Runs it with so many kills. It needs root and systemd, and fails where they are missing.
pub(crate) fn under_systemd(kills: u32) -> Result<(), String> {
    let mut command = ci::cargo(&["test", "--package", "overseer-examples", "--test", "processes", "--", "--exact", "--nocapture", TEST]);
    command.env("OVERSEER_CI", "1").env("OVERSEER_KILLS", kills.to_string());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the test of {kills} kills failed ({status})")),
        Err(error) => Err(format!("cannot start cargo: {error}")),
    }
}
