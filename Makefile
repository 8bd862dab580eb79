# Every target sets up what it needs: `make demo` and `make test` run on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SEED ?= 0
ROUNDS ?= 12
CLIENTS ?= 5
OUT ?= demo-out
ASSURANCE ?= behaviour
SECURE ?=
WORKERS ?= 2
SECONDS ?= 300
DATABASE ?=
QUICK := not compose and not faults and not soak and not long

.PHONY: demo test faults soak lint protos bench clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/fednot demo --seed $(SEED) --rounds $(ROUNDS) --clients $(CLIENTS) \
		--assurance $(ASSURANCE) $(if $(SECURE),--secure-aggregation) --out $(OUT)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m '$(QUICK)' $(ARGS)

faults: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist load -m faults tests/faults $(ARGS)

soak: $(STAMP)
	PYTHONPATH=.:tests $(BIN)/python -m faults.soak --seconds $(SECONDS) --seed $(SEED) --database '$(DATABASE)'

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd protos && ../$(BIN)/buf lint

protos: $(STAMP)
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --grpc_python_out=. \
		--mypy_out=quiet:. --mypy_grpc_out=quiet:. protos/fednot/v1/*.proto

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(PARTS)

clean:
	rm -rf $(VENV) build dist *.egg-info
