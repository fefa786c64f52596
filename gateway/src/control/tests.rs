//! What becomes of a gateway one of whose workers dies: real workers, sockets and clients, in this process.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use tempfile::TempDir;

use super::*;
use crate::config;

/// What takes longer has hung.
const HANG: Duration = Duration::from_secs(20);
/// Enough for the kernel to give some to every listening socket: all to one of two has a chance of 2^-31.
const CLIENTS: usize = 32;

/// Signals that never come: handlers of those a process is ended with would outlive the test.
fn no_signals() -> io::Result<Signals> {
    let never = || signal(SignalKind::from_raw(libc::SIGURG));
    Ok(Signals { terminate: never()?, interrupt: never()?, reopen: never()?, hangup: never()?, take_over: never()? })
}

/// A service that says yes to whatever it is asked, for as long as the test process lives.
fn service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || -> io::Result<()> {
                let mut stream = BufReader::new(stream);
                while read_head(&mut stream)?.is_some() {
                    stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")?;
                }
                Ok(())
            });
        }
    });
    address
}

/// The first line of a message, read up to its body. `None`: the connection has ended.
fn read_head(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let (mut first, mut line) = (String::new(), String::new());
    while from.read_line(&mut line)? > 0 {
        if line == "\r\n" {
            return Ok(Some(first));
        }
        if first.is_empty() {
            first.clone_from(&line);
        }
        line.clear();
    }
    Ok(None)
}

/// A gateway with two workers before a service, about to serve.
async fn gateway(dir: &TempDir, worker_failure: &str) -> Running {
    let path = dir.path().join("gateway.toml");
    let text = format!(
        "[gateway]\nworkers = 2\nworker_failure = \"{worker_failure}\"\nwatch = false\n[log]\naccess = \"off\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.service]\nendpoints = [\"{}\"]\n\
         [[route]]\npath = \"/**\"\nupstream = \"service\"\nauth = \"none\"\n",
        service()
    );
    fs::write(&path, text).unwrap();
    let loaded = config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
    start::start(&path, loaded, None, no_signals).await.unwrap_or_else(|error| panic!("{error}"))
}

/// A client's connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        Client(BufReader::new(stream))
    }

    /// What it is answered. `None`: its connection has ended instead.
    fn ask(&mut self) -> Option<String> {
        // Into a connection that has ended it fails or not; reading tells.
        let _ = self.0.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        match read_head(&mut self.0) {
            Ok(Some(first)) => {
                self.0.read_exact(&mut [0; 3]).unwrap();
                Some(first)
            }
            Ok(None) => None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("neither an answer nor an end"),
            Err(_) => None,
        }
    }
}

fn connect(address: SocketAddr) -> Vec<Client> {
    (0..CLIENTS).map(|_| Client::connect(address)).collect()
}

fn answers(clients: &mut [Client]) -> Vec<Option<String>> {
    clients.iter_mut().map(Client::ask).collect()
}

fn all_served() -> Vec<Option<String>> {
    vec![Some("HTTP/1.1 200 OK\r\n".to_owned()); CLIENTS]
}

/// Hands `then` a gateway one of whose workers has just ended outside of a drain, its address, and clients that were served
/// by both before.
fn after_a_workers_end(worker_failure: &str, then: impl AsyncFnOnce(Running, SocketAddr, Vec<Client>)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let running = gateway(&dir, worker_failure).await;
        let address = running.sockets.all().unwrap()[0].socket.local_addr().unwrap();
        let mut clients = connect(address);
        assert_eq!(answers(&mut clients), all_served());
        running.workers.tell(1, Message::Stop).await;
        let deadline = Instant::now() + HANG;
        while running.ended.is_empty() {
            assert!(Instant::now() < deadline, "the worker does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        then(running, address, clients).await;
    });
}

#[test]
fn a_worker_that_dies_ends_the_process_when_exit_is_configured() {
    after_a_workers_end("exit", async |mut running, _, _| {
        let ended = tokio::time::timeout(HANG, running.serve()).await.expect("it ends");
        assert_eq!(ended, Ended::Failed);
        assert!(running.workers.is_empty(), "the other worker has drained");
    });
}

#[test]
fn another_takes_the_place_of_a_worker_that_dies_when_respawn_is_configured() {
    after_a_workers_end("respawn", async |mut running, address, mut before| {
        let clients = tokio::task::spawn_blocking(move || {
            // Some come to each listening socket, so also to the one that was the dead worker's.
            let new = answers(&mut connect(address));
            (new, answers(&mut before))
        });
        let (new, before) = tokio::select! {
            ended = running.serve() => panic!("it has ended: {ended:?}"),
            answers = clients => answers.unwrap(),
        };
        assert_eq!(new, all_served());
        let ended = before.iter().filter(|answer| answer.is_none()).count();
        assert!((1..CLIENTS).contains(&ended), "those of the dead worker are let go, and no others: {ended}");
        assert_eq!(running.workers.ids().len(), 2);
        running.stop().await;
    });
}
