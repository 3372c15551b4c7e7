//! Load on a server on this machine: `cargo run --release --example load -- 127.0.0.1:8080`.
//!
//! Each connection sends one request after the other; histories are drawn from the server's popular items. Prints
//! requests per second and how long the slower ones took, for each number of connections.

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn command() -> Command {
    let number = |name: &'static str, default: &'static str, most: u64, help: &'static str| {
        let parser = value_parser!(u64).range(1..=most);
        Arg::new(name).long(name).default_value(default).value_parser(parser).help(help)
    };
    Command::new("load")
        .about("Measures a b4r server on this machine")
        .arg(Arg::new("address").required(true).value_parser(value_parser!(SocketAddr)))
        .arg(
            Arg::new("connections")
                .long("connections")
                .value_delimiter(',')
                .default_value("1,8,32,128")
                .value_parser(value_parser!(u64).range(1..=512))
                .help("Numbers of connections, one run each"),
        )
        .arg(number("seconds", "5", 600, "Time for each run"))
        .arg(number("requests", "100000", 10_000_000, "Most requests of each run"))
        .arg(number("history", "50", 5_000, "Items of a history"))
        .arg(number("k", "10", 1_000, "Items asked for"))
}

fn main() -> Outcome<()> {
    let matches = command().get_matches();
    let address: SocketAddr = *matches.get_one("address").ok_or("no address")?;
    if !address.ip().is_loopback() {
        return Err("this puts load on a server: it only goes to this machine".into());
    }
    let popular = Connection::open(address)?.recommend(&json!({"history": [], "k": 1000}))?;
    let items = popular["items"].as_array().ok_or("no items")?.iter();
    let items: Vec<Value> = items.map(|item| item["item"].clone()).collect();
    println!("| connections | requests | errors | requests/s | p50 ms | p99 ms | max ms |");
    println!("|---|---|---|---|---|---|---|");
    for &connections in matches.get_many::<u64>("connections").into_iter().flatten() {
        println!("| {} |", measure(address, &items, connections, &matches)?.join(" | "));
    }
    Ok(())
}

fn measure(
    address: SocketAddr,
    items: &[Value],
    connections: u64,
    matches: &ArgMatches,
) -> Outcome<Vec<String>> {
    let number = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or(1);
    let (k, length) = (number("k"), number("history") as usize);
    let each = number("requests").div_ceil(connections);
    let started = Instant::now();
    let until = started + Duration::from_secs(number("seconds"));
    let client = |seed: u64| -> Outcome<(Vec<Duration>, u64)> {
        let mut connection = Connection::open(address)?;
        let (mut state, mut times, mut errors) = (seed + 1, Vec::new(), 0);
        let mut draw = || {
            // xorshift64: any spread will do.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            items[(state % items.len() as u64) as usize].clone()
        };
        while Instant::now() < until && (times.len() as u64) < each {
            let history: Vec<Value> = (0..length).map(|_| draw()).collect();
            let body = json!({"history": history, "k": k});
            let asked = Instant::now();
            if connection.recommend(&body).is_err() {
                errors += 1;
                connection = Connection::open(address)?;
            }
            times.push(asked.elapsed());
        }
        Ok((times, errors))
    };
    let outcomes: Vec<Outcome<_>> = std::thread::scope(|scope| {
        let client = &client;
        let clients: Vec<_> =
            (0..connections).map(|seed| scope.spawn(move || client(seed))).collect();
        let join = |client: std::thread::ScopedJoinHandle<'_, _>| {
            client.join().unwrap_or_else(|_| Err("a client panicked".into()))
        };
        clients.into_iter().map(join).collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    let (mut times, mut errors) = (Vec::new(), 0);
    for outcome in outcomes {
        let (its, failed) = outcome?;
        times.extend(its);
        errors += failed;
    }
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(index).map_or("-".to_string(), |t| format!("{:.1}", t.as_secs_f64() * 1e3))
    };
    let rate = format!("{:.0}", times.len() as f64 / seconds);
    let counts = [connections as usize, times.len(), errors as usize].map(|n| n.to_string());
    Ok([&counts[..], &[rate, at(0.5), at(0.99), at(1.0)]].concat())
}

struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Connection(BufReader::new(stream)))
    }

    fn recommend(&mut self, body: &Value) -> Outcome<Value> {
        let body = body.to_string();
        let request = format!(
            "POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(request.as_bytes())?;
        let (mut line, mut length, mut good) = (String::new(), 0, false);
        while line != "\r\n" {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                return Err("the server hung up".into());
            }
            good |= line.starts_with("HTTP/1.1 200 ");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer)?;
        let answer = String::from_utf8(answer)?;
        if good { Ok(serde_json::from_str(&answer)?) } else { Err(answer.into()) }
    }
}
