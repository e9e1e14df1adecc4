# SPDX-License-Identifier: Apache-2.0
# A thin face on Meson. `make demo` and `make test` need nothing but a compiler and root or sudo.
BUILD ?= build
PREFIX ?= /usr/local
DEMO_SECONDS ?=
FUZZ_SECONDS ?= 60

.PHONY: all demo test test-guest install clean fuzz soak soak-monitor deps bench-gateway bench-limits bench-monitor bench-plan bench-sched bench-control bench-passive
all: deps
	@tools/build $(BUILD)

deps:
	@tools/deps build

demo:
	@tools/deps demo
	@tools/build $(BUILD)
	@DEMO_SECONDS="$(DEMO_SECONDS)" demo/run $(BUILD)

test:
	@tools/run-tests

# A Linux kernel's own NBD client, booted in QEMU: some minutes. Packages only.
test-guest:
	@tools/deps guest
	@tools/build $(BUILD)
	@WEIR_BUILD=$(BUILD) PYTHONPATH=tests/lib PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 tests/guest/guest.py

install: all
	@meson install -C $(BUILD) --no-rebuild $(if $(DESTDIR),--destdir $(DESTDIR))

fuzz:
	@tools/deps test
	@tools/fuzz $(FUZZ_SECONDS)

# The data path beside rivals: tables. About 15 minutes of an otherwise idle machine; BENCH='--rounds 3 --rows 4.KiB' does less.
bench-gateway:
	@tools/deps bench
	@tools/build $(BUILD)
	@ninja -C $(BUILD) --quiet bench/ramnbd bench/nbdload
	@WEIR_BUILD=$(BUILD) PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 bench/gateway.py $(BENCH)

# The performance monitor beside rivals and in trouble: tables and pictures. About 16 minutes of an otherwise idle machine;
# BENCH='--quick' takes three; BENCH='--matrix' has each trouble at all sizes, in about 20; BENCH='--write docs/performance.md --images docs/images' keeps the results.
bench-monitor:
	@tools/deps bench
	@tools/build $(BUILD)
	@ninja -C $(BUILD) --quiet bench/bench-tls
	@WEIR_BUILD=$(BUILD) PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 bench/monitor.py $(BENCH)

# How long the server's plan takes over many gateways, within capacity and overcommitted. Minutes, most of them to make up
# the streams.
bench-plan:
	@tools/build $(BUILD)
	@ninja -C $(BUILD) --quiet bench/bench-plan
	@$(BUILD)/bench/bench-plan
	@$(BUILD)/bench/bench-plan 1000 100 50 5 64

# What a decision of a gateway's scheduler costs: nanoseconds an I/O.
bench-sched:
	@tools/build $(BUILD)
	@ninja -C $(BUILD) --quiet bench/bench-sched
	@$(BUILD)/bench/bench-sched

# Promises beside other ways to keep them, simulated and on the real path: tables, docs/control.md. Under 10 minutes of an idle machine;
# BENCH='--quick' takes two; BENCH='--write docs/control.md --images docs/images' keeps the results.
bench-control:
	@tools/deps bench
	@tools/build $(BUILD)
	@ninja -C $(BUILD) --quiet bench/bench-plan bench/bench-sched
	@WEIR_BUILD=$(BUILD) PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 bench/control.py $(BENCH)

# What metering and a scheduler that has nothing to do cost the data path: instructions, by callgrind; a table of docs/control.md.
bench-passive:
	@tools/deps bench
	@tools/build $(BUILD)
	@ninja -C $(BUILD) --quiet bench/ramnbd bench/nbdload
	@WEIR_BUILD=$(BUILD) PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 bench/passive.py $(BENCH)

# How exactly limits are kept, beside rivals: a table. BENCH_ROUNDS=5 by default.
bench-limits:
	@tools/deps test
	@tools/build $(BUILD)
	@ninja -C $(BUILD) --quiet bench/nbdload
	@WEIR_BUILD=$(BUILD) /usr/bin/python3 bench/limits.py $(BENCH_ROUNDS)

# Hours with limits changing and faults arriving; SOAK_SECONDS=3600 SOAK_SEED=... by default.
soak:
	@tools/deps test
	@tools/build $(BUILD)
	@WEIR_SCALE=10000 WEIR_BUILD=$(BUILD) PYTHONPATH=tests/lib PYTHONDONTWRITEBYTECODE=1 \
	    /usr/bin/python3 tests/integration/test_scale.py
	@WEIR_BUILD=$(BUILD) /usr/bin/python3 tests/soak/soak.py

# The same for the performance monitor: hundreds of gateways that come, go, stall and flood; SOAK_GATEWAYS=240 by default.
soak-monitor:
	@tools/deps test
	@tools/build $(BUILD)
	@WEIR_BUILD=$(BUILD) PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 tests/soak/soak_monitor.py

.PHONY: simulate
# Made-up worlds with faults, each from a seed, every event checked: SEEDS=1000 FROM=1 by default.
simulate:
	@tools/deps test
	@tools/build $(BUILD)
	@ninja -C $(BUILD) --quiet tests/sim/sim_seeds
	@$(BUILD)/tests/sim/sim_seeds --seeds $(or $(SEEDS),1000) --from $(or $(FROM),1)

clean:
	rm -rf build build-*
