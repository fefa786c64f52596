//! `exchange N [ENDPOINTS]`: runs N whole exchanges on one thread, for `cargo xtask bench instructions` to count.
#![expect(clippy::print_stdout, reason = "its answer")]

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let count = words.next().unwrap_or_default().parse()?;
    let endpoints = words.next().map_or(Ok(1), |word| word.parse())?;
    let took = benches::exchange::run(count, endpoints)?;
    println!("{count} exchanges in {took:?}");
    Ok(())
}
