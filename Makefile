# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS := $(VENV)/.installed-docs

.PHONY: demo test lint docs quick format clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

$(DOCS): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

demo: $(STAMP)
	$(BIN)/subspan demo --out runs/demo

test: $(STAMP) # a process with one thread for each core, at most four: tensors are small
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

quick: $(STAMP) # every method on the digits, 3 minutes on 2 cores; fails if one fails or none runs
	rm -f runs/quick.jsonl
	$(BIN)/subspan bench run --suite quick --out runs/quick.jsonl

docs: $(DOCS)
	rm -rf site
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -d build/doctrees docs site

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .mypy_cache
