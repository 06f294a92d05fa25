//! How many further attempts the requests to one upstream may cost: a tenth of them.
//!
//! Retries help while few calls fail. When many do they would be the load that keeps an upstream down, so they are paid for by
//! requests: each earns a tenth of a retry. A new upstream is lent ten, which its first hundred requests pay back. So of `n`
//! requests at most `max(10, n / 10)` are tried again.

use std::sync::{Mutex, PoisonError};

/// What one retry costs, in what one request earns.
const RETRY: u32 = 10;
/// Lent at the start: ten retries.
const LOAN: u32 = 10 * RETRY;
/// The most that is saved up: a hundred retries, a tenth of a thousand requests.
const MOST: u32 = 100 * RETRY;

/// The retries that are left.
#[derive(Debug)]
pub(super) struct Budget(Mutex<Account>);

#[derive(Debug)]
struct Account {
    balance: u32,
    debt: u32,
    made: u64,
    withheld: u64,
}

impl Budget {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Account { balance: LOAN, debt: LOAN, made: 0, withheld: 0 }))
    }

    /// A request was sent for the first time.
    pub(super) fn earn(&self) {
        let mut account = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if account.debt > 0 {
            account.debt -= 1;
        } else {
            account.balance = (account.balance + 1).min(MOST);
        }
    }

    /// Whether one more attempt is paid for.
    pub(super) fn spend(&self) -> bool {
        let mut account = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rest) = account.balance.checked_sub(RETRY) {
            account.balance = rest;
            account.made = account.made.saturating_add(1);
            true
        } else {
            account.withheld = account.withheld.saturating_add(1);
            false
        }
    }

    /// Retries that were made, and those that were withheld, since the start.
    pub(super) fn reading(&self) -> (u64, u64) {
        let account = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (account.made, account.withheld)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_never_more_than_a_tenth_of_the_requests_or_ten() {
        let budget = Budget::new();
        for requests in 1..=5000_u64 {
            budget.earn();
            // Everything fails, all the time.
            while budget.spend() {}
            assert_eq!(budget.reading().0, 10.max(requests / 10), "{requests} requests");
        }
    }

    #[test]
    fn quiet_times_save_up_no_more_than_a_hundred() {
        let budget = Budget::new();
        (0..100_000).for_each(|_| budget.earn());
        while budget.spend() {}
        assert_eq!(budget.reading(), (100, 1));
    }
}
