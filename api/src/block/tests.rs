use serde_json::json;

use super::*;

#[test]
fn null_and_absent_are_read_as_empty() {
    let block: IPAMBlockSpec = serde_json::from_value(json!({
        "cidr": "x", "allocations": null, "attributes": null, "deleted": null, "sequenceNumber": null,
    }))
    .unwrap();
    assert_eq!(
        block,
        IPAMBlockSpec {
            cidr: "x".to_owned(),
            ..IPAMBlockSpec::default()
        }
    );
}

#[test]
fn unknown_fields_survive() {
    let json = json!({
        "cidr": "10.0.0.0/30", "allocations": [0, null, null, null], "unallocated": [1, 2, 3],
        "attributes": [{ "handle_id": "h", "new": 1 }], "sequenceNumber": 7, "strictAffinity": false,
        "new": { "deep": [true] },
    });
    let block: IPAMBlockSpec = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(block.other.len(), 1);
    assert_eq!(block.attributes[0].other["new"], json!(1));
    assert_eq!(serde_json::to_value(&block).unwrap(), json);
}

#[test]
fn claims_of_old_rows_are_confirmed() {
    let claim = |state: &str| {
        BlockAffinitySpec {
            state: state.to_owned(),
            ..BlockAffinitySpec::default()
        }
        .claim()
    };
    assert_eq!(claim(""), Some(AffinityState::Confirmed));
    assert_eq!(claim("pending"), Some(AffinityState::Pending));
    assert_eq!(
        claim("pendingDeletion"),
        Some(AffinityState::PendingDeletion)
    );
    assert_eq!(claim("other"), None);
}
