//! Making a generated schema structural, small and stable.

use serde_json::{Map, Value, json};

/// Formats the API server knows; it warns about all others, which schemars uses for sizes of numbers.
const KNOWN_FORMATS: [&str; 5] = ["cidr", "date-time", "double", "int32", "int64"];

/// Finishes a root schema: every schema in it is tidied, and the fields every object has are named.
pub(super) fn finish(root: &mut Value) {
    tidy(root, Place::Property);
    let Some(root) = root.as_object_mut() else {
        return;
    };
    let properties = root.entry("properties").or_insert_with(|| json!({}));
    if let Some(properties) = properties.as_object_mut() {
        properties.insert("apiVersion".to_owned(), json!({ "type": "string" }));
        properties.insert("kind".to_owned(), json!({ "type": "string" }));
        properties.insert("metadata".to_owned(), json!({ "type": "object" }));
    }
    root.insert("required".to_owned(), json!(["metadata", "spec"]));
}

/// Sets a default at a path of property names. A path that does not exist is a mistake in the table, found by a test.
pub(super) fn set_default(root: &mut Value, path: &[&str], value: Value) {
    let target = path.iter().try_fold(root, |schema, name| {
        schema.get_mut("properties")?.get_mut(*name)
    });
    if let Some(target) = target.and_then(Value::as_object_mut) {
        target.insert("default".to_owned(), value);
    }
}

/// Writes whole numbers without fraction: `minimum: 1`, not `1.0`.
pub(super) fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "checked to be whole and in range"
            )]
            if let Some(float) = number
                .as_f64()
                .filter(|f| number.is_f64() && f.fract() == 0.0 && f.abs() < 9e15)
            {
                *value = json!(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Where a schema stands: an entry of a list may be null where the type says so, a property never is.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Property,
    Entry,
}

fn tidy(schema: &mut Value, place: Place) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    schema.remove("default");
    schema.remove("title");
    if place == Place::Property {
        schema.remove("nullable");
    }
    if schema
        .get("format")
        .and_then(Value::as_str)
        .is_some_and(|format| !KNOWN_FORMATS.contains(&format))
    {
        schema.remove("format");
    }
    if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        words.retain(|word| !word.is_null());
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = one_line(text);
    }
    if schema.contains_key("x-kubernetes-int-or-string") {
        schema.remove("type");
    }
    tidy_below(schema);
}

fn tidy_below(schema: &mut Map<String, Value>) {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties
            .values_mut()
            .for_each(|property| tidy(property, Place::Property));
    }
    if let Some(items) = schema.get_mut("items") {
        tidy(items, Place::Entry);
    }
    if let Some(values) = schema.get_mut("additionalProperties") {
        tidy(values, Place::Property);
    }
}

/// Joins wrapped lines; an empty line stays a paragraph.
fn one_line(text: &str) -> String {
    text.split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("\n\n")
}
