//! Programs nobody here wrote: nginx and Python's http.server behind the gateway, curl before it.
//! What is not installed is said to be not run.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result};
use e2e::binary::find;
use e2e::tls::Authority;
use e2e::{Gateway, Peer};
use tempfile::TempDir;

/// A server of ours; ended and reaped on drop.
struct Server {
    child: Child,
    address: String,
    _dir: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const LARGE_BYTES: usize = 3_000_000;

fn files(dir: &Path) -> Result<()> {
    std::fs::write(dir.join("small.txt"), "small")?;
    std::fs::write(dir.join("empty"), "")?;
    std::fs::write(dir.join("large.bin"), (0..LARGE_BYTES).map(|at| (at * 7 / 3) as u8).collect::<Vec<_>>())?;
    Ok(())
}

/// nginx on a unix socket, so that no port can be taken meanwhile: files, an echo of the request, uploads.
fn nginx() -> Result<Option<Server>> {
    nginx_with(|_| Ok(String::new()))
}

/// The same with more in its `server`. `more`: what, for its folder.
fn nginx_with(more: impl FnOnce(&Path) -> Result<String>) -> Result<Option<Server>> {
    let Some(program) = find("nginx") else { return Ok(None) };
    let dir = tempfile::tempdir()?;
    let root = dir.path().display();
    files(dir.path())?;
    let more = more(dir.path())?;
    let tls = if more.is_empty() { "" } else { "ssl" };
    let config = format!(
        r#"
daemon off; master_process off; pid {root}/nginx.pid; error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off; default_type text/plain; keepalive_requests 1000000;
    client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi; client_max_body_size 100m;
    server {{
        listen unix:{root}/nginx.sock {tls};
        root {root};
        {more}
        location /echo {{ return 200 "$request_method $request_uri $server_protocol\nhost=$http_host\nfor=$http_x_forwarded_for\nvia=$http_via\n"; }}
    }}
}}
"#
    );
    std::fs::write(dir.path().join("nginx.conf"), config)?;
    let socket = dir.path().join("nginx.sock");
    let child = Command::new(program)
        .args(["-e", "stderr", "-p"])
        .arg(dir.path())
        .arg("-c")
        .arg(dir.path().join("nginx.conf"))
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .spawn()?;
    let mut server = Server { child, address: format!("unix:{}", socket.display()), _dir: dir };
    let deadline = std::time::Instant::now() + e2e::patience();
    while Peer::connect_unix(&socket).is_err() {
        anyhow::ensure!(server.child.try_wait()?.is_none(), "nginx ended");
        anyhow::ensure!(std::time::Instant::now() < deadline, "nginx does not listen");
        std::thread::yield_now();
    }
    Ok(Some(server))
}

/// Python's http.server: HTTP/1.0 answers, or 1.1 with keep-alive.
fn python(protocol: &str) -> Result<Option<Server>> {
    let Some(program) = find("python3") else { return Ok(None) };
    let dir = tempfile::tempdir()?;
    files(dir.path())?;
    let script = format!(
        "import http.server, functools\n\
         class Handler(http.server.SimpleHTTPRequestHandler):\n    \
             protocol_version = '{protocol}'\n    \
             def do_POST(self):\n        \
                 body = self.rfile.read(int(self.headers['Content-Length']))\n        \
                 self.send_response(200)\n        \
                 self.send_header('Content-Length', str(len(body)))\n        \
                 self.end_headers()\n        \
                 self.wfile.write(body)\n\
         server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)\n\
         print(server.server_port, flush=True)\n\
         server.serve_forever()\n"
    );
    let mut child = Command::new(program)
        .args(["-c", &script])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut port = String::new();
    BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut port)?;
    Ok(Some(Server { child, address: format!("127.0.0.1:{}", port.trim()), _dir: dir }))
}

/// curl without the user's own settings; `None` when it is not installed.
fn curl(input: &[u8], args: &[&str]) -> Result<Option<Output>> {
    let Some(program) = find("curl") else { return Ok(None) };
    let mut child = Command::new(program)
        .args(["--disable", "--silent", "--show-error", "--max-time", "20", "--noproxy", "*"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("stdin is piped")?;
    let input = input.to_vec();
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output()?;
    let _ = writing.join();
    anyhow::ensure!(output.status.success(), "curl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(Some(output))
}

#[test]
fn nginx_behind_the_gateway_serves_files() {
    let Some(server) = nginx().unwrap() else { return };
    let gateway = Gateway::start("", &server.address).unwrap();
    for _ in 0..3 {
        assert_eq!(gateway.get("/small.txt").unwrap().text(), "small");
    }
    assert_eq!(gateway.get("/empty").unwrap().text(), "");
    assert_eq!(gateway.get("/large.bin").unwrap().body.len(), LARGE_BYTES);
    assert_eq!(gateway.get("/missing").unwrap().head.status(), 404);
    let head = gateway.ask("HEAD /large.bin HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
    assert_eq!(head.head.field("content-length"), Some(LARGE_BYTES.to_string().as_str()));
    let part = gateway.ask("GET /large.bin HTTP/1.1\r\nHost: e2e.test\r\nRange: bytes=10-19\r\n\r\n").unwrap();
    assert_eq!((part.head.status(), part.body.len()), (206, 10));
    let tag = head.head.field("etag").unwrap();
    let same =
        gateway.ask(format!("GET /large.bin HTTP/1.1\r\nHost: e2e.test\r\nIf-None-Match: {tag}\r\n\r\n")).unwrap();
    assert_eq!(same.head.status(), 304);
    let metrics =
        gateway.metrics_when("all requests", |metrics| metrics.sum("bawab_requests_total", &[]) == 9.0).unwrap();
    assert_eq!(metrics.sum("bawab_upstream_connects_total", &[]), 1.0, "nginx keeps its connection");
}

#[test]
fn nginx_behind_the_gateway_sees_the_client() {
    let Some(server) = nginx().unwrap() else { return };
    let gateway = Gateway::start("", &server.address).unwrap();
    let answer = gateway.get("/echo/../echo?a=b").unwrap();
    assert_eq!(answer.text(), "GET /echo?a=b HTTP/1.1\nhost=e2e.test\nfor=127.0.0.1\nvia=1.1 bawab\n");
}

#[test]
fn nginx_behind_the_gateway_is_known_by_its_certificate_and_knows_ours() {
    for versions in ["TLSv1.2", "TLSv1.2 TLSv1.3"] {
        let mut tls = String::new();
        let server = nginx_with(|folder| {
            let authority = Authority::new(folder, "authority")?;
            let books = authority.service("books", 1, &["books.internal"], |_| {})?;
            let gateway = authority.client("gateway", 2, |_| {})?;
            let (ca, cert, key) = (authority.cert.display(), books.cert.display(), books.key.display());
            tls =
                format!("ca = \"{ca}\"\ncert = \"{}\"\nkey = \"{}\"\n", gateway.cert.display(), gateway.key.display());
            Ok(format!(
                "ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols {versions}; ssl_client_certificate {ca};
                 ssl_verify_client on; ssl_session_cache shared:one:1m;
                 location /who {{ return 200 \"$ssl_client_s_dn $ssl_server_name $ssl_session_reused\"; }}"
            ))
        });
        let Some(server) = server.unwrap() else { return };
        let config = |name: &str, pool: &str| {
            format!("[upstream.main]\npool = {{ {pool} }}\n[upstream.main.tls]\nserver_name = \"{name}\"\n{tls}")
        };
        let gateway = Gateway::start(&config("books.internal", ""), &server.address).unwrap();
        assert_eq!(gateway.get("/who").unwrap().text(), "CN=gateway,O=Example books.internal .");
        assert_eq!(gateway.get("/large.bin").unwrap().body.len(), LARGE_BYTES);
        let gateway = Gateway::start(&config("books.internal", "idle_max = 0"), &server.address).unwrap();
        assert!(gateway.get("/who").unwrap().text().ends_with(" ."));
        assert!(gateway.get("/who").unwrap().text().ends_with(" r"), "{versions}");
        let gateway = Gateway::start(&config("films.internal", ""), &server.address).unwrap();
        assert_eq!(gateway.get("/who").unwrap().refusal().unwrap().1, "upstream_tls_failed");
    }
}

#[test]
fn openssl_behind_the_gateway_ends_its_pages_by_closing() {
    let Some(program) = find("openssl") else { return };
    for version in ["-tls1_2", "-tls1_3"] {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "authority").unwrap();
        let books = authority.service("books", 1, &["127.0.0.1"], |_| {}).unwrap();
        let child = Command::new(&program)
            .args(["s_server", "-accept", "127.0.0.1:0", "-www", version, "-cert"])
            .arg(&books.cert)
            .arg("-key")
            .arg(&books.key)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Server { child, address: String::new(), _dir: dir };
        // Kept: whoever speaks to nobody may end by that.
        let mut said = BufReader::new(server.child.stdout.take().unwrap()).lines();
        let listening = said.find_map(|line| line.ok()?.trim().strip_prefix("ACCEPT ").map(str::to_owned));
        match listening {
            Some(address) => server.address = address,
            None => return println!("not run: this openssl does not say where it listens"),
        }
        let config = format!("[upstream.main.tls]\nca = \"{}\"\n", authority.cert.display());
        let gateway = Gateway::start(&config, &server.address).unwrap();
        let page = gateway.get("/").unwrap();
        assert_eq!(page.head.status(), 200, "{}", page.text());
        assert!(page.text().contains("Secure Renegotiation"), "{}", page.text());
    }
}

#[test]
fn python_behind_the_gateway_serves_files() {
    for protocol in ["HTTP/1.0", "HTTP/1.1"] {
        let Some(server) = python(protocol).unwrap() else { return };
        let gateway = Gateway::start("", &server.address).unwrap();
        for _ in 0..3 {
            assert_eq!(gateway.get("/small.txt").unwrap().text(), "small");
        }
        assert_eq!(gateway.get("/large.bin").unwrap().body.len(), LARGE_BYTES);
        let listing = gateway.get("/").unwrap();
        assert!(listing.text().contains("small.txt"), "{protocol}: {}", listing.text());
        let echoed = gateway.ask("POST /x HTTP/1.1\r\nHost: e2e.test\r\nContent-Length: 5\r\n\r\nhello").unwrap();
        assert_eq!(echoed.text(), "hello", "{protocol}");
    }
}

#[test]
fn curl_before_the_gateway_gets_what_it_asks_for() {
    let (Some(server), Some(_)) = (nginx().unwrap(), find("curl")) else { return };
    let gateway = Gateway::start("", &server.address).unwrap();
    let url = format!("http://{}", gateway.address_of("main").unwrap());
    let text = |args: &[&str]| String::from_utf8(curl(b"", args).unwrap().unwrap().stdout).unwrap();

    assert_eq!(text(&[&format!("{url}/small.txt")]), "small");
    assert_eq!(text(&["--http1.0", &format!("{url}/small.txt")]), "small");
    let head = text(&["--head", &format!("{url}/small.txt")]);
    assert!(head.starts_with("HTTP/1.1 200 ") && head.to_lowercase().contains("content-length: 5"), "{head}");
    let large = curl(b"", &[&format!("{url}/large.bin")]).unwrap().unwrap();
    assert_eq!(large.stdout.len(), LARGE_BYTES);
    // Two on one connection.
    let (one, two) = (format!("{url}/small.txt"), format!("{url}/echo"));
    let both = text(&["--write-out", "connects=%{num_connects}\n", &one, &two]);
    assert!(both.contains("connects=1\n") && both.ends_with("connects=0\n"), "{both}");
}

#[test]
fn curl_before_the_gateway_uploads_in_every_way() {
    let (Some(server), Some(_)) = (python("HTTP/1.1").unwrap(), find("curl")) else { return };
    let gateway = Gateway::start("", &server.address).unwrap();
    let url = format!("http://{}/x", gateway.address_of("main").unwrap());
    let body: Vec<u8> = (0..1_500_000_u32).map(|at| (at % 251) as u8).collect();
    for args in [
        // With a length, which curl announces by Expect: 100-continue.
        &["--data-binary", "@-", "-H", "Expect: 100-continue", "--expect100-timeout", "1"][..],
        &["--data-binary", "@-", "-H", "Expect:"],
        &["--http1.0", "--data-binary", "@-"],
    ] {
        let args = [args, &[url.as_str()]].concat();
        let output = curl(&body, &args).unwrap().unwrap();
        assert!(output.stdout == body, "{args:?}: {} bytes came back", output.stdout.len());
    }
}

#[test]
fn curl_before_the_gateway_uploads_in_chunks() {
    let Some(_) = find("curl") else { return };
    let origin = e2e::Origin::tcp().unwrap().answer(|request| {
        let chunked = request.head.field("transfer-encoding") == Some("chunked");
        e2e::origin::ok(format!("{} {chunked}", request.body.len()))
    });
    let gateway = Gateway::start("", origin.address()).unwrap();
    let url = format!("http://{}/x", gateway.address_of("main").unwrap());
    let output = curl(&[b'x'; 1_000_000], &["--upload-file", "-", "-H", "Expect:", &url]).unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1000000 true");
}

#[test]
fn curl_before_the_gateway_speaks_http2_both_ways() {
    let (Some(server), Some(_)) = (nginx().unwrap(), find("curl")) else { return };
    let version = curl(b"", &["--version"]).unwrap().unwrap();
    if !String::from_utf8_lossy(&version.stdout).contains("HTTP2") {
        return println!("not run: this curl has no HTTP/2");
    }
    let folder = tempfile::tempdir().unwrap();
    let made = e2e::tls::certificate(folder.path(), "api", &["localhost"]).unwrap();
    let (cert, key) = (made.cert.display(), made.key.display());
    let listeners = format!(
        "[[listener]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\n[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificates = [{{ cert = \"{cert}\", key = \"{key}\" }}] }}\n[[listener]]\nname = \"old\"\n\
         address = \"127.0.0.1:0\"\nhttp2 = false\ntls = {{ certificates = [{{ cert = \"{cert}\", key = \"{key}\" }}] }}"
    );
    let gateway = Gateway::start(&listeners, &server.address).unwrap();
    let port = |name: &str| gateway.address_of(name).unwrap().port();
    let trust = made.cert.display().to_string();
    let (plain, tls, old) = (port("main"), port("tls"), port("old"));
    let (plain, tls) = (format!("http://127.0.0.1:{plain}"), format!("https://localhost:{tls}"));
    let old = format!("https://localhost:{old}/small.txt");
    let said = ["--write-out", "%{http_version}"];
    let text = |args: &[&str]| String::from_utf8(curl(b"", args).unwrap().unwrap().stdout).unwrap();
    assert_eq!(text(&[said[0], said[1], "--http2-prior-knowledge", &format!("{plain}/small.txt")]), "small2");
    assert_eq!(text(&[said[0], said[1], "--http2", "--cacert", &trust, &format!("{tls}/small.txt")]), "small2");
    assert_eq!(text(&[said[0], said[1], "--http1.1", "--cacert", &trust, &format!("{tls}/small.txt")]), "small1.1");
    assert_eq!(text(&[said[0], said[1], "--http2", "--cacert", &trust, &old]), "small1.1");
    let large = curl(b"", &["--http2", "--cacert", &trust, &format!("{tls}/large.bin")]).unwrap().unwrap();
    assert_eq!(large.stdout.len(), LARGE_BYTES);
    let parallel: Vec<String> = (0..20).map(|_| format!("{tls}/small.txt")).collect();
    let args =
        [&["--http2", "--cacert", &trust, "--parallel"][..], &parallel.iter().map(String::as_str).collect::<Vec<_>>()];
    assert_eq!(text(&args.concat()), "small".repeat(20));
}

#[test]
fn h2load_before_the_gateway_loses_nothing() {
    let (Some(server), Some(program)) = (nginx().unwrap(), find("h2load")) else { return };
    let gateway = Gateway::start("", &server.address).unwrap();
    let url = format!("http://{}/small.txt", gateway.address_of("main").unwrap());
    let output = Command::new(program).args(["-n", "3000", "-c", "10", "-m", "20", &url]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("3000 succeeded, 0 failed, 0 errored"), "{said}");
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_http2_connections_total", &[]), 10.0);
}
