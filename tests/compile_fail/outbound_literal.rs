// E0451
//! What is sent cannot be written down beside a permit: the fields of `Outbound` are private to `protect`.

use tidegate::message::Body;
use tidegate::policy::Permit;
use tidegate::protect::Outbound;

fn forge(permit: Permit, request: http::Request<Body>) -> Outbound {
    Outbound { permit, request }
}

fn main() {
    let _ = forge;
}
