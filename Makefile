# make repro   from a clean clone to an INT8 model and an answered CSV
# make test    the tests
# Both set up .venv first. The rest is for maintainers.

SHELL := /bin/bash
VENV := .venv
PEERS := .venv-peers
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

.PHONY: repro test lint peers real graft hard grid benchmark benchmark-large remote push pull release versions \
  azurite azure-check adapter lock clean clean-checkpoints faults encoders soak kills

repro: $(VENV)/installed
	@$(IN_VENV) python scripts/repro.py

test: $(VENV)/installed $(PEERS)/installed
	$(IN_VENV) OMP_NUM_THREADS=1 python -m pytest --numprocesses 2 --dist loadgroup

lint: $(VENV)/installed
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .
	$(IN_VENV) mypy

$(VENV)/installed: requirements.txt requirements-no-deps.txt pyproject.toml scripts/setup.sh
	@scripts/setup.sh $(VENV)
	@touch $@

# Others' ways to answer, on the releases that have them: what differs from .venv, and the rest of it
# from there. `make benchmark` and the tests that compare with them need it.
peers: $(PEERS)/installed

$(PEERS)/installed: benchmark/requirements.txt scripts/setup_peers.sh $(VENV)/installed
	@scripts/setup_peers.sh $(VENV) $(PEERS)
	@touch $@

# The pipeline on real SQuAD data: by default on the files beside this checkout.
TRAIN ?= ../shared/squad/train.json
VALIDATION ?= ../shared/squad/dev.json
MODEL ?= ../shared/models/minilm-squad

ON_REAL_DATA := -S dataset.name=files -S dataset.train_file=$(abspath $(TRAIN)) \
  -S dataset.validation_file=$(abspath $(VALIDATION)) -S dataset.max_train_examples=4000 \
  -S model.name=folder -S model.folder=$(abspath $(MODEL))

real: $(VENV)/installed
	$(IN_VENV) dvc exp run --name real-$(shell date +%Y%m%d-%H%M%S) $(ON_REAL_DATA) \
	  -S evaluate.max_f1_drop=1.3

# An encoder other than BERT, KIND, with the weights of the BERT MODEL, which answer there as well.
KIND ?= deberta-v2

graft: $(VENV)/installed
	$(IN_VENV) python scripts/graft_encoder.py $(KIND) $(MODEL) models/grafted
	$(IN_VENV) dvc exp run --name $(KIND)-$(shell date +%Y%m%d-%H%M%S) $(ON_REAL_DATA) \
	  -S model.folder=$(abspath models/grafted) -S dataset.max_train_examples=640 -S evaluate.max_f1_drop=100

# What is hardest on calibration: symmetric activations, outliers left as they are. No overflow fix, so
# that the processor's own sums count: README's figures are of one with VNNI.
hard: $(VENV)/installed
	$(IN_VENV) dvc exp run --name hard-$(shell date +%Y%m%d-%H%M%S) $(ON_REAL_DATA) \
	  -S calibrate.preset=performance -S calibrate.quantize_attention=true -S calibrate.smooth_quant_alpha=0.5 \
	  -S calibrate.shift_channels=false -S calibrate.split_channels=0 -S calibrate.rounding=nearest \
	  -S calibrate.overflow_fix=false -S train.learning_rate=5e-5 -S train.epochs=2 -S evaluate.max_f1_drop=100

# The default, then single changes to it, on real data: first after calibration alone, where other
# seeds, which choose the questions to calibrate with, show what chance does; then after training.
GRID_CALIBRATED := calibrate.seed=42 calibrate.seed=1 calibrate.seed=2 calibrate.seed=3 calibrate.seed=4 \
  calibrate.examples=30 calibrate.shift_channels=false calibrate.split_channels=0 \
  calibrate.smooth_quant_alpha=-1 calibrate.rounding=nearest calibrate.overflow_fix=false \
  calibrate.quantize_attention=true calibrate.preset=performance
GRID_TRAINED := train.epochs=1 train.learning_rate=1e-5 train.distillation_weight=0.5
GRID = grid-$(STAMP)-
QUEUE = $(IN_VENV) dvc exp run --queue --name $(GRID)$$change -S $$change $(ON_REAL_DATA) -S evaluate.max_f1_drop=100

# From DVC's queue, in the background: `dvc exp run --run-all` would hold this clone's lock until the end.
grid: STAMP := $(shell date +%Y%m%d-%H%M%S)
grid: COMMIT := $(shell git rev-parse HEAD)
grid: $(VENV)/installed
	for change in $(GRID_CALIBRATED); do $(QUEUE) -S train.epochs=0 || exit; done
	for change in $(GRID_TRAINED); do $(QUEUE) || exit; done
	$(IN_VENV) dvc queue start
	while sleep 60; do state=$$($(IN_VENV) dvc queue status) || continue; \
	  left=$$(grep -Ec ' (Queued|Running)' <<< "$$state") || break; \
	  ! grep -q '0 active, 0 idle' <<< "$$state" || break; \
	  echo "$$left experiments left; dvc queue stop --kill ends them"; done
	$(IN_VENV) dvc exp show --csv --rev $(COMMIT) --hide-failed --hide-queued \
	  --drop '(?!Experiment|ptq|qat).*|.*size' > metrics/grid.csv.partial
	sed -i -n -e 's/\r$$//' -e 1p -e 's/^$(GRID)//p' metrics/grid.csv.partial
	@test $$(wc -l < metrics/grid.csv.partial) = $$((1 + $(words $(GRID_CALIBRATED) $(GRID_TRAINED)))) || \
	  { echo "error: experiments failed, see above; metrics/grid.csv.partial has the others"; exit 1; }
	mv metrics/grid.csv.partial metrics/grid.csv

# Speed, memory and accuracy of the models that the last run made, beside other ways to answer.
benchmark: $(VENV)/installed $(PEERS)/installed
	$(IN_VENV) dvc repro
	$(IN_VENV) dvc repro --force --single-item benchmark/dvc.yaml:benchmark

# The same for a model of BERT-large's shape with random weights: speed and memory only.
benchmark-large: $(VENV)/installed
	$(IN_VENV) python -m benchmark.random_checkpoint --out models/bert-large-shape
	$(IN_VENV) dvc exp run benchmark/dvc.yaml --temp --name bert-large \
	  -S model.name=folder -S model.folder=$(abspath models/bert-large-shape) \
	  -S dataset.max_validation_examples=16 -S calibrate.examples=4 -S calibrate.split_channels=0 \
	  -S calibrate.rounding=nearest \
	  -S train.epochs=0 -S train.distillation_weight=0 -S evaluate.max_f1_drop=100 \
	  -S benchmark.rounds=2 -S benchmark.repeats=3 -S "benchmark.rows=[16]" -S benchmark.steps=0

# The DVC remote: writes .dvc/config.local and checks that reading, writing and deleting work.
CONTAINER ?= bert-qa

remote: $(VENV)/installed
	@$(IN_VENV) python -m release.set_up --account "$(ACCOUNT)" --container "$(CONTAINER)"

push: $(VENV)/installed
	@$(IN_VENV) python -m release.push

# Everything that the remote has for this commit, or one output: make pull TARGET=models/onnx/qat.
pull: $(VENV)/installed
	@$(IN_VENV) python -m release.pull $(if $(TARGET),"$(TARGET)")

# The INT8 model of this commit as a version: make release VERSION=1.2.0.
release: $(VENV)/installed
	@$(IN_VENV) python -m release.tag "$(VERSION)"

# The versions that there are, of this checkout or of a URL: make versions REPO=URL.
versions: $(VENV)/installed
	@$(IN_VENV) python -m release.list_versions $(if $(REPO),"$(REPO)")

# Azure Storage on this machine, until Ctrl-C.
azurite:
	@cloud/azurite.sh

# cloud/ as Azure's own software reads it: the CLI's parser on every az line, azure-ai-ml on the job.
# A large install (0.8 GB), and so an environment of its own; needs no subscription.
azure-check: .venv-az/installed
	.venv-az/bin/python scripts/check_azure.py

.venv-az/installed: cloud/requirements.txt
	python3 -m venv .venv-az
	.venv-az/bin/pip install --disable-pip-version-check --quiet -r cloud/requirements.txt
	@touch $@

# The LoRA adapter of the embedded model, kept in git under models/minilm-squad/.
adapter: $(VENV)/installed
	$(IN_VENV) python scripts/train_adapter.py --train $(TRAIN) --validation $(VALIDATION) \
	  --out models/minilm-squad

# The pins, of what pyproject.toml names; its section tool.uv.pip has the settings. UPGRADE= keeps what still fits.
UPGRADE ?= --upgrade

lock: $(VENV)/installed
	$(IN_VENV) uv pip compile pyproject.toml requirements-no-deps.txt --all-extras $(UPGRADE) -o requirements.txt
	$(IN_VENV) uv pip compile pyproject.toml --constraint requirements.txt -o requirements-answer.txt

# Removes the checkpoints of unfinished training, and says how large each was.
clean-checkpoints: $(VENV)/installed
	@$(IN_VENV) python -m release.mirror_checkpoints remove

clean:
	rm -rf $(VENV) $(PEERS) .venv-az

# What a user sees of each fault that a test is marked with.
faults: $(VENV)/installed
	$(IN_VENV) OMP_NUM_THREADS=1 python -m pytest -p tests.faults -m fault --faults docs/faults.md

# What the pipeline does with a model of every architecture.
encoders: $(VENV)/installed
	$(IN_VENV) python -m tests.encoders

# Properties on 10,000 cases each, then hours of random kills, damage and bad input.
HOURS ?= 1

soak: $(VENV)/installed
	$(IN_VENV) HYPOTHESIS_PROFILE=soak OMP_NUM_THREADS=1 python -m pytest -m hypothesis
	$(IN_VENV) python -m tests.soak --hours $(HOURS)

# One table of 20,000 rows, killed at 20 random points: what `make repro` left answers it.
kills: $(VENV)/installed
	$(IN_VENV) python -m tests.soak.kills
