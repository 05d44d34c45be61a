//! A server that answers by a script, on paper: what the watch makes of it.

use std::collections::VecDeque;
use std::sync::Mutex;

use http::{Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// Longer than the first pauses of the back-off.
const QUIET: Duration = Duration::from_secs(6);

/// Answers, in order: code and body. After the last one the server says nothing.
type Script = Arc<Mutex<VecDeque<(u16, Value)>>>;

fn client(script: &Script, asked: &Arc<Mutex<Vec<String>>>) -> Client {
    let (script, asked) = (Arc::clone(script), Arc::clone(asked));
    let service = tower::service_fn(move |request: Request<Body>| {
        let query = request.uri().query().unwrap_or_default().to_owned();
        asked.lock().unwrap().push(query);
        let next = script.lock().unwrap().pop_front();
        async move {
            let Some((code, body)) = next else {
                return std::future::pending().await;
            };
            let body = Body::from(format!("{body}\n").into_bytes());
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    Client::new(service, "default")
}

fn list(names: &[&str], continue_token: &str) -> (u16, Value) {
    let item = |name: &&str| json!({ "metadata": { "name": name } });
    let items: Vec<Value> = names.iter().map(item).collect();
    let metadata = json!({ "resourceVersion": "7", "continue": continue_token });
    let kind = json!({ "apiVersion": "v1", "kind": "NamespaceList", "metadata": metadata, "items": items });
    (200, kind)
}

fn gone() -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410,
            "reason": "Expired", "message": "too old resource version" })
}

/// What is told until nothing more comes, and the queries asked.
async fn hear(script: Vec<(u16, Value)>) -> (Vec<String>, Vec<String>) {
    let script: Script = Arc::new(Mutex::new(script.into()));
    let asked = Arc::default();
    let client = client(&script, &asked);
    let (heard, mut told) = mpsc::channel(64);
    let mut tasks = JoinSet::new();
    let freshness = Arc::default();
    Watches {
        client: &client,
        heard: &heard,
        freshness: &freshness,
        tasks: &mut tasks,
    }
    .add::<NamespaceObject, _>(Kind::Namespace, cluster_key(Key::Namespace), |namespace| {
        Event::upsert(namespace.into_model())
    });
    drop(heard);
    let mut words = Vec::new();
    while let Ok(Some(heard)) = tokio::time::timeout(QUIET, told.recv()).await {
        words.push(match heard {
            Heard::Event(Event::Upsert(object)) => format!("is {:?}", object.kind()),
            Heard::Event(Event::Delete(key)) => format!("gone {key:?}"),
            Heard::Event(Event::Synced(kind)) => format!("synced {kind:?}"),
            Heard::Rejected(rejected) => format!("rejected {:?}", rejected.key),
        });
    }
    let asked = asked.lock().unwrap().clone();
    (words, asked)
}

fn lists(asked: &[String]) -> usize {
    asked
        .iter()
        .filter(|query| query.contains("limit="))
        .count()
}

#[tokio::test]
async fn a_watch_refused_as_too_old_is_listed_anew_and_only_the_difference_is_told() {
    let (told, asked) = hear(vec![list(&["a", "b"], ""), (410, gone()), list(&["b"], "")]).await;
    assert_eq!(lists(&asked), 2, "{asked:?}");
    let gone: Vec<_> = told
        .iter()
        .filter(|word| word.starts_with("gone"))
        .collect();
    assert_eq!(gone.len(), 1, "{told:?}");
    assert!(gone.iter().all(|word| word.contains("\"a\"")), "{told:?}");
}

#[tokio::test]
async fn a_watch_that_turns_too_old_is_listed_anew() {
    let event = json!({ "type": "ERROR", "object": gone() });
    let (told, asked) = hear(vec![list(&["a"], ""), (200, event), list(&["a"], "")]).await;
    assert_eq!(lists(&asked), 2, "{asked:?}");
    assert!(
        !told.iter().any(|word| word.starts_with("gone")),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_page_that_is_too_old_begins_the_list_again_and_nothing_counts_as_gone_meanwhile() {
    let (told, asked) = hear(vec![
        list(&["a", "b"], ""),
        (410, gone()),
        list(&["a"], "more"),
        (410, gone()),
        list(&["a"], "more"),
        list(&["b"], ""),
    ])
    .await;
    assert!(lists(&asked) >= 5, "{asked:?}");
    assert!(
        !told.iter().any(|word| word.starts_with("gone")),
        "{told:?}"
    );
    let synced = told.iter().filter(|word| word.starts_with("synced"));
    assert_eq!(synced.count(), 2, "a list cut short is no list: {told:?}");
}
