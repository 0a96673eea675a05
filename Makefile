# Every target works in the virtual environment that `make install` makes; PYTHON=... takes another one.
PYTHON ?= .venv/bin/python

.PHONY: help install format lint types laws test test-all docs bench

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /	/'

install: ## make .venv with the exact versions of constraints.txt
	python3 -m venv .venv
	.venv/bin/python -m pip install -c constraints.txt -e '.[dev]'

format: ## rewrite the code as ruff wants it
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

lint: ## check the code's form
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: ## check the types
	$(PYTHON) -m mypy

laws: ## check layers, sizes and documents
	$(PYTHON) -m pytest tests/laws -m unit

test: ## the unit tier, a few minutes
	$(PYTHON) -m pytest -n auto

test-all: ## every tier but the fault campaign
	$(PYTHON) -m pytest -n auto --dist loadfile -m "not faults"

docs: ## make the pages that come from the code, check what all pages claim, and build the site in site/
	$(PYTHON) -m vdt.config.reference
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --quiet --strict
	$(PYTHON) -m pytest tests/laws/test_documents.py

bench: ## speed against bare loops, on an otherwise idle machine
	$(PYTHON) benchmarks/speed.py
