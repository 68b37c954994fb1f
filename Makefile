# Each target is idempotent; the second run of install takes no time unless pyproject.toml changed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install demo app apk docs test check clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "PocketFL needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/pocketfl demo

# A window needs OpenGL; on a bare Debian: apt-get install libgl1 libegl1.
app: install
	$(BIN)/pocketfl app build
	$(BIN)/pocketfl app run

# Needs what docs/android.md lists; the first time takes about an hour, as Python itself is built.
apk: install
	$(BIN)/pocketfl app build
	mkdir -p build/apk
	cp -R mobile_app/. sdk/pocketfl build/apk
	cd build/apk && ../../$(BIN)/buildozer android debug

# The site; open build/site/index.html. Warnings, such as dead links, are errors.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# One file of tests goes to one process, so that what a file makes once is made once.
test: install
	$(BIN)/pytest -n auto --dist loadfile

# What CI checks besides the tests.
check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd mobile_app && ../$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
