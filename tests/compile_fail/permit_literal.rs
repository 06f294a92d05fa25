// E0451
//! A permit cannot be written down: its fields are private to `policy`.

use tidegate::model::{Candidate, Protection};
use tidegate::policy::{Permit, RequestRecord};

fn forge(candidate: Candidate, request: Box<RequestRecord>) -> Permit {
    Permit {
        candidate,
        protection: Protection::None,
        evaluations: Vec::new(),
        bundle: "".into(),
        request,
    }
}

fn main() {
    let _ = forge;
}
