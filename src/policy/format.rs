//! The official layout of policies.

use cedar_policy_formatter::{Config, policies_str_to_pretty};

/// The widest line, in characters, and the indent.
const CONFIG: Config = Config { line_width: 80, indent_width: 2 };

/// A policy file in the official layout; comments stay.
///
/// # Errors
/// What is wrong with the file, in words.
pub fn format(text: &str) -> Result<String, String> {
    policies_str_to_pretty(text, &CONFIG).map_err(|error| format!("{error:#}"))
}
