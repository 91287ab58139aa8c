# melzarr: audio files → a Zarr store of mel windows → a genre network. `make` alone lists what can be made.

# The versions of Python for which TensorFlow has wheels, the newest first.
TRAINS  := $(shell sed -n 's/^tensorflow-pythons = "\(.*\)".*/\1/p' pyproject.toml)
# The first that all of melzarr works on: python3, else another that is installed; else python3, which makes features.
ifeq ($(origin PYTHON),undefined)
PYTHON  := $(firstword $(foreach python,python3 $(TRAINS:%=python%),$(if $(filter $(TRAINS),$(shell \
               $(python) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)),$(python))) python3)
endif
VENV    ?= .venv
DATASET ?= demo
SOURCE  ?= $(DATASET)
override SOURCE := $(patsubst %/,%,$(patsubst ~/%,$(HOME)/%,$(SOURCE)))
STORE   ?= $(basename $(notdir $(SOURCE))).zarr
CLUSTER ?= local
RECIPE  ?= default
PROTOCOL ?= track
SHARE   ?= $(basename $(notdir $(STORE)))-share
RUN     ?= runs/$(basename $(notdir $(STORE)))-$(basename $(notdir $(RECIPE)))-$(if $(FOLDS),folds-$(FOLDS),$(PROTOCOL))

BIN    := $(VENV)/bin
PYVER  := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# uv installs in seconds; it is told the index of pip's settings, which it does not read by itself.
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV     := UV_SYSTEM_CERTS=1 UV_DEFAULT_INDEX="$${PIP_INDEX_URL:-$$($(PIP) config get global.index-url 2>/dev/null)}" \
              $(BIN)/uv pip install --quiet --python $(BIN)/python
define INSTALL
@echo "installing requirements/$(1).txt into $(VENV)"
@$(UV) --require-hashes -r requirements/$(1).txt
@$(UV) --no-deps --no-build-isolation --editable .
endef

# A store is built from a dataset, which is fetched first, or from a folder or manifest of your own.
IS_DATASET := $(wildcard datasets/$(SOURCE)/recipe.toml)
FETCH      := $(if $(FROM),--from "$(FROM)") $(if $(TRACKS_PER_STYLE),--tracks-per-label $(TRACKS_PER_STYLE))
TRAINING   := --recipe "$(RECIPE)" $(if $(FOLDS),--folds $(FOLDS),--protocol "$(PROTOCOL)")
# One process more than there are cores, for tests also wait: for disks, servers and other processes.
SIDE_BY_SIDE = --numprocesses $(or $(WORKERS),$(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)) --maxprocesses 8 --dist loadfile
BUILD      := --cluster $(CLUSTER) $(if $(WORKERS),--workers $(WORKERS)) $(if $(FORCE),--force) $(ARGS)

# What is installed is compiled when it is first imported; that must be kept, or every process does it again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help features fetch scan inspect picture verify report share train evaluate predict reproduce test test-slow lint format \
        bench bench-gpu torture lock clean
.DELETE_ON_ERROR:

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  Settings, as in: make features SOURCE=path/to/music STORE=music.zarr"
	@echo "    DATASET=demo|gtzan       which dataset (a folder of datasets/); FROM=path takes it from a copy of yours"
	@echo "    SOURCE=path              a folder of label/file, or a manifest, in place of a dataset; also s3://…"
	@echo "    STORE=path               the store; by default SOURCE's name with .zarr; also s3://…"
	@echo "    CLUSTER=local|slurm|…    where to compute, also pbs, sge, lsf, kubernetes, tcp://…;  WORKERS=n  how many"
	@echo "    TRACKS_PER_STYLE=10      a smaller demo, for a quick look"
	@echo "    FORCE=1                  replace a finished store or run;  ARGS='…'  any other option of the command"
	@echo "    RECIPE=default|article   how to train, or a file;  PROTOCOL=track|window|NAME  what is tested on"
	@echo "    FOLDS=5                  judge every track, by a member that has not heard its group, in place of PROTOCOL"
	@echo "    RUN=path                 the run; by default runs/STORE-RECIPE-PROTOCOL"
	@echo "    SHARE=path               the dataset for others: a folder, NAME.zarr.zip, or s3://…"
	@echo "    SONG=path                the song whose genre is asked for"
	@echo "    MUSIC=path               real music to measure with;  GROUP=column  of its manifest"
	@echo "    PYTHON=python3.13        which Python"

features: $(VENV)/.features-$(PYVER) $(if $(IS_DATASET),fetch) ## compute the mel windows of a dataset, or of SOURCE
	$(BIN)/melzarr features "$(SOURCE)" "$(STORE)" $(BUILD)

fetch: $(VENV)/.features-$(PYVER) ## bring or make the audio of DATASET
	$(BIN)/melzarr fetch "$(if $(IS_DATASET),$(SOURCE),$(DATASET))" $(FETCH)

scan: $(VENV)/.features-$(PYVER) $(if $(IS_DATASET),fetch) ## look at the audio: what is there, what a build would cost
	$(BIN)/melzarr scan "$(SOURCE)"

inspect: $(VENV)/.features-$(PYVER) ## say what the store holds
	$(BIN)/melzarr inspect "$(STORE)"

picture: $(VENV)/.features-$(PYVER) ## draw one track of each label as a PNG beside the store
	$(BIN)/melzarr inspect "$(STORE)" --picture "$(basename $(if $(findstring ://,$(STORE)),$(notdir $(STORE)),$(STORE))).png"

verify: $(VENV)/.features-$(PYVER) ## check the store: checksums, statuses, a sample computed again by librosa
	$(BIN)/melzarr verify "$(STORE)" --source "$(SOURCE)" --sample 20

report: $(VENV)/.features-$(PYVER) ## write a page of what the store holds, and of its RUN where there is one
	$(BIN)/melzarr report "$(STORE)" $(if $(wildcard $(RUN)/metrics.json),--run "$(RUN)") $(ARGS)

share: $(VENV)/.features-$(PYVER) ## make the store a dataset that explains itself, at SHARE
	$(BIN)/melzarr share "$(STORE)" "$(SHARE)" $(if $(FORCE),--force) $(ARGS)

train: can-train $(VENV)/.train-$(PYVER) ## train the network on the store, which is made first if it is not there
	@test -d "$(STORE)" || $(BIN)/melzarr inspect "$(STORE)" >/dev/null 2>&1 || $(MAKE) features ARGS=
	$(BIN)/melzarr train "$(STORE)" $(TRAINING) --run "$(RUN)" $(if $(FORCE),--force) $(ARGS)

evaluate: can-train $(VENV)/.train-$(PYVER) ## say how good the network is on tracks that it has not heard
	@test -f "$(RUN)/metrics.json" || $(MAKE) train ARGS=
	$(BIN)/melzarr evaluate "$(RUN)" "$(STORE)" $(ARGS)

predict: can-train $(VENV)/.train-$(PYVER) ## name the genre of SONG
	@test -n "$(SONG)" || { echo "say which song: make predict SONG=path/to/song.mp3"; exit 2; }
	@test -f "$(RUN)/metrics.json" || $(MAKE) train ARGS=
	$(BIN)/melzarr predict "$(RUN)" "$(SONG)" $(ARGS)

reproduce: can-train $(VENV)/.train-$(PYVER) ## repeat the article's experiment on the store, and report; hours for a thousand tracks
	@test -d "$(STORE)" || $(BIN)/melzarr inspect "$(STORE)" >/dev/null 2>&1 || $(MAKE) features ARGS=
	$(BIN)/melzarr reproduce "$(STORE)" $(if $(FOLDS),--folds $(FOLDS)) $(ARGS)

test: can-train $(VENV)/.dev-$(PYVER) ## run the tests that are fast, which are nearly all, on all cores
	$(BIN)/python -m pytest -m "not slow" $(SIDE_BY_SIDE) $(ARGS)

test-slow: can-train $(VENV)/.dev-$(PYVER) ## run the others: clusters, servers, hosts, kills, disks that fail
	$(BIN)/python -m pytest -m slow $(SIDE_BY_SIDE) $(ARGS)

lint: can-train $(VENV)/.dev-$(PYVER) ## check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: can-train $(VENV)/.dev-$(PYVER) ## lay out the code as the linter wants it
	$(BIN)/ruff format .

bench: can-train $(VENV)/.bench-$(PYVER) ## measure everything, beside other ways to the same; writes docs/benchmarks.md
	PYTHONPATH=tests/stores $(BIN)/python tests/benchmarks/bench.py $(if $(MUSIC),--music "$(MUSIC)") $(if $(GROUP),--group "$(GROUP)") $(ARGS)

bench-gpu: can-train $(VENV)/.train-$(PYVER) ## train on a GPU from the store, beside windows that lie in its memory
	PYTHONPATH=tests/benchmarks $(BIN)/python tests/benchmarks/bench_gpu.py "$(STORE)" $(ARGS)

torture: can-train $(VENV)/.dev-$(PYVER) ## end commands at each change, mutate audio, kill builds at random, for MINUTES=10 each
	$(BIN)/python tests/torture/sweep.py --minutes $(or $(MINUTES),10)
	PYTHONPATH=tests/stores $(BIN)/python tests/torture/mutations.py --files 10000
	$(BIN)/python tests/torture/kills.py --rounds 100000 --minutes $(or $(MINUTES),10) $(ARGS)

lock: can-train $(VENV)/.dev-$(PYVER) ## resolve the versions anew
	set -e; lock() { out=$$1; shift; $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
	    --generate-hashes --no-emit-index-url --custom-compile-command 'make lock' -o requirements/$$out "$$@"; }; \
	lock uv.txt requirements/uv.in; \
	lock dev.txt pyproject.toml requirements/build.in --extra dev; \
	lock features.txt pyproject.toml requirements/build.in --extra cluster --extra codecs --extra object-store --extra parquet --extra plot -c requirements/dev.txt; \
	lock train.txt pyproject.toml requirements/build.in --extra cluster --extra codecs --extra object-store --extra parquet --extra train -c requirements/dev.txt

clean: ## remove the environment and caches; stores and audio stay
	rm -rf $(VENV) build dist .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find melzarr pipeline model tests -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment for each version of Python; a stamp says what is in it, so that nothing is installed twice.

.PHONY: can-train
can-train:
	@$(if $(filter $(PYVER),$(TRAINS)),,$(error training and tests need Python $(subst $() , or ,$(TRAINS)), for which \
	    TensorFlow has wheels, and $(PYTHON) is $(or $(PYVER),not there); install Python $(firstword $(TRAINS)), which make \
	    then finds, or say where one is: make PYTHON=…))

$(VENV)/.python-$(PYVER): requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "melzarr needs Python 3.11 or later, not $(PYVER): make PYTHON=…")'
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --require-hashes -r requirements/uv.txt
	@touch $@

$(VENV)/.features-$(PYVER): $(VENV)/.python-$(PYVER) requirements/features.txt pyproject.toml
	$(call INSTALL,features)
	@touch $@

$(VENV)/.train-$(PYVER): $(VENV)/.python-$(PYVER) requirements/train.txt pyproject.toml
	$(call INSTALL,train)
	@touch $@ $(VENV)/.features-$(PYVER)

$(VENV)/.dev-$(PYVER): $(VENV)/.python-$(PYVER) requirements/dev.txt pyproject.toml
	$(call INSTALL,dev)
	@touch $@ $(VENV)/.features-$(PYVER) $(VENV)/.train-$(PYVER)

# What is measured beside melzarr, in its newest versions. PyTorch is larger than all others together.
PEERS := torch xbatcher zarrs "annbatch; python_version >= '3.12'"

$(VENV)/.bench-$(PYVER): $(VENV)/.dev-$(PYVER)
	$(UV) $(PEERS)
	@touch $@
