# make demo: score sixty review sentences with the embedded classifier and show them.
# make demo-pipeline: all three stages on product reviews from the package index, and the comparison of their arms.
# make demo-methods: every way to choose masks on the same reviews, each against its control, and the comparison.
# make docs: the documentation as a site of static pages, in build/site.
# make test: everything the project promises, checked.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
WORKERS ?= 2
REVIEWS := demo-pipeline/vaderSentiment-3.3.2.tar.gz

.PHONY: demo demo-pipeline demo-methods docs test lint bench clean

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .
	touch $@

# one installation for tests, lint and docs: each costs seconds
$(VENV)/.test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable '.[test,docs]'
	touch $@

$(VENV)/.pipeline: $(VENV)/.demo
	$(PIP_INSTALL) --editable '.[evaluate]'
	touch $@

$(VENV)/.bench: $(VENV)/.test
	$(PIP_INSTALL) --editable '.[test,bench]'
	touch $@

demo: $(VENV)/.demo
	$(BIN)/fastmask score fastmask/assets/demo.txt --out demo-out
	$(BIN)/fastmask inspect demo-out --rows 80
	$(BIN)/fastmask report demo-out -o demo-out.html

demo-pipeline: $(VENV)/.pipeline $(REVIEWS)
	$(BIN)/python recipes/demo_data.py $(REVIEWS) demo-pipeline
	$(BIN)/fastmask run recipes/demo.toml

demo-methods: $(VENV)/.pipeline $(REVIEWS)
	$(BIN)/python recipes/demo_data.py $(REVIEWS) $@ 2
	$(BIN)/fastmask score $@/general.txt --out $@/general-masks --method random --model fastmask/assets
	$(BIN)/fastmask pretrain $@/general-masks --init fastmask/assets --out $@/general --sample --lr 3e-4 --batch-size 32
	$(BIN)/fastmask run recipes/all-methods.toml

$(REVIEWS): | $(VENV)/.demo
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest $(@D) vaderSentiment==3.3.2

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/bench_startup.py --out benchmarks/results/startup.json
	$(BIN)/python benchmarks/bench_score.py --out benchmarks/results/score.json
	$(BIN)/python benchmarks/bench_encoder.py --out benchmarks/results/encoder.json
	$(BIN)/python benchmarks/bench_front_to_shards.py --out benchmarks/results/front_to_shards.json
	$(BIN)/python benchmarks/bench_train.py --out benchmarks/results/train.json
	$(BIN)/python benchmarks/bench_masker.py --out benchmarks/results/masker.json
	$(BIN)/python benchmarks/bench_cluster.py --out benchmarks/results/cluster.json

clean:
	rm -rf $(VENV) demo-out demo-out.html demo-pipeline demo-methods build dist *.egg-info
