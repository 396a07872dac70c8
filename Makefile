# Everything happens in a virtual environment of this folder; `make clean` removes it.
#   make demo    set up and run the demo
#   make test    set up and run every check: `make lint`, then `make together` and `make alone`; each of these
#                can be run by itself. What only repeats is short there, and at full length in `make torture`
#                and `make fleet`: rounds of stress, seconds of torture, the slow runs of the model
#   make together  the tests side by side, WORKERS=2 at a time (a CPU each, at most four)
#   make alone   by name, the tests that need the machine for themselves: those of the containers, and those of the
#                compiled part again with sanitizers
#   make lint    only ruff and mypy
#   make unit    only the tests that need no other process and no socket, some seconds
#   make docs    make a site of the documentation in build/site; a warning is an error
#   make man     write the pages of the commands for man(1), in packaging/man
#   make coverage  run all tests once more, and print how much of the code they reach, with branches; a few
#                  tests count descriptors or references, and fail under the tracer
#   make bench   the figures of this machine against floors, two minutes; JSON=new.json keeps them, CHECK=1 fails
#                where an aim is missed, AGAINST=old.json where a figure is slower than it was
#   make bench-peers    the same workloads with this project and with others, which it installs in an environment
#                of their own; JSON=new.json; redis-server comes from the system
#   make figures        measure both anew and write docs/performance.md, some fifteen minutes on an idle machine;
#                make performance writes the page from the runs that are kept in docs/performance
#   make bench-fleet    copies between hosts of a fleet, beside plain TCP, Ray and Vineyard, and recovery after faults (as
#                root), and writes the tables of docs/fleet.md, four minutes; RAY= and VINEYARD= do without these, which
#                are in environments of their own
#   make bench-compare A=old.json B=new.json    the same of two kept runs
#   make abuse  a bystander's attach beside clients that do what they can to slow it: as root, with two CPUs; KINDS="flood crowd"
#   make torture  what `make test` does in seconds, for minutes: arenas, their model, the stress tests
#   make kills   end a client at each system call of each operation, in five ways, some fifteen minutes
#   make restarts  kill a host at each system call and each store to its state file, of each operation and of its start,
#                and time how long names take to be back, some fifteen minutes
#   make takeovers  1,000 takeovers of a host by the next one under load, and what failed (COUNT=100 for fewer)
#   make fleet   hosts of a fleet in network namespaces (as root): partitions, one-way loss, power cuts, routers, scarcity
#   make fuzz    try hostile input for long, against the host and against readers: a hundred million inputs, an hour;
#                FUZZ_KEEP=1 adds those that reach more of the code to the corpus
VENV ?= .venv
PYTHON ?= python3
WORKERS ?= $(shell cpus=$$(nproc); echo $$((cpus < 4 ? cpus : 4)))
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)-peers
RAY ?= $(VENV)-ray
VINEYARD ?= $(VENV)-vineyard
NATIVE := $(wildcard protocol/shmprotocol/abi/*.h protocol/shmprotocol/native/*.c) protocol/shmprotocol/native/build.py

.NOTPARALLEL: # with -j, too: `make alone` has the machine for itself, and the tests are side by side already
.PHONY: demo test together alone unit docs man coverage torture takeovers kills restarts fleet fuzz lint abuse bench bench-peers bench-fleet figures performance bench-compare clean

demo: $(READY)
	$(BIN)/shmhost demo
	$(BIN)/shmhost demo live --seconds 3

test: lint together alone

together: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not alone and not torture"

alone: $(READY)
	$(BIN)/python -m pytest -v -m "alone and not torture"

unit: $(READY)
	$(BIN)/python -m pytest -q -m unit

docs: $(READY)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/site
	@echo build/site/index.html

man: $(READY)
	$(BIN)/python -m docs.site.commands packaging/man

coverage: $(READY)
	$(BIN)/python -m pip install --quiet 'coverage>=7.10'
	$(BIN)/python -m coverage erase
	-$(BIN)/python -m coverage run -m pytest -q --timeout 180 -m "not containers and not sanitizer and not wheel and not stress and not torture"
	$(BIN)/python tests/damaged_coverage.py
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

takeovers: $(READY)
	$(BIN)/python -m benchmarks.takeovers $(or $(COUNT),1000) $(if $(FLEET),--fleet) $(if $(JSON),--json $(JSON))

torture: $(READY)
	$(BIN)/python -m pytest --timeout 0 -m torture

kills: $(READY)
	$(BIN)/python -m pytest -q -s --timeout 0 -m torture tests/system/test_kill_points.py

restarts: $(READY)
	$(BIN)/python -m pytest -q -s --timeout 0 -m torture tests/system/test_restart_kills.py

fleet: $(READY)
	$(BIN)/python -m pytest -q -s --timeout 0 -m torture tests/system/test_fleet_*.py

fuzz: $(READY)
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -s --timeout 0 tests/system/test_fuzz_*.py \
		tests/host/test_core_machine.py tests/system/test_misuse_interrupt.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks $(if $(JSON),--json $(JSON)) $(if $(AGAINST),--against $(AGAINST)) $(if $(CHECK),--check)

abuse: $(READY)
	$(BIN)/python -m benchmarks.abusers $(KINDS)

bench-fleet: $(READY) $(if $(RAY),$(RAY)/.ready) $(if $(VINEYARD),$(VINEYARD)/.ready)
	$(BIN)/python -m benchmarks.fleet $(if $(RAY),--ray $(abspath $(RAY)/bin/python)) \
		$(if $(VINEYARD),--vineyard $(abspath $(VINEYARD)/bin/python))

$(VENV)-ray/.ready:
	$(PYTHON) -m venv $(VENV)-ray
	-$(VENV)-ray/bin/python -m pip install --quiet 'ray>=2.40' numpy
	@touch $@

$(VENV)-vineyard/.ready:
	$(PYTHON) -m venv $(VENV)-vineyard
	-$(VENV)-vineyard/bin/python -m pip install --quiet vineyard
	@touch $@

bench-peers: $(PEERS)/.ready
	$(PEERS)/bin/python -m benchmarks.peers $(if $(JSON),--json $(JSON))

figures:
	$(MAKE) bench JSON=docs/performance/floors.json
	$(MAKE) bench-peers JSON=docs/performance/peers.json
	$(MAKE) performance

performance: $(READY)
	$(BIN)/python -m benchmarks.page

bench-compare: $(READY)
	$(BIN)/python -m benchmarks.compare $(A) $(B)

$(PEERS)/.ready: pyproject.toml benchmarks/peers/install.py | $(READY)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --editable '.[cli,numpy,fast]'
	$(PEERS)/bin/python -m benchmarks.peers.install
	@touch $@

$(READY): pyproject.toml setup.py $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("shmhost needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	@$(PYTHON) -c 'import os, sys, sysconfig as s; os.path.exists(s.get_path("include") + "/Python.h") or sys.exit("the headers of Python are needed to build from source: apt-get install python3-dev")'
	@command -v cc >/dev/null || { echo "a C compiler is needed to build from source: apt-get install gcc libc6-dev" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[cli,numpy,fast,test,lint,docs]'
	@touch $(READY)

clean:
	rm -rf $(VENV) $(PEERS) $(VENV)-ray $(VENV)-vineyard build *.egg-info protocol/shmprotocol/native/_native.*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
