//! x
pub(crate) struct Plan {
    pub(crate) rate: u32,
    pub(crate) restarts: u32,
    pub(crate) upgrades: u32,
    pub(crate) idle_seconds: u64,
}
pub(crate) fn run(_: &Plan) -> Result<(), String> {
    Ok(())
}
