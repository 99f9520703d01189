# Everything runs in a virtual environment of its own: make VENV=... for another folder, PYTHON=... for another Python.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
RUNS := runs/demo
BIN := $(VENV)/bin

export HF_HUB_OFFLINE := 1

EDIT := Make the red circle green.
INSERT := Add the object from IMG2 to IMG1 at the bottom left, large.
SEGMENT := the red circle

.PHONY: demo test test-browser lint types docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/python infer.py edit --canvas examples/room.png --prompt "$(EDIT)" --output $(RUNS)/edit.png
	$(BIN)/python infer.py insert --canvas examples/room.png --asset examples/asset.png --prompt "$(INSERT)" \
		--output $(RUNS)/insert.png
	$(BIN)/python infer.py segment --canvas examples/room.png --prompt "$(SEGMENT)" --output $(RUNS)/segment.png
	$(BIN)/python infer.py depth --canvas examples/room.png --output $(RUNS)/depth.png
	$(BIN)/python examples/contact_sheet.py --output $(RUNS)/contact_sheet.png \
		--row "edit: $(EDIT)" examples/room.png $(RUNS)/edit.png \
		--row "insert: $(INSERT)" examples/room.png examples/asset.png $(RUNS)/insert.png \
		--row "segment: $(SEGMENT)" examples/room.png $(RUNS)/segment.png \
		--row "depth" examples/room.png $(RUNS)/depth.png

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile

test-browser: $(VENV)/.installed-dev
	BROWSER_TESTS=1 $(BIN)/python -m pytest -q tests/test_demo_browser.py

lint: types $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs build --strict --quiet

# Stamps: installed again only when setup.cfg has changed since. What dev installs serves the demo as well.
$(VENV)/.installed: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.installed

$(BIN)/python:
	@test -n "$(PYTHON)" && "$(PYTHON)" -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "error: Python 3.11 or later is needed, found $(or $(PYTHON),none); set PYTHON=PATH" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

clean:
	rm -rf $(RUNS) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find unireal data_builders tests docs examples benchmarks -name __pycache__ -prune -exec rm -rf {} +
