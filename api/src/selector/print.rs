//! Program → canonical text, the form Calico prints.

use super::Op;

/// The canonical text: every `&&` and `||` in brackets, operands in the order they were written.
pub(super) fn print(ops: &[Op]) -> String {
    let mut stack: Vec<String> = Vec::new();
    for op in ops {
        let text = match op {
            Op::Leaf(leaf) => leaf.to_string(),
            Op::Not => format!("!{}", stack.pop().unwrap_or_default()),
            Op::And(n) => join(&mut stack, *n, " && "),
            Op::Or(n) => join(&mut stack, *n, " || "),
        };
        stack.push(text);
    }
    stack.pop().unwrap_or_default()
}

fn join(stack: &mut Vec<String>, n: usize, between: &str) -> String {
    let first = stack.len().saturating_sub(n);
    format!("({})", stack.split_off(first).join(between))
}
