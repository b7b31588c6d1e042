# Two commands set up everything they need in .venv: `make demo` (the main job on a real micrograph), `make test`.
# `make test-long` runs what takes minutes each, installations from nothing among them.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
SCIPION_FOLDER := $(CURDIR)/.scipion
MRCFILE := mrcfile==1.5.4

# What Scipion needs to run from pip alone; its child processes take the first python3 of the PATH.
export PATH := $(BIN):$(PATH)
export SCIPION_HOME := $(SCIPION_FOLDER)
export SCIPION_USER_DATA := $(SCIPION_FOLDER)/data
export SCIPION_TESTS_CMD := scipion3 tests
export SCIPION_NOTIFY := False
export RELION_HOME ?= /usr

SCIPION := $(BIN)/python -m scipion
DEMO_MICROGRAPH := demo/data/fei-extended.mrc

.PHONY: demo test test-long lint unit protocols testrunner gui install install-dev pythons clean

demo: install $(DEMO_MICROGRAPH)
	@$(SCIPION) python demo/workflow.py

gui: install
	$(SCIPION) project cryoden_demo

test: lint unit testrunner

lint: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/vermin --quiet --no-tips --target=3.8- --violations cryoden cryoden_scipion _cryoden_scipion setup.py

unit: install-dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test-long: install-dev
	$(BIN)/python -m pytest -m long

# One class by the plain command, to try something; the test runner calls the same command for every class.
protocols: install-dev
	$(SCIPION) tests cryoden_scipion.tests.test_protocols_cryoden.TestCryodenSplitHalves

testrunner: install-dev
	$(BIN)/scipion_testrunner "$(SCIPION)" cryoden_scipion -j 2 --noGpu --testData cryoden_scipion/testData.json

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

# torch first: what setup.py asks for would fetch another build with several GB of GPU libraries. Override with
# make TORCH=...
$(VENV)/installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet scipion-pyworkflow scipion-em scipion-app
	$(BIN)/python -m pip install --quiet --editable '.[torch]'
	$(BIN)/python -m pip check
	mkdir -p $(SCIPION_FOLDER)/data
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	$(BIN)/python -m pip check
	touch $@

$(DEMO_MICROGRAPH): | install
	mkdir -p demo/data
	$(BIN)/python -m pip download --quiet --no-deps --no-binary mrcfile --dest demo/data $(MRCFILE)
	tar --extract --gzip --file demo/data/mrcfile-*.tar.gz --directory demo/data --strip-components 3 \
		--wildcards '*/tests/test_data/fei-extended.mrc' --touch
	rm demo/data/mrcfile-*.tar.gz

# Proves that the dependencies can be installed on every Python that Scipion's installer makes (minutes, not in test).
pythons: install
	$(BIN)/python .ci/resolve_pythons.py 3.8 3.9 3.10 3.11

clean:
	rm -rf $(VENV) .scipion demo/data demo/summary.json demo/side_by_side.png demo/before_after.png
