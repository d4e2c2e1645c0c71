# `make run` sets everything up and runs the main job; `make test` sets everything up and passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run setup check test soak format clean

run: setup
	$(BIN)/python -m local_emulator up

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt requirements-emulator.txt requirements-export.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Chandler needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/unit tests/architecture

test: check
	$(BIN)/python -m pytest -m "not soak" -n 3 --dist worksteal --ignore=tests/unit --ignore=tests/architecture

soak: setup
	$(BIN)/python -m pytest -m soak

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .chandler
