# make demo: train, measure and report a tokenizer on the built-in photographs. make test: everything CI checks.
# make picture: the README's picture, a test photograph as the demo's tokenizer sees it.
# make coverage: which lines and branches of the core its tests run.
# make docs: the documentation as a site, in site/; it needs no server. make notebooks: its notebooks as .ipynb files.
# make models: the models of models/ again, from their data: a quarter of an hour of one core.
# make compare: GM-VQ and every rival on the photographs, about an hour on two cores.
# Each sets up its own environment first, from pinned constraints, with only the extras it needs.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# What the page of gmvq export --web runs on, for its test, which skips without it (CONTRIBUTING.md).
ORT := onnxruntime-web-1.30.0.tgz

.PHONY: demo picture docs notebooks models compare test lint types unit coverage clean

demo: .venv/.demo
	$(BIN)/gmvq fit --config configs/photos.yaml --out runs/demo

# Warnings are errors (strict in mkdocs.yml); GMVQ_DOCS_EXECUTE=0 leaves the notebooks' outputs out.
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "open site/index.html"

notebooks: .venv/.docs
	$(BIN)/python -m jupytext --to ipynb --set-kernel python3 docs/notebooks/*.py

ASTRONAUT = $(shell $(BIN)/python -c "import importlib.util as u; print(u.find_spec('skimage').submodule_search_locations[0])")/data/astronaut.png

picture: .venv/.demo
	rm -rf runs/picture
	$(BIN)/gmvq reconstruct runs/demo $(ASTRONAUT) --out runs/picture --maps
	cp runs/picture/astronaut-maps.webp docs/figures/demo.webp

models: .venv/.test
	$(BIN)/python models/make.py

compare: .venv/.test
	OMP_NUM_THREADS=1 $(BIN)/gmvq compare --suite quick

test: lint types unit

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.test
	$(BIN)/pyright

unit: .venv/.test build/$(ORT)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

build/$(ORT):
	mkdir -p build
	-curl -fsSL --retry 2 -o $@.tmp https://registry.npmjs.org/onnxruntime-web/-/$(ORT) && mv $@.tmp $@

# Lines and branches of the core (functional, quantizers, objectives, models) that its own tests run.
coverage: .venv/.test
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest tests/functional tests/quantizers tests/objectives tests/models
	$(BIN)/coverage report

.venv/bin/python:
	$(PYTHON) -m venv .venv

# torch comes first and pinned: a loose requirement could pull gigabytes of GPU packages onto a laptop.
.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) torch==2.13.0
	$(PIP) -e '.[train]'
	touch $@

.venv/.docs: .venv/bin/python pyproject.toml models/pyproject.toml constraints.txt
	$(PIP) torch==2.13.0
	$(PIP) -e '.[docs]' -e ./models
	touch $@

.venv/.test: .venv/bin/python pyproject.toml bench/pyproject.toml models/pyproject.toml constraints.txt
	$(PIP) torch==2.13.0
	$(PIP) -e '.[dev]' -e ./bench -e ./models
	touch $@

clean:
	rm -rf .venv runs site .pytest_cache .ruff_cache .coverage
