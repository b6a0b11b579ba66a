# Needs Python 3.11 or newer. Everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := src tests benchmarks examples docs/draw_methods.py

.PHONY: install demo test check bench docs clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install  ## Phantom CT: teacher, student alone, distilled student, report.
	$(BIN)/hlfd demo

test: install  ## All tests, a process a core.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 --dist loadfile

check: install  ## Style, types, layers, spelling.
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/codespell $(SOURCES) docs recipes *.md
	$(BIN)/pyright

bench: install  ## Speed figures of this machine.
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/methods.py

docs: install  ## The drawings of the methods, and the guide as a site in site/.
	$(BIN)/python docs/draw_methods.py
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv site dist
