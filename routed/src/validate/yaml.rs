//! YAML documents in which every value knows its place.
//!
//! The parser gives events with places; here they become trees. Scalars are read as `kubectl` reads them (`scalar`). Aliases
//! are copied, within a limit; merge keys are followed; a key that stands twice is a fault, as it is for the API server.

use std::collections::BTreeMap;

use api::validate::Step;
use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::{Map, Value};

use super::scalar;

/// Nodes a text may have, aliases written out: more is an attack, or no configuration.
const MAX_NODES: usize = 1_000_000;
/// Levels of nesting; deeper than any object of Kubernetes.
const MAX_DEPTH: usize = 256;

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Place {
    fn start(span: &Span) -> Self {
        Self {
            line: span.start.line(),
            column: span.start.col() + 1,
        }
    }
}

/// What is wrong with the text itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What, in the parser's words.
    pub message: String,
}

impl Fault {
    fn new(place: Place, message: impl Into<String>) -> Self {
        Self {
            place,
            message: message.into(),
        }
    }
}

impl From<ScanError> for Fault {
    fn from(error: ScanError) -> Self {
        let place = Place {
            line: error.marker().line(),
            column: error.marker().col() + 1,
        };
        Self::new(place, format!("not YAML: {}", error.info()))
    }
}

/// One document of a text.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its value.
    pub root: Node,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Node {
    place: Place,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Fields(Vec<Field>),
}

/// A field: its key, where the key stands, its value.
#[derive(Clone, Debug)]
struct Field {
    key: String,
    place: Place,
    value: Node,
}

impl Node {
    /// Where it begins.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The value without places.
    pub fn to_json(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Content::Fields(fields) => Value::Object(
                fields
                    .iter()
                    .map(|field| (field.key.clone(), field.value.to_json()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// The value of a field.
    pub fn field(&self, key: &str) -> Option<&Self> {
        self.find(key).map(|field| &field.value)
    }

    /// The entries of a list.
    pub fn entries(&self) -> Option<&[Self]> {
        match &self.content {
            Content::List(items) => Some(items),
            Content::Scalar(_) | Content::Fields(_) => None,
        }
    }

    fn find(&self, key: &str) -> Option<&Field> {
        match &self.content {
            Content::Fields(fields) => fields.iter().find(|field| field.key == key),
            Content::Scalar(_) | Content::List(_) => None,
        }
    }

    /// Where what a path names stands: the key of a field, the beginning of an entry. Of what is not there, the nearest thing
    /// around it.
    pub fn place_of<'a>(&self, steps: impl Iterator<Item = Step<'a>>) -> Place {
        let (mut node, mut place) = (self, self.place);
        for step in steps {
            let next = match step {
                Step::Field(key) => node.find(key).map(|field| (&field.value, field.place)),
                Step::Entry(index) => node
                    .entries()
                    .and_then(|items| items.get(index))
                    .map(|item| (item, item.place)),
            };
            match next {
                Some((below, there)) => (node, place) = (below, there),
                None => break,
            }
        }
        place
    }

    fn size(&self) -> usize {
        match &self.content {
            Content::Scalar(_) => 1,
            Content::List(items) => items.iter().map(Self::size).sum::<usize>() + 1,
            Content::Fields(fields) => {
                fields.iter().map(|field| field.value.size()).sum::<usize>() + 1
            }
        }
    }
}

/// Reads all documents of a text. A document that cannot be read is a fault; the ones after it are read all the same.
pub fn parse(text: &str) -> (Vec<Document>, Vec<Fault>) {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: BTreeMap::new(),
        nodes: 0,
        faults: Vec::new(),
    };
    let mut documents = Vec::new();
    loop {
        match reader.document() {
            Ok(Some(document)) => documents.push(document),
            Ok(None) => break,
            Err(fault) => {
                let is_over = reader.nodes >= MAX_NODES;
                reader.faults.push(fault);
                if is_over || !matches!(reader.parser.proceed_next_document(), Ok(true)) {
                    break;
                }
            }
        }
    }
    (documents, reader.faults)
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// Anchors of the document that is read.
    anchors: BTreeMap<usize, Node>,
    /// Nodes made so far.
    nodes: usize,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    /// The next event that is data; comments are not.
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Fault> {
        for event in self.parser.by_ref() {
            match event? {
                (Event::Comment(..) | Event::Anchor(..), _) => {}
                data => return Ok(Some(data)),
            }
        }
        Ok(None)
    }

    fn document(&mut self) -> Result<Option<Document>, Fault> {
        self.anchors.clear();
        loop {
            match self.next()? {
                None | Some((Event::StreamEnd, _)) => return Ok(None),
                Some((Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd, _)) => {}
                Some((event, span)) => {
                    let root = self.node(event, &span, 0)?;
                    return Ok(Some(Document { root }));
                }
            }
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the parser's events may grow; none but these begins a value"
    )]
    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, Fault> {
        let place = Place::start(span);
        self.nodes += 1;
        if self.nodes > MAX_NODES || depth > MAX_DEPTH {
            return Err(Fault::new(
                place,
                "the text is larger than any configuration",
            ));
        }
        let (anchor, content) = match event {
            Event::Scalar(text, style, anchor, tag) => (
                anchor,
                Content::Scalar(read_scalar(&text, style, tag.as_deref())),
            ),
            Event::SequenceStart(_, anchor, _) => (anchor, Content::List(self.list(place, depth)?)),
            Event::MappingStart(_, anchor, _) => {
                (anchor, Content::Fields(self.fields(place, depth)?))
            }
            Event::Alias(anchor) => {
                let target = self.anchors.get(&anchor).cloned();
                let target = target
                    .ok_or_else(|| Fault::new(place, "the alias names no anchor before it"))?;
                self.nodes = self.nodes.saturating_add(target.size());
                (0, target.content)
            }
            _ => return Err(Fault::new(place, "a value is missing here")),
        };
        let node = Node { place, content };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, start: Place, depth: usize) -> Result<Vec<Node>, Fault> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Some((Event::SequenceEnd, _)) => return Ok(items),
                Some((event, span)) => items.push(self.node(event, &span, depth + 1)?),
                None => return Err(Fault::new(start, "the list never ends")),
            }
        }
    }

    fn fields(&mut self, start: Place, depth: usize) -> Result<Vec<Field>, Fault> {
        let mut fields: Vec<Field> = Vec::new();
        let mut merged: Vec<Field> = Vec::new();
        loop {
            let (event, span) = match self.next()? {
                Some((Event::MappingEnd, _)) => break,
                Some(event) => event,
                None => return Err(Fault::new(start, "the fields never end")),
            };
            let is_plain = matches!(event, Event::Scalar(_, ScalarStyle::Plain, ..));
            let key = self.node(event, &span, depth + 1)?;
            let place = key.place;
            let key = key_text(key)?;
            let Some((event, span)) = self.next()? else {
                return Err(Fault::new(place, "the field has no value"));
            };
            let value = self.node(event, &span, depth + 1)?;
            if key == "<<" && is_plain {
                merged.extend(to_merge(value)?);
            } else if fields.iter().any(|field| field.key == key) {
                let message = format!("the field {key} stands twice");
                self.faults.push(Fault::new(place, message));
            } else {
                fields.push(Field { key, place, value });
            }
        }
        for field in merged {
            if !fields.iter().any(|own| own.key == field.key) {
                fields.push(field);
            }
        }
        Ok(fields)
    }
}

fn read_scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    let is_text = tag.is_some_and(|tag| tag.to_string().ends_with("str"));
    if style == ScalarStyle::Plain && !is_text {
        scalar::resolve(text)
    } else {
        Value::String(text.to_owned())
    }
}

/// JSON has texts as keys only.
fn key_text(key: Node) -> Result<String, Fault> {
    match key.content {
        Content::Scalar(Value::String(text)) => Ok(text),
        Content::Scalar(other) => Ok(other.to_string()),
        Content::List(_) | Content::Fields(_) => {
            Err(Fault::new(key.place, "the name of a field must be a text"))
        }
    }
}

/// The fields behind `<<`: those of an object, or of several, the first first.
fn to_merge(value: Node) -> Result<Vec<Field>, Fault> {
    let place = value.place;
    let odd = || Fault::new(place, "<< takes an object, or a list of objects");
    match value.content {
        Content::Fields(fields) => Ok(fields),
        Content::List(items) => {
            let mut all = Vec::new();
            for item in items {
                let Content::Fields(fields) = item.content else {
                    return Err(odd());
                };
                all.extend(fields);
            }
            Ok(all)
        }
        Content::Scalar(_) => Err(odd()),
    }
}
