//! What `kubectl apply` installs: the CRDs, the admission policies of their rules, and `manifests/base.yaml` with the image filled in.

/// Image of a release.
pub const DEFAULT_IMAGE: &str = concat!("margay/routed:", env!("CARGO_PKG_VERSION"));

const BASE: &str = include_str!("../../manifests/base.yaml");
const IMAGE_PLACEHOLDER: &str = "MARGAY_IMAGE";

/// The whole manifest.
pub fn manifest(image: &str) -> String {
    format!(
        "{}{}---\n{}",
        api::crds_yaml(),
        api::admission_yaml(),
        BASE.replace(IMAGE_PLACEHOLDER, image)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_in_the_tree_is_the_one_that_is_printed() {
        let stored = include_str!("../../manifests/margay.yaml");
        assert!(stored == manifest(DEFAULT_IMAGE), "run `make manifests`");
    }
}
