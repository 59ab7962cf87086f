PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo docs test lint smoke clean

# make test SLOW=1 runs the slow tests too; WORKERS=0 runs all in one process. Each process has one thread: with one
# for each core in both they wait for each other
SLOW ?=
WORKERS ?= 2

setup: $(VENV)/.ready

# pip alone finds the CPU build that constraints.txt names
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt torch
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[physics,4d]'
	touch $@

$(VENV)/.ready: $(VENV)/.installed
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $@

# what a user installs is enough for the page
demo: $(VENV)/.installed
	$(BIN)/wm demo --out outputs/demo

docs: setup
	$(BIN)/python docs/reference.py outputs/docs

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(if $(SLOW),-m "slow or not slow")

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# the wheel alone, in a fresh environment outside the repository, with all extras: wm doctor, wm list, wm demo
smoke:
	PYTHON=$(PYTHON) .ci/smoke

clean:
	rm -rf $(VENV) outputs build dist *.egg-info
