use super::*;

#[test]
fn directions_follow_types_or_rules() {
    use PolicyType::{Egress, Ingress};
    let rule = || vec![Rule::new(Action::Allow)];
    let policy = |types, ingress, egress| NetworkPolicySpec {
        ingress,
        egress,
        types,
        ..NetworkPolicySpec::default()
    };
    let cases = [
        (policy(None, vec![], vec![]), true, false),
        (policy(None, rule(), vec![]), true, false),
        (policy(None, vec![], rule()), false, true),
        (policy(None, rule(), rule()), true, true),
        (policy(Some(vec![]), vec![], vec![]), true, true),
        (policy(Some(vec![Egress]), rule(), vec![]), false, true),
        (policy(Some(vec![Ingress]), vec![], rule()), true, false),
    ];
    for (policy, ingress, egress) in cases {
        assert_eq!(
            (policy.covers(Ingress), policy.covers(Egress)),
            (ingress, egress),
            "{policy:?}"
        );
    }
}

#[test]
fn absent_and_empty_tiers_are_default() {
    let tier = |tier: Option<&str>| {
        let spec = GlobalNetworkPolicySpec {
            tier: tier.map(str::to_owned),
            ..GlobalNetworkPolicySpec::default()
        };
        spec.tier_name().to_owned()
    };
    assert_eq!(
        [tier(None), tier(Some("")), tier(Some("x"))],
        ["default", "default", "x"]
    );
}

#[test]
fn an_empty_entity_matches_everything() {
    assert!(Entity::default().is_empty());
    assert!(
        !Entity {
            service_accounts: Some(ServiceAccountMatch::default()),
            ..Entity::default()
        }
        .is_empty()
    );
}
