PYTHON  ?= python3
VENV    ?= .venv
CODEGEN ?= .venv-codegen
BIN     := $(VENV)/bin
OVERLAY ?= dev
DISTS   := proto client costmodel server benchmark_worker

# Versions that work together on a machine without a GPU. torchrec asks for the CUDA build of
# fbgemm, which breaks a CPU torch: it is installed without dependencies, they follow by name.
TORCH_CPU    := torch==2.13.0 fbgemm-gpu-cpu==1.8.0
TORCHREC     := torchrec==1.8.0
TORCHREC_NEEDS := pyre-extensions tensordict torchmetrics tqdm

# every target is phony: proto/, server/, deploy/ and tests/ are folders too
.PHONY: help install proto proto-check lint types imports test check demo bundle manifests deploy wheels clean
.DEFAULT_GOAL := help

help:            ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(VENV)/.stamp  ## set up .venv: every package editable, all development tools

$(VENV)/.stamp: pyproject.toml Makefile $(DISTS:%=%/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade 'pip>=25.1'
	$(BIN)/pip install -q $(TORCH_CPU)
	$(BIN)/pip install -q --no-deps $(TORCHREC)
	$(BIN)/pip install -q $(TORCHREC_NEEDS)
	$(BIN)/pip install -q --group dev -e ./proto -e './client[cli]' -e './costmodel[cpu,train]' \
	    -e './server[cpu]' -e './benchmark_worker[cpu]'
	@touch $@

$(CODEGEN)/.stamp: pyproject.toml
	$(PYTHON) -m venv $(CODEGEN)
	$(CODEGEN)/bin/pip install -q --upgrade 'pip>=25.1'
	$(CODEGEN)/bin/pip install -q --group codegen
	@touch $@

proto: $(CODEGEN)/.stamp  ## regenerate the checked-in stubs next to their .proto files
	PATH="$(CURDIR)/$(CODEGEN)/bin:$$PATH" $(CODEGEN)/bin/python -m grpc_tools.protoc -Iproto \
	    --python_out=proto --grpc_python_out=proto --mypy_out=quiet:proto --mypy_grpc_out=quiet:proto \
	    proto/shardwright/v1/*.proto
	rm -f proto/shardwright/v1/problem_pb2_grpc.py* proto/shardwright/v1/plan_pb2_grpc.py*

proto-check: proto install  ## fail if the stubs are stale or buf finds fault with the contract
	$(BIN)/buf lint proto
	git diff --exit-code -- proto
	@test -z "$$(git ls-files --others --exclude-standard proto)"

lint: install    ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install   ## mypy --strict
	$(BIN)/mypy

imports: install ## import directions between the folders
	$(BIN)/lint-imports

test: install    ## set up .venv and run every test that needs no GPU
	$(BIN)/pytest -m 'not gpu' --numprocesses 3 --dist loadfile --no-loadscope-reorder

check: lint types imports proto-check test  ## everything CI runs but the demo

demo: .venv-demo/.stamp  ## plan MLPerf DLRM-DCNv2 on 8 H100 with the shipped cost model
	client/examples/demo.sh .venv-demo/bin build/demo

.venv-demo/.stamp: $(DISTS:%=%/pyproject.toml)
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/pip install -q --upgrade 'pip>=25.1'
	.venv-demo/bin/pip install -q -e ./proto -e './client[cli]' -e './costmodel[cpu]' -e './server[cpu]'
	@touch $@

MODELLED      := nvidia-h100-sxm5-80gb nvidia-a100-sxm4-80gb
SHIPPED       := costmodel/shardwright_costmodel/bundles

bundle: $(MODELLED:%=bundle-%)  ## make the shipped MODELLED bundles anew (some five minutes each)

$(MODELLED:%=bundle-%): bundle-%: install
	rm -rf build/roofline-$* build/roofline-$*-unseen build/bundles/$*
	$(BIN)/shardwright-worker compute --device roofline:$* --samples 50000 --seed 0 --out build/roofline-$*
	$(BIN)/shardwright-worker comm --device roofline:$* --samples 8000 --seed 0 --out build/roofline-$*
	$(BIN)/shardwright-worker compute --device roofline:$* --samples 3000 --seed 0 --held-out --out build/roofline-$*-unseen
	$(BIN)/shardwright-worker comm --device roofline:$* --samples 2000 --seed 0 --held-out --out build/roofline-$*-unseen
	OMP_NUM_THREADS=1 $(BIN)/shardwright-train --data build/roofline-$* --unseen build/roofline-$*-unseen \
	    --out build/bundles --no-promote --name roofline --seed 0 --epochs 40
	rm -rf $(SHIPPED)/$*
	cp -r build/bundles/$* $(SHIPPED)/
	rm -f $(SHIPPED)/$*/*/report*

deploy:          ## apply deploy/kubernetes/overlays/$(OVERLAY) to the current kubectl context
	deploy/deploy.sh $(OVERLAY)

manifests: install  ## render both overlays and validate them against Kubernetes 1.34
	$(BIN)/pytest tests/deploy

wheels:          ## one wheel per deployable, into dist/
	$(PYTHON) -m pip wheel -q --no-deps -w dist $(DISTS:%=./%)

clean:           ## remove environments and build products
	rm -rf $(VENV) $(CODEGEN) .venv-demo build dist .mypy_cache .ruff_cache .pytest_cache
