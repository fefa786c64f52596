use super::*;

const MIN: u64 = 5;
const MAX: u64 = 300;

fn rules(stale_max_s: Option<u64>) -> Rules {
    Rules {
        min_ttl: Duration::from_secs(MIN),
        max_ttl: Duration::from_secs(MAX),
        stale_max: stale_max_s.map(Duration::from_secs),
    }
}

fn answer(addresses: &[&str], ttl_s: u64) -> Said {
    let found = addresses.iter().map(|text| Found::plain(text.parse().unwrap())).collect();
    Said::Answer { found, ttl: Duration::from_secs(ttl_s), lacks: None }
}

fn failed() -> Said {
    Said::Failed { why: "no answer".to_owned() }
}

fn denied() -> Said {
    Said::Denied { why: "no such name".to_owned(), ttl: None }
}

/// A name, its rules and its clock, which only [`World::at`] moves.
struct World {
    name: Name,
    rules: Rules,
    begin: Instant,
    now: Instant,
}

impl World {
    fn new(stale_max_s: Option<u64>) -> World {
        let begin = Instant::now();
        World { name: Name::new(begin), rules: rules(stale_max_s), begin, now: begin }
    }

    fn at(&mut self, secs: u64) -> &mut World {
        self.now = self.begin + Duration::from_secs(secs);
        self
    }

    fn take(&mut self, said: Said) -> Change {
        self.name.take(said, &self.rules, self.now, 0)
    }

    /// Milliseconds until it is looked up again.
    fn due_ms(&self) -> u128 {
        self.name.due().duration_since(self.now).as_millis()
    }

    fn addresses(&self) -> Vec<String> {
        self.name.found().iter().map(|found| found.address.to_string()).collect()
    }
}

#[test]
fn a_name_is_looked_up_at_once_and_then_by_its_ttl_within_bounds() {
    let mut world = World::new(None);
    assert_eq!((world.due_ms(), world.name.version()), (0, 0));
    for (ttl, expected) in [(0, MIN), (1, MIN), (MIN, MIN), (60, 60), (MAX, MAX), (MAX + 1, MAX), (86_400, MAX)] {
        world.take(answer(&["10.0.0.1"], ttl));
        assert_eq!(world.due_ms(), u128::from(expected) * 1000, "{ttl}");
    }
}

#[test]
fn names_with_one_ttl_are_not_looked_up_at_one_moment_and_never_too_soon() {
    let mut world = World::new(None);
    let now = world.now;
    for (lot, expected_ms) in [(0, 60_000), (u32::MAX / 2, 61_500), (u32::MAX, 63_000)] {
        world.name.take(answer(&["10.0.0.1"], 60), &world.rules, now, lot);
        assert_eq!(world.due_ms(), expected_ms, "{lot}");
    }
}

#[test]
fn a_change_is_told_once() {
    let mut world = World::new(None);
    assert_eq!(world.take(answer(&["10.0.0.1"], 1)), Change::Elsewhere);
    assert_eq!(world.take(answer(&["10.0.0.1"], 1)), Change::None);
    assert_eq!(world.take(answer(&["10.0.0.1", "10.0.0.2"], 1)), Change::Elsewhere);
    assert_eq!(world.addresses(), ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn a_failure_keeps_the_last_answer_for_as_long_as_it_takes() {
    let mut world = World::new(None);
    world.take(answer(&["10.0.0.1"], 1));
    assert_eq!(world.at(10).take(failed()), Change::Failing);
    for day in 1..=365 {
        assert_eq!(world.at(day * 86_400).take(failed()), Change::None);
        assert_eq!(world.name.expires(&world.rules), None);
    }
    assert_eq!((world.addresses(), world.name.why()), (vec!["10.0.0.1".to_owned()], Some("no answer")));
    assert_eq!(world.take(answer(&["10.0.0.1"], 1)), Change::Again);
    assert_eq!(world.name.why(), None);
}

#[test]
fn an_answer_is_let_go_of_when_it_is_too_old() {
    let mut world = World::new(Some(100));
    world.take(answer(&["10.0.0.1"], 60));
    assert_eq!(world.name.expires(&world.rules), None, "nothing fails");
    world.at(61).take(failed());
    // The answer was good for 60 s.
    assert_eq!(world.name.expires(&world.rules), Some(world.begin + Duration::from_secs(160)));
    let (rules, begin) = (world.rules, world.begin);
    assert_eq!(world.name.expire(&rules, begin + Duration::from_millis(159_999)), Change::None);
    let change = world.name.expire(&rules, begin + Duration::from_secs(160));
    assert_eq!(change, Change::Gone("no good answer for longer than `dns.stale_max`, last: no answer".to_owned()));
    assert!(world.addresses().is_empty());
    assert_eq!(
        (world.name.expires(&rules), world.name.expire(&rules, begin + Duration::from_secs(999))),
        (None, Change::None)
    );
    assert_eq!(world.at(200).take(answer(&["10.0.0.1"], 60)), Change::Elsewhere);
}

#[test]
fn pauses_behind_failures_grow_and_are_drawn() {
    let pauses = |lot, min_ms: u64| {
        let rules = Rules { min_ttl: Duration::from_millis(min_ms), ..rules(None) };
        [1, 2, 3, 4, 5, 6, 7, 100, u32::MAX].map(|nth| rules.pause(nth, lot).as_millis() as u64)
    };
    assert_eq!(pauses(u32::MAX, 5_000), [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000, 30_000]);
    assert_eq!(pauses(0, 5_000), [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000, 15_000]);
    assert_eq!(pauses(u32::MAX, 10)[..4], [10, 20, 40, 80]);
    let short = Rules { max_ttl: Duration::from_secs(6), ..rules(None) };
    assert_eq!(short.pause(9, u32::MAX), Duration::from_secs(6), "never less often than a name that answers");
    let mut world = World::new(None);
    for expected_ms in [500, 1_000, 2_000] {
        world.take(failed());
        assert_eq!(world.due_ms(), expected_ms);
    }
    world.take(answer(&["10.0.0.1"], 1));
    world.take(failed());
    assert_eq!(world.due_ms(), 500, "it begins anew");
}

#[test]
fn that_there_is_no_such_name_must_be_said_three_times_in_a_row() {
    let mut world = World::new(None);
    world.take(answer(&["10.0.0.1"], 60));
    assert_eq!(world.take(denied()), Change::Failing);
    assert_eq!(world.due_ms(), u128::from(MIN) * 1000, "soon, and not at once");
    assert_eq!(world.take(denied()), Change::None);
    assert_eq!(world.addresses().len(), 1);
    assert_eq!(world.take(answer(&["10.0.0.1"], 60)), Change::Again, "it was a mistake");
    assert_eq!([world.take(denied()), world.take(denied())], [Change::Failing, Change::None]);
    // A failure says nothing about the name.
    assert_eq!(world.take(failed()), Change::None);
    assert_eq!(world.addresses().len(), 1);
    assert_eq!(world.take(denied()), Change::Gone("no such name, said 3 times in a row".to_owned()));
    assert_eq!((world.addresses().len(), world.name.why()), (0, Some("no such name")));
    assert_eq!(world.take(denied()), Change::None, "told once");
    assert_eq!(world.take(answer(&["10.0.0.1"], 60)), Change::Elsewhere);
}

#[test]
fn a_name_that_is_not_there_yet_is_asked_for_now_and_then() {
    let mut world = World::new(None);
    assert_eq!(world.take(denied()), Change::Failing);
    assert_eq!(world.due_ms(), u128::from(MIN) * 1000);
    // What the servers say it is not there for, but no longer than somebody may want to wait.
    for (ttl_s, expected_s) in [(1, MIN), (20, 20), (3_600, 30)] {
        world.take(Said::Denied { why: "no such name".to_owned(), ttl: Some(Duration::from_secs(ttl_s)) });
        assert_eq!(world.due_ms(), u128::from(expected_s) * 1000, "{ttl_s}");
    }
}

#[test]
fn a_part_that_is_missing_is_told_once_and_is_no_failure_of_the_whole() {
    let mut world = World::new(Some(1));
    let half = || {
        let Said::Answer { found, ttl, .. } = answer(&["10.0.0.1"], 60) else { unreachable!() };
        Said::Answer { found, ttl, lacks: Some("SERVFAIL".to_owned()) }
    };
    world.take(answer(&["10.0.0.1"], 60));
    assert_eq!([world.take(half()), world.take(half())], [Change::Failing, Change::None]);
    assert_eq!(world.due_ms(), 60_000);
    assert_eq!(world.name.why(), Some("SERVFAIL"));
    assert_eq!(world.take(answer(&["10.0.0.1"], 60)), Change::None);
    assert_eq!(world.name.why(), None);
}

#[test]
fn what_another_process_knew_is_gone_by_and_looked_up_at_once() {
    let now = Instant::now();
    let found = vec![Found::plain("10.0.0.1".parse().unwrap())];
    let name = Name::taken_on(found.clone(), Duration::from_secs(3), now);
    assert_eq!((&**name.found(), name.due(), name.version()), (&*found, now, 1));
    assert!(name.good_at().unwrap() <= now);
}

#[test]
fn other_rules_hold_at_once() {
    let mut world = World::new(None);
    world.take(answer(&["10.0.0.1"], MAX));
    let (now, same) = (world.now, world.rules);
    world.name.adopt(&same, now, false);
    assert_eq!(world.due_ms(), u128::from(MAX) * 1000);
    world.name.adopt(&Rules { max_ttl: Duration::from_secs(7), ..same }, now, false);
    assert_eq!(world.due_ms(), 7_000);
    world.name.adopt(&same, now, true);
    assert_eq!((world.due_ms(), world.addresses().len()), (0, 1), "other servers are asked");
}
