use std::fmt::Write as _;

use super::*;

fn judged(text: &str) -> Outcome {
    let mut outcome = Outcome::default();
    outcome.read("f.yaml", text);
    outcome
}

/// Line, column, path and level of all lines.
fn places(text: &str) -> Vec<(usize, usize, String, Level)> {
    judged(text)
        .lines
        .into_iter()
        .map(|line| (line.line, line.column, line.path, line.level))
        .collect()
}

#[test]
fn a_finding_stands_at_the_key_of_its_field() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: { name: a.b, namespace: db }
spec:
  ingress:
    - action: Allow
    - action: Allow
      source:
        nets: [10.0.0.0/8,
               10.0.0]
        selector: app == backend
";
    let found = places(text);
    assert_eq!(
        found,
        [
            (
                10,
                16,
                "spec.ingress[1].source.nets[1]".to_owned(),
                Level::Error
            ),
            (
                11,
                9,
                "spec.ingress[1].source.selector".to_owned(),
                Level::Error
            ),
        ]
    );
}

#[test]
fn flow_style_comments_and_documents_do_not_shift_places() {
    let text = "# a comment\n---\n---\n{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: x},\n  # more\n  spec: {nets: [\"10.0.0.0/8\", 'x']}}\n---\napiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: a}\nspec: {ordre: 1}\n";
    assert_eq!(
        places(text),
        [
            (6, 31, "spec.nets[1]".to_owned(), Level::Error),
            (11, 8, "spec.ordre".to_owned(), Level::Error),
        ]
    );
}

#[test]
fn what_is_missing_is_named_at_what_it_is_missing_from() {
    let text = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: a}\nspec:\n  egress:\n  - protocol: TCP\n";
    assert_eq!(
        places(text),
        [(6, 5, "spec.egress[0].action".to_owned(), Level::Error)]
    );
}

#[test]
fn unknown_kinds_are_errors_and_foreign_ones_are_named() {
    let outcome = judged(
        "apiVersion: projectcalico.org/v3\nkind: Poool\n---\napiVersion: projectcalico.org/v1\nkind: IPPool\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\n---\nfoo: 1\n",
    );
    let lines: Vec<(Level, &str)> = outcome
        .lines
        .iter()
        .map(|line| (line.level, line.message.as_str()))
        .collect();
    assert_eq!(
        lines,
        [
            (
                Level::Error,
                "there is no kind Poool in projectcalico.org/v3"
            ),
            (
                Level::Error,
                "there is no version v1 of projectcalico.org, write projectcalico.org/v3"
            ),
            (Level::Note, "Pod of v1 is not checked"),
            (Level::Error, "an object needs apiVersion and kind"),
        ]
    );
    assert_eq!(outcome.objects, 0);
}

#[test]
fn a_broken_document_does_not_hide_the_next() {
    let text =
        "a: [1\n---\napiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: A}\nspec: {}\n";
    let outcome = judged(text);
    assert!(
        outcome.lines[0].message.starts_with("not YAML"),
        "{:?}",
        outcome.lines
    );
    assert!(
        outcome
            .lines
            .iter()
            .any(|line| line.path == "metadata.name" && line.line == 5)
    );
}

#[test]
fn keys_that_stand_twice_anchors_and_lists_of_objects_are_followed() {
    let text = "\
apiVersion: v1
kind: List
items:
- apiVersion: projectcalico.org/v3
  kind: NetworkSet
  metadata: &m {name: one}
  spec:
    nets: &n [bad]
- apiVersion: projectcalico.org/v3
  kind: NetworkSet
  metadata: {<<: *m, namespace: x}
  spec:
    nets: *n
    nets: []
";
    let found = places(text);
    assert!(
        found.contains(&(8, 15, "spec.nets[0]".to_owned(), Level::Error)),
        "{found:?}"
    );
    assert!(
        found.contains(&(14, 5, String::new(), Level::Error)),
        "{found:?}"
    );
    assert_eq!(judged(text).objects, 2);
}

#[test]
fn an_object_that_stands_twice_is_warned_of() {
    let one =
        "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: a}\nspec: {order: 1}\n";
    let outcome = judged(&format!("{one}---\n{one}"));
    assert_eq!(outcome.lines.len(), 1);
    assert_eq!(outcome.lines[0].level, Level::Warning);
    assert!(outcome.is_good());
}

#[test]
fn the_report_shows_place_object_field_and_line() {
    let text = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: a}\nspec:\n  defaultAction: Allow\n";
    insta::assert_snapshot!(super::text(&judged(text)), @r#"
    f.yaml:5:3: error: Tier a spec.defaultAction: "Allow" is not one of Deny, Pass
          5 |   defaultAction: Allow
            |   ^
    1 object checked: 1 error, 0 warnings
    "#);
}

#[test]
fn aliases_cannot_grow_without_end() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let alias = format!("*a{}", level - 1);
        let row = [alias.as_str(); 10].join(", ");
        let _ = writeln!(text, "a{level}: &a{level} [{row}]");
    }
    let outcome = judged(&text);
    assert!(
        outcome
            .lines
            .iter()
            .any(|line| line.message.contains("larger than any")),
        "{:?}",
        outcome.lines
    );
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[ -~\n\t]{0,200}") {
        let _ = judged(&text);
    }

    /// A place of any field is inside the text, and the key stands there.
    #[test]
    fn the_key_stands_at_the_place(names in proptest::collection::vec("[a-z]{1,6}", 1..6), blanks in 1_usize..4) {
        let mut text = String::new();
        let mut depth = 0;
        for name in &names {
            text.push_str(&" ".repeat(depth));
            text.push_str(name);
            text.push_str("x:\n");
            depth += blanks;
        }
        let (documents, faults) = yaml::parse(&text);
        proptest::prop_assert!(faults.is_empty());
        let path: Vec<String> = names.iter().map(|name| format!("{name}x")).collect();
        let place = documents[0].root.place_of(path.iter().map(|name| validate::Step::Field(name)));
        let line = text.lines().nth(place.line - 1).unwrap();
        proptest::prop_assert!(line[place.column - 1..].starts_with(path.last().unwrap().as_str()));
    }
}
