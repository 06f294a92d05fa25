//! Proofs: what a bundle must never allow, shown for every request that there can be, or refuted by one.
//!
//! An invariant ([`Invariants`]) is a policy that describes forbidden requests. Whether the bundle allows any of them is a question for a
//! solver (cvc5), asked for each kind of request, which is principal type × action × resource type. Two more claims are asked
//! of every bundle: no policy ever has an error, and protection never costs a permission. A proof is about all entities that
//! fit the schema, not only those of `entities.json`; a request that refutes a claim is put to Cedar before it is told.
//!
//! Fails closed: what is not proved (no answer in time, a policy that the solver cannot read) is not proved.
//!
//! May run the solver as a child process, and read and write the cache of proofs; no request ever gets here.

mod cache;
#[cfg(feature = "prove")]
mod claims;
#[cfg(feature = "prove")]
mod compare;
mod invariants;
mod report;
#[cfg(feature = "prove")]
mod solver;
#[cfg(feature = "prove")]
mod witness;
#[cfg(feature = "prove")]
mod work;
#[cfg(feature = "prove")]
mod worker;

pub use cache::Cache;
#[cfg(feature = "prove")]
pub use compare::compare;
pub use invariants::{DIRECTORY, Invariant, Invariants};
pub use report::{Compared, Counterexample, Finding, Kind, Relation, Report, Verdict};
#[cfg(feature = "prove")]
pub use solver::{Solver, SolverError};
#[cfg(feature = "prove")]
pub use work::{Options, ProveError, run};
