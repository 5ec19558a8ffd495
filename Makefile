# Two commands: `make demo` trains a small solver and shows it at work; `make test` runs the tests.
PYTHON ?= python3
BIN := .venv/bin
# Only what is imported gets compiled, at its first import, and stays so; --no-compile saves pip compiling all the rest.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

# What `make demo` trains on and where; TRAIN_ARGS overrides the recipe, e.g. TRAIN_ARGS="--max_steps 20".
DATA := data/sudoku-6x6
RUN := runs/quickstart
TRAIN_PUZZLES := 8000
TEST_PUZZLES := 512
TRAIN_ARGS ?=

.PHONY: demo test space hub-publish hub-load test-slow lint format docs release-check clean

demo: .venv/demo.installed $(DATA)/test.csv
	rm -rf $(RUN)
	$(BIN)/accelerate launch examples/train.py --config examples/configs/quickstart.yaml $(TRAIN_ARGS)
	$(BIN)/python examples/solve.py --checkpoint $(RUN)/checkpoint --data $(DATA)/test.csv --picture $(RUN)/states.png

$(DATA)/test.csv: | .venv/demo.installed
	$(BIN)/air-hf data generate --puzzle sudoku-6x6 --train $(TRAIN_PUZZLES) --test $(TEST_PUZZLES) --output $(DATA)

# The page with every checkpoint of SPACE_MODELS, for `air-hf publish-space` or any static host.
SPACE := build/space
SPACE_MODELS ?= $(wildcard checkpoints/*/)

space: .venv/export.installed examples/space/node_modules
	$(BIN)/python examples/space/build.py --output $(SPACE) $(SPACE_MODELS)

examples/space/node_modules: examples/space/package-lock.json
	npm ci --prefix examples/space --ignore-scripts --no-audit --no-fund
	touch $@

test: .venv/dev.installed
	$(BIN)/python -m pytest -n auto

# Sudoku and Maze generated, built and published to a Hub on loopback, and loaded back from it.
HUB := runs/hub
HUB_ARGS ?=

hub-publish: .venv/dev.installed
	rm -rf $(HUB)
	$(BIN)/python tests/support/hub_demo.py publish $(HUB) $(HUB_ARGS)

hub-load: .venv/dev.installed
	$(BIN)/python tests/support/hub_demo.py load $(HUB)

test-slow: .venv/dev.installed
	$(BIN)/python -m pytest -m slow --timeout 1800

lint: .venv/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/dev.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, in site/: a broken link, anchor or docstring ends it.
docs: .venv/docs.installed
	$(BIN)/mkdocs build --strict

# What `pip install air-hf` would get, held against the source tree; nothing is uploaded.
release-check: .venv/release.installed
	rm -rf dist build/lib build/bdist.*
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tests/support/wheel_contents.py dist

.venv/%.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -e ".[$*]"
	touch $@

# What can be made again; your own data and runs stay.
clean:
	rm -rf .venv build dist site *.egg-info $(RUN) $(HUB) runs/ci data/ci
