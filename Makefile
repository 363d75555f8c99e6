# The whole workflow. `make` alone lists it.
#
# Everything is installed in .venv by the newest Python that will do; a copy of each requirements file in there says what
# is installed, so that the second `make` has nothing to do. PORT, REDIS_URL, DATABASE_URL and VAR_DIR are the
# environment's (docs/reference/settings.md).

SHELL := /bin/sh
# Where the environment has it, each of the site's four processes would compile all that it imports, at every start.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help run test check docs matrix faults bench bench-peers clean .venv/run .venv/dev .venv/docs .venv/browser

PYTHON := .venv/bin/python
# Probed by running them: a pyenv shim is there, and fails, for versions that are not active. So pyenv's own versions and
# the system's Python come last.
CANDIDATES := python3.13 python3.12 python3.14 python3 python \
	$(wildcard $(HOME)/.pyenv/versions/3.1[2-9]*/bin/python3) /usr/bin/python3
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))
# Without compiling: Python compiles what it imports by itself, which is a small part and takes seconds less.
PIP := $(PYTHON) -m pip install -qq --disable-pip-version-check --no-input --prefer-binary --no-compile

help: ## list what make can do
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

run: .venv/run ## start the whole site on http://127.0.0.1:8000/ (PORT=… for another port), Ctrl-C stops it
	@exec $(PYTHON) -m project.run --stop-with-parent

test: .venv/dev .venv/browser ## run all tests (ARGS="-k bell" for some)
	@$(PYTHON) -m pytest $(ARGS)

check: .venv/dev .venv/docs ## look at format, lint, types, migrations, settings for production, docs, known vulnerabilities
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy
	@$(PYTHON) manage.py makemigrations --check --dry-run
	@env DEBUG=0 SECRET_KEY="$$($(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(64))')" \
		ALLOWED_HOSTS=signalbox.example REDIS_URL=redis://redis.example:6379/0 SECURE_HSTS_SUBDOMAINS=1 \
		$(PYTHON) -W error manage.py check --deploy --fail-level WARNING
	@$(PYTHON) -m docs.site.build
	@$(PYTHON) -m tests.support.audit

docs: .venv/docs ## build the documentation site in var/docs/, with search; a broken link is an error
	@$(PYTHON) -m docs.site.python_reference
	@$(PYTHON) -m docs.site.build

matrix: .venv/dev ## run the essentials on each supported version of everything, 10 minutes (ARGS=--list for which)
	@$(PYTHON) -m tests.matrix $(ARGS)

faults: .venv/dev ## let each part of a site fail under load and count, 30 minutes (ARGS="--row relay" for one fault)
	@$(PYTHON) -m tests.faults $(ARGS)

bench: .venv/dev ## measure speed and memory, 110 minutes (ARGS="--quick" for less; needs Linux and cc)
	@$(PYTHON) -m benchmarks $(ARGS)

bench-peers: ## fetch what to compare with (npm, pip, apt-get)
	@benchmarks/peers/fetch.sh

clean: ## remove all that make has made: .venv, caches, and the site's data in var/
	rm -rf .venv var htmlcov .coverage .mypy_cache .ruff_cache .pytest_cache \
		tests/libraries/node_modules benchmarks/load/build benchmarks/peers/node_modules benchmarks/peers/debian benchmarks/peers/python benchmarks/peers/python314
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/run:
	@$(PYTHON) -c '$(USABLE)' 2>/dev/null || { \
		for candidate in $(CANDIDATES); do \
			if $$candidate -c '$(USABLE)' 2>/dev/null; then found=$$candidate; break; fi; \
		done; \
		test -n "$$found" || { echo "Signalbox needs Python 3.12 or newer with venv: install it \
(Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install python@3.13)" >&2; exit 1; }; \
		echo "Making .venv with $$($$found --version)"; \
		$$found -m venv --clear .venv; \
	}
	@cmp -s requirements.txt .venv/requirements.txt || { \
		echo "Installing requirements.txt" && $(PIP) -r requirements.txt && cp requirements.txt .venv/; \
	}

.venv/dev: .venv/run
	@cmp -s requirements-dev.txt .venv/requirements-dev.txt || { \
		echo "Installing requirements-dev.txt" && $(PIP) -r requirements-dev.txt && cp requirements-dev.txt .venv/; \
	}

.venv/docs: .venv/dev
	@cmp -s requirements-docs.txt .venv/requirements-docs.txt || { \
		echo "Installing requirements-docs.txt" && $(PIP) -r requirements-docs.txt && cp requirements-docs.txt .venv/; \
	}

.venv/browser: .venv/dev
	@$(PYTHON) -m tests.support.browser
	@$(PYTHON) -m tests.support.page_libraries
