# Two commands a newcomer needs: `make demo` and `make test`. Each sets up all that it needs; `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
# The state of the demo's control plane; tests have their own.
CLUSTER := .localcluster
# Processes for the tests; two suit two cores, since tests that wait for a cluster leave theirs idle.
WORKERS ?= 2
PYTEST_ARGS ?=

.PHONY: help demo test test-faults lint format generate environment localcluster kueue cluster-up cluster-down requirements clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

environment: ## Make .venv from the pinned requirements
	@./requirements/install.sh

localcluster: environment ## Build the local control plane (about ten minutes the first time)
	@./localcluster/build.sh

kueue: localcluster ## Build Kueue's manager, for the tests (about four minutes the first time)
	@./localcluster/kueue/build.sh

cluster-up: localcluster ## Start a local Kubernetes; its kubeconfig is .localcluster/kubeconfig
	@.cache/localcluster/localcluster up --dir $(CLUSTER)

cluster-down: ## Stop it
	@if [ -x .cache/localcluster/localcluster ]; then .cache/localcluster/localcluster down --dir $(CLUSTER); fi

demo: localcluster ## From nothing to a fine-tuned model: cluster, operator, job, result
	@$(BIN)/finetune demo $(DEMO_ARGS)

test: environment localcluster kueue lint ## Every test, lint and type check
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

test-faults: environment localcluster ## The operator under faults of the API server and its own death (FAULTS_ARGS)
	@$(BIN)/python -m tests.faults $(FAULTS_ARGS)

lint: environment ## Style, types, import contracts, generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m finetune_api.generate --check

format: environment ## Format the Python sources
	@$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format -q .

generate: environment ## Write what is derived from the API's models: CRD, chart schema, reference, snapshots
	@$(BIN)/python -m finetune_api.generate

requirements: ## Move the pinned versions to today's
	@$(BIN)/uv pip compile --upgrade --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	  --extra dev pyproject.toml --output-file requirements/dev.txt

clean: cluster-down ## Stop the cluster and remove what was built (the environment stays)
	@rm -rf $(CLUSTER) .cache build dist
