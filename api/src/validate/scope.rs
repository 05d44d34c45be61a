//! Selectors in fields.

use super::Report;
use crate::selector::Selector;

/// Whether `global()` may stand in a selector.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Global {
    /// Nowhere.
    Forbidden,
    /// As the whole selector only.
    Alone,
}

/// Checks the syntax of a selector, if there is one.
pub(super) fn check(text: Option<&str>, global: Global, path: &str, report: &mut Report<'_>) {
    let Some(text) = text else { return };
    let selector = match Selector::parse(text) {
        Ok(selector) => selector,
        Err(why) => return report.say(path, format!("selector {text:?}: {why}")),
    };
    // The API server looks for the text, in a quoted value too; both must give one answer.
    let mentioned = match global {
        Global::Forbidden => text.contains("global("),
        Global::Alone => text.contains("global(") && !selector.is_global(),
    };
    if !mentioned {
        return;
    }
    report.say(
        path,
        match global {
            Global::Forbidden => "global() can only be used in the namespaceSelector of a rule",
            Global::Alone => {
                "global() must be the whole namespaceSelector, write two rules instead"
            }
        },
    );
}
