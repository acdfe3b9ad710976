# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt
RUN := OMP_NUM_THREADS=1

.PHONY: demo test tests quick coverage check format test-slow benchmark docs notebook browser clean

demo: .venv/demo
	$(BIN)/python examples/demo.py

# What is read and what is run, side by side: neither fills two cores alone.
test: .venv/dev browser
	$(MAKE) --no-print-directory --jobs=2 check tests

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

tests: .venv/dev browser
	$(RUN) $(BIN)/pytest -n 2 --dist worksteal -m "not slow and not gpu"

# Without processes, browser, documentation, Ray and what is wide: for the time between two edits.
quick: .venv/dev
	$(RUN) $(BIN)/pytest -n 2 --dist worksteal -m "not (slow or gpu or web or docs or process or ray or wide)"

test-slow: .venv/dev browser
	$(RUN) $(BIN)/pytest -m "slow or gpu"

# Lines of the package that the tests run, without those that only other processes run.
coverage: .venv/dev browser
	$(RUN) $(BIN)/pytest -n 2 --dist worksteal -m "not slow and not gpu" --cov --cov-report=term:skip-covered

benchmark: .venv/dev
	$(BIN)/python benchmarks/cam.py

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/dev
	$(BIN)/mkdocs serve

notebook: .venv/dev
	$(BIN)/python examples/execute.py

# A browser for the tests of the page: any Chromium at hand, else Debian's.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	  test -n "$$CONCEPTLENS_CHROMIUM" || tools/install-debian chromium

.venv/python:
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || tools/install-debian python3-venv
	$(PYTHON) -m venv .venv
	@touch $@

# torch first and alone: what needs it then takes the one that is there.
.venv/torch: .venv/python constraints.txt
	$(PIP) torch
	@touch $@

.venv/demo: .venv/torch pyproject.toml
	$(PIP) --editable ".[demo]"
	@touch $@

.venv/dev: .venv/demo
	$(PIP) --editable ".[dev]"
	@touch $@

clean:
	rm -rf .venv site .pytest_cache .ruff_cache .hypothesis .import_linter_cache
