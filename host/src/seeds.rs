//! Which seeds a test tries that draws what it does: the variables by which one is chosen.

/// The number that a variable of the environment holds, if it is set.
///
/// # Panics
/// Where it holds something else.
pub(crate) fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not {text:?}")))
}
