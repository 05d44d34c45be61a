//! What the schema of a kind says, as the API server judges it: types, words, patterns, bounds, unknown fields.
//!
//! The schemas are those of [`crate::crds`], read once into a form that can be walked; nothing is said twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use ipnet::IpNet;
use regex::Regex;
use serde_json::{Map, Value};

use super::{Finding, Severity, UNKNOWN_FIELD, UNREADABLE};

/// A schema, read.
#[derive(Debug, Default)]
struct Schema {
    form: Option<Form>,
    nullable: bool,
    words: Vec<String>,
    pattern: Option<Regex>,
    is_cidr: bool,
    max_length: Option<u64>,
    least: Option<f64>,
    most: Option<f64>,
    min_items: Option<u64>,
    max_items: Option<u64>,
    entries: Entries,
    required: Vec<String>,
    properties: BTreeMap<String, Schema>,
    values: Option<Box<Schema>>,
    items: Option<Box<Schema>>,
    others: Others,
}

/// Whether an entry of a list may stand in it twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Entries {
    #[default]
    Any,
    Unique,
}

/// What becomes of fields that are not listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Others {
    #[default]
    Refused,
    Kept,
}

/// What JSON may stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Integer,
    Number,
    Flag,
    List,
    Object,
    IntegerOrText,
}

impl Form {
    fn of(schema: &Map<String, Value>) -> Option<Self> {
        if schema.contains_key("x-kubernetes-int-or-string") {
            return Some(Self::IntegerOrText);
        }
        match schema.get("type")?.as_str()? {
            "string" => Some(Self::Text),
            "integer" => Some(Self::Integer),
            "number" => Some(Self::Number),
            "boolean" => Some(Self::Flag),
            "array" => Some(Self::List),
            "object" => Some(Self::Object),
            _ => None,
        }
    }

    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Integer => is_whole(value),
            Self::Number => value.is_number(),
            Self::Flag => value.is_boolean(),
            Self::List => value.is_array(),
            Self::Object => value.is_object(),
            Self::IntegerOrText => is_whole(value) || value.is_string(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::Flag => "true or false",
            Self::List => "a list",
            Self::Object => "an object with fields",
            Self::IntegerOrText => "a whole number or a string",
        }
    }
}

fn is_whole(value: &Value) -> bool {
    value.is_i64()
        || value.is_u64()
        || value
            .as_f64()
            .is_some_and(|number| number.fract() == 0.0 && number.abs() < 9e15)
}

/// What JSON a value is, in words.
fn form_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value of an enumeration: texts as they are, numbers as they are written.
fn word(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

impl Schema {
    fn read(schema: &Value) -> Self {
        let Some(schema) = schema.as_object() else {
            return Self::default();
        };
        let count = |name: &str| schema.get(name).and_then(Value::as_u64);
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        let texts = |name: &str| -> Vec<String> {
            let list = schema.get(name).and_then(Value::as_array);
            list.into_iter()
                .flatten()
                .filter_map(|text| text.as_str().map(str::to_owned))
                .collect()
        };
        let is = |name: &str| schema.get(name).and_then(Value::as_bool) == Some(true);
        let below = |name: &str| {
            schema
                .get(name)
                .filter(|schema| schema.is_object())
                .map(|schema| Box::new(Self::read(schema)))
        };
        let properties = schema.get("properties").and_then(Value::as_object);
        Self {
            form: Form::of(schema),
            nullable: is("nullable"),
            words: schema
                .get("enum")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(word)
                .collect(),
            pattern: schema
                .get("pattern")
                .and_then(Value::as_str)
                .and_then(|pattern| Regex::new(pattern).ok()),
            is_cidr: schema.get("format").and_then(Value::as_str) == Some("cidr"),
            max_length: count("maxLength"),
            least: bound("minimum"),
            most: bound("maximum"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            entries: match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
                Some("set") => Entries::Unique,
                _ => Entries::Any,
            },
            required: texts("required"),
            properties: properties
                .into_iter()
                .flatten()
                .map(|(name, schema)| (name.clone(), Self::read(schema)))
                .collect(),
            values: below("additionalProperties"),
            items: below("items"),
            others: if is("x-kubernetes-preserve-unknown-fields") {
                Others::Kept
            } else {
                Others::Refused
            },
        }
    }
}

/// Kind → schema of its objects. The definitions never change, so they are read once.
fn schemas() -> &'static BTreeMap<String, Schema> {
    static SCHEMAS: OnceLock<BTreeMap<String, Schema>> = OnceLock::new();
    SCHEMAS.get_or_init(|| {
        crate::crds::schemas()
            .map(|(kind, schema)| (kind, Schema::read(&schema)))
            .collect()
    })
}

/// Whether a kind is one of ours.
pub(super) fn is_known(kind: &str) -> bool {
    schemas().contains_key(kind)
}

/// Judges `spec` and the names of the fields beside it. Status is the API server's and the daemon's own.
pub(super) fn check(kind: &str, object: &Value) -> Vec<Finding> {
    let (Some(schema), Some(fields)) = (schemas().get(kind), object.as_object()) else {
        return Vec::new();
    };
    let mut walk = Walk {
        findings: Vec::new(),
    };
    for name in fields.keys() {
        if !schema.properties.contains_key(name) {
            walk.unknown(name, &schema.properties);
        }
    }
    match (schema.properties.get("spec"), fields.get("spec")) {
        (Some(schema), Some(spec)) => walk.value(schema, spec, "spec"),
        (Some(_), None) => walk.refuse("spec", "the object has no spec"),
        (None, _) => {}
    }
    walk.findings
}

struct Walk {
    findings: Vec<Finding>,
}

impl Walk {
    fn refuse(&mut self, path: &str, message: impl Into<String>) {
        self.findings.push(Finding {
            rule: UNREADABLE,
            path: path.to_owned(),
            message: message.into(),
            severity: Severity::Refuse,
        });
    }

    fn unknown(&mut self, path: &str, known: &BTreeMap<String, Schema>) {
        let name = path.rsplit('.').next().unwrap_or(path);
        let near = known.keys().find(|other| other.eq_ignore_ascii_case(name));
        let message = match near {
            Some(other) => format!("there is no field {name}, write {other}"),
            None => format!("there is no field {name}"),
        };
        self.findings.push(Finding {
            rule: UNKNOWN_FIELD,
            path: path.to_owned(),
            message,
            severity: Severity::Refuse,
        });
    }

    fn value(&mut self, schema: &Schema, value: &Value, path: &str) {
        if value.is_null() && schema.nullable {
            return;
        }
        if let Some(form) = schema.form.filter(|form| !form.fits(value)) {
            let message = format!("must be {}, not {}", form.name(), form_of(value));
            return self.refuse(path, message);
        }
        if !schema.words.is_empty() && !schema.words.contains(&word(value)) {
            let message = format!("{value} is not one of {}", schema.words.join(", "));
            self.refuse(path, message);
        }
        match value {
            Value::String(text) => self.text(schema, text, path),
            Value::Number(number) => self.number(schema, number.as_f64(), path),
            Value::Array(items) => self.list(schema, items, path),
            Value::Object(fields) => self.object(schema, fields, path),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn text(&mut self, schema: &Schema, text: &str, path: &str) {
        let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
        if let Some(most) = schema.max_length.filter(|most| length > *most) {
            self.refuse(
                path,
                format!("is {length} characters long, at most {most} are allowed"),
            );
        }
        if let Some(pattern) = schema
            .pattern
            .as_ref()
            .filter(|pattern| !pattern.is_match(text))
        {
            self.refuse(path, format!("{text:?} does not have the form {pattern}"));
        }
        if schema.is_cidr && text.parse::<IpNet>().is_err() {
            let message =
                format!("{text:?} is not a range of addresses, write for instance 10.0.0.0/8");
            self.refuse(path, message);
        }
    }

    fn number(&mut self, schema: &Schema, number: Option<f64>, path: &str) {
        let Some(number) = number else { return };
        if let Some(least) = schema.least.filter(|least| number < *least) {
            self.refuse(
                path,
                format!("{number} is too small, at least {least} is needed"),
            );
        }
        if let Some(most) = schema.most.filter(|most| number > *most) {
            self.refuse(
                path,
                format!("{number} is too large, at most {most} is allowed"),
            );
        }
    }

    fn list(&mut self, schema: &Schema, items: &[Value], path: &str) {
        let count = u64::try_from(items.len()).unwrap_or(u64::MAX);
        if let Some(least) = schema.min_items.filter(|least| count < *least) {
            self.refuse(
                path,
                format!("has {count} entries, at least {least} are needed"),
            );
        }
        if let Some(most) = schema.max_items.filter(|most| count > *most) {
            self.refuse(
                path,
                format!("has {count} entries, at most {most} are allowed"),
            );
        }
        let mut seen = BTreeSet::new();
        for (i, item) in items.iter().enumerate() {
            let path = format!("{path}[{i}]");
            if schema.entries == Entries::Unique && !seen.insert(item.to_string()) {
                self.refuse(&path, format!("{item} is listed twice"));
            }
            if let Some(schema) = &schema.items {
                self.value(schema, item, &path);
            }
        }
    }

    fn object(&mut self, schema: &Schema, fields: &Map<String, Value>, path: &str) {
        for name in &schema.required {
            if !fields.contains_key(name) {
                self.refuse(&format!("{path}.{name}"), "is required");
            }
        }
        for (name, value) in fields {
            let below = format!("{path}.{name}");
            match (schema.properties.get(name), &schema.values) {
                // The API server drops fields without a value.
                (Some(known), _) if value.is_null() && !known.nullable => {}
                (Some(known), _) => self.value(known, value, &below),
                (None, Some(values)) => self.value(values, value, &below),
                (None, None) if schema.others == Others::Kept => {}
                (None, None) => self.unknown(&below, &schema.properties),
            }
        }
    }
}
