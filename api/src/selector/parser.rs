//! Text → program, without recursion: one frame per open bracket.

use super::leaf::{Leaf, Test};
use super::{MAX_LABEL, MAX_LENGTH, MAX_NESTING, Op, push_not};

/// Why a text is not a selector. Displays as what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    /// Octets before the place where reading stopped.
    pub offset: usize,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// Reads a whole selector.
pub(super) fn parse(text: &str) -> Result<Vec<Op>, ParseError> {
    if text.chars().count() > MAX_LENGTH {
        return Err(ParseError {
            offset: 0,
            message: format!("a selector is at most {MAX_LENGTH} characters long"),
        });
    }
    let mut cursor = Cursor { text, offset: 0 };
    cursor.skip_blanks();
    if cursor.rest().is_empty() {
        return Ok(vec![Op::Leaf(Leaf::All)]);
    }
    Parser {
        cursor,
        ops: Vec::new(),
        outer: Vec::new(),
        current: Group::default(),
    }
    .run()
}

/// Whether an octet may stand in a label.
pub(super) fn is_label(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'_' | b'.' | b'/' | b'-')
}

/// What was read inside one pair of brackets so far.
#[derive(Default)]
struct Group {
    /// Offset of the opening bracket.
    opened_at: usize,
    /// Whether `!` stands before the bracket.
    negated: bool,
    /// Operands of the `&&` in progress.
    and_operands: usize,
    /// Operands of the `||` in progress that are complete.
    or_operands: usize,
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    ops: Vec<Op>,
    outer: Vec<Group>,
    current: Group,
}

impl Parser<'_> {
    fn run(mut self) -> Result<Vec<Op>, ParseError> {
        loop {
            self.operand()?;
            if self.operators()? == Next::End {
                return Ok(self.ops);
            }
        }
    }

    /// Reads inversions and opening brackets up to one comparison.
    fn operand(&mut self) -> Result<(), ParseError> {
        let mut negated = false;
        loop {
            self.cursor.skip_blanks();
            if self.cursor.take("!") {
                negated = !negated;
            } else if self.cursor.rest().starts_with('(') {
                self.open(negated)?;
                negated = false;
            } else {
                let leaf = self.cursor.comparison()?;
                self.ops.push(Op::Leaf(leaf));
                self.finish_operand(negated);
                return Ok(());
            }
        }
    }

    /// Reads closing brackets up to an operator that wants another operand, or up to the end.
    fn operators(&mut self) -> Result<Next, ParseError> {
        loop {
            self.cursor.skip_blanks();
            if self.cursor.take("&&") {
                return Ok(Next::Operand);
            }
            if self.cursor.take("||") {
                self.finish_and();
                return Ok(Next::Operand);
            }
            if self.cursor.rest().is_empty() {
                self.close_all()?;
                return Ok(Next::End);
            }
            if !self.cursor.rest().starts_with(')') {
                return Err(self.cursor.no_operator());
            }
            self.close()?;
        }
    }

    fn open(&mut self, negated: bool) -> Result<(), ParseError> {
        if self.outer.len() == MAX_NESTING {
            return Err(self
                .cursor
                .error(format!("brackets are nested more than {MAX_NESTING} deep")));
        }
        let group = Group {
            opened_at: self.cursor.offset,
            negated,
            and_operands: 0,
            or_operands: 0,
        };
        self.outer.push(std::mem::replace(&mut self.current, group));
        self.cursor.take("(");
        Ok(())
    }

    fn close(&mut self) -> Result<(), ParseError> {
        let Some(outer) = self.outer.pop() else {
            return Err(self.cursor.error("this ) closes nothing".to_owned()));
        };
        self.cursor.take(")");
        self.finish_group();
        let closed = std::mem::replace(&mut self.current, outer);
        self.finish_operand(closed.negated);
        Ok(())
    }

    fn close_all(&mut self) -> Result<(), ParseError> {
        if !self.outer.is_empty() {
            return Err(ParseError {
                offset: self.current.opened_at,
                message: "this ( is never closed".to_owned(),
            });
        }
        self.finish_group();
        Ok(())
    }

    fn finish_operand(&mut self, negated: bool) {
        if negated {
            push_not(&mut self.ops);
        }
        self.current.and_operands += 1;
    }

    fn finish_and(&mut self) {
        if self.current.and_operands > 1 {
            self.ops.push(Op::And(self.current.and_operands));
        }
        self.current.and_operands = 0;
        self.current.or_operands += 1;
    }

    fn finish_group(&mut self) {
        self.finish_and();
        if self.current.or_operands > 1 {
            self.ops.push(Op::Or(self.current.or_operands));
        }
    }
}

#[derive(PartialEq)]
enum Next {
    Operand,
    End,
}

/// A place in the text. Nothing but space and tab separates tokens.
struct Cursor<'a> {
    text: &'a str,
    offset: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.offset..).unwrap_or_default()
    }

    fn skip_blanks(&mut self) {
        self.offset += self
            .rest()
            .bytes()
            .take_while(|b| matches!(b, b' ' | b'\t'))
            .count();
    }

    fn take(&mut self, token: &str) -> bool {
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

    fn error(&self, message: String) -> ParseError {
        ParseError {
            offset: self.offset,
            message,
        }
    }

    /// Reads `all()`, `global()`, `has(label)`, or a label and what it is compared with.
    fn comparison(&mut self) -> Result<Leaf, ParseError> {
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

    fn no_operator(&self) -> ParseError {
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
