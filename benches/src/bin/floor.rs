//! The floor: what a proxy on this runtime costs before it looks at a single byte. `cargo xtask bench plain` runs it beside the gateway.
//!
//! One core, one ring with the flags the gateway prefers, one upstream connection per client connection. Each turn is what
//! any proxy has to do: one read and one write per direction. It cannot know where a message ends, so it is told how many
//! bytes every answer has; requests are taken to arrive whole, as those of a load generator do.
//!
//! `floor LISTEN UPSTREAM ANSWER_BYTES`

use std::net::SocketAddr;
use std::process::ExitCode;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{ListenerOpts, TcpListener, TcpStream};

/// As large as the gateway's pooled buffers: large bodies then cost both the same number of turns.
const BUFFER_BYTES: usize = 64 * 1024;
/// Submission entries of the ring: many connections are served in one turn.
const RING_ENTRIES: u32 = 4096;
const BACKLOG: i32 = 4096;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream, answer_bytes] = words.as_slice() else {
        eprintln!("usage: floor LISTEN UPSTREAM ANSWER_BYTES");
        return ExitCode::from(2);
    };
    let (Ok(listen), Ok(upstream), Ok(answer_bytes)) = (listen.parse(), upstream.parse(), answer_bytes.parse()) else {
        eprintln!("floor: two addresses and a number, please");
        return ExitCode::from(2);
    };
    match serve(listen, upstream, answer_bytes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(listen: SocketAddr, upstream: SocketAddr, answer_bytes: usize) -> std::io::Result<()> {
    let mut ring = io_uring::IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun();
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .with_entries(RING_ENTRIES)
        .uring_builder(ring)
        .build()?;
    runtime.block_on(async move {
        let options = ListenerOpts::new().reuse_port(true).backlog(BACKLOG);
        let listener = TcpListener::bind_with_config(listen, &options)?;
        loop {
            let (client, _) = listener.accept().await?;
            monoio::spawn(async move {
                // An error is a connection that ended; the load generator counts those it did not end itself.
                let _ = relay(client, upstream, answer_bytes).await;
            });
        }
    })
}

/// Read, write, read, write, until one side leaves.
async fn relay(mut client: TcpStream, upstream: SocketAddr, answer_bytes: usize) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut upstream = TcpStream::connect_addr(upstream).await?;
    upstream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let request_bytes;
        (request_bytes, buffer) = pass(&mut client, &mut upstream, buffer).await?;
        if request_bytes == 0 {
            return Ok(());
        }
        let mut left = answer_bytes;
        while left > 0 {
            let passed;
            (passed, buffer) = pass(&mut upstream, &mut client, buffer).await?;
            if passed == 0 {
                return Ok(());
            }
            left = left.saturating_sub(passed);
        }
    }
}

/// One read and one write of whatever came. 0: `from` sends no more.
async fn pass(from: &mut TcpStream, to: &mut TcpStream, mut buffer: Vec<u8>) -> std::io::Result<(usize, Vec<u8>)> {
    buffer.clear();
    let (read, buffer) = from.read(buffer).await;
    let bytes = read?;
    if bytes == 0 {
        return Ok((0, buffer));
    }
    let (written, buffer) = to.write_all(buffer).await;
    written?;
    Ok((bytes, buffer))
}
