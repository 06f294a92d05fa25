// E0451
//! What is sent cannot be written down beside a permit: the fields of `Outbound` are private to `protect`.

use tidegate::policy::Permit;
use tidegate::protect::Outbound;

fn forge(permit: Permit) -> Outbound {
    Outbound { permit: std::sync::Arc::new(permit), request: loop {} }
}

fn main() {
    let _ = forge;
}
