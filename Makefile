# Each target makes its own .venv and is safe to run twice.
PYTHON ?= python3
VENV := .venv
RUN := $(CURDIR)/quickstart
# Tests at a time; each process takes up to 8 GB.
WORKERS ?= 2

.PHONY: quickstart test check clean

quickstart: $(VENV)/quickstart.stamp
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" launch/quickstart.sh "$(RUN)"

test: $(VENV)/test.stamp
	@launch/packages.sh || echo "Tests that need the packages will be skipped."
	$(VENV)/bin/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal

check: $(VENV)/test.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/hadolint launch/Dockerfile

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip

$(VENV)/quickstart.stamp: setup.cfg $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/test.stamp: setup.cfg $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/quickstart.stamp

clean:
	rm -rf $(VENV) $(RUN) build *.egg-info
