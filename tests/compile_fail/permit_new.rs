// E0624
//! A permit cannot be constructed: its constructor is private to `policy`.

use tidegate::model::{Candidate, Protection};
use tidegate::policy::{Permit, RequestRecord};

fn forge(candidate: Candidate, request: Box<RequestRecord>) -> Permit {
    Permit::new(candidate, Protection::None, Vec::new(), "".into(), request)
}

fn main() {
    let _ = forge;
}
