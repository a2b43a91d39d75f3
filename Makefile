# make run    install into .venv and train the default federation
# make test   install into .venv and run the tests
# make docs   build the documentation into site/, readable without a server
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint docs clean
run: $(VENV)/installed
	$(BIN)/fedpurin

test: $(VENV)/installed
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: $(VENV)/installed
	$(BIN)/mkdocs build --strict --quiet

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,slurm,tensorboard,pandas,parquet,huggingface,timm]'
	touch $@

clean:
	rm -rf $(VENV)
