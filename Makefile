# Everything runs in .venv, which the first call makes; PYTHON names the interpreter to make it with.
PYTHON ?= python3
ARGS ?=

.PHONY: search test lint bench docs

# A quick search on this machine: no data, no GPU, about five minutes on two cores.
search: .venv/installed
	.venv/bin/python searches/v1.py --quick $(ARGS)

# The tests, two at a time; ARGS="-m slow" runs those that take longer (see CONTRIBUTING.md).
test: .venv/installed
	.venv/bin/pytest --numprocesses 2 --dist worksteal $(ARGS)

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --strict raygan searches

# Where the time goes, against named alternatives: a table each, on an idle machine.
bench: .venv/installed
	@for name in startup noise metrics crops step evaluation inference growth scaling; do .venv/bin/python benchmarks/$$name.py || exit; done

# The documentation, in site/; a warning or a broken link is an error.
docs: .venv/installed
	.venv/bin/pip install --quiet --editable ".[docs]" --constraint constraints.txt
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.exit("RayGAN needs Python 3.11 to 3.13: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable ".[dev]" --constraint constraints.txt
	@touch $@
