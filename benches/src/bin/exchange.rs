//! `exchange N`: runs N whole exchanges on one thread, for `cargo xtask bench instructions` to count.
#![expect(clippy::print_stdout, reason = "its answer")]

fn main() -> anyhow::Result<()> {
    let count = std::env::args().nth(1).unwrap_or_default().parse()?;
    let took = benches::exchange::run(count)?;
    println!("{count} exchanges in {took:?}");
    Ok(())
}
