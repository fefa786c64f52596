//! Who is used, over real snapshots; what a running gateway makes of it is shown in `tests/e2e`.

use super::*;

#[test]
fn an_interval_is_longer_or_shorter_by_its_jitter() {
    let jittered = |jitter, lot| jittered(Duration::from_secs(10), jitter, lot).as_millis();
    assert_eq!((jittered(0, 0), jittered(0, u32::MAX)), (10_000, 10_000));
    assert_eq!((jittered(100_000, 0), jittered(100_000, u32::MAX)), (9_000, 11_000));
    assert_eq!((jittered(1_000_000, 0), jittered(1_000_000, u32::MAX)), (0, 20_000));
    assert!((9_990..=10_010).contains(&jittered(100_000, u32::MAX / 2)));
}
