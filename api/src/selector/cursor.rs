//! Reading the tokens of a selector: comparisons, and what to say where none stands.

use super::MAX_LABEL;
use super::leaf::{Leaf, Test};
use super::parser::{ParseError, is_label};

/// A place in the text. Nothing but space and tab separates tokens.
pub(super) struct Cursor<'a> {
    text: &'a str,
    offset: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, offset: 0 }
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn rest(&self) -> &'a str {
        self.text.get(self.offset..).unwrap_or_default()
    }

    pub(super) fn skip_blanks(&mut self) {
        self.offset += self
            .rest()
            .bytes()
            .take_while(|b| matches!(b, b' ' | b'\t'))
            .count();
    }

    pub(super) fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.offset += token.len();
        }
        found
    }

    /// Reads the longest run of label characters, which may be empty.
    fn take_word(&mut self) -> &'a str {
        let rest = self.rest();
        let length = rest.bytes().take_while(|b| is_label(*b)).count();
        self.offset += length;
        rest.get(..length).unwrap_or_default()
    }

    pub(super) fn error(&self, message: String) -> ParseError {
        ParseError {
            offset: self.offset,
            message,
        }
    }

    /// Reads `all()`, `global()`, `has(label)`, or a label and what it is compared with.
    pub(super) fn comparison(&mut self) -> Result<Leaf, ParseError> {
        let start = self.offset;
        let word = self.take_word();
        match (word, self.rest().starts_with('(')) {
            ("all", true) => self.no_argument(word).map(|()| Leaf::All),
            ("global", true) => self.no_argument(word).map(|()| Leaf::Global),
            ("has", true) => self.has(),
            ("", _) => Err(self.no_operand()),
            (other, true) => Err(ParseError {
                offset: start,
                message: format!("{other}() is unknown: there are all(), global() and has(label)"),
            }),
            (label, false) => {
                check_length(label, start)?;
                self.compare_label(label)
            }
        }
    }

    fn no_argument(&mut self, function: &str) -> Result<(), ParseError> {
        self.take("(");
        self.skip_blanks();
        if self.take(")") {
            Ok(())
        } else {
            Err(self.error(format!("{function}() takes nothing between its brackets")))
        }
    }

    fn has(&mut self) -> Result<Leaf, ParseError> {
        self.take("(");
        self.skip_blanks();
        let start = self.offset;
        let label = self.take_word();
        if label.is_empty() {
            return Err(self.error(
                "has() needs the name of a label without quotes, write has(app)".to_owned(),
            ));
        }
        check_length(label, start)?;
        self.skip_blanks();
        if self.take(")") {
            Ok(Leaf::Has(label.into()))
        } else {
            Err(self.error(format!("has({label} is never closed")))
        }
    }

    fn compare_label(&mut self, label: &'a str) -> Result<Leaf, ParseError> {
        self.skip_blanks();
        if self.take("==") {
            return self.compare_value(label, Test::Equals);
        }
        if self.take("!=") {
            return self.compare_value(label, Test::Differs);
        }
        let at = self.offset;
        match self.take_word() {
            "contains" => self.compare_value(label, Test::Contains),
            "startswith" => self.compare_value(label, Test::StartsWith),
            "endswith" => self.compare_value(label, Test::EndsWith),
            "starts" if self.second_word("with") => self.compare_value(label, Test::StartsWith),
            "ends" if self.second_word("with") => self.compare_value(label, Test::EndsWith),
            "in" => self.set(label, true),
            "notin" => self.set(label, false),
            "not" if self.second_word("in") => self.set(label, false),
            _ => Err(self.no_comparison(label, at)),
        }
    }

    fn second_word(&mut self, wanted: &str) -> bool {
        self.skip_blanks();
        self.take_word() == wanted
    }

    fn compare_value(&mut self, label: &str, test: Test) -> Result<Leaf, ParseError> {
        self.skip_blanks();
        if let Some(value) = self.string()? {
            return Ok(Leaf::compare(label, test, value));
        }
        let bare = Cursor {
            text: self.text,
            offset: self.offset,
        }
        .take_word();
        let example = if bare.is_empty() { "value" } else { bare };
        Err(self.error(format!(
            "a value needs quotes, write {label} {} '{example}'",
            test.as_str()
        )))
    }

    fn set(&mut self, label: &str, inside: bool) -> Result<Leaf, ParseError> {
        let word = if inside { "in" } else { "not in" };
        self.skip_blanks();
        if !self.take("{") {
            return Err(self.error(format!(
                "a set needs braces, write {label} {word} {{'a', 'b'}}"
            )));
        }
        let mut values = Vec::new();
        loop {
            self.skip_blanks();
            if self.take("}") {
                return Ok(Leaf::within(label, inside, values));
            }
            let Some(value) = self.string()? else {
                return Err(self.error(format!(
                    "a value needs quotes, write {label} {word} {{'a', 'b'}}"
                )));
            };
            values.push(value);
            self.skip_blanks();
            if !self.take(",") && !self.rest().starts_with('}') {
                return Err(self.error(format!("values of a set are separated by commas and end with }}, write {label} {word} {{'a', 'b'}}")));
            }
        }
    }

    /// Reads a text in quotes; `None` when no quote stands here.
    fn string(&mut self) -> Result<Option<&'a str>, ParseError> {
        let Some(quote) = self
            .rest()
            .chars()
            .next()
            .filter(|c| matches!(c, '"' | '\''))
        else {
            return Ok(None);
        };
        let inside = self.rest().get(1..).unwrap_or_default();
        let Some(length) = inside.find(quote) else {
            return Err(self.error("this quote is never closed".to_owned()));
        };
        self.offset += length + 2;
        Ok(inside.get(..length))
    }

    fn no_operand(&self) -> ParseError {
        let message = match self.rest().chars().next() {
            None => "the selector ends where a comparison should follow".to_owned(),
            Some('"' | '\'') => "a label has no quotes, write app == 'backend'".to_owned(),
            Some(found) => format!("a label, has(), all() or ( should stand here, not {found:?}"),
        };
        self.error(message)
    }

    fn no_comparison(&self, label: &str, at: usize) -> ParseError {
        let message = match self.text.get(at..).and_then(|rest| rest.chars().next()) {
            None | Some(')' | '&' | '|') => format!(
                "label {label} is compared with nothing, write has({label}) or {label} == 'value'"
            ),
            Some('=') => format!("one = does not compare, write {label} == 'value'"),
            Some(_) => {
                format!(
                    "label {label} can be compared with ==, !=, in, not in, contains, starts with and ends with only"
                )
            }
        };
        ParseError {
            offset: at,
            message,
        }
    }

    pub(super) fn no_operator(&self) -> ParseError {
        let rest = self.rest();
        let word: String = rest
            .bytes()
            .take_while(|b| is_label(*b))
            .map(char::from)
            .collect();
        let message = match (word.to_ascii_lowercase().as_str(), rest.chars().next()) {
            ("and", _) | (_, Some('&' | ',')) => "comparisons are joined by &&".to_owned(),
            ("or", _) | (_, Some('|')) => "alternatives are joined by ||".to_owned(),
            (_, Some(found)) => format!("&&, || or the end should follow, not {found:?}"),
            (_, None) => "&& or || should follow".to_owned(),
        };
        self.error(message)
    }
}

fn check_length(label: &str, offset: usize) -> Result<(), ParseError> {
    if label.len() > MAX_LABEL {
        return Err(ParseError {
            offset,
            message: format!("a label is at most {MAX_LABEL} characters long"),
        });
    }
    Ok(())
}
