//! Which route a request gets and what the route does with it, seen from both sides of the gateway.

use e2e::message::Message;
use e2e::origin::{echo, ok};
use e2e::{Gateway, Origin};

/// A gateway in front of an origin that answers with the head it saw.
fn echoing(routes: &str) -> (Gateway, e2e::origin::Serving) {
    let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
    let gateway = Gateway::start(routes, origin.address()).unwrap();
    (gateway, origin)
}

#[test]
fn captures_prefixes_and_hosts_are_rewritten() {
    let (gateway, _origin) = echoing(
        r#"
        [[route]]
        path = "/v1/shelves/{shelf}/books/{book}"
        upstream = "main"
        auth = "none"
        rewrite = { path = "/s/${path.shelf}/b-${path.book}/${query.q}/${header.x-a}", host = "${path.shelf}.internal" }
        headers.request.set = { x-book = "${path.book}", x-cookie = "${cookie.c}", x-path = "${path}" }
        headers.response.set = { x-shelf = "${path.shelf}" }
        [[route]]
        path = "/api/**"
        upstream = "main"
        auth = "none"
        rewrite = { prefix = "/internal" }
        [[route]]
        path = "/top/**"
        upstream = "main"
        auth = "none"
        rewrite = { prefix = "/" }
        [[route]]
        path = "/files/{rest=**}"
        upstream = "main"
        auth = "none"
        rewrite = { path = "/f/${path.rest}" }
        [[route]]
        path = "/bare/{name}x"
        upstream = "main"
        auth = "none"
        rewrite = { path = "/${path.name}/secret" }
        "#,
    );
    let request =
        "GET /v1/shelves/7/books/le%20petit?q=a/b HTTP/1.1\r\nHost: h\r\nX-A: 1/2 \u{7e}\r\nCookie: b=1; c=two\r\n\r\n";
    let answer = gateway.ask(request).unwrap();
    let seen = answer.text().to_lowercase();
    // What is no part of the path stays within a segment, whatever it holds; the query goes along as it was.
    assert!(seen.starts_with("get /s/7/b-le%20petit/a%2fb/1%2f2%20~?q=a/b http/1.1"), "{seen}");
    for field in ["host: 7.internal", "x-book: le%20petit", "x-cookie: two", "x-path: /v1/shelves/7/books/le%20petit"] {
        assert!(seen.contains(field), "no {field} in {seen}");
    }
    assert_eq!(answer.head.field("x-shelf"), Some("7"));
    for (sent, expected) in [
        ("/api", "/internal"),
        ("/api/", "/internal/"),
        ("/api/a/b?c", "/internal/a/b?c"),
        ("/top", "/"),
        ("/top/a", "/a"),
        ("/files/a/b", "/f/a/b"),
        ("/files", "/f/"),
        ("/bare/ax", "/a/secret"),
    ] {
        let seen = gateway.get(sent).unwrap().text();
        assert_eq!(seen.lines().next(), Some(&*format!("GET {expected} HTTP/1.1")), "{sent}");
    }
    // A capture that would become a dot segment between its new neighbours; dots between slashes that are escaped.
    for sent in ["/bare/.x", "/bare/..x", "/v1/shelves/7/books/8?q=a/../b"] {
        assert_eq!(gateway.get(sent).unwrap().refusal().unwrap(), (400, "rewrite_not_canonical".to_owned()), "{sent}");
    }
}

#[test]
fn conditions_choose_among_routes() {
    let (gateway, _origin) = echoing(
        r#"
        [[listener]]
        name = "main"
        address = "127.0.0.1:0"
        client_address = "forwarded"
        [gateway]
        trusted_hops = ["127.0.0.0/8"]
        [[route]]
        name = "any"
        path = "/**"
        auth = "none"
        respond = { body = "any" }
        [[route]]
        name = "v2"
        path = "/**"
        auth = "none"
        when.headers = { accept-version = { prefix = "2" } }
        respond = { body = "v2" }
        [[route]]
        name = "big"
        path = "/**"
        auth = "none"
        when.query = { size = { min = 100 } }
        respond = { body = "big" }
        [[route]]
        name = "beta"
        path = "/**"
        auth = "none"
        when.cookies = { beta = "on" }
        respond = { body = "beta" }
        [[route]]
        name = "inside"
        path = "/**"
        auth = "none"
        when.client = ["10.0.0.0/8"]
        respond = { body = "inside" }
        [[route]]
        name = "plain"
        path = "/plain"
        auth = "none"
        when.headers = { authorization = { present = false } }
        respond = { body = "plain" }
        "#,
    );
    for (target, fields, expected) in [
        ("/", "", "any"),
        ("/", "Accept-Version: 2.1\r\n", "v2"),
        ("/", "Accept-Version: 3\r\n", "any"),
        ("/?size=100", "", "big"),
        ("/?size=99", "", "any"),
        ("/?%73ize=1%300", "", "big"),
        ("/", "Cookie: a=b; beta=on\r\n", "beta"),
        ("/", "X-Forwarded-For: 10.1.1.1\r\n", "inside"),
        ("/", "X-Forwarded-For: 11.1.1.1\r\n", "any"),
        // Headers before query before cookies before the client.
        ("/?size=100", "Accept-Version: 2\r\nCookie: beta=on\r\n", "v2"),
        ("/plain", "", "plain"),
        ("/plain", "Authorization: x\r\n", "any"),
    ] {
        let answer = gateway.ask(format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n")).unwrap();
        assert_eq!(answer.text(), expected, "{target} {fields}");
    }
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_route_requests_total", &[("route", "v2")]), 2.0);
}

#[test]
fn a_split_divides_by_weight_and_keeps_clients() {
    let one = Origin::tcp().unwrap().answer(|_| ok("one"));
    let two = Origin::tcp().unwrap().answer(|_| ok("two"));
    let config = r#"
        [upstream.one]
        endpoints = ["{one}"]
        [upstream.two]
        endpoints = ["{two}"]
        [[route]]
        path = "/drawn"
        auth = "none"
        split = { targets = [{ upstream = "one", weight = 3 }, { upstream = "two" }] }
        [[route]]
        path = "/kept"
        auth = "none"
        split = { targets = [{ upstream = "one" }, { upstream = "two" }], by = "cookie:id" }
    "#;
    let values = [("one", one.address()), ("two", two.address()), ("upstream", one.address())];
    let gateway = Gateway::start_with(config, &values).unwrap();
    let mut client = gateway.client().unwrap();
    let mut ask = |target: &str, fields: &str| {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n")).unwrap();
        Message::answer(&mut client, "GET").unwrap().text()
    };
    let ones = (0..400).filter(|_| ask("/drawn", "") == "one").count();
    // 300 expected; 250 and 350 are more than five standard deviations away.
    assert!((250..=350).contains(&ones), "{ones}");
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..20 {
        let cookie = format!("Cookie: id={user}\r\n");
        let first = ask("/kept", &cookie);
        for _ in 0..3 {
            assert_eq!(ask("/kept", &cookie), first, "{user}");
        }
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2, "twenty clients, two targets");
}

#[test]
fn redirects_and_fixed_answers_need_no_service() {
    let (gateway, _origin) = echoing(
        r#"
        [[route]]
        path = "/old/{page=**}"
        auth = "none"
        redirect = { status = 308, scheme = "https", host = "www.example.com", path = "/new/${path.page}" }
        [[route]]
        path = "/moved/**"
        auth = "none"
        redirect = { prefix = "/here", query = "drop" }
        [[route]]
        path = "/secure/**"
        auth = "none"
        redirect = { scheme = "https" }
        [[route]]
        path = "/robots.txt"
        auth = "none"
        respond = { body = "User-agent: *\n" }
        headers.response.set = { cache-control = "max-age=60" }
        [[route]]
        path = "/gone"
        auth = "none"
        respond = { status = 410, body = "<p>gone", content_type = "text/html" }
        [[route]]
        path = "/empty"
        auth = "none"
        respond = { status = 204 }
        "#,
    );
    for (target, status, location) in [
        ("/old/a/b?c=d", 308, "https://www.example.com/new/a/b?c=d"),
        ("/moved/x?y", 307, "/here/x"),
        ("/moved", 307, "/here"),
        ("/secure/%41", 307, "https://h/secure/A"),
    ] {
        let answer = gateway.ask(format!("GET {target} HTTP/1.1\r\nHost: h:8080\r\n\r\n")).unwrap();
        assert_eq!((answer.head.status(), answer.head.field("location")), (status, Some(location)), "{target}");
        assert_eq!(answer.text(), "");
    }
    let answer = gateway.get("/robots.txt").unwrap();
    assert_eq!(answer.text(), "User-agent: *\n");
    assert_eq!(answer.head.field("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.head.field("cache-control"), Some("max-age=60"));
    assert!(answer.head.field("date").is_some());
    let answer = gateway.ask("HEAD /robots.txt HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(answer.head.field("content-length"), Some("14"));
    let answer = gateway.get("/gone").unwrap();
    assert_eq!((answer.head.status(), answer.text().as_str()), (410, "<p>gone"));
    assert_eq!(answer.head.field("content-type"), Some("text/html"));
    let answer = gateway.get("/empty").unwrap();
    assert_eq!((answer.head.status(), answer.head.field("content-length")), (204, None));
    // HTTP/1.0 without Host: nobody knows where to send it.
    let answer = gateway.ask("GET /secure/a HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(answer.refusal().unwrap(), (400, "host_missing".to_owned()));
    // A body that nobody reads costs the connection, and nothing more.
    let answer = gateway.ask("POST /gone HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc").unwrap();
    assert_eq!(answer.head.status(), 410);
}

#[test]
fn a_route_waits_as_long_as_it_says() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start(
        r#"
        [[route]]
        path = "/quick"
        upstream = "main"
        auth = "none"
        timeout = { first_byte = "50ms" }
        [[route]]
        path = "/whole"
        upstream = "main"
        auth = "none"
        timeout = { total = "50ms" }
        "#,
        origin.address(),
    )
    .unwrap();
    for (target, code) in [("/quick", "upstream_first_byte_timeout"), ("/whole", "upstream_total_timeout")] {
        assert_eq!(gateway.get(target).unwrap().refusal().unwrap(), (504, code.to_owned()), "{target}");
    }
}

#[test]
fn a_priority_goes_before_how_specific_a_route_is() {
    let (gateway, _origin) = echoing(
        r#"
        [[route]]
        path = "/orders/{id}"
        upstream = "main"
        auth = "none"
        [[route]]
        path = { regex = "/orders/[0-9]+" }
        auth = "none"
        respond = { body = "a number" }
        [[route]]
        path = "/**"
        priority = 10
        when.headers = { x-down = "1" }
        auth = "none"
        respond = { status = 503, body = "back soon" }
        "#,
    );
    assert_eq!(gateway.get("/orders/7").unwrap().text(), "a number");
    assert!(gateway.get("/orders/x").unwrap().text().starts_with("GET /orders/x "));
    let answer = gateway.ask("GET /orders/7 HTTP/1.1\r\nHost: h\r\nX-Down: 1\r\n\r\n").unwrap();
    assert_eq!((answer.head.status(), answer.text().as_str()), (503, "back soon"));
}

#[test]
fn copies_of_requests_reach_the_mirror_and_nobody_waits_for_them() {
    let origin = Origin::tcp().unwrap().answer(|request| ok(format!("main {}", request.body.len())));
    let shadow = Origin::tcp().unwrap();
    let config = r#"
        [upstream.shadow]
        endpoints = ["{shadow}"]
        [[route]]
        path = "/**"
        upstream = "main"
        auth = "none"
        rewrite = { prefix = "/v2" }
        [[route.mirror]]
        upstream = "shadow"
        body_bytes = "1KiB"
    "#;
    let gateway = Gateway::start_with(config, &[("upstream", origin.address()), ("shadow", shadow.address())]).unwrap();
    let mut client = gateway.client().unwrap();
    let mut ask = |request: String| {
        client.send(request).unwrap();
        Message::answer(&mut client, "GET").unwrap().text()
    };
    // The mirror does not answer, and the client has its answer all the same.
    assert_eq!(ask("GET /a?b HTTP/1.1\r\nHost: h\r\nX-A: 1\r\n\r\n".to_owned()), "main 0");
    let mut first = shadow.accept().unwrap();
    let copy = Message::request(&mut first).unwrap();
    assert_eq!(copy.head.start, "GET /v2/a?b HTTP/1.1");
    assert_eq!((copy.head.field("host"), copy.head.field("x-a")), (Some("h"), Some("1")));
    let body = "x".repeat(1024);
    let post = |body: &str| format!("POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(ask(post(&body)), "main 1024");
    let mut second = shadow.accept().unwrap();
    let copy = Message::request(&mut second).unwrap();
    assert_eq!((copy.head.start.as_str(), copy.text()), ("POST /v2/p HTTP/1.1", body));
    assert_eq!(
        ask("POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_owned()),
        "main 3"
    );
    let mut third = shadow.accept().unwrap();
    assert_eq!(Message::request(&mut third).unwrap().text(), "abc");
    // Longer than what is kept: not copied, and counted.
    assert_eq!(ask(post(&"x".repeat(1025))), "main 1025");
    // An answer of the mirror is dropped, whatever it is; its connection is used again.
    first.send("HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nabc").unwrap();
    drop((second, third));
    let failed = |metrics: &e2e::metrics::Metrics| metrics.sum("bawab_mirrors_total", &[("outcome", "failed")]) == 2.0;
    let metrics = gateway.metrics_when("two copies without an answer", failed).unwrap();
    assert_eq!(metrics.sum("bawab_mirrors_total", &[("outcome", "sent")]), 3.0);
    assert_eq!(metrics.sum("bawab_mirrors_total", &[("outcome", "too_long")]), 1.0);
    drop(shadow);
    assert_eq!(ask("GET /a HTTP/1.1\r\nHost: h\r\n\r\n".to_owned()), "main 0");
}

#[test]
fn a_route_in_maintenance_lets_through_who_looks_after_it() {
    let (gateway, _origin) = echoing(
        r#"
        [gateway]
        trusted_hops = ["127.0.0.0/8"]
        [[listener]]
        name = "main"
        address = "127.0.0.1:0"
        client_address = "forwarded"
        [[route]]
        path = "/plain"
        upstream = "main"
        auth = "none"
        maintenance = { retry_after = "1500ms", except = ["10.0.0.0/8"] }
        [[route]]
        path = "/page"
        upstream = "main"
        auth = "none"
        maintenance = { body = "<p>Back at six.", content_type = "text/html" }
        "#,
    );
    let answer = gateway.get("/plain").unwrap();
    assert_eq!(answer.refusal().unwrap(), (503, "maintenance".to_owned()));
    assert_eq!(answer.head.field("retry-after"), Some("2"));
    let answer = gateway.get("/page").unwrap();
    assert_eq!((answer.head.status(), answer.text().as_str()), (503, "<p>Back at six."));
    assert_eq!((answer.head.field("retry-after"), answer.head.field("content-type")), (Some("300"), Some("text/html")));
    let inside = "GET /plain HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.1.1.1\r\n\r\n";
    assert_eq!(gateway.ask(inside).unwrap().head.status(), 200);
}

#[test]
fn faults_are_injected_by_share() {
    let (gateway, _origin) = echoing(
        r#"
        [[route]]
        path = "/some"
        upstream = "main"
        auth = "none"
        fault = { abort = 503, abort_percentage = "30%" }
        [[route]]
        path = "/slow"
        upstream = "main"
        auth = "none"
        fault = { delay = "150ms", abort = 418 }
        "#,
    );
    let mut client = gateway.client().unwrap();
    let mut ask = |target: &str| {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
        Message::answer(&mut client, "GET").unwrap()
    };
    let hit = (0..300).filter(|_| ask("/some").head.status() == 503).count();
    // 90 expected; 40 is five standard deviations.
    assert!((50..=130).contains(&hit), "{hit}");
    let begin = std::time::Instant::now();
    assert_eq!(ask("/slow").refusal().unwrap(), (418, "injected_fault".to_owned()));
    assert!(begin.elapsed().as_millis() >= 150);
}

#[test]
fn the_upstream_hears_of_a_buffered_request_when_it_is_whole() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start(
        r#"
        [[route]]
        path = "/**"
        upstream = "main"
        auth = "none"
        buffer_request = "8B"
        "#,
        origin.address(),
    )
    .unwrap();
    let mut client = gateway.client().unwrap();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n").unwrap();
    // Another client's request passes it by: had the first one opened a connection, it would be there before this one's.
    let mut other = gateway.client().unwrap();
    other.send("GET /other HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut upstream = origin.accept().unwrap();
    assert!(Message::request(&mut upstream).unwrap().head.start.starts_with("GET /other "));
    upstream.send("HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    assert_eq!(Message::answer(&mut other, "GET").unwrap().head.status(), 204);
    client.send("4\r\nefgh\r\n0\r\n\r\n").unwrap();
    let whole = Message::request(&mut upstream).unwrap();
    assert_eq!((whole.head.field("content-length"), whole.text().as_str()), (Some("8"), "abcdefgh"));
    upstream.send("HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    assert_eq!(Message::answer(&mut client, "POST").unwrap().head.status(), 204);
    let answer = gateway.ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabcdefghi").unwrap();
    assert_eq!(answer.refusal().unwrap(), (413, "body_too_large".to_owned()));
}

#[test]
fn errors_look_as_the_operator_says() {
    let origin = Origin::tcp().unwrap().answer(|request| {
        let status = request.head.start.split(['/', ' ']).nth(2).unwrap_or_default().to_owned();
        format!("HTTP/1.1 {status} X\r\nContent-Type: text/x-own\r\nWWW-Authenticate: Basic\r\nETag: \"x\"\r\nContent-Length: 3\r\n\r\nown").into_bytes()
    });
    let gateway = Gateway::start(
        r#"
        [[error]]
        status = ["4xx", "5xx"]
        content_type = "text/html"
        body = "<h1>${status} ${reason}</h1>${code}"
        [[route]]
        path = "/x/{status}"
        upstream = "main"
        auth = "none"
        rewrite = { path = "/${path.status}" }
        headers.response.set = { x-seen = "yes" }
        [[route.error]]
        status = ["401", "502-504"]
        content_type = "application/json"
        body = '{"error":"${code}","status":${status}}'
        upstream = true
        [[route]]
        path = "/post"
        methods = ["POST"]
        upstream = "main"
        auth = "none"
        "#,
        origin.address(),
    )
    .unwrap();
    let ask = |target: &str, accept: &str| {
        let answer = gateway.ask(format!("GET {target} HTTP/1.1\r\nHost: h\r\n{accept}\r\n")).unwrap();
        let kind = answer.head.field("content-type").unwrap_or_default().to_owned();
        (answer.head.status(), kind, answer.text(), answer.head)
    };
    let (status, kind, body, head) = ask("/nothing", "");
    assert_eq!((status, kind.as_str(), body.as_str()), (404, "text/html", "<h1>404 Not Found</h1>no_route"));
    assert_eq!((head.field("cache-control"), head.field("vary")), (Some("no-store"), Some("accept")));
    assert_eq!(ask("/nothing", "Accept: application/problem+json\r\n").1, "application/problem+json");
    let (status, kind, _, head) = ask("/post", "Accept: text/html\r\n");
    assert_eq!((status, kind.as_str(), head.field("allow")), (405, "text/html", Some("POST")));
    // The service's own answers: only where the page says so; what is not about the body stays.
    let (status, kind, body, head) = ask("/x/401", "");
    assert_eq!(
        (status, kind.as_str(), body.as_str()),
        (401, "application/json", r#"{"error":"upstream_answer","status":401}"#)
    );
    assert_eq!((head.field("www-authenticate"), head.field("etag")), (Some("Basic"), None));
    assert_eq!(head.field("x-seen"), Some("yes"));
    assert_eq!(ask("/x/404", "").2, "own");
    assert_eq!(ask("/x/200", "").2, "own");
    let answer = gateway.ask("HEAD /x/503 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!((answer.head.status(), answer.head.field("content-length")), (503, Some("40")));
    drop(origin);
    let (status, _, body, _) = ask("/x/200", "Accept: text/html, application/json;q=0.5\r\n");
    assert_eq!((status, body.as_str()), (502, "<h1>502 Bad Gateway</h1>upstream_connect_failed"));
}

#[test]
fn a_page_in_place_of_an_answer_leaves_no_connection_that_must_not_be_used_again() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start(
        r#"
        [[route]]
        path = "/**"
        upstream = "main"
        auth = "none"
        compression = { bytes_min = "1B" }
        [[route.error]]
        status = ["404"]
        content_type = "text/html"
        body = "<p>nothing here, and a word more to compress, compress, compress"
        upstream = true
        "#,
        origin.address(),
    )
    .unwrap();
    let mut client = gateway.client().unwrap();
    for answer in [
        "HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\nbehind",
    ] {
        client.send("GET / HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\n\r\n").unwrap();
        // A new connection each time: none of these answers leaves one that may be used again.
        let mut upstream = origin.accept().unwrap();
        Message::request(&mut upstream).unwrap();
        upstream.send(answer).unwrap();
        let page = Message::answer(&mut client, "GET").unwrap();
        assert_eq!((page.head.status(), page.head.field("content-encoding")), (404, Some("gzip")), "{answer}");
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&page.body[..]), &mut text).unwrap();
        assert!(text.starts_with("<p>nothing here"), "{text}");
    }
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut upstream = origin.accept().unwrap();
    Message::request(&mut upstream).unwrap();
    upstream.send("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert_eq!(Message::answer(&mut client, "GET").unwrap().head.status(), 404);
    // That one had no body and stays.
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    Message::request(&mut upstream).unwrap();
    upstream.send("HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    assert_eq!(Message::answer(&mut client, "GET").unwrap().head.status(), 204);
}

#[test]
fn a_preflight_that_hides_itself_is_still_answered_here() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start(
        r#"
        [[route]]
        path = "/**"
        methods = ["POST"]
        upstream = "main"
        auth = "none"
        cors = { origins = ["https://a.example"] }
        "#,
        origin.address(),
    )
    .unwrap();
    for hidden in ["Access-Control-Request-Method", "Origin", "Origin, Access-Control-Request-Method"] {
        let request = format!(
            "OPTIONS /x HTTP/1.1\r\nHost: h\r\nOrigin: https://a.example\r\nAccess-Control-Request-Method: POST\r\nConnection: {hidden}\r\n\r\n"
        );
        assert_eq!(gateway.ask(request).unwrap().head.status(), 204, "{hidden}");
    }
    assert!(origin.accept_now().unwrap().is_none(), "the service was asked");
}

#[test]
fn a_buffered_route_still_opens_tunnels() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start(
        r#"
        [[route]]
        path = "/**"
        upstream = "main"
        auth = "none"
        buffer_request = "1KiB"
        upgrade = ["websocket"]
        "#,
        origin.address(),
    )
    .unwrap();
    let mut client = gateway.client().unwrap();
    client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    let mut upstream = origin.accept().unwrap();
    let request = Message::request(&mut upstream).unwrap();
    assert_eq!(request.head.field("content-length"), None);
    upstream.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    assert_eq!(Message::answer(&mut client, "GET").unwrap().head.status(), 101);
    client.send("ping").unwrap();
    assert_eq!(upstream.take(4).unwrap(), b"ping");
    upstream.send("pong").unwrap();
    assert_eq!(client.take(4).unwrap(), b"pong");
}
