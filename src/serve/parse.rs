//! From the bytes of a body or query to a question for the model, within the limits.

use super::batcher::Count;
use super::limits::Limits;
use super::problem::Problem;
use crate::recommend::{Id, Options, Request, is_list};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::error::Category;

/// Recommendations in an answer when the request does not say how many.
pub const DEFAULT_K: usize = 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename = "a request")]
struct RecommendBody {
    history: Option<Vec<Id>>,
    user: Option<Id>,
    k: Option<u64>,
    filter_seen: Option<bool>,
    allow: Option<Vec<Id>>,
    deny: Option<Vec<Id>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename = "a request")]
struct ScoreBody {
    history: Option<Vec<Id>>,
    user: Option<Id>,
    items: Vec<Id>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename = "a query")]
struct SimilarQuery {
    k: Option<u64>,
}

/// Reads the body of `POST /recommend`.
///
/// # Errors
/// 400 where it is no JSON, 422 where it is no such request.
pub fn recommend(body: &[u8], limits: &Limits) -> Result<(Request, Options, Count), Problem> {
    let body: RecommendBody = json(body)?;
    let options = Options {
        filter_seen: body.filter_seen.unwrap_or(true),
        allow: body.allow.map(strings),
        deny: body.deny.map(strings).unwrap_or_default(),
        ..Options::default()
    };
    Ok((request(body.history, body.user, limits)?, options, count(body.k, limits)?))
}

/// Reads the body of `POST /score`.
///
/// # Errors
/// 400 where it is no JSON, 422 where it is no such request.
pub fn score(body: &[u8], limits: &Limits) -> Result<(Request, Vec<String>), Problem> {
    let body: ScoreBody = json(body)?;
    if body.items.is_empty() {
        return Err(Problem::unprocessable("items: the list is empty; name the items to score"));
    }
    Ok((request(body.history, body.user, limits)?, strings(body.items)))
}

/// Reads the query of `GET /items/{id}/similar`, the part after `?`.
///
/// # Errors
/// 422 where it is no such query.
pub fn similar(query: Option<&str>, limits: &Limits) -> Result<Count, Problem> {
    let uri = format!("/?{}", query.unwrap_or_default());
    let query = uri
        .parse()
        .ok()
        .and_then(|uri| axum::extract::Query::<SimilarQuery>::try_from_uri(&uri).ok());
    let query = query.ok_or_else(|| {
        Problem::unprocessable("the query can only say k=N, how many items to list")
    })?;
    count(query.k, limits)
}

fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    if is_list(body) {
        return Err(Problem::unprocessable("the body is a list; a request is an object: {...}"));
    }
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => Problem::unprocessable(error.to_string()),
        _ => Problem::new(StatusCode::BAD_REQUEST, "bad_json", format!("not JSON: {error}")),
    })
}

fn count(k: Option<u64>, limits: &Limits) -> Result<Count, Problem> {
    let Some(k) = k else { return Ok(Count::UpTo(DEFAULT_K.min(limits.k))) };
    match usize::try_from(k) {
        Ok(k) if (1..=limits.k).contains(&k) => Ok(Count::Asked(k)),
        _ => {
            let range = format!("k: {k} is out of range; this server gives 1 to {}", limits.k);
            Err(Problem::unprocessable(range))
        }
    }
}

fn request(
    history: Option<Vec<Id>>,
    user: Option<Id>,
    limits: &Limits,
) -> Result<Request, Problem> {
    if history.is_none() && user.is_none() {
        return Err(Problem::unprocessable(
            "give `history`, a list of item ids (an empty one gets the popular items), or `user`",
        ));
    }
    let history = history.map(strings);
    let length = history.as_ref().map_or(0, Vec::len);
    if length > limits.history {
        return Err(Problem::unprocessable(format!(
            "history: {length} items; this server takes {}: send the latest",
            limits.history
        )));
    }
    Ok(Request { history, user: user.map(|user| user.0) })
}

fn strings(ids: Vec<Id>) -> Vec<String> {
    ids.into_iter().map(|id| id.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const LIMITS: Limits = Limits { history: 20, k: 50, ..Limits::DEFAULT };

    fn refused(body: &Value) -> (u16, String) {
        let problem = recommend(body.to_string().as_bytes(), &LIMITS).unwrap_err();
        (problem.status.as_u16(), problem.message)
    }

    #[test]
    fn numbers_are_ids_but_nothing_else_is() {
        let body = json!({"history": ["a", 7, -1], "user": 3}).to_string();
        let (request, options, k) = recommend(body.as_bytes(), &LIMITS).unwrap();
        assert_eq!(request.history.unwrap(), ["a", "7", "-1"]);
        assert_eq!(request.user.as_deref(), Some("3"));
        assert!(k == Count::UpTo(10) && options.filter_seen && options.allow.is_none());
        for wrong in [json!(1.5), json!(null), json!(true), json!([]), json!({})] {
            let (status, message) = refused(&json!({"history": [wrong]}));
            assert!(status == 422 && message.contains("an id"), "{message}");
        }
    }

    #[test]
    fn each_limit_is_named() {
        for k in [json!(0), json!(51), json!(u64::MAX)] {
            let (status, message) = refused(&json!({"history": [], "k": k}));
            assert!(status == 422 && message.contains("1 to 50"), "{message}");
        }
        assert!(refused(&json!({"history": vec!["a"; 21]})).1.contains("takes 20"));
        assert!(refused(&json!({"k": 3})).1.contains("give `history`"));
        assert!(refused(&json!({"hist": []})).1.contains("unknown field `hist`"));
        assert!(refused(&json!({"history": "a"})).1.contains("expected a sequence"));
        assert!(refused(&json!([["a"], "u1", null, null, null, null])).1.contains("an object"));
        assert!(refused(&json!({"history": [], "k": -1})).1.contains("-1"));
        assert!(refused(&json!({"x".repeat(10_000): 1})).1.chars().count() < 310);
    }

    #[test]
    fn deep_nesting_is_refused_without_recursion() {
        let deep = "[".repeat(1_000_000);
        assert_eq!(recommend(deep.as_bytes(), &LIMITS).unwrap_err().status, 422);
        let deep = format!("{{\"history\":{deep}");
        assert_eq!(recommend(deep.as_bytes(), &LIMITS).unwrap_err().status, 422);
    }

    #[test]
    fn a_query_names_k_and_nothing_else() {
        assert_eq!(similar(None, &LIMITS).unwrap(), Count::UpTo(10));
        assert_eq!(similar(Some("k=3"), &LIMITS).unwrap(), Count::Asked(3));
        for wrong in ["k=0", "k=51", "k=x", "k=1&k=2", "j=1", "k", "k=%ff", "\u{7f} \n"] {
            assert_eq!(similar(Some(wrong), &LIMITS).unwrap_err().status, 422, "{wrong}");
        }
    }

    proptest! {
        /// What is sent is what is asked.
        #[test]
        fn requests_survive_their_encoding(
            history in prop::collection::vec(any::<String>(), 0..20),
            user in any::<Option<String>>(),
            k in 1usize..50,
            filter_seen: bool,
            allow in prop::option::of(prop::collection::vec(any::<String>(), 0..5)),
            deny in prop::collection::vec(any::<String>(), 0..5),
        ) {
            let mut body = json!({
                "history": history, "k": k, "filter_seen": filter_seen, "deny": deny
            });
            if let Some(user) = &user { body["user"] = json!(user); }
            if let Some(allow) = &allow { body["allow"] = json!(allow); }
            let (request, options, count) = recommend(body.to_string().as_bytes(), &LIMITS).unwrap();
            prop_assert_eq!((request.history, request.user), (Some(history), user));
            prop_assert_eq!((count, options.filter_seen), (Count::Asked(k), filter_seen));
            prop_assert_eq!((options.allow, options.deny), (allow, deny));
        }

        /// No bytes make it panic, and whatever passes is within the limits.
        #[test]
        fn any_bytes_are_a_request_or_a_problem(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            text in r#"[{\["](history|user|k|items|[0-9eE.+\-:,"\[\]{} ]|\\u[0-9a-f]{4}|null|true){0,40}"#,
        ) {
            for body in [&bytes[..], text.as_bytes()] {
                match recommend(body, &LIMITS) {
                    Ok((request, _, count)) => {
                        let (Count::Asked(k) | Count::UpTo(k)) = count;
                        prop_assert!(request.history.is_none_or(|h| h.len() <= 20) && (1..=50).contains(&k));
                    }
                    Err(problem) => prop_assert!(problem.status.is_client_error()),
                }
                if let Err(problem) = score(body, &LIMITS) {
                    prop_assert!(problem.status.is_client_error());
                }
            }
        }
    }
}
