# Everything runs in .venv, which `make install` makes. PYTHON may name another interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: install install-dev demo test test-full check soak benchmarks clean

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.installed

demo: install
	$(BIN)/unbroken demo
	mkdir -p build
	$(BIN)/unbroken traffic simulate traffic_light_control --controller webster --seed 3 --plot build/traffic.png

test: install-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-full: install-dev
	rm -f build/matrix.jsonl && mkdir -p build
	UNBROKEN_TEST_FULL=1 UNBROKEN_MATRIX_RESULTS=$(CURDIR)/build/matrix.jsonl $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
	$(BIN)/python tools/exactness_table.py build/matrix.jsonl docs/exactness.md

check: install-dev
	$(BIN)/ruff format --check src tests examples benchmarks tools
	$(BIN)/ruff check src tests examples benchmarks tools
	$(BIN)/mypy src
	$(BIN)/lint-imports

soak: install-dev
	$(BIN)/python -m unbroken.testing.campaign --kills 200 --table docs/soak.md

benchmarks: install-dev
	$(BIN)/python benchmarks/checkpoint_cost.py
	$(BIN)/python benchmarks/checkpoint_growth.py
	$(BIN)/python benchmarks/resume_time.py
	$(BIN)/python benchmarks/plain_ppo.py
	$(BIN)/python benchmarks/traffic_sumo.py
	$(BIN)/python benchmarks/traffic_speed.py
	$(BIN)/python benchmarks/cache.py

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
