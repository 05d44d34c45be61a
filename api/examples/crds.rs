//! Prints all custom resource definitions: `cargo run -p api --example crds > manifests/crds.yaml`.
#![expect(clippy::print_stdout, reason = "printing is its purpose")]

fn main() {
    print!("{}", api::crds_yaml());
}
