//! All CRDs as YAML.
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// All CRDs.
pub fn crds() -> Vec<CustomResourceDefinition> {
    Vec::new()
}

/// All CRDs as YAML.
pub fn crds_yaml() -> String {
    String::new()
}
