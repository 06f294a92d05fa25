//! Which route serves a request: the most specific match of host, path and method.
//!
//! Exact host before `*`; then exact path before the longest prefix; then, among the routes of that one place, the method.
//! A method that the most specific place does not list is refused there: it never falls through to a wider route, so a narrow
//! route cannot be bypassed by another method. Routes that would make the answer ambiguous are refused when the table is built.

mod pattern;
mod settings;
mod table;

pub use pattern::{HostPattern, PathPattern};
pub use settings::{ClusterList, RouteSettings};
pub use table::{Route, RouteError, Table};
