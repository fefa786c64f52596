//! What becomes known of an endpoint by an exchange: counted here, acted on by the control side.

use super::Worker;
use crate::balance::Endpoint;
use crate::proxy::upstream::ConnectError;
use crate::refusal::{Party, Refusal};
use crate::snapshot::Upstream;
use crate::tables::health::{Notice, Outcome};

impl Worker {
    /// Counts how an attempt at `endpoint` has ended. `None`: in a way that says nothing about it. Never waits.
    pub fn judge(&self, upstream: &Upstream, endpoint: &Endpoint, outcome: Option<Outcome>) {
        let (Some(eject), Some(outcome)) = (&upstream.eject, outcome) else { return };
        if let Some(rates) = &eject.rates {
            endpoint.state.window.count(rates.failures.take(outcome));
        }
        let Some(cause) = endpoint.state.ended(outcome, &eject.thresholds) else { return };
        let notice = Notice { upstream: upstream.name.clone(), endpoint: endpoint.label.clone(), cause };
        if self.shared.notices.try_send(notice).is_err() {
            self.core().notices_lost.inc();
        }
    }
}

/// What a connection that was not opened says about its endpoint. Nothing, if it is for want of descriptors, memory or ports of
/// ours: all endpoints would look bad at once.
pub fn outcome_of_connect(error: &ConnectError) -> Option<Outcome> {
    match error {
        ConnectError::Failed(error) if is_ours(error) => None,
        error => outcome_of_refusal(error.refusal(), false),
    }
}

/// Whether a connection failed here, and would have to anybody.
pub(crate) fn is_ours(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| ours.iter().any(|errno| errno.raw_os_error() == code))
}

/// What an attempt that failed says about its endpoint. `waited_for_it`: the request was with it whole, and it had not begun to
/// answer; else a time that ran out may be the client's doing.
pub fn outcome_of_refusal(refusal: Refusal, waited_for_it: bool) -> Option<Outcome> {
    match refusal {
        Refusal::UpstreamTotalTimeout if !waited_for_it => None,
        // There was nobody to blame.
        Refusal::NoEndpoint => None,
        refusal => (refusal.party() == Party::Upstream).then_some(Outcome::Local),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;
    use crate::rt::deadline::Cause;

    #[test]
    fn only_what_an_endpoint_did_is_held_against_it() {
        let check = |refusal, waited, blamed: bool| {
            assert_eq!(outcome_of_refusal(refusal, waited).is_some(), blamed, "{refusal:?} {waited}");
        };
        check(Refusal::UpstreamConnectFailed, false, true);
        check(Refusal::UpstreamFirstByteTimeout, false, true);
        check(Refusal::UpstreamBodyCut, false, true);
        check(Refusal::UpstreamTotalTimeout, true, true);
        check(Refusal::UpstreamTotalTimeout, false, false);
        check(Refusal::NoEndpoint, true, false);
        check(Refusal::ClientGone, true, false);
        check(Refusal::BodyTooSlow, true, false);
        check(Refusal::Overloaded, true, false);
    }

    #[test]
    fn what_this_host_lacks_is_no_endpoints_fault() {
        let check = |error, blamed: bool| assert_eq!(outcome_of_connect(&error).is_some(), blamed, "{error:?}");
        check(ConnectError::Failed(Error::from_raw_os_error(libc::ECONNREFUSED)), true);
        check(ConnectError::Failed(Error::from_raw_os_error(libc::EHOSTUNREACH)), true);
        check(ConnectError::Failed(Error::from_raw_os_error(libc::EMFILE)), false);
        check(ConnectError::Failed(Error::from_raw_os_error(libc::EADDRNOTAVAIL)), false);
        check(ConnectError::Over(Cause::Connect), true);
        check(ConnectError::Over(Cause::ClientGone), false);
        check(ConnectError::Over(Cause::Total), false);
    }
}
