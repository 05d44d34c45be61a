use proptest::prelude::*;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn parsed(text: &str) -> Selector {
    Selector::parse(text).unwrap_or_else(|why| panic!("{text:?}: {why} at {}", why.offset))
}

#[test]
fn truth_follows_the_language() {
    let pod = labels(&[
        ("app", "web"),
        ("tier", "front-end"),
        ("in", "x"),
        ("empty", ""),
        ("a/b.c_d-e", "1"),
    ]);
    let cases = [
        ("", true),
        (" \t ", true),
        ("all()", true),
        ("all( )", true),
        ("global()", true),
        ("!all()", false),
        ("has(app)", true),
        ("has( app )", true),
        ("has(nope)", false),
        ("!has(nope)", true),
        ("app == 'web'", true),
        ("app==\"web\"", true),
        ("app == 'WEB'", false),
        ("app == 'we'", false),
        ("nope == ''", false),
        ("empty == ''", true),
        ("app != 'web'", false),
        ("app != 'db'", true),
        ("nope != 'db'", true),
        ("app in {'web', 'db'}", true),
        ("app in {'db'}", false),
        ("app in {}", false),
        ("app in {'web',}", true),
        ("nope in {'web'}", false),
        ("app not in {'web'}", false),
        ("app not in {'db'}", true),
        ("app not in {}", true),
        ("nope not in {'web'}", true),
        ("app notin {'db'}", true),
        ("app not\tin{'db'}", true),
        ("tier contains 'ont-'", true),
        ("tier contains ''", true),
        ("nope contains ''", false),
        ("tier starts with 'front'", true),
        ("tier startswith 'front'", true),
        ("tier starts  with'front'", true),
        ("tier starts with 'end'", false),
        ("nope starts with ''", false),
        ("tier ends with 'end'", true),
        ("tier endswith 'end'", true),
        ("nope ends with ''", false),
        ("in in {'x'}", true),
        ("in == 'x'", true),
        ("has == 'x'", false),
        ("all != 'x'", true),
        ("a/b.c_d-e == '1'", true),
        ("!app == 'web'", false),
        ("!app == 'db'", true),
        ("!!app == 'web'", true),
        ("! ! ! app == 'web'", false),
        ("!(app == 'web')", false),
        ("app == 'web' && tier == 'x'", false),
        ("app == 'web' || tier == 'x'", true),
        ("app == 'x' && tier == 'x' || has(in)", true),
        ("app == 'x' && (tier == 'x' || has(in))", false),
        ("has(in) || app == 'x' && tier == 'x'", true),
        ("!has(app) || !has(nope)", true),
        ("((((has(app)))))", true),
        ("app == 'a\nb' || has(app)", true),
        ("app != \"it's\"", true),
    ];
    for (text, expected) in cases {
        assert_eq!(parsed(text).matches(&pod), expected, "{text}");
    }
}

/// Text, offset of the mistake in octets, what the user reads.
const REFUSED: &[(&str, usize, &str)] = &[
    (
        "app == backend",
        7,
        "a value needs quotes, write app == 'backend'",
    ),
    ("app != ", 7, "a value needs quotes, write app != 'value'"),
    (
        "app starts with x",
        16,
        "a value needs quotes, write app starts with 'x'",
    ),
    (
        "app = 'x'",
        4,
        "one = does not compare, write app == 'value'",
    ),
    (
        "app",
        3,
        "label app is compared with nothing, write has(app) or app == 'value'",
    ),
    (
        "app && has(b)",
        4,
        "label app is compared with nothing, write has(app) or app == 'value'",
    ),
    (
        "app inx {'a'}",
        4,
        "label app can be compared with ==, !=, in, not in, contains, starts with and ends with only",
    ),
    (
        "app startswithx 'a'",
        4,
        "label app can be compared with ==, !=, in, not in, contains, starts with and ends with only",
    ),
    (
        "app not {'a'}",
        4,
        "label app can be compared with ==, !=, in, not in, contains, starts with and ends with only",
    ),
    (
        "app in 'a'",
        7,
        "a set needs braces, write app in {'a', 'b'}",
    ),
    (
        "app in {a}",
        8,
        "a value needs quotes, write app in {'a', 'b'}",
    ),
    (
        "app in {,}",
        8,
        "a value needs quotes, write app in {'a', 'b'}",
    ),
    (
        "app in {'a' 'b'}",
        12,
        "values of a set are separated by commas and end with }, write app in {'a', 'b'}",
    ),
    (
        "app in {'a',,}",
        12,
        "a value needs quotes, write app in {'a', 'b'}",
    ),
    (
        "app in {'a'",
        11,
        "values of a set are separated by commas and end with }, write app in {'a', 'b'}",
    ),
    ("app == 'x", 7, "this quote is never closed"),
    (
        "'app' == 'x'",
        0,
        "a label has no quotes, write app == 'backend'",
    ),
    (
        "app == 'x' and b == 'y'",
        11,
        "comparisons are joined by &&",
    ),
    (
        "app == 'x' or b == 'y'",
        11,
        "alternatives are joined by ||",
    ),
    ("app == 'x' & b == 'y'", 11, "comparisons are joined by &&"),
    ("app == 'x', b == 'y'", 10, "comparisons are joined by &&"),
    ("app == 'x' | b == 'y'", 11, "alternatives are joined by ||"),
    (
        "app == 'x' &&",
        13,
        "the selector ends where a comparison should follow",
    ),
    (
        "&& app == 'x'",
        0,
        "a label, has(), all() or ( should stand here, not '&'",
    ),
    ("(app == 'x'", 0, "this ( is never closed"),
    (
        "has(a) || (has(b) && (has(c))",
        10,
        "this ( is never closed",
    ),
    ("app == 'x')", 10, "this ) closes nothing"),
    (
        "()",
        1,
        "a label, has(), all() or ( should stand here, not ')'",
    ),
    ("!", 1, "the selector ends where a comparison should follow"),
    (
        "has (app)",
        4,
        "label has can be compared with ==, !=, in, not in, contains, starts with and ends with only",
    ),
    (
        "all ()",
        4,
        "label all can be compared with ==, !=, in, not in, contains, starts with and ends with only",
    ),
    (
        "has()",
        4,
        "has() needs the name of a label without quotes, write has(app)",
    ),
    (
        "has('app')",
        4,
        "has() needs the name of a label without quotes, write has(app)",
    ),
    ("has(app", 7, "has(app is never closed"),
    ("all(x)", 4, "all() takes nothing between its brackets"),
    (
        "any()",
        0,
        "any() is unknown: there are all(), global() and has(label)",
    ),
    (
        "has(a)\n&& has(b)",
        6,
        "&&, || or the end should follow, not '\\n'",
    ),
    (
        "app == 'x' \u{e9}",
        11,
        "&&, || or the end should follow, not '\u{e9}'",
    ),
];

#[test]
fn refusals_say_what_to_write() {
    for &(text, offset, message) in REFUSED {
        let why = Selector::parse(text).expect_err(text);
        assert_eq!(
            (why.offset, why.message.as_str()),
            (offset, message),
            "{text}"
        );
    }
}

#[test]
fn limits_are_kept() {
    let nested = |n: usize| format!("{}has(a){}", "(".repeat(n), ")".repeat(n));
    assert!(Selector::parse(&nested(MAX_NESTING)).is_ok());
    assert_eq!(
        Selector::parse(&nested(MAX_NESTING + 1))
            .expect_err("too deep")
            .offset,
        MAX_NESTING
    );
    assert!(Selector::parse(&format!("has({})", "a".repeat(MAX_LABEL))).is_ok());
    assert!(Selector::parse(&format!("has({})", "a".repeat(MAX_LABEL + 1))).is_err());
    assert!(Selector::parse(&format!("{} == 'x'", "a".repeat(MAX_LABEL + 1))).is_err());
    let filler = |n: usize| format!("a == '{}'", "\u{e9}".repeat(n - 7));
    assert!(Selector::parse(&filler(MAX_LENGTH)).is_ok());
    assert!(Selector::parse(&filler(MAX_LENGTH + 1)).is_err());
}

#[test]
fn canonical_text_is_calicos() {
    let cases = [
        ("", "all()"),
        ("all( )", "all()"),
        ("  global()", "global()"),
        ("has( a )", "has(a)"),
        ("a=='b'", "a == \"b\""),
        ("a != 'b'", "a != \"b\""),
        ("a == 'say \"hi\"'", "a == 'say \"hi\"'"),
        ("a == \"it's\"", "a == \"it's\""),
        ("a in {'z', 'b','z' ,}", "a in {\"b\", \"z\"}"),
        ("a notin {}", "a not in {}"),
        ("a startswith 'x'", "a starts with \"x\""),
        ("a endswith 'x'", "a ends with \"x\""),
        ("a contains 'x'", "a contains \"x\""),
        ("!!has(a)", "has(a)"),
        ("!(!has(a))", "has(a)"),
        ("!(has(a))", "!has(a)"),
        ("has(a) && has(b) && has(c)", "(has(a) && has(b) && has(c))"),
        (
            "has(a) && (has(b) && has(c))",
            "(has(a) && (has(b) && has(c)))",
        ),
        (
            "has(a) || has(b) && !has(c)",
            "(has(a) || (has(b) && !has(c)))",
        ),
        (
            "(has(a) || has(b)) && has(c)",
            "((has(a) || has(b)) && has(c))",
        ),
        ("!(has(a) || has(b))", "!(has(a) || has(b))"),
    ];
    for (text, canonical) in cases {
        let selector = parsed(text);
        assert_eq!(selector.to_string(), canonical, "{text}");
        assert_eq!(parsed(canonical), selector, "{text}");
    }
}

#[test]
fn scoping_works_on_the_tree() {
    let cases = [
        ("all()", "has(projectcalico.org/namespace)"),
        ("", "has(projectcalico.org/namespace)"),
        ("global()", "!has(projectcalico.org/namespace)"),
        ("!global()", "has(projectcalico.org/namespace)"),
        (
            "env == 'all()' && has(x)",
            "(pcns.env == \"all()\" && has(pcns.x))",
        ),
        (
            "env not in {'a'} || all()",
            "(pcns.env not in {\"a\"} || has(projectcalico.org/namespace))",
        ),
    ];
    for (text, scoped) in cases {
        assert_eq!(parsed(text).for_namespaces().as_str(), scoped, "{text}");
    }
    assert_eq!(
        parsed("all()").for_service_accounts().as_str(),
        "has(projectcalico.org/serviceaccount)"
    );
    assert_eq!(
        parsed("role in {'x'}").for_service_accounts().as_str(),
        "pcsa.role in {\"x\"}"
    );
}

#[test]
fn combinators_build_what_the_text_would() {
    let (a, b) = (parsed("has(a) || has(b)"), parsed("c == 'd'"));
    assert_eq!(
        Selector::and(&a, &b),
        parsed("(has(a) || has(b)) && c == 'd'")
    );
    assert_eq!(Selector::and(&a, &Selector::all()), a);
    assert_eq!(Selector::and(&Selector::all(), &b), b);
    assert_eq!(a.not().not(), a);
    assert_eq!(Selector::label_equals("c", "d"), b);
    assert_eq!(
        Selector::label_in("c", ["z", "a", "z"]),
        parsed("c in {'a','z'}")
    );
    assert_eq!(Selector::has("a"), parsed("has(a)"));
    assert!(parsed("global()").is_global() && parsed("has(a) && global()").mentions_global());
    assert!(!parsed("a == 'global()'").mentions_global());
}

/// A label and the values it must have one of.
type Needed = (&'static str, Option<BTreeSet<&'static str>>);

#[test]
fn necessary_conditions_are_found() {
    let any = |label| (label, None);
    let of = |label, values: &[&'static str]| {
        (label, Some(values.iter().copied().collect::<BTreeSet<_>>()))
    };
    let cases: [(&str, Option<Vec<Needed>>); 16] = [
        ("all()", Some(vec![])),
        ("!all()", None),
        ("has(a)", Some(vec![any("a")])),
        ("!has(a)", Some(vec![])),
        ("a == 'x'", Some(vec![of("a", &["x"])])),
        ("a != 'x'", Some(vec![])),
        ("!(a != 'x')", Some(vec![of("a", &["x"])])),
        ("!(a not in {'x', 'y'})", Some(vec![of("a", &["x", "y"])])),
        ("a contains 'x'", Some(vec![any("a")])),
        ("a in {}", None),
        (
            "a == 'x' && b in {'y', 'z'}",
            Some(vec![of("a", &["x"]), of("b", &["y", "z"])]),
        ),
        ("a == 'x' && a in {'y', 'x'}", Some(vec![of("a", &["x"])])),
        ("a == 'x' && a == 'y'", None),
        ("a == 'x' || a == 'y'", Some(vec![of("a", &["x", "y"])])),
        (
            "a == 'x' && has(b) || a == 'y' && has(c)",
            Some(vec![of("a", &["x", "y"])]),
        ),
        ("a == 'x' || a in {}", Some(vec![of("a", &["x"])])),
    ];
    for (text, expected) in cases {
        let selector = parsed(text);
        assert_eq!(
            selector.must_have(),
            expected.map(|e| e.into_iter().collect()),
            "{text}"
        );
    }
}

#[test]
fn kubernetes_selectors_become_trees() {
    let read = |json: serde_json::Value| {
        Selector::from_label_selector(&serde_json::from_value(json).unwrap())
    };
    let text = |json| read(json).unwrap().to_string();
    assert_eq!(text(serde_json::json!({})), "all()");
    assert_eq!(
        text(serde_json::json!({"matchLabels": {"b": "2", "a": ""}})),
        "(a == \"\" && b == \"2\")"
    );
    let expressions = serde_json::json!({"matchExpressions": [
        {"key": "a", "operator": "In", "values": ["x", "y"]},
        {"key": "b", "operator": "NotIn", "values": ["z"]},
        {"key": "c", "operator": "Exists"},
        {"key": "d", "operator": "DoesNotExist"},
    ]});
    assert_eq!(
        text(expressions),
        "(a in {\"x\", \"y\"} && b not in {\"z\"} && has(c) && !has(d))"
    );
    for bad in [
        serde_json::json!({"matchExpressions": [{"key": "a", "operator": "In", "values": []}]}),
        serde_json::json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}),
        serde_json::json!({"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}),
        serde_json::json!({"matchLabels": {"a b": "x"}}),
        serde_json::json!({"matchLabels": {"a": "'\""}}),
    ] {
        assert!(read(bad.clone()).is_err(), "{bad}");
    }
}

/// A selector as the grammar has it, evaluated the way the language is explained.
#[derive(Clone, Debug)]
enum Naive {
    Text(&'static str, fn(Option<&str>) -> bool, &'static str),
    Not(Box<Naive>),
    And(Vec<Naive>),
    Or(Vec<Naive>),
}

impl Naive {
    fn text(&self) -> String {
        let join = |all: &[Self], between: &str| {
            format!(
                "({})",
                all.iter().map(Self::text).collect::<Vec<_>>().join(between)
            )
        };
        match self {
            Self::Text(text, _, _) => (*text).to_owned(),
            Self::Not(inner) => format!("!{}", inner.text()),
            Self::And(all) => join(all, " && "),
            Self::Or(all) => join(all, " || "),
        }
    }

    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Text(_, test, label) => test(BTreeMap::get(labels, *label).map(String::as_str)),
            Self::Not(inner) => !inner.holds(labels),
            Self::And(all) => all.iter().all(|one| one.holds(labels)),
            Self::Or(all) => all.iter().any(|one| one.holds(labels)),
        }
    }
}

fn naive() -> impl Strategy<Value = Naive> {
    let leaf = prop_oneof![
        Just(Naive::Text("all()", |_| true, "")),
        Just(Naive::Text("has(a)", |v| v.is_some(), "a")),
        Just(Naive::Text("a == 'x'", |v| v == Some("x"), "a")),
        Just(Naive::Text("a != \"x\"", |v| v != Some("x"), "a")),
        Just(Naive::Text(
            "b in {'y', 'xy'}",
            |v| v == Some("y") || v == Some("xy"),
            "b"
        )),
        Just(Naive::Text("b not in {'y'}", |v| v != Some("y"), "b")),
        Just(Naive::Text("c in {}", |_| false, "c")),
        Just(Naive::Text(
            "c contains 'x'",
            |v| v.is_some_and(|v| v.contains('x')),
            "c"
        )),
        Just(Naive::Text(
            "c starts with 'x'",
            |v| v.is_some_and(|v| v.starts_with('x')),
            "c"
        )),
        Just(Naive::Text(
            "b ends with 'y'",
            |v| v.is_some_and(|v| v.ends_with('y')),
            "b"
        )),
    ];
    leaf.prop_recursive(6, 48, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|one| Naive::Not(Box::new(one))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Naive::And),
            prop::collection::vec(inner, 2..4).prop_map(Naive::Or),
        ]
    })
}

fn some_labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let value = prop_oneof![Just(""), Just("x"), Just("y"), Just("xy")].prop_map(str::to_owned);
    prop::collection::btree_map(
        prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(str::to_owned),
        value,
        0..4,
    )
}

proptest! {
    #[test]
    fn evaluation_equals_the_naive_one(naive in naive(), labels in some_labels()) {
        let selector = parsed(&naive.text());
        prop_assert_eq!(selector.matches(&labels), naive.holds(&labels));
        prop_assert_eq!(selector.not().matches(&labels), !naive.holds(&labels));
    }

    #[test]
    fn printing_is_a_fixpoint(naive in naive()) {
        let selector = parsed(&naive.text());
        let again = parsed(selector.as_str());
        prop_assert_eq!(again.as_str(), selector.as_str());
        prop_assert_eq!(&again.0.ops, &selector.0.ops);
        let scoped = selector.for_namespaces();
        prop_assert_eq!(parsed(scoped.as_str()).0.ops.clone(), scoped.0.ops.clone());
    }

    #[test]
    fn what_matches_has_what_is_necessary(naive in naive(), labels in some_labels()) {
        let selector = parsed(&naive.text());
        if selector.matches(&labels) {
            let needs = selector.must_have();
            prop_assert!(needs.is_some());
            for (label, values) in needs.unwrap_or_default() {
                let actual = BTreeMap::get(&labels, label);
                prop_assert!(actual.is_some());
                prop_assert!(values.is_none_or(|values| actual.is_some_and(|a| values.contains(a.as_str()))));
            }
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,60}|[ahs()!&|{}'\",= \tinotlb]{0,60}") {
        if let Ok(selector) = Selector::parse(&text) {
            prop_assert_eq!(parsed(selector.as_str()), selector);
        }
    }
}
