# Needs Python 3.11 or newer. Everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := src tests benchmarks examples docs/draw_methods.py

.PHONY: install demo test check bench docs clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true  # pip would take one core; some packages have files of Python 2
	touch $@

demo: install  ## Phantom CT: teacher, student alone, distilled student, report.
	$(BIN)/hlfd demo

test: install  ## All tests, a process a core.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

check: install  ## Style, types, layers, spelling.
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/codespell $(SOURCES) docs recipes *.md
	$(BIN)/pyright

bench: install  ## Speed and memory of this machine, about an hour; more in benchmarks/, each says what.
	for each in limits step epoch growth methods metrics predict; do $(BIN)/python benchmarks/$$each.py || exit 1; done

docs: install  ## The drawings of the methods, and the guide as a site in site/.
	$(BIN)/python docs/draw_methods.py
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv site dist
