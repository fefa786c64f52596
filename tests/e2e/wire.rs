//! Runs every script in `tests/wire`.

use std::path::Path;
use std::sync::Mutex;

use e2e::wire::{Feed, Outcome, Script, play};

/// Cases mostly wait, for a deadline or the other side; this many at a time keep two cores busy.
const THREADS: usize = 6;

#[test]
fn every_script_can_be_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("wire");
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let scripts = paths.filter(|path| path.extension().is_some_and(|extension| extension == "txt"));
    let wrong: Vec<_> =
        scripts.filter_map(|path| Script::load(&path).err().map(|error| format!("{error:#}"))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `BAWAB_WIRE=text` runs only the scripts with `text` in their name.
#[test]
fn every_wire_script_comes_out_as_written_however_it_is_fed() {
    let only = std::env::var("BAWAB_WIRE").unwrap_or_default();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("wire");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "txt")).collect();
    files.retain(|path| path.display().to_string().contains(&only));
    files.sort();
    let scripts: Vec<_> =
        files.iter().map(|path| Script::load(path).unwrap_or_else(|error| panic!("{error:#}"))).collect();
    assert!(!scripts.is_empty(), "no script has `{only}` in its name");

    // From the back: whole first, as its failures are the easiest to read.
    let jobs = Feed::ALL.iter().rev().flat_map(|feed| scripts.iter().map(move |script| (script, *feed)));
    let jobs = Mutex::new(jobs.collect::<Vec<_>>());
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let job = jobs.lock().unwrap().pop();
                    let Some((script, feed)) = job else { return };
                    let played = play(script, feed);
                    outcomes.lock().unwrap().extend(played);
                }
            });
        }
    });

    let outcomes: Vec<Outcome> = outcomes.into_inner().unwrap();
    // A case that fails as written is told once: its other feeds fail for the same reason.
    let mut failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.result.is_err()).collect();
    failed.sort_by_key(|outcome| (&outcome.script, &outcome.case, outcome.feed));
    let plays = failed.len();
    failed.dedup_by_key(|outcome| (&outcome.script, &outcome.case));
    println!("{} scripts, {} plays, {plays} failed", scripts.len(), outcomes.len());
    let told = failed.iter().map(|outcome| outcome.to_string()).collect::<Vec<_>>().join("\n\n");
    assert!(failed.is_empty(), "{} cases failed, in {plays} of {} plays\n\n{told}", failed.len(), outcomes.len());
}
