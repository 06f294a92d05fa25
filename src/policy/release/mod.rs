//! Released bundles: a manifest that says which version it is, until when it holds and what was proved of it, signed by whoever answers for it.
//!
//! The manifest is the file `bundle.manifest` beside the policies, in a folder or first in a `.tar.gz`. It holds the hash of
//! the bundle, so its signature (a C2SP signed note, Ed25519) covers every file. `manifest` is that file, `packed` the archive,
//! `terms` what a gateway demands before it takes a bundle. Verifying runs no solver and needs no network.

mod manifest;
mod packed;
mod terms;

pub use manifest::{Attestation, Attested, FILE, Manifest, ManifestError};
pub use packed::{UnpackError, Unpacked, pack, unpack};
pub use terms::{Expired, Last, Moment, Release, ReleaseError, Terms};
