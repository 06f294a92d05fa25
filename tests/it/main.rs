//! Integration tests: real sockets, real files, the library from outside. One file a stage.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod architecture;
