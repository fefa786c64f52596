//! `exchange N [http2]`: runs N whole exchanges on one thread, for `cargo xtask bench instructions` to count.
#![expect(clippy::print_stdout, reason = "its answer")]

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (count, is_http2) = match &words[..] {
        [count] => (count.parse()?, false),
        [count, protocol] if protocol == "http2" => (count.parse()?, true),
        _ => anyhow::bail!("usage: exchange N [http2]"),
    };
    let took = if is_http2 { benches::exchange::run_http2(count)? } else { benches::exchange::run(count)? };
    println!("{count} exchanges in {took:?}");
    Ok(())
}
