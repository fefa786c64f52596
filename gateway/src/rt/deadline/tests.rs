use super::*;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

fn at(ms: u64) {
    TABLES.with(|tables| tables.now_ms.set(ms));
}

fn sweep_at(ms: u64) {
    at(ms);
    TABLES.with(|tables| {
        tables.guards.borrow_mut().sweep(ms, &mut Vec::new());
        while tables.watches.borrow_mut().sweep(ms) {}
    });
}

#[test]
fn a_deadline_fires_after_its_time_and_not_before() {
    let (mut end, _other) = UnixStream::pair().expect("pair");
    at(1000);
    let watch = Watch::new(end.as_raw_fd(), Cut::Read);
    watch.arm(200, Cause::Head);
    sweep_at(1200);
    assert_eq!(watch.fired(), None, "the clock may have been a tick behind when it was armed");
    sweep_at(1200 + TICK_MS);
    assert_eq!(watch.fired(), Some(Cause::Head));
    assert_eq!(end.read(&mut [0; 8]).expect("read side is shut, not broken"), 0);
}

#[test]
fn a_disarmed_deadline_does_not_fire() {
    let (end, _other) = UnixStream::pair().expect("pair");
    at(0);
    let watch = Watch::new(end.as_raw_fd(), Cut::Both);
    watch.arm(10, Cause::Idle);
    watch.disarm();
    sweep_at(10_000);
    assert_eq!(watch.fired(), None);
}

#[test]
fn a_wait_for_a_request_is_cut_once_it_was_quiet_long_enough() {
    let pairs: Vec<_> = (0..3).map(|_| UnixStream::pair().expect("pair")).collect();
    let watches: Vec<_> = pairs.iter().map(|(end, _)| Watch::new(end.as_raw_fd(), Cut::Read)).collect();
    at(1_000);
    watches[0].arm(60_000, Cause::KeepAlive);
    watches[1].arm(60_000, Cause::Idle);
    at(1_500);
    watches[2].arm(60_000, Cause::Silence);
    at(2_000);
    cut_waiting(1_000);
    let fired = || watches.iter().map(Watch::fired).collect::<Vec<_>>();
    assert_eq!(fired(), [Some(Cause::KeepAlive), None, None]);
    watches[2].rename(Cause::Head);
    at(10_000);
    cut_waiting(1_000);
    assert_eq!(fired()[2], None, "a request is on its way");
}

#[test]
fn who_has_spoken_in_time_is_heard_however_late() {
    let (end, mut other) = UnixStream::pair().expect("pair");
    let watch = Watch::new(end.as_raw_fd(), Cut::Read);
    at(1_000);
    watch.arm(100, Cause::Silence);
    other.write_all(b"G").expect("room");
    sweep_at(5_000);
    cut_waiting(1_000);
    assert_eq!(watch.fired(), None);
    // Heard, it is another wait.
    watch.rename(Cause::Head);
    sweep_at(6_000);
    assert_eq!(watch.fired(), Some(Cause::Head));
    let (end, other) = UnixStream::pair().expect("pair");
    let watch = Watch::new(end.as_raw_fd(), Cut::Read);
    watch.arm(100, Cause::KeepAlive);
    drop(other);
    sweep_at(9_000);
    assert_eq!(watch.fired(), Some(Cause::KeepAlive), "an end is nothing said");
}

#[test]
fn a_slot_is_used_again_without_its_past() {
    let (end, _other) = UnixStream::pair().expect("pair");
    at(0);
    let watch = Watch::new(end.as_raw_fd(), Cut::Both);
    let slot = watch.slot;
    watch.cut(Cause::Total);
    drop(watch);
    let watch = Watch::new(end.as_raw_fd(), Cut::Both);
    assert_eq!(watch.slot, slot);
    assert_eq!(watch.fired(), None);
    sweep_at(100_000);
    assert_eq!(watch.fired(), None);
}

#[test]
fn more_cuts_than_a_turn_allows_are_resumed() {
    let pairs: Vec<_> = (0..CUTS_PER_TURN + 5).map(|_| UnixStream::pair().expect("pair")).collect();
    at(0);
    let watches: Vec<_> = pairs.iter().map(|(end, _)| Watch::new(end.as_raw_fd(), Cut::Both)).collect();
    watches.iter().for_each(|watch| watch.arm(1, Cause::Head));
    at(1 + TICK_MS);
    TABLES.with(|tables| assert!(tables.watches.borrow_mut().sweep(1 + TICK_MS), "more is due"));
    sweep_at(1 + TICK_MS);
    assert!(watches.iter().all(|watch| watch.fired() == Some(Cause::Head)));
}

#[test]
fn a_client_that_closed_is_gone_and_one_that_closed_half_is_not() {
    let (gone, other) = UnixStream::pair().expect("pair");
    let (half, half_other) = UnixStream::pair().expect("pair");
    at(0);
    let gone_guard = Guard::new(Some(gone.as_raw_fd()));
    let half_guard = Guard::new(Some(half.as_raw_fd()));
    drop(other);
    half_other.shutdown(std::net::Shutdown::Write).expect("shutdown");
    sweep_at(50);
    assert_eq!(gone_guard.fired(), None, "a first sweep asks nobody: fast exchanges cost nothing");
    sweep_at(100);
    assert_eq!(gone_guard.fired(), Some(Cause::ClientGone));
    assert_eq!(half_guard.fired(), None);
}

#[test]
fn the_exchange_as_a_whole_ends_its_upstream_too() {
    let (client, _c) = UnixStream::pair().expect("pair");
    let (mut upstream, _u) = UnixStream::pair().expect("pair");
    at(0);
    let guard = Guard::new(Some(client.as_raw_fd()));
    guard.arm_total(500);
    guard.attach(Some(upstream.as_raw_fd()));
    sweep_at(500);
    assert_eq!(guard.fired(), None);
    sweep_at(500 + TICK_MS);
    assert_eq!(guard.fired(), Some(Cause::Total));
    assert_eq!(upstream.read(&mut [0; 8]).expect("shut"), 0);
}
