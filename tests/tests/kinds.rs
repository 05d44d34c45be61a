//! Every kind on a real API server: the corpus gets the verdict it names, there and from `routed validate`; `kubectl` applies,
//! compares, explains and waits; what was wrong before may stay and nothing else. A control plane without nodes is enough.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a scenario looks at the machine, and a failure ends it"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Child, Command};
use std::time::Duration;

use kube::api::PostParams;
use lab::{Lab, binaries, requires};
use serde_json::Value;

const MINUTE: Duration = Duration::from_mins(1);
const FILES: [&str; 5] = [
    "accepted.yaml",
    "kinds.yaml",
    "documented.yaml",
    "refused.yaml",
    "kinds-refused.yaml",
];

fn skipped() -> bool {
    let missing = requires::missing();
    if missing.is_empty() {
        return false;
    }
    println!("SKIPPED: {}", missing.join("; "));
    true
}

/// One object of the corpus.
struct Entry {
    /// `file:line`.
    place: String,
    file: &'static str,
    /// First and last line in its file, from 1.
    lines: (u64, u64),
    text: String,
    object: Value,
}

impl Entry {
    fn word(&self, path: &str) -> Option<&str> {
        self.object.pointer(path).and_then(Value::as_str)
    }

    fn kind(&self) -> &str {
        self.word("/kind").unwrap()
    }

    /// The path it must be refused at.
    fn path(&self) -> Option<&str> {
        self.word("/metadata/annotations/corpus~1path")
    }

    fn server_refuses(&self) -> bool {
        self.word("/metadata/annotations/corpus~1server") == Some("refuses")
    }
}

fn corpus() -> Vec<Entry> {
    let place = binaries::workspace().join("api/tests/corpus");
    let mut all = Vec::new();
    for file in FILES {
        let text = std::fs::read_to_string(place.join(file)).unwrap();
        let mut first = 1;
        for (number, text) in text.split("\n---\n").enumerate() {
            let last = first + text.lines().count() as u64;
            // Before the first there is a comment.
            if number > 0 {
                all.push(Entry {
                    place: format!("{file}:{first}"),
                    file,
                    lines: (first, last),
                    text: text.to_owned(),
                    object: serde_yaml::from_str(text).unwrap(),
                });
            }
            first = last + 1;
        }
    }
    all
}

/// A path without the numbers of its entries: an admission policy cannot say which entry it is.
fn unnumbered(path: &str) -> String {
    let mut text = String::new();
    let mut inside = false;
    for letter in path.chars() {
        inside = (inside || letter == '[') && letter != ']';
        if !inside || letter == '[' {
            text.push(letter);
        }
    }
    text
}

/// Plurals and whether they are namespaced, by kind.
type Resources = BTreeMap<String, (String, bool)>;

async fn resources(client: &kube::Client) -> Resources {
    let group = kube::discovery::group(client, "projectcalico.org")
        .await
        .unwrap();
    let found = group.recommended_resources().into_iter();
    found
        .map(|(resource, about)| {
            let namespaced = about.scope == kube::discovery::Scope::Namespaced;
            (resource.kind, (resource.plural, namespaced))
        })
        .collect()
}

/// What the API server says to a new object, without keeping it: `None` is yes, else what it names.
async fn asked(client: &kube::Client, resources: &Resources, entry: &Entry) -> Option<String> {
    let (plural, namespaced) = &resources[entry.kind()];
    let path = if *namespaced {
        format!("/apis/projectcalico.org/v3/namespaces/default/{plural}")
    } else {
        format!("/apis/projectcalico.org/v3/{plural}")
    };
    let mut object = entry.object.clone();
    object["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("namespace");
    let parameters = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let mut request = kube::core::Request::new(path)
        .create(&parameters, serde_json::to_vec(&object).unwrap())
        .unwrap();
    *request.uri_mut() = format!("{}&fieldValidation=Strict", request.uri())
        .parse()
        .unwrap();
    match client.request::<Value>(request).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) => {
            let mut said = status.message.clone();
            for cause in status.details.iter().flat_map(|details| &details.causes) {
                let _ = write!(said, "\n{}: {}", cause.field, cause.message);
            }
            Some(said)
        }
        Err(other) => panic!("{}: {other}", entry.place),
    }
}

/// Whether an answer names a path: as a field of its own, or as an unknown one.
fn names(answer: &str, path: &str) -> bool {
    let last = path.rsplit('.').next().unwrap();
    // A regular expression that is none fails its guard, whose text names the field.
    let fails = answer.contains("resulted in error") && answer.contains(&format!(".?{last}"));
    let (answer, path) = (unnumbered(answer), unnumbered(path));
    fails
        || answer.contains(&format!("{path}: "))
        || answer.contains(&format!("unknown field \"{path}\""))
}

/// What is wrong with the answers to the whole corpus.
async fn disagreements(client: &kube::Client, entries: &[Entry]) -> Vec<String> {
    let resources = resources(client).await;
    let mut wrong = Vec::new();
    for entry in entries {
        let answer = asked(client, &resources, entry).await;
        let fault = match (&answer, entry.path()) {
            (Some(said), None) => Some(format!("a good object is refused: {said}")),
            (None, Some(path)) if entry.server_refuses() => Some(format!("{path} is accepted")),
            (None, None | Some(_)) => None,
            (Some(said), Some(path)) if entry.server_refuses() => {
                (!names(said, path)).then(|| format!("{path} is not what is named: {said}"))
            }
            (Some(said), Some(_)) => Some(format!("the corpus says it is accepted: {said}")),
        };
        wrong.extend(fault.map(|fault| format!("{}: {} {fault}", entry.place, entry.kind())));
    }
    wrong
}

/// What `routed validate` says to all files; its exit code is its verdict.
fn report(lab: &Lab) -> Vec<Value> {
    let output = Command::new(lab.binaries().own.join("routed"))
        .args(["validate", "-o", "json", "-f"])
        .arg(binaries::workspace().join("api/tests/corpus"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "there are bad objects");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["findings"].as_array().unwrap().clone()
}

/// The paths named as errors of an object.
fn validated(report: &[Value], entry: &Entry) -> Vec<String> {
    let (first, last) = entry.lines;
    let mut paths: Vec<String> = report
        .iter()
        .filter(|finding| {
            let file = finding["file"].as_str().unwrap();
            let line = finding["line"].as_u64().unwrap();
            file.ends_with(&format!("/{}", entry.file)) && (first..=last).contains(&line)
        })
        .filter(|finding| finding["level"] == "error")
        .map(|finding| finding["path"].as_str().unwrap().to_owned())
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

/// The controller beside the API server, with the administrator's rights.
struct Controller(Child);

impl Controller {
    fn start(lab: &Lab) -> Self {
        let log = std::fs::File::create(lab.run().logs().join("controller.log")).unwrap();
        let child = Command::new(lab.binaries().own.join("routed"))
            .args(["controller", "--log-format", "text", "--kubeconfig"])
            .arg(lab.kubeconfig())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The definitions, then the rest of the manifest: the admission policies, the namespace.
fn manifest() -> (String, String) {
    let text =
        std::fs::read_to_string(binaries::workspace().join("manifests/margay.yaml")).unwrap();
    let (definitions, rest): (Vec<&str>, Vec<&str>) = text
        .split("\n---\n")
        .partition(|document| document.contains("\nkind: CustomResourceDefinition\n"));
    (definitions.join("\n---\n"), rest.join("\n---\n"))
}

/// The first good object of every kind; those of one kind are told apart by it.
fn one_of_each(entries: &[Entry]) -> Vec<&Entry> {
    let mut chosen: BTreeMap<&str, &Entry> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.path().is_none()) {
        chosen.entry(entry.kind()).or_insert(entry);
    }
    chosen.into_values().collect()
}

fn versions(lab: &Lab, text: &str) -> Vec<String> {
    let words = [
        "get",
        "-f",
        "-",
        "-o",
        "jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.resourceVersion}{'\\n'}{end}",
    ];
    let listed = lab.kubectl_with(&words, text).unwrap();
    listed.lines().map(str::to_owned).collect()
}

fn kubectl_serves_every_kind(lab: &Lab, chosen: &[&Entry]) {
    let text = chosen
        .iter()
        .map(|entry| entry.text.as_str())
        .collect::<Vec<_>>()
        .join("\n---\n");
    // A user's plain apply, and the same again.
    lab.kubectl_with(&["apply", "-f", "-"], &text).unwrap();
    let again = lab.kubectl_with(&["apply", "-f", "-"], &text).unwrap();
    assert!(
        again.lines().all(|line| line.ends_with(" unchanged")),
        "{again}"
    );
    lab.kubectl_with(&["diff", "-f", "-"], &text).unwrap();
    // Two managers say the same and both own it; the second word of each changes nothing.
    let apply = |manager: &str| {
        let manager = format!("--field-manager={manager}");
        let words = [
            "apply",
            "--server-side",
            "--force-conflicts",
            &manager,
            "-f",
            "-",
        ];
        lab.kubectl_with(&words, &text).unwrap();
    };
    apply("one");
    apply("two");
    let before = versions(lab, &text);
    assert_eq!(before.len(), chosen.len());
    apply("one");
    apply("two");
    assert_eq!(
        versions(lab, &text),
        before,
        "server-side apply twice is no change"
    );
    lab.kubectl_with(
        &[
            "diff",
            "--server-side",
            "--force-conflicts",
            "--field-manager=two",
            "-f",
            "-",
        ],
        &text,
    )
    .unwrap();
    for entry in chosen {
        let plural = lab.kubectl_with(&["get", "-f", "-", "-o", "name"], &entry.text);
        let plural = plural.unwrap();
        let plural = plural.split('/').next().unwrap();
        let explained = lab
            .kubectl(&[
                "explain",
                "--api-version=projectcalico.org/v3",
                &format!("{}.spec", plural.split('.').next().unwrap()),
            ])
            .unwrap();
        assert!(
            explained.contains("DESCRIPTION:") && explained.contains("FIELDS:")
                || entry.kind() == "ClusterInformation",
            "{plural}: {explained}"
        );
    }
}

/// Kinds without conditions.
const SILENT: [&str; 4] = [
    "BlockAffinity",
    "ClusterInformation",
    "IPAMBlock",
    "IPAMHandle",
];

fn conditions_appear(lab: &Lab, chosen: &[&Entry]) {
    let _controller = Controller::start(lab);
    for entry in chosen {
        if SILENT.contains(&entry.kind()) {
            continue;
        }
        let words = [
            "wait",
            "--for=condition=Accepted",
            "--timeout=60s",
            "-f",
            "-",
        ];
        lab.kubectl_with(&words, &entry.text)
            .unwrap_or_else(|error| panic!("{}: {error:#}", entry.kind()));
    }
    // What the API server cannot see, status names.
    lab.apply_yaml("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: bracket}\nspec: {cidr: 10.77.0.0/16, nodeSelector: (has(a)}\n---\napiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: unused}\nspec: {asNumber: 65000}\n").unwrap();
    let reason = |what: &str| {
        lab.kubectl(&[
            "get",
            what,
            "-o",
            "jsonpath={.status.conditions[?(@.type=='Accepted')].status} {.status.conditions[?(@.type=='Accepted')].reason} {.status.conditions[?(@.type=='Accepted')].message}",
        ])
    };
    lab.wait_for("the bad selector to be named", MINUTE, || {
        Ok(reason("ippools/bracket")?.starts_with("False Invalid spec.nodeSelector: "))
    })
    .unwrap();
    lab.wait_for("the unused name to be named", MINUTE, || {
        Ok(reason("bgpconfigurations/unused")?.starts_with("False NameNotUsed metadata.name: "))
    })
    .unwrap();
}

const OLD_FAULT: &str = "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: default.old}
spec: {selector: app == backend, order: 1}
";

#[test]
fn every_kind_gets_one_verdict_and_kubectl_serves_it() {
    if skipped() {
        return;
    }
    let lab = Lab::one_subnet(0).unwrap();
    let (definitions, rest) = manifest();
    lab.apply_yaml(&definitions).unwrap();
    lab.kubectl(&[
        "wait",
        "--for=condition=Established",
        "crd",
        "--all",
        "--timeout=30s",
    ])
    .unwrap();
    // From before the admission policies, as in a cluster that is taken over.
    lab.apply_yaml(OLD_FAULT).unwrap();
    lab.apply_yaml(&rest).unwrap();

    let entries = corpus();
    println!("{} objects", entries.len());
    let report = report(&lab);
    for entry in &entries {
        let expected: Vec<String> = entry.path().into_iter().map(str::to_owned).collect();
        assert_eq!(validated(&report, entry), expected, "{}", entry.place);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = runtime.block_on(lab.kube()).unwrap();
    // The API server learns of its admission policies one after the other.
    let begun = std::time::Instant::now();
    let wrong = loop {
        let wrong = runtime.block_on(disagreements(&client, &entries));
        if wrong.is_empty() || begun.elapsed() > Duration::from_secs(40) {
            break wrong;
        }
        std::thread::sleep(Duration::from_secs(2));
    };
    println!("one verdict after {:?}", begun.elapsed());
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        entries.len(),
        wrong.join("\n")
    );

    // Ratcheting: the old fault may stay, another may not come.
    lab.apply_yaml(&OLD_FAULT.replace("order: 1", "order: 2"))
        .unwrap();
    let worse = lab.apply_yaml(&OLD_FAULT.replace("backend", "frontend"));
    assert!(format!("{:#}", worse.unwrap_err()).contains("spec.selector: "));

    let chosen = one_of_each(&entries);
    assert_eq!(chosen.len(), 22);
    kubectl_serves_every_kind(&lab, &chosen);
    conditions_appear(&lab, &chosen);
}
