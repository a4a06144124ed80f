//! What a program sees of overseer.

/// What a program sees of overseer.
pub struct State {}
