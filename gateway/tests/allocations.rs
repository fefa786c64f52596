//! A small proxied GET in steady state allocates at most `ALLOCATIONS_MAX` times on the worker's thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use bawab::worker::solo::Solo;

/// The future of a running exchange is one; the bound leaves room for three more.
const ALLOCATIONS_MAX: f64 = 4.0;

/// Counts allocations of the thread that asked for it.
struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    // A thread that is ending has no thread-locals any more, and is not counted.
    if COUNTED.try_with(Cell::get).unwrap_or(false) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is passed on to the system's allocator as it came; counting touches no memory of the caller's and
// allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's own promise about `layout`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller got `pointer` from `alloc` above, so from the system.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as for `dealloc`, and the caller's own promise about `size`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Answers every request of every connection with the same bytes.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buf = [0; 4096];
                while socket.read(&mut buf).is_ok_and(|n| n > 0) {
                    if socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn ask(socket: &mut TcpStream, times: u32) {
    let mut buf = [0; 4096];
    for _ in 0..times {
        socket.write_all(b"GET /a/b?c=d HTTP/1.1\r\nHost: h\r\nUser-Agent: t\r\nAccept: */*\r\n\r\n").expect("send");
        let n = socket.read(&mut buf).expect("receive");
        assert!(buf[..n].starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", buf[..n].escape_ascii());
    }
}

#[test]
fn a_small_get_allocates_little() {
    let text = format!(
        "listener = [{{ address = \"127.0.0.1:0\" }}]\n\
         upstream.o.endpoints = [\"{}\"]\n\
         route = [{{ path = \"/**\", upstream = \"o\", auth = \"none\" }}]\n",
        origin()
    );
    let config = toml::from_str(&text).expect("a good configuration");
    let solo = Solo::start(&config, |_| {}, || COUNTED.set(true)).expect("start");
    let mut socket = TcpStream::connect(solo.addresses[0]).expect("connect");
    // Pools and tables are filled, and the connections are open.
    ask(&mut socket, 200);
    let before = COUNT.load(Ordering::Relaxed);
    ask(&mut socket, 1000);
    let each = (COUNT.load(Ordering::Relaxed) - before) as f64 / 1000.0;
    println!("{each} allocations a request");
    assert!(before > 0, "the worker's thread is counted");
    assert!(each <= ALLOCATIONS_MAX, "{each} allocations a request");
}
