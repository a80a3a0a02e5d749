# Everything a newcomer types. Needs make, Python 3.10 or newer and a package index; see `make help`.

PYTHON ?= python3
VENV ?= .venv
PINS ?= requirements/tested.txt
ARGS ?=
# Tests side by side, each in one thread; a process takes up to 3 GB. JOBS=0 runs them one after another.
JOBS ?= 2
PYTEST = -m pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder

# What `make demo` compares, and where it writes. `make demo DEMO="..."` compares something else.
DEMO ?= VizdoomDefendCenter-v1 --encoders doom:mini random:mini --env-arg frame_skip=4 --steps 24576 --seeds 1 --jobs 2 --no-diagnose
RUN := runs/demo-$(shell date +%Y%m%d-%H%M%S)

# What `make quick` runs: the rooms of one's daily work, without the files that take longest.
LONG := encoders/test_image encoders/test_video weights/test_attack weights/test_hub \
	weights/test_memory weights/test_whole wrappers/test_sb3 wrappers/test_sb3_algorithms wrappers/test_vector wrappers/test_workers
QUICK := $(filter-out $(LONG:%=tests/%.py),$(wildcard tests/encoders/test_*.py tests/running/test_*.py tests/weights/test_*.py \
	tests/wrappers/test_*.py) tests/nn/test_window.py tests/test_imports.py tests/test_precision.py \
	tests/test_resize.py tests/training/test_config.py)

BIN := $(VENV)/bin
OVERRIDES := requirements/minestudio-overrides.txt
UV_INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint $(PINS)
# A download of torch deserves its progress bar where somebody watches; logs are better without.
QUIET := $(shell [ -t 2 ] || echo -qq)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.PHONY: help demo test quick test-avx2 test-ray test-oldest env lint types contract lock clean

help:  ## show this list
	@echo "make <target> [PYTHON=python3.12] [ARGS=\"...\"]"
	@echo
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
		while IFS='|' read -r name what; do printf '  %-12s %s\n' "$$name" "$$what"; done

demo: $(VENV)/.demo  ## PPO in ViZDoom on a trained and an untrained encoder: some minutes on 2 CPU cores
	@$(BIN)/vpt-gym compare $(DEMO) --out $(RUN) $(ARGS)

test: $(VENV)/.full  ## run every test, MineStudio's parity included (ARGS go to pytest)
	@VPT_GYM_REQUIRE_MINESTUDIO=1 VPT_GYM_REQUIRE_TRITON=$(if $(filter Linux,$(shell uname -s)),1) $(BIN)/python $(PYTEST) $(ARGS)

# What hides AVX-512 and AMX from torch, oneDNN and MKL, as if the CPU had AVX2 alone.
test-avx2: $(VENV)/.full  ## run the network's tests as a CPU without AVX-512 would
	@ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 VPT_GYM_EXPECT_AVX2=1 \
		$(BIN)/python $(PYTEST) tests/nn --ignore tests/nn/test_cuda_triton.py $(ARGS)

quick: $(VENV)/.full  ## the tests of one's daily work, in under two minutes (ARGS go to pytest)
	@$(BIN)/python $(PYTEST) -q $(QUICK) $(ARGS)

test-ray: $(VENV)/.full  ## the tests that start Ray, one after another, on a machine with nothing else to do
	@VPT_GYM_TEST_RAY=1 $(BIN)/python -m pytest tests/rollout $(ARGS)

test-oldest:  ## the same on the oldest supported releases, without MineStudio: PYTHON=python3.10
	@$(MAKE) --no-print-directory VENV=.venv-oldest PINS=requirements/oldest.txt .venv-oldest/.oldest
	@.venv-oldest/bin/python $(PYTEST) $(ARGS)

env: $(VENV)/.full  ## make the full environment and stop there
	@echo "$(VENV) is ready"

lint: $(VENV)/.full  ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.full  ## mypy, strict
	@$(BIN)/mypy

contract: $(VENV)/.full  ## import-linter: which room may import which
	@$(BIN)/lint-imports --no-logo --no-cache

lock: $(VENV)/.full  ## pin the newest releases again (keeps torch)
	@grep -E '^(torch|uv)==' $(PINS) | $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --upgrade \
		--all-extras --group dev --override $(OVERRIDES) --no-header --no-annotate --output-file $(PINS).new pyproject.toml - > /dev/null
	@{ sed '/^[^#]/,$$d' $(PINS); sed -E \
		-e '/^(nvidia-|cuda-)/d' \
		-e "s/ and \(sys_platform == 'darwin' or sys_platform == 'linux'\)//" \
		-e "s/ ; python_full_version < '3.14'( and .*)?$$//" $(PINS).new; } > $(PINS).tmp
	@mv $(PINS).tmp $(PINS) && rm $(PINS).new

clean:  ## remove environments, builds and caches; runs/ stays
	rm -rf .venv .venv-oldest build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# The environment. A stamp is newer than what it was made from, so a second run installs nothing. torch comes first and by
# pip: pip honours a local or CPU build that the machine offers, uv does not look for one, and uv keeps what is installed.

$(VENV)/.torch: $(PINS)
	@command -v "$(PYTHON)" > /dev/null || { \
		echo "$(PYTHON) was not found. Install Python 3.10 or newer, or name one: make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "vpt_gym needs Python 3.10 or newer, but $(PYTHON) is $$($(PYTHON) -V 2>&1). Name a newer one: make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "[1/3] virtual environment $(VENV) with $$($(PYTHON) -V 2>&1)"
	@"$(PYTHON)" -m venv $(VENV)
	@echo "[2/3] torch (200 MB for a CPU build, some GB with CUDA)"
	@$(BIN)/python -m pip install $(QUIET) --constraint $(PINS) torch uv
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	@echo "[3/3] vpt_gym and ViZDoom"
	@$(UV_INSTALL) --editable '.[vizdoom,compare]'
	@touch $@

$(VENV)/.full: $(VENV)/.torch pyproject.toml $(OVERRIDES)
	@echo "[3/3] vpt_gym, ViZDoom, MineStudio and the test tools"
	@$(UV_INSTALL) --override $(OVERRIDES) --editable '.[all,minestudio]' --group dev
	@touch $@ $(VENV)/.demo

$(VENV)/.oldest: $(VENV)/.torch pyproject.toml
	@echo "[3/3] vpt_gym, ViZDoom and the test tools"
	@$(UV_INSTALL) --editable '.[all]' --group dev
	@touch $@
