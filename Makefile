# `make help` lists the targets. All set up .venv first where they need it.

SHELL := /bin/bash
VENV := .venv
PEERS := .venv-peers
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
PYTEST := $(IN_VENV) python -m pytest

.PHONY: help setup repro test check lint lock peers data real rest hard grid graft benchmark benchmark-large million gpu processes experiments remote push \
  pull release versions azurite azure-check adapter faults encoders docs soak kills clean-checkpoints clean

help: ## these lines
	@sed -n 's/^\([a-z][a-z -]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "%-16s %s\n", $$1, $$2}'

repro: $(VENV)/installed ## from a clean clone to an INT8 model and an answered CSV
	@$(IN_VENV) python scripts/repro.py

test: $(VENV)/installed $(PEERS)/installed ## all tests
	$(PYTEST) --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 25

check: lint ## lint, types, and the tests that need no reproduced pipeline
	$(PYTEST) --numprocesses 2 --dist loadfile --no-loadscope-reorder tests/quick

lint: $(VENV)/installed ## ruff and mypy
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .
	$(IN_VENV) mypy

setup: $(VENV)/installed ## .venv with the pinned requirements and this project

$(VENV)/installed: requirements.txt requirements-no-deps.txt pyproject.toml scripts/setup.sh
	@scripts/setup.sh $(VENV)
	@touch $@

# Others' ways to answer, on the releases that have them: what differs from .venv, and the rest of it
# from there. `make benchmark` and the tests that compare with them need it.
peers: $(PEERS)/installed ## .venv-peers, with other libraries' ways to answer

$(PEERS)/installed: benchmark/requirements.txt scripts/setup_peers.sh $(VENV)/installed
	@scripts/setup_peers.sh $(VENV) $(PEERS)
	@touch $@

lock: $(VENV)/installed ## pin pyproject.toml's requirements anew; UPGRADE= keeps what still fits
	$(IN_VENV) uv pip compile pyproject.toml requirements-no-deps.txt --all-extras $(UPGRADE) -o requirements.txt
	$(IN_VENV) uv pip compile pyproject.toml --constraint requirements.txt -o requirements-answer.txt

UPGRADE ?= --upgrade

# Experiments on public questions, or on files of one's own, and on the embedded model, or one's own MODEL.
TRAIN ?=
VALIDATION ?=
MODEL ?=
EXPERIMENT = $(IN_VENV) python scripts/experiment.py
# Both files or none: a model that was trained on one's own questions is not to be scored on others by mistake.
OWN = $(strip $(TRAIN)$(VALIDATION))
PUBLIC = $(if $(OWN),,data)
PUBLIC_DATA = --train data/public/train.jsonl --validation data/public/validation.jsonl
REAL_DATA = $(if $(OWN),$(if $(TRAIN),--train $(TRAIN)) $(if $(VALIDATION),--validation $(VALIDATION)),$(PUBLIC_DATA))

data: $(VENV)/installed ## the public questions that the results are measured on
	$(IN_VENV) python scripts/fetch_data.py

real hard grid: $(VENV)/installed $(PUBLIC) ## experiments on TRAIN, VALIDATION and MODEL: see experiments/
	$(EXPERIMENT) $@ $(REAL_DATA) $(if $(MODEL),--model $(MODEL))

rest: $(VENV)/installed data ## the models of `make real` on the questions that it left
	$(EXPERIMENT) $@ --train data/public/train.jsonl --validation data/public/rest.jsonl \
	  $(if $(MODEL),--model $(MODEL))

# An encoder other than BERT, KIND, with the weights of a BERT, which answer there as well.
KIND ?= deberta-v2

graft: $(VENV)/installed $(PUBLIC) ## the same with another encoder, KIND, that has the weights of MODEL
	$(IN_VENV) python scripts/graft_encoder.py $(KIND) $(or $(MODEL),models/minilm-squad) models/grafted
	$(EXPERIMENT) $@ $(REAL_DATA) --model models/grafted

benchmark: $(VENV)/installed $(PEERS)/installed ## speed, memory and accuracy of the last run, beside other ways
	$(IN_VENV) dvc repro
	$(IN_VENV) dvc repro --force --single-item benchmark/dvc.yaml:benchmark

benchmark-large: $(VENV)/installed $(PEERS)/installed ## speed and memory of a model of BERT-large's shape
	$(IN_VENV) python -m benchmark.random_checkpoint --out models/bert-large-shape
	$(EXPERIMENT) bert-large --model models/bert-large-shape

# ROWS or MINUTES, whichever comes first, on this machine and then through Ray on it.
ROWS ?= 1000000
MINUTES ?= 60
SOURCE ?= data/public/train.jsonl

million: $(VENV)/installed $(if $(filter data/public/%,$(SOURCE)),data) ## a million rows, or an hour of them: speed and memory over time
	$(IN_VENV) python -m benchmark.million --rows $(ROWS) --minutes $(MINUTES) --source $(SOURCE)
	$(IN_VENV) python -m benchmark.million --rows $(ROWS) --minutes $(MINUTES) --source $(SOURCE) \
	  --cluster auto --out metrics/million-ray.csv

processes: $(VENV)/installed ## quantization-aware training by one process and by two: losses and F1
	$(IN_VENV) python -m benchmark.processes_compared

experiments: $(VENV)/installed ## what experiments changed and scored, in a terminal's width
	@$(IN_VENV) dvc exp show --no-pager --only-changed --drop '$(UNSHOWN)'

# Columns of `dvc exp show` that fit a terminal: what was changed, and those scores that it changed.
SCORES := questions|fp32\.f1|qat\.(f1|f1_difference|same_answers|divergence)
SECTIONS := dataset|model|windows|decoding|finetune|calibrate|train|infer|evaluate
UNSHOWN := (?!Experiment$$|($(SCORES))$$|($(SECTIONS))\.).*

gpu: $(VENV)/installed ## quantization-aware training steps on a GPU, in eight minutes
	$(IN_VENV) python -m benchmark.gpu

CONTAINER ?= bert-qa

remote: $(VENV)/installed ## set up the DVC remote: ACCOUNT=NAME CONTAINER=NAME
	@$(IN_VENV) python -m release.set_up --account "$(ACCOUNT)" --container "$(CONTAINER)"

push: $(VENV)/installed ## send outputs and the run cache to the remote
	@$(IN_VENV) python -m release.push

pull: $(VENV)/installed ## fetch what the remote has for this commit, or TARGET=models/onnx/qat
	@$(IN_VENV) python -m release.pull $(if $(TARGET),"$(TARGET)")

release: $(VENV)/installed ## this commit's INT8 model as a version: VERSION=1.2.0
	@$(IN_VENV) python -m release.tag "$(VERSION)"

versions: $(VENV)/installed ## the released versions, of this checkout or REPO=URL
	@$(IN_VENV) python -m release.list_versions $(if $(REPO),"$(REPO)")

azurite: ## Azure Storage on this machine, until Ctrl-C
	@cloud/azurite.sh

# A large install (0.8 GB), and so an environment of its own; needs no subscription.
azure-check: .venv-az/installed ## cloud/ as Azure's own software reads it
	.venv-az/bin/python scripts/check_azure.py

.venv-az/installed: cloud/requirements.txt
	python3 -m venv .venv-az
	.venv-az/bin/pip install --disable-pip-version-check --quiet -r cloud/requirements.txt
	@touch $@

adapter: $(VENV)/installed $(PUBLIC) ## train the LoRA adapter of the embedded model, kept in models/minilm-squad/
	$(IN_VENV) python scripts/train_adapter.py $(REAL_DATA) --out models/minilm-squad

faults: $(VENV)/installed ## docs/faults.md: what a user sees of each fault that a test is marked with
	$(PYTEST) -p tests.faults -m fault --faults docs/faults.md

encoders: $(VENV)/installed ## docs/encoders.md: the pipeline on a model of every architecture
	$(IN_VENV) python -m tests.encoders

docs: $(VENV)/installed .venv-docs/installed ## docs/ as a site, build/docs/README.html, its links checked
	$(IN_VENV) python -m scripts.parameter_reference
	.venv-docs/bin/sphinx-build --quiet --fail-on-warning --nitpicky docs build/docs

.venv-docs/installed: docs/requirements.txt | $(VENV)/installed
	$(VENV)/bin/python -m venv .venv-docs
	.venv-docs/bin/pip install --disable-pip-version-check --quiet -r docs/requirements.txt
	@touch $@

HOURS ?= 1

soak: $(VENV)/installed ## properties on 10,000 cases each, then HOURS of random kills, damage and bad input
	HYPOTHESIS_PROFILE=soak $(PYTEST) -m hypothesis
	$(IN_VENV) python -m tests.soak --hours $(HOURS)

kills: $(VENV)/installed ## a table of 20,000 rows, killed at 20 random points; needs what `make repro` makes
	$(IN_VENV) python -m tests.soak.kills

clean-checkpoints: $(VENV)/installed ## remove the checkpoints of unfinished training
	@$(IN_VENV) python -m release.mirror_checkpoints remove

clean: ## remove the environments
	rm -rf $(VENV) $(PEERS) .venv-az .venv-docs
