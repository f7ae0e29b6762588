# EdgeModel: every target sets up what it needs. Start with `make help`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEMO   ?= .edgemodel/demo
# Several targets at once, the output of each in one piece where make can do that.
BESIDE = $(MAKE) --no-print-directory --keep-going $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
DRY = $(if $(findstring n,$(firstword -$(MAKEFLAGS))),echo)
# What to look at when the tests have become slow.
SLOWEST = --durations 10 --durations-min 3
# Tests start this checkout's programs hundreds of times: each would compile all of its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo digits test test-code test-unit test-cluster test-operator test-stories test-testbed fuzz e2e verify format manifests lock tools emulators bench-compress bench-prune bench-rounding bench-distill bench-memory bench-images cluster cluster-down clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(STAMP) ## A virtual environment in .venv with everything that the lock file names

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "EdgeModel needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) has no ensurepip: install your system's python3-venv package" >&2; exit 1; }
	@echo "Installing into $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## The main job: compress a real model, roll it out to three local nodes, ask one what a file is
	@$(BIN)/python examples/file-type/demo.py --workdir $(DEMO)

digits: $(STAMP) ## The small example: a classifier of handwritten digits
	@$(BIN)/python examples/digits/prepare.py
	@$(BIN)/edgemodel run -f examples/digits/edgemodel.yaml --nodes 3

# One after the other what computes (unit, integration), what waits for controllers and kubelets (cluster beside e2e), and what asserts
# how fast the test bed comes up. All at once, on two cores, was some minutes shorter, and left each a third of the clock that it waits
# by. All of them run, whichever fails; the output of those beside each other is shown when they end.
test: $(STAMP) tools ## All tests; those on a cluster where one can be made (root and Go, on Linux)
	@$(BIN)/python -m edgemodel_compressor.verify.install $(if $(EDGEMODEL_REQUIRE_TOOLS),,|| true)
	@code=0; \
	 $(MAKE) --no-print-directory test-code || code=1; \
	 if why=$$($(BIN)/python testbed/cluster.py check); then \
	   $(BESIDE) -j2 test-operator test-stories || code=1; \
	   $(MAKE) --no-print-directory test-testbed || code=1; \
	 else \
	   echo "NOT RUN: tests/cluster, tests/e2e and tests/testbed, as $$why"; test -z "$(EDGEMODEL_REQUIRE_TOOLS)" || code=1; \
	 fi; exit $$code

# Three on two cores, as many tests wait for processes and timeouts. The plus lets it show its progress: the output of what calls itself
# make is not held back. (And make -n would run it.)
test-code: $(STAMP) tools
	+@$(DRY) $(BIN)/python -m pytest -n 3 --dist loadgroup --timeout 300 $(SLOWEST) $(PYTEST_ARGS)

test-unit: $(STAMP) ## The quick ones
	@$(BIN)/python -m pytest -n 2 $(SLOWEST) tests/unit $(PYTEST_ARGS)

fuzz: $(STAMP) ## The properties with new examples, ten times as many: what fails becomes an example of its test
	@EDGEMODEL_FUZZ=10 $(BIN)/python -m pytest -n 2 --timeout 1800 tests/unit tests/integration $(PYTEST_ARGS)

test-cluster: $(STAMP) tools ## The operator, and the chart on the test bed, which stays up for the next run (root, Go)
	+@$(BESIDE) -j2 test-operator test-stories

# A bed of its own, with one node, which is gone afterwards: the chart's operator would serve these tests' models too.
test-operator: $(STAMP) tools
	@set -e; export EDGEMODEL_TESTBED_NUMBER=8; trap '$(BIN)/python testbed/cluster.py down' EXIT; trap 'exit 130' INT TERM; echo; \
	 up=$$($(BIN)/python testbed/cluster.py up --nodes 1); \
	 KUBECONFIG=$${up##*KUBECONFIG=} $(BIN)/python -m pytest $(SLOWEST) tests/cluster $(PYTEST_ARGS)

# On the test bed, whatever KUBECONFIG says.
test-stories: $(STAMP) tools
	@unset KUBECONFIG; echo; $(BIN)/python testbed/cluster.py up > /dev/null && $(BIN)/python testbed/cluster.py images > /dev/null && \
	 $(BIN)/python -m pytest $(SLOWEST) tests/e2e $(PYTEST_ARGS)

e2e: $(STAMP) tools ## Only the chart's stories: on the test bed, or on a cluster of yours (KUBECONFIG, see tests/e2e/conftest.py)
	@$(BIN)/python -m pytest tests/e2e $(PYTEST_ARGS)

test-testbed: $(STAMP) tools ## The test bed itself, on a bed of its own that is gone afterwards
	@$(BIN)/python -m pytest $(SLOWEST) tests/testbed $(PYTEST_ARGS)

tools: $(STAMP) ## Programs that the tests talk to (oras, registry, helm), built with Go into a cache outside the checkout
	@$(BIN)/python tools/install $(if $(EDGEMODEL_REQUIRE_TOOLS),--require)

emulators: $(STAMP) ## QEMU and an arm64 Python with onnxruntime, in a cache outside the checkout: quantized files are verified on other kinds of CPU
	@$(BIN)/python -m edgemodel_compressor.verify.install

verify: $(STAMP) ## Format, lint, types, import contracts, generated files, lock file
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m edgemodel_api.crd --out crds --check
	@$(BIN)/python tools/chart.py --check
	@$(BIN)/python tools/coverage.py --check
	@$(BIN)/python tools/check_lock.py

format: $(STAMP) ## Let ruff format and fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

manifests: $(STAMP) ## Write crds/ from the API types, the chart's copy and table of values, and docs/formats.md's table of operators
	@$(BIN)/python -m edgemodel_api.crd --out crds
	@$(BIN)/python tools/chart.py
	@$(BIN)/python tools/coverage.py

lock: $(STAMP) ## Write requirements.lock from pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --all-extras --group dev --group examples pyproject.toml -o requirements.lock

bench-compress: $(STAMP) emulators ## Our search beside the peers on seven real models (hours; goes on where it was stopped); refreshes README.md, docs/benchmarks.md
	@$(BIN)/python benchmarks/compress.py --update

bench-prune: $(STAMP) ## Dense, pruned, pruned and quantized: bytes on the wire, quality, latency; refreshes its table in README.md
	@$(BIN)/python benchmarks/prune.py --update-readme

bench-rounding: $(STAMP) ## Single steps of Int8 and Int4 weights, rounded plainly and by calibration data; refreshes its table in docs/compression.md
	@$(BIN)/python benchmarks/rounding.py --update

bench-distill: $(STAMP) ## Students with and without a teacher on MNIST and Fashion-MNIST, three seeds, with the interval
	@$(BIN)/python benchmarks/distill.py

bench-memory: $(STAMP) ## Peak memory over the source's size for a model of 3 GB, beside what users pick instead
	@$(BIN)/python benchmarks/memory.py

bench-fleet: $(STAMP) ## The operator with NODES=100,1000 simulated agents on the cluster that KUBECONFIG names: time, CPU, requests
	@$(BIN)/python benchmarks/fleet.py $(if $(NODES),--nodes $(NODES))

bench-images: $(STAMP) ## Size of the images, memory of an agent at rest, beside what users pick instead (root, buildah)
	@$(BIN)/python benchmarks/images.py

cluster: $(STAMP) ## A real Kubernetes cluster on this machine (root, Go); the last line is KUBECONFIG=…
	@$(BIN)/python testbed/cluster.py up $(if $(NODES),--nodes $(NODES)) $(if $(DISK),--disk $(DISK))

cluster-down: $(STAMP) ## Remove it without a trace
	@$(BIN)/python testbed/cluster.py down

clean: ## Remove what the other targets made here
	@rm -rf $(VENV) .edgemodel .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist examples/*/data
