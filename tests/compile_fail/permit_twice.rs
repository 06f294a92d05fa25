// E0308
//! A permit cannot be used twice: it is no `Clone`, so a retry must be decided again.

use tidegate::policy::Permit;

fn twice(permit: &Permit) -> Permit {
    permit.clone()
}

fn main() {
    let _ = twice;
}
