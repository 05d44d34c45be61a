//! Text → program, without recursion: one frame per open bracket.

use super::cursor::Cursor;
use super::leaf::Leaf;
use super::{MAX_LENGTH, MAX_NESTING, Op, push_not};

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
    let mut cursor = Cursor::new(text);
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
            opened_at: self.cursor.offset(),
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
