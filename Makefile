# One-line targets; the work is in `.ci/` and in the `lab` binary.
.PHONY: demo test check deps manifests clean-lab

demo: deps
	cargo run -q -p lab -- demo $(ARGS)

test: deps
	.ci/test

check:
	.ci/check

deps:
	.ci/deps

manifests:
	cargo run -q -p routed -- crds > manifests/crds.yaml
	cargo run -q -p routed -- manifests > manifests/margay.yaml

clean-lab:
	cargo run -q -p lab -- clean
