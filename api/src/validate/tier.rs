//! Rules of `Tier`.

use super::name::is_dns_label;
use super::{Check, Report, Severity};
use crate::policy::{PINNED_TIERS, Tier};

pub(super) const TIER: &[Check<Tier>] = &[
    Check {
        id: "tier-name",
        severity: Severity::Refuse,
        judge: name,
    },
    Check {
        id: "tier-pinned",
        severity: Severity::Refuse,
        judge: pinned,
    },
];

fn name(tier: &Tier, report: &mut Report<'_>) {
    let name = tier.metadata.name.as_deref().unwrap_or_default();
    if !is_dns_label(name) {
        report.say(
            "metadata.name",
            "the name of a tier is at most 63 of a-z, 0-9 and -, for it must fit a label",
        );
    }
}

fn pinned(tier: &Tier, report: &mut Report<'_>) {
    let fixed = PINNED_TIERS
        .iter()
        .find(|fixed| tier.metadata.name.as_deref() == Some(fixed.name));
    if let Some(fixed) = fixed.filter(|fixed| fixed.default_action != tier.spec.end()) {
        report.say(
            "spec.defaultAction",
            format!(
                "the tier {} must have default action {}",
                fixed.name, fixed.default_action
            ),
        );
    }
}
