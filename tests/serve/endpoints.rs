//! What each endpoint answers, to good requests and to bad ones.

use super::{AWKWARD, Run, SCRIPT, Server, client::Reply};
use b4r::recommend::{Options, Recommender, Request};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// The body of a good reply, which must be as the API's description says.
fn described(server: &Server, path: &str, method: &str, reply: &Reply) -> Value {
    let description = server.get("/openapi.json").json();
    let schema = &description["paths"][path][method]["responses"]["200"]["content"];
    let reference = schema["application/json"]["schema"].clone();
    let schema = json!({"allOf": [reference], "components": description["components"]});
    let body = reply.json();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&body).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?} in {body}");
    body
}

#[test]
fn answers_are_the_models() {
    let server = Server::start(&[]);
    let model = Recommender::open(&Run::shared().path(), 1).unwrap();
    let history = ["i9", "i12", AWKWARD[0]];
    let asked = Request { history: Some(history.map(String::from).to_vec()), user: None };
    let options = Options { k: 7, ..Options::default() };
    let expected = model.top_k(std::slice::from_ref(&asked), &options).unwrap();
    let reply = server.post("/recommend", &json!({"history": history, "k": 7}));
    let answer = described(&server, "/recommend", "post", &reply);
    assert_eq!(reply.body, serde_json::to_string(&expected[0]).unwrap());
    let names = |answer: &Value| -> Vec<String> {
        let items = answer["items"].as_array().unwrap().iter();
        items.map(|item| item["item"].as_str().unwrap().to_string()).collect()
    };
    let best = names(&answer);
    assert!(best.len() == 7 && !best.iter().any(|item| history.contains(&item.as_str())));

    let allowed = json!({"history": history, "allow": ["i9", "i14", "nope"], "filter_seen": false});
    let mut two = names(&server.post("/recommend", &allowed).json());
    two.sort();
    assert_eq!(two, ["i14", "i9"]);
    assert_eq!(server.post("/recommend", &allowed).json()["unknown"], json!(["nope"]));
    let denied = json!({"history": history, "k": 6, "deny": [best[0]]});
    assert_eq!(names(&server.post("/recommend", &denied).json()), best[1..]);

    let wanted = [best[1].clone(), "nope".to_string(), best[0].clone()];
    let scores = model.score(&[(asked, wanted.to_vec())]).unwrap().remove(0);
    let reply = server.post("/score", &json!({"history": history, "items": wanted}));
    let answer = described(&server, "/score", "post", &reply);
    let given = answer["scores"].as_array().unwrap().iter();
    let given: Vec<Option<f32>> = given.map(|s| s["score"].as_f64().map(|s| s as f32)).collect();
    assert_eq!(given, scores);
    assert!(given[1].is_none() && answer["unknown"] == json!(["nope"]));
    server.finish();
}

#[test]
fn users_strangers_and_nobody_get_recommendations() {
    let server = Server::start(&[]);
    let known = server.post("/recommend", &json!({"user": "u1"}));
    assert_eq!(described(&server, "/recommend", "post", &known)["user"], "u1");
    let stranger =
        server.post("/recommend", &json!({"user": "new", "history": ["i9", "zz"]})).json();
    assert_eq!((&stranger["user"], &stranger["unknown"]), (&json!("new"), &json!(["zz"])));
    let nobody = server.post("/recommend", &json!({"history": []}));
    let nobody = described(&server, "/recommend", "post", &nobody);
    assert_eq!(
        (&nobody["fallback"], &nobody["items"][0]["item"]),
        (&json!("popularity"), &json!(SCRIPT))
    );
    assert_eq!(nobody["items"].as_array().unwrap().len(), 10);
    // An empty history is one, too: beside it, the user is only a name.
    for user in ["u1", "new"] {
        let named = server.post("/recommend", &json!({"user": user, "history": []})).json();
        assert_eq!((&named["user"], &named["items"]), (&json!(user), &nobody["items"]));
    }
    server.finish();
}

/// Every byte of an id in a path may be percent-encoded.
fn encoded(id: &str) -> String {
    id.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn ids_in_paths_are_percent_encoded() {
    let server = Server::start(&[]);
    let model = Recommender::open(&Run::shared().path(), 1).unwrap();
    for id in AWKWARD.into_iter().chain([SCRIPT, "i9"]) {
        let reply = server.get(&format!("/items/{}/similar?k=3", encoded(id)));
        let answer = described(&server, "/items/{id}/similar", "get", &reply);
        assert_eq!(answer["item"], id);
        let expected = model.similar(id, 3).unwrap();
        assert_eq!(
            answer["items"],
            serde_json::from_str::<Value>(&serde_json::to_string(&expected).unwrap()).unwrap()
        );
    }
    let refused = |path: &str| server.get(path).problem();
    assert_eq!(refused("/items/nope/similar"), (404, "unknown_item".to_string()));
    assert_eq!(refused("/items/%FF%FE/similar"), (400, "bad_path".to_string()));
    assert_eq!(refused("/items/i9/similar?k=0"), (422, "bad_value".to_string()));
    assert_eq!(refused("/items/i9/similar?k=1000"), (422, "bad_value".to_string()));
    assert_eq!(refused("/items/i9/similar?j=1"), (422, "bad_value".to_string()));
    assert_eq!(refused("/items//similar").0, 404);
    server.finish();
}

#[test]
fn bad_requests_are_told_why() {
    let server = Server::start(&["--max-history=5", "--max-k=30", "--max-body=2000"]);
    let refused = |path: &str, body: Value| server.post(path, &body).problem();
    let bad_value = (422, "bad_value".to_string());
    for body in [
        json!({"history": ["i1"], "k": 0}),
        json!({"history": ["i1"], "k": 31}),
        json!({"history": ["i1"], "k": 1.5}),
        json!({"history": ["i1"], "k": "3"}),
        json!({"history": "i1"}),
        json!({"history": [null]}),
        json!({"history": ["1", "2", "3", "4", "5", "6"]}),
        json!({"history": ["i1"], "allow": []}),
        json!({"history": ["i1"], "allow": ["nope"]}),
        json!({"history": ["i1"], "filter_seen": 1}),
        json!({"histroy": ["i1"]}),
        json!({}),
        json!([]),
        json!("i1"),
        Value::Null,
    ] {
        assert_eq!(refused("/recommend", body.clone()), bad_value, "{body}");
    }
    for body in
        [json!({"history": []}), json!({"history": [], "items": []}), json!({"items": ["i1"]})]
    {
        assert_eq!(refused("/score", body.clone()), bad_value, "{body}");
    }
    let unknown = (404, "unknown_user".to_string());
    assert_eq!(refused("/recommend", json!({"user": "nobody"})), unknown);
    assert_eq!(refused("/score", json!({"user": "nobody", "items": ["i1"]})), unknown);
    let long = json!({"history": ["x".repeat(2000)]});
    assert_eq!(refused("/recommend", long), (413, "too_large".to_string()));

    let send = |kind: &str, body: &[u8]| {
        server.client().request("POST", "/recommend", &[("Content-Type", kind)], body).problem()
    };
    let json = "application/json";
    for body in [&b"{"[..], b"{\"history\": [}", b"{\"history\": []} x", b"\xff", b"{'k': 1}", b" "]
    {
        assert_eq!(send(json, body), (400, "bad_json".to_string()), "{body:?}");
    }
    assert_eq!(send(json, br#"{"k":1,"k":2,"history":[]}"#), bad_value);
    assert_eq!(send("text/plain", b"{}"), (415, "bad_content_type".to_string()));
    assert_eq!(send("application/jsonp", b"{}").0, 415);
    assert_eq!(server.client().request("POST", "/recommend", &[], b"{}").problem().0, 415);
    server.finish();
    // A catalogue of 41 items, where the limit would allow more.
    let server = Server::start(&[]);
    let (status, code) = server.post("/recommend", &json!({"history": ["i1"], "k": 42})).problem();
    assert_eq!((status, code.as_str()), (422, "bad_value"));
    assert_eq!(server.post("/recommend", &json!({"history": ["i1"], "k": 41})).status, 200);
    server.finish();
}

#[test]
fn the_description_is_openapi_and_covers_every_path() {
    let server = Server::start(&[]);
    let text = server.get("/openapi.json").body;
    let description = oas3::from_json(&text).unwrap();
    description.validate_version().unwrap();
    let raw: Value = serde_json::from_str(&text).unwrap();
    let mut examples = 0;
    for (path, method, operation) in description.operations() {
        let post = &raw["paths"][&path]["post"]["requestBody"]["content"]["application/json"];
        let reply = match method.as_str() {
            "POST" => {
                let schema = json!({"allOf": [post["schema"]], "components": raw["components"]});
                jsonschema::validate(&schema, &post["example"]).unwrap();
                examples += 1;
                server.post(&path, &post["example"])
            }
            _ => server.get(&path.replace("{id}", "i9")),
        };
        assert_eq!(reply.status, 200, "{path}");
        assert!(operation.summary.is_some() && operation.operation_id.is_some());
        for (status, _) in operation.responses.iter().flatten() {
            assert!(["200", "4XX", "5XX"].contains(&status.as_str()), "{path} {status}");
        }
    }
    assert_eq!(examples, 2);
    let problem = server.get("/items/nope/similar").body;
    let schema = json!({"$ref": "#/components/schemas/Problem", "components": raw["components"]});
    jsonschema::validate(&schema, &serde_json::from_str(&problem).unwrap()).unwrap();
    assert_eq!(raw["info"]["version"], env!("CARGO_PKG_VERSION"));
    server.finish();
}

#[test]
fn a_token_is_asked_for_where_there_is_one() {
    let run = Run::shared();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "s3cret\n").unwrap();
    let flag = format!("--token-file={}", file.path().display());
    let by_file = Server::of(&run.path(), &[&flag], &[]);
    let by_variable = Server::of(&run.path(), &[], &[("B4R_TOKEN", "s3cret")]);
    for server in [by_file, by_variable] {
        let ask = |token: Option<&str>, method: &str, path: &str| {
            let token = token.map(|token| ("Authorization", token));
            let kind = ("Content-Type", "application/json");
            let headers: Vec<_> = token.into_iter().chain([kind]).collect();
            let body: &[u8] =
                if method == "POST" { br#"{"history":[],"items":["i1"]}"# } else { b"" };
            server.client().request(method, path, &headers, body)
        };
        let guarded = [
            ("POST", "/recommend"),
            ("POST", "/score"),
            ("GET", "/items/i9/similar"),
            ("GET", "/metrics"),
        ];
        for (method, path) in guarded {
            for wrong in
                [None, Some("Bearer wrong"), Some("Bearer"), Some("Basic s3cret"), Some("")]
            {
                let reply = ask(wrong, method, path);
                assert_eq!(reply.problem(), (401, "bad_token".to_string()));
                assert!(reply.header("www-authenticate").unwrap().starts_with("Bearer"));
            }
            assert_ne!(ask(Some("Bearer s3cret"), method, path).status, 401);
        }
        assert_eq!(ask(Some("Bearer s3cret"), "GET", "/items/i9/similar").status, 200);
        for open in ["/health", "/openapi.json", "/", "/page.js", "/page.css"] {
            assert_eq!(ask(None, "GET", open).status, 200, "{open}");
        }
        server.finish();
    }
}

#[test]
fn other_sites_are_kept_out_unless_allowed() {
    let origin = |server: &Server, method: &str, origin: &str| {
        let headers = [("Origin", origin), ("Access-Control-Request-Method", "POST")];
        server.client().request(method, "/recommend", &headers, b"")
    };
    let allowed = |reply: &Reply| reply.header("access-control-allow-origin").map(String::from);
    let server = Server::start(&[]);
    let closed = origin(&server, "OPTIONS", "https://shop.example.org");
    assert_eq!(
        (closed.header("access-control-allow-methods").is_some(), allowed(&closed)),
        (false, None)
    );
    for path in ["/", "/health"] {
        let reply = server.get(path);
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"));
    }
    server.finish();
    let run = Run::shared();
    let flags = ["--allow-origin=https://shop.example.org", "--allow-host=api.example.org"];
    let server = Server::of(&run.path(), &flags, &[("B4R_TOKEN", "s3cret")]);
    let open = origin(&server, "OPTIONS", "https://shop.example.org");
    assert_eq!((open.status, allowed(&open).as_deref()), (200, Some("https://shop.example.org")));
    let refused = origin(&server, "POST", "https://shop.example.org");
    assert_eq!((refused.status, allowed(&refused).is_some()), (401, true), "the page may see why");
    assert_eq!(allowed(&origin(&server, "OPTIONS", "https://evil.example.org")), None);
    server.finish();
}

#[test]
fn metrics_count_what_happened() {
    let server = Server::start(&[]);
    server.post("/recommend", &json!({"history": ["i9"]})).json();
    server.post("/recommend", &json!({"history": ["i9"], "k": 0})).problem();
    server.get("/invented/by/a/client").problem();
    let reply = server.get("/metrics");
    assert!(reply.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(reply.body.ends_with("# EOF\n") && !reply.body.contains("invented"), "{}", reply.body);
    for (name, value) in [
        ("b4r_requests_total{endpoint=\"/recommend\",status=\"200\"}", 1.0),
        ("b4r_requests_total{endpoint=\"/recommend\",status=\"422\"}", 1.0),
        ("b4r_requests_total{endpoint=\"other\",status=\"404\"}", 1.0),
        ("b4r_request_duration_seconds_count{endpoint=\"/recommend\"}", 2.0),
        ("b4r_batch_size_count", 1.0),
        ("b4r_requests_in_progress", 0.0),
        ("b4r_model_loads_total{outcome=\"ok\"}", 1.0),
    ] {
        assert_eq!(server.metric(name), value, "{name}\n{}", reply.body);
    }
    server.finish();
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let run = Run::shared();
    let empty = tempfile::tempdir().unwrap();
    fs::write(empty.path().join("token"), "\n").unwrap();
    let empty_token = format!("--token-file={}", empty.path().join("token").display());
    let absent_token = format!("--token-file={}", empty.path().join("none").display());
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = format!("{}", busy.local_addr().unwrap());
    let run = run.path();
    for (run, flags, word) in [
        (run.as_path(), vec!["--serve", busy.as_str()], "cannot listen"),
        (run.as_path(), vec!["--serve", "8080"], "cannot listen"),
        (run.as_path(), vec![empty_token.as_str()], "token"),
        (run.as_path(), vec![absent_token.as_str()], "cannot read"),
        (run.as_path(), vec!["--allow-origin=*"], "origin"),
        (run.as_path(), vec!["--allow-host=a b"], "host"),
        (run.as_path(), vec!["--max-k=0"], "max-k"),
        (run.as_path(), vec!["--input=x"], "--serve"),
        (empty.path(), vec![], "missing"),
    ] {
        let mut command: Command = Server::command(run, &flags);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
        assert!(said.contains(word) && !said.contains("panicked"), "{flags:?}: {said}");
    }
}

#[test]
fn an_open_server_without_a_token_is_warned_about() {
    let server = Server::start(&["--serve", "0.0.0.0:0"]);
    server.wait_until_said("warning: anybody");
    let local = std::net::SocketAddr::from(([127, 0, 0, 1], server.address.port()));
    let mut client = super::Client::connect(local);
    assert_eq!(client.get("/health").status, 200, "addressed by the connection's own address");
    assert!(!Server::start(&[]).said().contains("warning"));
}
