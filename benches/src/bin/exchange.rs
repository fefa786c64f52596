//! `exchange N [http2|ENDPOINTS]`: runs N whole exchanges on one thread, for `cargo xtask bench instructions` to count.
#![expect(clippy::print_stdout, reason = "its answer")]

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let took = match &words[..] {
        [count] => benches::exchange::run(count.parse()?, 1)?,
        [count, protocol] if protocol == "http2" => benches::exchange::run_http2(count.parse()?)?,
        [count, endpoints] => benches::exchange::run(count.parse()?, endpoints.parse()?)?,
        _ => anyhow::bail!("usage: exchange N [http2|ENDPOINTS]"),
    };
    println!("{} exchanges in {took:?}", words[0]);
    Ok(())
}
