//! Requests that no honest client sends: each is refused, and the server goes on.

use super::client::Client;
use super::{Server, wait_for};
use serde_json::json;
use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

const JSON_HEAD: &str =
    "POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";

/// The status of what the server says to these bytes; `None` where it only hangs up.
fn status(server: &Server, bytes: impl AsRef<[u8]>) -> Option<u16> {
    let mut client = server.client();
    client.send(bytes);
    client.receive().map(|reply| reply.status)
}

#[test]
fn malformed_heads() {
    let server = Server::start(&[]);
    let many = "X: y\r\n".repeat(1000);
    let long = "x".repeat(100_000);
    let [bad, large, none] = ["bad_request", "head_too_large", "not_found"];
    for (bytes, expected, code) in [
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}".to_string(), 400, bad),
        ("GET\r\n\r\n".to_string(), 400, bad),
        ("GET / HTTP/9.9\r\nHost: localhost\r\n\r\n".to_string(), 400, bad),
        ("GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_string(), 400, bad),
        ("GET / HTTP/1.1\r\nHost localhost\r\n\r\n".to_string(), 400, bad),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nA\0: b\r\n\r\n".to_string(), 400, bad),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"), 431, large),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\nA: {long}\r\n\r\n"), 431, large),
        (format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", &long[..20_000]), 404, none),
        (format!("{JSON_HEAD}Content-Length: -1\r\n\r\n{{}}"), 400, bad),
        (format!("{JSON_HEAD}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"), 400, bad),
        (format!("{JSON_HEAD}Transfer-Encoding: gzip\r\n\r\n{{}}"), 400, bad),
    ] {
        let shown: String = bytes.chars().take(60).collect();
        let mut client = server.client();
        client.send(bytes);
        let reply = client.receive().unwrap_or_else(|| panic!("no answer to {shown:?}"));
        assert_eq!(reply.problem(), (expected, code.to_string()), "{shown:?}");
    }
    assert_eq!(status(&server, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), None, "no HTTP/2 here");
    server.finish();
}

/// What two servers in a row may understand differently must not leave a second request behind.
#[test]
fn no_request_hides_in_another() {
    let server = Server::start(&[]);
    let mut client = server.client();
    client.send(format!(
        "{JSON_HEAD}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
         GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    ));
    assert!(client.receive().is_none_or(|reply| reply.status >= 400));
    assert!(client.receive().is_none_or(|reply| reply.status >= 400 || reply.body.contains("ok")));
    server.finish();
}

#[test]
fn foreign_hosts() {
    let server = Server::start(&["--allow-host=shop.example.org"]);
    let port = server.address.port();
    for (lines, expected) in [
        ("Host: evil.example.org".to_string(), 421),
        (format!("Host: evil.example.org:{port}"), 421),
        ("Host: localhost@evil.example.org".to_string(), 421),
        ("Host: ".to_string(), 421),
        ("X-Forwarded-Host: localhost".to_string(), 400),
        ("Host: localhost\r\nHost: evil.example.org".to_string(), 400),
        (format!("Host: localhost:{port}"), 200),
        ("host: shop.example.org".to_string(), 200),
    ] {
        let got = status(&server, format!("GET /health HTTP/1.1\r\n{lines}\r\n\r\n"));
        assert_eq!(got, Some(expected), "{lines}");
    }
    let absolute = "GET http://evil.example.org/health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(status(&server, absolute), Some(421));
    assert_eq!(status(&server, "GET /health HTTP/1.0\r\n\r\n"), Some(400));
    server.finish();
}

#[test]
fn paths_lead_nowhere_else() {
    let server = Server::start(&[]);
    for path in [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page.js/../../../etc/passwd",
        "//etc/passwd",
        "/config.yaml",
        "/items/../config.yaml",
        "/items/i9/../../health",
        "/items/i9/similar/",
        "/health/",
        "/Health",
        "/%00",
        "/recommend%2f",
    ] {
        let (status, code) = server.get(path).problem();
        assert_eq!((status, code.as_str()), (404, "not_found"), "{path}");
    }
    let (status, code) = server.get("/items/..%2f..%2fconfig.yaml/similar").problem();
    assert_eq!((status, code.as_str()), (404, "unknown_item"));
    server.finish();
}

#[test]
fn other_methods() {
    let server = Server::start(&[]);
    for method in ["DELETE", "PUT", "PATCH", "TRACE", "OPTIONS", "FOO", "get"] {
        for (path, allowed) in [("/health", "GET"), ("/items/i9/similar", "GET"), ("/", "GET")] {
            let reply = server.client().request(method, path, &[], b"");
            assert_eq!(reply.problem(), (405, "bad_method".to_string()), "{method} {path}");
            assert!(reply.header("allow").unwrap().contains(allowed));
        }
    }
    assert_eq!(server.get("/recommend").problem().0, 405);
    assert_eq!(server.post("/health", &json!({})).problem().0, 405);
    let connect = "CONNECT evil.example.org:443 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert!(status(&server, connect).is_some_and(|status| (400..500).contains(&status)));
    let mut client = server.client();
    client.send("HEAD /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut client.writer(), &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
    server.finish();
}

/// A hundred megabytes, announced or in chunks: refused after a fraction of it has been read.
#[test]
fn huge_bodies() {
    let server = Server::start(&[]);
    let megabyte = vec![b' '; 1 << 20];
    let chunk = [format!("{:x}\r\n", megabyte.len()).as_bytes(), &megabyte, b"\r\n"].concat();
    for (head, piece) in [
        (format!("{JSON_HEAD}Content-Length: 104857600\r\n\r\n"), &megabyte),
        (format!("{JSON_HEAD}Transfer-Encoding: chunked\r\n\r\n"), &chunk),
    ] {
        let mut client = server.client();
        client.send(head);
        let (mut writer, piece) = (client.writer(), piece.clone());
        let sent = std::thread::spawn(move || {
            (0..100).take_while(|_| writer.write_all(&piece).is_ok()).count()
        });
        let reply = client.receive();
        if let Some(reply) = reply {
            assert_eq!(reply.problem(), (413, "too_large".to_string()));
        }
        drop(client);
        assert!(sent.join().unwrap() < 50, "the server kept reading");
    }
    let mut polite = server.client();
    polite.send(format!("{JSON_HEAD}Expect: 100-continue\r\nContent-Length: 104857600\r\n\r\n"));
    assert_eq!(polite.receive().unwrap().problem(), (413, "too_large".to_string()));
    let deep = "[".repeat(200_000);
    let json = [("Content-Type", "application/json")];
    let reply = server.client().request("POST", "/recommend", &json, deep.as_bytes());
    assert_eq!(reply.problem().0, 422);
    let deep = format!("{{\"history\":{deep}");
    let reply = server.client().request("POST", "/recommend", &json, deep.as_bytes());
    assert_eq!(reply.problem().0, 422);
    server.finish();
}

#[test]
fn slow_heads_and_bodies() {
    let server = Server::start(&["--read-timeout=1"]);
    let drip = |mut client: Client, start: String| {
        client.send(start);
        let (mut writer, started) = (client.writer(), Instant::now());
        let writing = std::thread::spawn(move || {
            while started.elapsed() < Duration::from_secs(20) && writer.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let reply = client.receive();
        let took = started.elapsed();
        drop(client);
        writing.join().unwrap();
        assert!(took < Duration::from_secs(15), "{took:?}");
        reply
    };
    let silent = drip(server.client(), String::new());
    assert!(silent.is_none_or(|reply| reply.status >= 400));
    let head = drip(server.client(), "GET /health HTTP/1.1\r\nHost: localhost\r\nX:".to_string());
    assert!(head.is_none_or(|reply| reply.status == 408));
    let body = drip(server.client(), format!("{JSON_HEAD}Content-Length: 5000\r\n\r\n"));
    assert_eq!(body.unwrap().problem(), (408, "too_slow".to_string()));
    // A connection that never asks anything is closed, too, and so is one that has asked.
    assert!(server.client().is_closed());
    let mut idle = server.client();
    assert_eq!(idle.get("/health").status, 200);
    assert!(idle.is_closed());
    server.finish();
}

/// A client that asks and asks, and never reads an answer.
#[test]
fn answers_that_nobody_reads() {
    let server = Server::start(&["--answer-timeout=1"]);
    let mut deaf = server.client().writer();
    let asks = "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    deaf.set_write_timeout(Some(super::PATIENCE)).unwrap();
    let refused = loop {
        if let Err(error) = deaf.write_all(asks.as_bytes()) {
            break error.kind();
        }
    };
    assert_ne!(refused, std::io::ErrorKind::WouldBlock, "the server still waits");
    assert!(wait_for(|| server.metric("b4r_connections") == 1.0), "that of the question itself");
    server.finish();
}

#[test]
fn bodies_cut_short() {
    let server = Server::start(&[]);
    for bytes in [
        format!("{JSON_HEAD}Transfer-Encoding: chunked\r\n\r\n10\r\n{{\"history\""),
        format!("{JSON_HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
        format!("{JSON_HEAD}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"),
        format!("{JSON_HEAD}Content-Length: 100\r\n\r\n{{\"history\":[]}}"),
    ] {
        let mut client = server.client();
        client.send(&bytes);
        client.writer().shutdown(Shutdown::Write).unwrap();
        let got = client.receive().map(|reply| reply.status);
        assert!(got.is_none_or(|status| status == 400), "{bytes}: {got:?}");
    }
    // Hanging up in the middle of anything harms nobody.
    for length in 0..JSON_HEAD.len() {
        server.client().send(&JSON_HEAD[..length]);
    }
    server.finish();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(&[]);
    let mut client = server.client();
    let body = r#"{"history":["i9"],"k":2}"#;
    let post = format!("{JSON_HEAD}Content-Length: {}\r\n\r\n{body}", body.len());
    let get = "GET /items/i9/similar?k=3 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client.send(format!("{post}{get}{post}").repeat(20));
    for _ in 0..20 {
        for count in [2, 3, 2] {
            let reply = client.receive().unwrap().json();
            assert_eq!(reply["items"].as_array().unwrap().len(), count);
        }
    }
    server.finish();
}

#[test]
fn more_connections_than_allowed() {
    let server = Server::start(&["--max-connections=3"]);
    let mut clients: Vec<Client> = (0..3).map(|_| server.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.get("/health").status, 200));
    let reply = server.client().receive().unwrap();
    assert_eq!(reply.problem(), (503, "busy".to_string()));
    assert_eq!(reply.header("retry-after"), Some("1"));
    drop(clients);
    assert!(wait_for(|| {
        let mut client = server.client();
        client.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.receive().is_some_and(|reply| reply.status == 200)
    }));
    assert!(server.metric("b4r_connections_turned_away_total") >= 1.0);
    server.finish();
}
