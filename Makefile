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
WORKERS ?= 4
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= decoders upload_stream model_reader
SECONDS ?= 300
DATABASE ?=
DATA ?=
LAB ?=
QUICK := not compose and not faults and not soak and not long and not attacks

.PHONY: demo lab lab-small test compose-test faults attacks fuzz soak lint protos reference chart-schema release bench clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,lab,dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/fednot demo --seed $(SEED) --rounds $(ROUNDS) --clients $(CLIENTS) \
		--assurance $(ASSURANCE) $(if $(SECURE),--secure-aggregation) --out $(OUT)

# The reduced CIFAR-10 table and the frontier, from the folder DATA; goes on where it was stopped.
lab: $(STAMP)
	test -n '$(DATA)' || { echo 'lab: give the folder that has cifar-10-batches-bin: make lab DATA=FOLDER' >&2; exit 2; }
	$(BIN)/python -m lab run lab/configs/cifar10-cnn.toml --data '$(DATA)' --out lab-out $(LAB)
	$(BIN)/python -m lab run lab/configs/frontier.toml --out lab-out/frontier $(LAB)

lab-small: $(STAMP)
	$(BIN)/python -m lab run lab/configs/digits-small.toml --out lab-out/digits-small $(LAB)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m '$(QUICK)' $(ARGS)

# Starts a Docker engine if none answers and the machine has the means; removes what it made.
compose-test: $(STAMP)
	.ci/compose-test $(ARGS)

faults: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist load -m faults tests/faults $(ARGS)

attacks: $(STAMP)
	$(BIN)/python -m pytest -m attacks tests/attacks $(ARGS)

# Two targets side by side; one that finds something fails when all have ended.
fuzz: $(STAMP)
	echo $(FUZZ_TARGETS) | PYTHONPATH=.:tests OMP_NUM_THREADS=1 xargs -n 1 -P 2 $(BIN)/python -m fuzz.run --seconds $(FUZZ_SECONDS)

soak: $(STAMP)
	PYTHONPATH=.:tests $(BIN)/python -m faults.soak --seconds $(SECONDS) --seed $(SEED) --database '$(DATABASE)'

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd protos && ../$(BIN)/buf lint
	$(BIN)/hadolint deploy/*.Dockerfile deploy/*/*.Dockerfile

protos: $(STAMP)
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --grpc_python_out=. \
		--mypy_out=quiet:. --mypy_grpc_out=quiet:. protos/fednot/v1/*.proto

# docs/reference, from protos, command lines and settings.
reference: $(STAMP)
	$(BIN)/python -m docs.generate

# After a new setting: the chart's schema names them all.
chart-schema: $(STAMP)
	$(BIN)/python deploy/helm/write-schema.py

# Wheel, sdist, chart and SBOM in dist/, each tried: docs/releasing.md.
release: $(STAMP)
	.ci/release

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(PARTS)

clean:
	rm -rf $(VENV) build dist *.egg-info
