# Each target makes the environment it needs, once, in .venv.

PYTHON := $(shell for each in python3.12 python3.11 python3.10 python3; do \
	$$each -c 'import ensurepip, sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$each && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check
NO_BROWSER := "No Chromium found: the browser tests are skipped. Debian has it as 'chromium'."

.PHONY: run test test-slow lint bench paper

run: $(VENV)/.runtime  ## the studio at http://127.0.0.1:7860; make run ARGS="--port 7870"
	$(RUN) app.py $(ARGS)

test: $(VENV)/.development
	@$(RUN) -c "import sys; from tests.ui.running import find_chromium; sys.exit(not find_chromium())" || echo $(NO_BROWSER)
	$(RUN) -m pytest -m "not slow and not gpu" -n 2 --dist loadfile $(ARGS)
	@$(RUN) -c "import sys; from tests.ui.running import find_chromium; sys.exit(not find_chromium())" || echo $(NO_BROWSER)

test-slow: $(VENV)/.development
	$(RUN) -m pytest -m "slow or gpu" $(ARGS)

lint: $(VENV)/.development
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(RUN) -m tests.test_architecture

bench: $(VENV)/.runtime
	$(RUN) -m benchmarks.latency $(ARGS)

paper: $(VENV)/.development  ## the paper's evidence on Tabletop, into docs/paper; make paper ARGS=--quick
	$(RUN) -m benchmarks.paper $(ARGS)

# The stamps say which requirements the environment holds.
$(VENV)/.runtime: requirements.txt
	@test -x $(RUN) || test -n "$(PYTHON)" || { \
		echo "Python 3.10, 3.11 or 3.12 with the venv module is needed (on Debian: apt install python3-venv)."; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/.development: requirements-dev.txt $(VENV)/.runtime
	$(PIP) -r requirements-dev.txt
	touch $@
