# SPDX-License-Identifier: Apache-2.0
# A thin face on Meson. `make demo` and `make test` need nothing but a compiler and root or sudo.
BUILD ?= build
PREFIX ?= /usr/local
DEMO_SECONDS ?=
FUZZ_SECONDS ?= 60

.PHONY: all demo test install clean fuzz deps
all: deps
	@tools/build $(BUILD)

deps:
	@tools/deps build

demo:
	@tools/deps demo
	@tools/build $(BUILD)
	@DEMO_SECONDS="$(DEMO_SECONDS)" demo/run $(BUILD)

test:
	@tools/deps test
	@tools/run-tests

install: all
	@meson install -C $(BUILD) --no-rebuild $(if $(DESTDIR),--destdir $(DESTDIR))

fuzz:
	@tools/deps test
	@tools/fuzz $(FUZZ_SECONDS)

clean:
	rm -rf build build-*
