# make demo: score sixty review sentences with the embedded classifier and show them.
# make test: everything the project promises, checked.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
WORKERS ?= 2

.PHONY: demo test lint bench clean

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP_INSTALL) --editable '.[test]'
	touch $@

$(VENV)/.bench: $(VENV)/.test
	$(PIP_INSTALL) --editable '.[test,bench]'
	touch $@

demo: $(VENV)/.demo
	$(BIN)/fastmask score fastmask/assets/demo.txt --out demo-out
	$(BIN)/fastmask inspect demo-out --rows 80

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses $(WORKERS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/bench_score.py --out benchmarks/results/score.json
	$(BIN)/python benchmarks/bench_encoder.py --out benchmarks/results/encoder.json
	$(BIN)/python benchmarks/bench_front_to_shards.py --out benchmarks/results/front_to_shards.json
	$(BIN)/python benchmarks/bench_train.py --out benchmarks/results/train.json
	$(BIN)/python benchmarks/bench_masker.py --out benchmarks/results/masker.json

clean:
	rm -rf $(VENV) demo-out build dist *.egg-info
