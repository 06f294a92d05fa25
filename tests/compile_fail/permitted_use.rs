// compiles
//! What the cases beside this one differ from: the library is found, and looking at a permit is everybody's right.

use tidegate::policy::Permit;

fn look(permit: &Permit) -> String {
    permit.candidate().resource.to_string()
}

fn main() {
    let _ = look;
}
