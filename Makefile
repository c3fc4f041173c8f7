# Whiterun. Needs Go, and for what boots a machine a Debian's apt-get, dpkg-deb and mke2fs.

# One static binary, also for the tests: the testbed has a C library of its own.
export CGO_ENABLED := 0

FUZZTIME ?= 20s
TESTBED   = $(CURDIR)/bin/testbed
# Runs a command, or a test binary, on a machine with real KVM.
EXEC      = $(TESTBED) exec --
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

.DEFAULT_GOAL := help
.PHONY: help build demo test bench fuzz lint soak clean

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

build: ## build bin/whiterun, and bin/testbed for the targets below
	go build -trimpath -o bin/ ./cmd/whiterun ./internal/testbed/cmd/testbed

demo: build ## boot examples/debian under Whiterun, in the testbed
	@echo 'demo: making the testbed ready'
	@$(TESTBED) prepare
	@echo 'demo: whiterun boot path:examples/debian#nixosConfigurations.vm'
	@$(EXEC) $(CURDIR)/bin/whiterun boot 'path:$(CURDIR)/examples/debian#nixosConfigurations.vm'
	@echo 'demo: the machine has booted from the Nix store and powered itself off'

# What a machine may lack, KVM, kernels, iasl or nix, the testbed has: these tests skip nothing there.
IN_TESTBED = ./hv ./hv/boot ./hv/x86 ./store ./tests/...

test: build ## run all tests: those of any machine, then those that need real KVM, nix and kernels
	go test ./...
	@$(TESTBED) prepare
	WHITERUN_HOSTILE=60s go test -count=1 -p 2 -timeout 40m -exec '$(EXEC)' $(IN_TESTBED)

# What the program in bench/ is told, such as BENCH='-n 5 -kernel 6.12'.
BENCH ?=

bench: build ## measure Whiterun beside its peers, in the testbed
	@go build -trimpath -o bin/ ./bench
	@$(TESTBED) exec --timeout 2h -- $(CURDIR)/bin/bench $(BENCH)

# Up to Go 1.26 the end of -fuzztime is a failure now and then (go.dev/issue/75804): without a failing input it is none.
fuzz: ## run every fuzz target for FUZZTIME (20s)
	@log=$$(mktemp) && trap 'rm -f "$$log"' EXIT && \
	grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sort | while IFS=: read -r file _ target; do \
		target=$${target#func }; package=$${file%/*}; \
		echo "fuzz: $$package $$target"; \
		for try in 1 2 3; do \
			go test -run='^$$' -fuzz="^$$target\$$" -fuzztime=$(FUZZTIME) -fuzzminimizetime=1x $$package >"$$log" 2>&1 && break; \
			grep -q 'context deadline exceeded' "$$log" && ! grep -q 'Failing input' "$$log" && [ $$try != 3 ] || { cat "$$log"; exit 1; }; \
		done; \
		tail -n 1 "$$log"; \
	done

lint: ## gofmt, vet, staticcheck
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "not gofmt-clean:"; echo "$$unformatted"; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...

soak: build ## boot again and again, look for leaks, and fuzz for hours
	WHITERUN_SOAK=1 go test -count=1 -v -timeout 6h -run Soak -exec '$(TESTBED) exec --timeout 6h --' ./tests/...
	WHITERUN_HOSTILE=30m go test -count=1 -v -timeout 1h -run Hostile -exec '$(TESTBED) exec --timeout 1h --' ./hv
	$(MAKE) fuzz FUZZTIME=10m

clean: ## remove what was built; the testbed's cache stays
	rm -rf bin
