//! What others wrote to find fault with servers, and clients whose HTTP/2 is not ours: varnishtest, nghttp, httpx, sslyze.
//! What is not installed is said to be not run.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use e2e::binary::{find, find_of_python, workspace};
use e2e::tls::Authority;
use e2e::{Gateway, Origin};

/// Answers every request, when all of it is here, with how many bytes its body had; `/hello` with `hello`.
fn counting() -> e2e::origin::Serving {
    Origin::tcp().unwrap().answer(|request| match request.head.start.split(' ').nth(1) {
        Some("/hello") => e2e::origin::ok("hello"),
        _ => e2e::origin::ok(request.body.len().to_string()),
    })
}

/// A certificate of an authority for `localhost`, and a TLS listener that shows it.
fn secure(folder: &Path) -> (Authority, String) {
    let authority = Authority::new(folder, "authority").unwrap();
    let made = authority.server("localhost", &["localhost"]).unwrap();
    let listener = format!(
        "[[listener]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\n[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificates = [{{ cert = \"{}\", key = \"{}\" }}] }}",
        made.cert.display(),
        made.key.display()
    );
    (authority, listener)
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text)).concat()
}

/// Scripts in which varnishtest is the client, frame by frame.
#[test]
fn varnishtest_finds_a_server_of_http2() {
    let Some(program) = find("varnishtest") else { return };
    let origin = Origin::tcp().unwrap().answer(|_| e2e::origin::ok("hello"));
    let gateway = Gateway::start("", origin.address()).unwrap();
    let address = gateway.address_of("main").unwrap();
    let folder = workspace().join("tests/vtc");
    let scratch = tempfile::tempdir().unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let script = entry.unwrap().path();
        let output = Command::new(&program)
            .args(["-v", "-t", "20", "-D", &format!("bawab={address}")])
            .arg(&script)
            .env("TMPDIR", scratch.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}:\n{}", script.display(), said(&output));
        count += 1;
    }
    assert!(count > 0, "there is no script");
}

#[test]
fn nghttp_gets_and_posts_on_many_streams() {
    let Some(program) = find("nghttp") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (_authority, listener) = secure(folder.path());
    let origin = counting();
    let gateway = Gateway::start(&listener, origin.address()).unwrap();
    let body = folder.path().join("body");
    std::fs::write(&body, vec![b'x'; 300_000]).unwrap();
    let posted = format!("--data={}", body.display());
    let (plain, tls) = (gateway.address_of("main").unwrap(), gateway.address_of("tls").unwrap().port());
    for url in [format!("http://{plain}"), format!("https://localhost:{tls}")] {
        let run = |args: &[&str], path: &str| {
            let output = Command::new(&program).args(args).arg(format!("{url}{path}")).output().unwrap();
            assert!(output.status.success(), "{}", said(&output));
            said(&output)
        };
        assert_eq!(run(&["--no-verify-peer"], "/hello"), "hello");
        assert_eq!(run(&["--no-verify-peer", &posted], "/post"), "300000");
        // Each asks for what it is given a hundred times at once.
        let many = run(&["--no-verify-peer", "--null-out", "--stat", "--multiply=100"], "/hello");
        assert_eq!(many.lines().filter(|line| line.ends_with(" 200    5 /hello")).count(), 100, "{many}");
    }
}

/// Speaks HTTP/2 by the Python packages httpx, h2 and hpack.
const HTTPX: &str = r#"
import asyncio, ssl, sys
import httpx

async def main(url, authority):
    trust = ssl.create_default_context(cafile=authority)
    async with httpx.AsyncClient(http1=False, http2=True, verify=trust, timeout=20, trust_env=False) as client:
        async def checked(method, path, expected, **more):
            answer = await client.request(method, url + path, **more)
            assert answer.http_version == "HTTP/2", answer.http_version
            assert (answer.status_code, answer.text) == (200, expected), (path, answer.status_code, answer.text)
            return answer
        await checked("GET", "/hello", "hello")
        head = await client.head(url + "/hello")
        assert (head.status_code, head.headers["content-length"], head.content) == (200, "5", b""), head
        await checked("POST", "/", "300000", content=b"x" * 300_000)
        async def pieces():
            for _ in range(50):
                yield b"y" * 4000
        await checked("PUT", "/", "200000", content=pieces())
        cookies = [("cookie", "a=1"), ("cookie", "b=2"), ("x-many", "v" * 3000)]
        await checked("GET", "/hello", "hello", headers=cookies)
        jobs = [checked("POST", f"/{n}", str(n * 100), content=b"z" * (n * 100)) for n in range(1, 101)]
        await asyncio.gather(*jobs)
        print("done")

asyncio.run(main(*sys.argv[1:]))
"#;

#[test]
fn httpx_gets_and_posts_on_many_streams() {
    let Some(program) = find_of_python("httpx").and_then(|_| find_of_python("python3")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (authority, listener) = secure(folder.path());
    let origin = counting();
    let gateway = Gateway::start(&listener, origin.address()).unwrap();
    let url = format!("https://localhost:{}", gateway.address_of("tls").unwrap().port());
    let output = Command::new(program).args(["-I", "-c", HTTPX, &url]).arg(&authority.cert).output().unwrap();
    assert!(output.status.success() && output.stdout == b"done\n", "{}", said(&output));
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_http2_connections_total", &[]), 1.0, "all of it went by one connection");
}

#[test]
fn sslyze_finds_what_mozilla_calls_intermediate() {
    let Some(program) = find_of_python("sslyze") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (authority, listener) = secure(folder.path());
    let origin = counting();
    let gateway = Gateway::start(&listener, origin.address()).unwrap();
    let output = Command::new(program)
        .args(["--mozilla_config=intermediate", "--certinfo", "--certinfo_ca_file"])
        .arg(&authority.cert)
        .arg(format!("localhost:{}", gateway.address_of("tls").unwrap().port()))
        .output()
        .unwrap();
    let said = said(&output);
    assert!(output.status.success() && said.contains(": OK - Compliant."), "{said}");
}
