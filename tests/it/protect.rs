//! Protection from outside: what a permit demands is done, or nothing is sent.

use tidegate::message::{empty, full};
use tidegate::model::{Action, Candidate, Protection};
use tidegate::protect::prepare;

use crate::upstream::support::{candidate, permit, service};

#[test]
fn what_cannot_be_protected_is_refused() {
    for protection in [Protection::Masked, Protection::Sealed] {
        // Somebody could open it, and yet there is no plan of how to seal it.
        let candidate = Candidate { can_open: Some("haven".parse().unwrap()), ..candidate(service()) };
        let permit = permit(candidate, Action::Call, protection);
        let error = prepare(permit, http::Request::new(empty()), None).unwrap_err();
        assert_eq!((error.code(), error.status().as_u16()), ("protection_unavailable", 503));
        assert_eq!(error.protection(), protection);
    }
}

#[test]
fn debug_output_holds_nothing_of_the_request() {
    let request =
        http::Request::post("/secret-path").header("x-secret", "secret").body(full("secret")).unwrap();
    let outbound =
        prepare(permit(candidate(service()), Action::Call, Protection::None), request, None).unwrap();
    assert!(!format!("{outbound:?}").contains("secret"));
    assert_eq!(outbound.permit().candidate().upstream, service());
}
