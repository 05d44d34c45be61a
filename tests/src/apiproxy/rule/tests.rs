use std::net::Ipv4Addr;

use super::*;

const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 11));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 12));

fn asked(method: &str, path: &str, query: &str) -> Asked {
    Asked::parse(NODE, method, path, query, None)
}

#[test]
fn calls_and_kinds_are_read_from_method_path_and_query() {
    for (method, path, query, call, resource) in [
        ("GET", "/api/v1/pods", "limit=500", Call::List, "pods"),
        (
            "GET",
            "/api/v1/pods",
            "limit=500&continue=abc",
            Call::Continue,
            "pods",
        ),
        ("GET", "/api/v1/pods", "watch=true", Call::Watch, "pods"),
        ("GET", "/api/v1/pods", "watch=false", Call::List, "pods"),
        ("GET", "/api/v1/nodes/n1", "", Call::Get, "nodes"),
        (
            "PATCH",
            "/api/v1/nodes/n1/status",
            "",
            Call::Patch,
            "nodes/status",
        ),
        ("GET", "/api/v1/namespaces", "", Call::List, "namespaces"),
        ("GET", "/api/v1/namespaces/a", "", Call::Get, "namespaces"),
        (
            "PUT",
            "/api/v1/namespaces/a/finalize",
            "",
            Call::Update,
            "namespaces/finalize",
        ),
        ("GET", "/api/v1/namespaces/a/pods/b", "", Call::Get, "pods"),
        (
            "PUT",
            "/apis/projectcalico.org/v3/ipamblocks/10-0-0-0-26",
            "",
            Call::Update,
            "ipamblocks",
        ),
        (
            "POST",
            "/apis/projectcalico.org/v3/ipamhandles",
            "",
            Call::Create,
            "ipamhandles",
        ),
        (
            "DELETE",
            "/apis/projectcalico.org/v3/ipamhandles/x",
            "",
            Call::Delete,
            "ipamhandles",
        ),
        ("GET", "/version", "", Call::Other, ""),
        ("GET", "/apis", "", Call::Other, ""),
        ("GET", "/api/v1", "", Call::Other, ""),
    ] {
        let parsed = asked(method, path, query);
        assert_eq!(
            (parsed.call, parsed.resource.as_str()),
            (call, resource),
            "{method} {path}?{query}"
        );
    }
}

#[test]
fn the_account_is_read_from_the_token() {
    let claims = data_encoding::BASE64URL_NOPAD
        .encode(br#"{"sub":"system:serviceaccount:margay-system:margay-node"}"#);
    let header = format!("Bearer x.{claims}.z");
    let parsed = Asked::parse(NODE, "GET", "/api/v1/pods", "", Some(&header));
    assert_eq!(parsed.account.as_deref(), Some("margay-system:margay-node"));
    assert!(parsed.token.is_some());
    let opaque = Asked::parse(NODE, "GET", "/api/v1/pods", "", Some("Bearer 0123"));
    assert_eq!((opaque.account, opaque.token.is_some()), (None, true));
}

#[test]
fn a_rule_meets_those_it_names_as_often_as_it_says() {
    let mut book = Book::default();
    let now = Instant::now();
    let number = book.add(
        Rule::new(Fault::Status(410))
            .to(Who::from(NODE))
            .calls(&[Call::Watch])
            .resource("pods")
            .times(2),
    );
    let watch = asked("GET", "/api/v1/pods", "watch=true");
    let elsewhere = Asked {
        address: OTHER,
        ..watch.clone()
    };
    let mut status = |asked: Asked| book.judge(asked, now).status;
    assert_eq!(status(asked("GET", "/api/v1/pods", "")), None, "no watch");
    assert_eq!(status(asked("GET", "/api/v1/nodes", "watch=1")), None);
    assert_eq!(status(elsewhere), None);
    assert_eq!(status(watch.clone()), Some(410));
    assert_eq!(status(watch.clone()), Some(410));
    assert_eq!(status(watch.clone()), None, "twice is twice");
    book.lift(number);
    book.add(Rule::new(Fault::Status(500)));
    assert_eq!(book.judge(watch, now).status, Some(500));
    let answered: Vec<_> = book.seen().iter().map(|seen| seen.answered).collect();
    assert_eq!(
        answered,
        [None, None, None, Some(410), Some(410), None, Some(500)]
    );
}

#[test]
fn an_account_is_told_from_another_of_the_same_node() {
    let who = Who::from(NODE).as_account("margay-system:margay-node");
    let mut one = asked("GET", "/api/v1/pods", "");
    assert!(!who.asks(&one), "nobody in particular");
    one.account = Some("margay-system:margay-node".to_owned());
    assert!(who.asks(&one));
    one.account = Some("margay-system:margay-controller".to_owned());
    assert!(!who.asks(&one));
}

#[test]
fn a_token_expires_after_its_time_and_a_new_one_does_not() {
    let mut book = Book::default();
    let start = Instant::now();
    book.add(Rule::new(Fault::Expire(Duration::from_secs(10))));
    let with = |token: &str| {
        Asked::parse(
            NODE,
            "GET",
            "/api/v1/pods",
            "",
            Some(&format!("Bearer {token}")),
        )
    };
    let mut status = |token: &str, seconds| {
        book.judge(with(token), start + Duration::from_secs(seconds))
            .status
    };
    assert_eq!(status("old", 0), None);
    assert_eq!(status("old", 9), None);
    assert_eq!(status("old", 10), Some(401));
    assert_eq!(status("new", 10), None);
    assert_eq!(status("new", 19), None);
    assert_eq!(status("new", 20), Some(401));
}

#[test]
fn faults_of_lists_and_watches_leave_other_calls_alone() {
    let mut book = Book::default();
    let now = Instant::now();
    for fault in [
        Fault::Pages(3),
        Fault::HideFromLists("echo".to_owned()),
        Fault::DropEvents("web".to_owned()),
        Fault::WatchError(410),
    ] {
        book.add(Rule::new(fault));
    }
    let list = book.judge(asked("GET", "/api/v1/pods", ""), now);
    assert_eq!(
        (list.page, list.hide.len(), list.lose.len()),
        (Some(3), 1, 0)
    );
    let watch = book.judge(asked("GET", "/api/v1/pods", "watch=true"), now);
    assert_eq!((watch.page, watch.watch_error), (None, Some(410)));
    assert_eq!(watch.lose, ["web"]);
    let get = book.judge(asked("GET", "/api/v1/pods/x", ""), now);
    assert_eq!(get, Verdict::default());
}

#[test]
fn connections_are_met_by_address() {
    let mut book = Book::default();
    let number = book.add(Rule::new(Fault::BlackHole).to(Who::from(NODE)));
    book.add(Rule::new(Fault::Refuse).to(Who::from(OTHER)));
    assert!(book.mutes(NODE) && !book.mutes(OTHER));
    assert!(book.refuses(OTHER) && !book.refuses(NODE));
    book.lift(number);
    assert!(!book.mutes(NODE));
}
