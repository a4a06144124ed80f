pub(crate) fn run(_: bool) -> Result<(), String> {
    Ok(())
}
