# Every target sets up what it needs in .venv, so each works in a fresh clone with nothing but make and Python >= 3.10.
# PYTHON picks the interpreter that the environment is made from: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test check faults golden test-lowest test-newest test-lightning talk docs bench gpu wheel-test clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo  ## train GANs on digits with LEAD and with Adam, and print the comparison
	$(BIN)/python examples/demo.py

# One process per core: the tests are small and use one thread each.
SHARED := -n auto --maxprocesses 8 --dist worksteal
PYTEST := $(BIN)/python -m pytest $(SHARED)
FAST := not slow and not ddp and not gpu and not download

test: $(VENV)/.installed-test  ## run the test suite, with the examples in docstrings and docs
	$(PYTEST)

check: $(VENV)/.installed-dev  ## lint, format, types, and everything that `make test` runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST)

faults: $(VENV)/.installed-test  ## break runs in every way of tests/faults, and print a table of what became of them
	LIGHTNING_LEAD_THOROUGH=1 $(PYTEST) tests/faults

golden: $(VENV)/.installed-test  ## compare weights, resumes, scores and recipes with those of another commit, OLD=COMMIT, bit by bit
	OMP_NUM_THREADS=1 $(BIN)/python tests/golden.py "$(OLD)"

# setup.cfg alone says what the lowest versions are. The lowest numpy has wheels for Python 3.10 and 3.11, not for later ones.
# Libraries of that age call what newer ones have deprecated, which is no error of ours. pytest meets matplotlib's calls of
# pyparsing while it reads its own filters, so there an older pyparsing has to do.
LOWEST := build/lowest
AGED := -W "ignore:Setuptools is replacing distutils:UserWarning"
test-lowest: $(LOWEST)/.installed  ## the fast tests with the lowest versions that setup.cfg allows, in another environment
	$(LOWEST)/bin/python -m pytest $(SHARED) $(AGED) -m "$(FAST)"

$(LOWEST)/.installed: setup.cfg .ci/lowest.py
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] not in [(3, 10), (3, 11)])" || { \
		echo "The lowest versions need Python 3.10 or 3.11: make test-lowest PYTHON=python3.11" >&2; exit 1; }
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python .ci/lowest.py setup.cfg > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --disable-pip-version-check -c $(LOWEST)/constraints.txt -e '.[test]' 'pyparsing<3.3'
	@touch $@

# Made anew at every call, since what is newest changes without notice. All that is installed is listed for the record.
NEWEST := build/newest
test-newest:  ## the fast tests with the newest releases of everything, in another environment that is made anew
	rm -rf $(NEWEST)
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python .ci/install.py --upgrade -e '.[test]'
	$(NEWEST)/bin/python --version
	$(NEWEST)/bin/python -m pip list --disable-pip-version-check --format=freeze --exclude-editable
	$(NEWEST)/bin/python -m pytest $(SHARED) -m "$(FAST)"

# The package `lightning` brings `pytorch_lightning` along, so that one is taken away again; tests import it by an alias.
ALONE := build/lightning
test-lightning: $(ALONE)/.installed  ## the test suite under the package lightning alone, without pytorch_lightning
	$(ALONE)/bin/python -m pytest $(SHARED)

$(ALONE)/.installed: setup.cfg .ci/lightning_alone.py
	rm -rf $(ALONE)
	$(PYTHON) -m venv $(ALONE)
	$(ALONE)/bin/python .ci/install.py -e '.[test]'
	$(ALONE)/bin/python -m pip uninstall --yes pytorch-lightning
	site=$$($(ALONE)/bin/python -c "import site; print(site.getsitepackages()[0])"); \
		cp .ci/lightning_alone.py "$$site/lightning_alone.py"; echo "import lightning_alone" > "$$site/lightning_alone.pth"
	@touch $@

TALK := eigenvalues potential_well forces bilinear cost rates regime strong_coupling modes robustness moons dann robust
talk: $(VENV)/.installed-demo  ## draw the figures of docs/talk.md into runs/talk; one of them by TALK=rates
	for script in $(TALK); do $(BIN)/python examples/talk/$$script.py || exit 1; done

docs: $(VENV)/.installed-docs talk  ## build the site of docs and reference into build/site, figures drawn anew; TALK= draws none
	$(BIN)/python -m mkdocs build --quiet --config-file .mkdocs/mkdocs.yml
	for drawn in runs/talk/*.png runs/talk/*.gif; do if [ -f "$$drawn" ]; then cp "$$drawn" build/site/images/talk; fi; done
	@echo "build/site/index.html"

bench: $(VENV)/.installed-bench  ## what a game step costs by LEAD and by its rivals: a table per pair of networks
	$(BIN)/python examples/benchmarks/bench.py

# A lent machine may reach no network, so this runs in the interpreter that is there, with the torch that is there.
GPU :=
gpu:  ## measure on the GPU for 9 minutes, going on from the call before; GPU= passes arguments, as GPU=--plan
	PYTHONPATH="$(CURDIR)" $(PYTHON) examples/benchmarks/gpu.py $(GPU)

# The second environment borrows the dependencies of the first through a .pth file. Such files are not followed any
# further, so this checkout's own editable install stays out of sight and only the wheel can be what is imported.
WHEEL := build/wheel-test
wheel-test: $(VENV)/.installed-dev  ## build the wheel, install it in another environment, import it, run its command
	rm -rf $(WHEEL)
	$(BIN)/python -m build --outdir $(WHEEL)/dist .
	$(BIN)/python -m venv $(WHEEL)/venv
	$(WHEEL)/venv/bin/python -m pip install --quiet --no-deps $(WHEEL)/dist/*.whl
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> "$$($(WHEEL)/venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/dependencies.pth"
	cp tests/check_wheel.py $(WHEEL)
	cd $(WHEEL) && venv/bin/python check_wheel.py
	cd $(WHEEL) && venv/bin/lightning-lead --help > help.txt && grep -q "fit" help.txt
	@echo "wheel-test: ok"

clean:  ## remove the environment, builds and caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment, several sizes of it: .installed-EXTRA is the stamp of `pip install -e .[EXTRA]`.
# torch and torchvision go in by one command, so pip takes a pair that was built together; the import proves that they fit.
$(VENV)/.installed-%: setup.cfg setup.py | $(BIN)/python
	$(BIN)/python .ci/install.py -e '.[$*]'
	@$(BIN)/python -c "import torchvision" || { echo "torch and torchvision in $(VENV) do not fit each other: make clean, and look \
	for an index or a constraint in 'pip config list' that replaces one of them." >&2; exit 1; }
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || { \
		echo "lightning-lead needs Python 3.10 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment: install its venv module \
	(python3-venv on Debian and Ubuntu)." >&2; exit 1; }
