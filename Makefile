# Each target sets itself up: a virtual environment in .venv, made with whatever python3 is found.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Torch alone takes every core and slows down when another process is busy.
export OMP_NUM_THREADS ?= 1

# Each of the processes that tests start would compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

# Processes that run tests: two more than cores, as many tests wait for others' processes.
WORKERS ?= 4
PYTEST  := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test claims soak shuffle check peers format clean

demo: $(STAMP)
	$(BIN)/python experiments/demo/demo.py

test: $(STAMP)
	$(PYTEST) -m "not soak and not claims"

claims: $(STAMP)
	$(PYTEST) -m "claims and not soak" --timeout 1200

# The same tests in another order each time; to see one again add ARGS=--randomly-seed=N.
shuffle: $(STAMP)
	$(PYTEST) -p randomly -m "not soak and not claims" $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak --timeout 3600
	$(PYTEST) -m "hypothesis and not soak" --hypothesis-profile soak --timeout 3600

peers: $(STAMP)
	$(BIN)/python experiments/studies/elec2.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "everlearn needs Python 3.11 or newer; say which: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
