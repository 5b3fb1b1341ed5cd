# make repro   from a clean clone to an INT8 model and an answered CSV
# make test    the tests
# Both set up .venv first. The rest is for maintainers.

SHELL := /bin/bash
VENV := .venv
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

.PHONY: repro test lint real adapter lock clean

repro: $(VENV)/installed
	$(IN_VENV) dvc repro

test: $(VENV)/installed
	$(IN_VENV) python -m pytest

lint: $(VENV)/installed
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .
	$(IN_VENV) mypy

$(VENV)/installed: requirements.txt scripts/setup.sh
	@scripts/setup.sh $(VENV)
	@touch $@

# The pipeline on real SQuAD data: by default on the files beside this checkout.
TRAIN ?= ../shared/squad/train.json
VALIDATION ?= ../shared/squad/dev.json
MODEL ?= ../shared/models/minilm-squad

real: $(VENV)/installed
	$(IN_VENV) dvc exp run --name real-$(shell date +%Y%m%d-%H%M%S) \
	  -S dataset.name=files -S dataset.train_file=$(abspath $(TRAIN)) \
	  -S dataset.validation_file=$(abspath $(VALIDATION)) -S dataset.max_train_examples=4000 \
	  -S evaluate.max_f1_drop=0.7 \
	  -S model.name=folder -S model.folder=$(abspath $(MODEL))

# The LoRA adapter of the embedded model, kept in git under models/minilm-squad/.
adapter: $(VENV)/installed
	$(IN_VENV) python scripts/train_adapter.py --train $(TRAIN) --validation $(VALIDATION) \
	  --out models/minilm-squad

# requirements.txt from requirements.in, for Python 3.10 to 3.12. torch pins its own CUDA packages,
# which a CPU build does without: they stay out of the list.
CUDA := cuda-bindings cuda-pathfinder cuda-toolkit triton nvidia-cublas nvidia-cuda-cupti \
  nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand \
  nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink \
  nvidia-nvshmem-cu13 nvidia-nvtx

lock: $(VENV)/installed
	$(IN_VENV) uv pip compile requirements.in --universal --python-version 3.10 --upgrade \
	  --annotation-style line --custom-compile-command "make lock" \
	  $(addprefix --no-emit-package ,$(CUDA)) -o requirements.txt

clean:
	rm -rf $(VENV)
