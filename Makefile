GO      ?= go
# Tools have a module file of their own: who uses Concord as a module does not download them.
TOOL     = $(GO) tool -modfile=tools/go.mod
export CGO_ENABLED = 0

.PHONY: help build packages release image charts test-packages test e2e e2e-clocks adopt browser upgrade campaign campaign-entropy campaign-reads campaign-http short-campaigns confirm trial compare race lint man bench bench-entropy bench-peer bench-series fuzz nightly proto

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The shell is the engine's own program.
SHELL_OF_ENGINE = github.com/influxdata/influxdb/cmd/influx
build: ## build influxd, influxd-meta, influxd-ctl, influx_inspect and the shell influx into bin/
	$(GO) build -o bin/ ./cmd/...
	$(GO) build -ldflags "-X main.version=$$($(GO) list -m -f '{{.Version}}' github.com/influxdata/influxdb | tr -d v)" \
		-o bin/influx $(SHELL_OF_ENGINE)

# What git says, where no version is given.
VERSION ?= $(or $(shell git describe --tags --match 'v*' 2>/dev/null),v0.0.0-dev)
RELEASE  = $(GO) run -C tools ./release
packages: ## build .deb and .rpm packages for amd64 and arm64 into dist/: VERSION
	$(RELEASE) packages -root .. -version $(VERSION)

release: ## build the archives of a release, checksums and an SBOM into dist/: VERSION has a section in CHANGELOG.md
	$(RELEASE) archives -root .. -version $(VERSION)

image: ## build OCI images for amd64 and arm64 into dist/, without Docker: VERSION; PUSH is a repository for them
	$(RELEASE) images -root .. -version $(VERSION) $(if $(PUSH),-push $(PUSH))

test-packages: ## try the packages, and build a release twice (needs root, debootstrap, and systemd-nspawn for systemd)
	$(GO) test -tags packages -count=1 -timeout 60m ./test/packages $(if $(DEBIAN),-debian $(DEBIAN))
	$(GO) test -C tools -count=1 -timeout 60m ./...

charts: ## check the Helm chart with helm lint and kubeconform
	$(GO) vet -C tools/charts ./... && $(GO) test -C tools/charts -vet=off -count=1 -timeout 30m -v ./...

man: ## write the manual pages into dist/man; their date is SOURCE_DATE_EPOCH, or that of the commit
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || echo 0)} $(GO) run ./deploy/man dist/man

test: ## run the tests
	$(GO) test ./...
	$(GO) test -C tools -short ./...

e2e: ## run the stories on separate processes: a killed replica, an operator's day, forty steps of one who comes from Enterprise; PEER is a checkout of influxdb-cluster, which is adopted
	$(GO) test -tags e2e -count=1 -parallel 4 ./test/e2e/ $(if $(PEER),-peer $(abspath $(PEER)))

e2e-clocks: ## run the stories of wrong clocks; the first time, all of Go's library is compiled anew for them
	$(GO) test -tags e2e -count=1 -timeout 30m -run TestWrongClock -v ./test/e2e/ -clocks

ADOPT_POINTS ?= 5000000
adopt: ## adopt a plain server with ADOPT_POINTS points, copy all of it, and lose the adopted node
	$(GO) test -tags e2e -count=1 -timeout 1h -run TestAdoptedServerGetsCopies -v ./test/e2e/ -points $(ADOPT_POINTS)

browser: ## drive the page of the cluster in headless Chromium; SHOTS=DIR keeps pictures of it
	$(GO) test -tags browser -count=1 -timeout 30m ./test/browser/ $(if $(SHOTS),-shots $(abspath $(SHOTS)))

upgrade: ## upgrade clusters of processes from the previous version, which is built out of the history; FROM is another commit
	$(GO) test -tags upgrade -count=1 -timeout 30m -v ./test/upgrade $(if $(FROM),-from $(FROM))

FAULTS ?= 500
SEED ?= 0
campaign: ## break a cluster of processes at random: FAULTS, SEED (0 is a new one), CAMPAIGN has more flags
	$(GO) test -tags campaign -count=1 -timeout 4h -run TestCampaign -v ./test/campaign -seed $(SEED) -faults $(FAULTS) $(CAMPAIGN)

ENTROPY_FAULTS ?= 60
campaign-entropy: ## break a cluster while anti-entropy repairs it: ENTROPY_FAULTS, SEED
	$(GO) test -tags campaign -count=1 -timeout 4h -run TestCampaign -v ./test/campaign -seed $(SEED) -faults $(ENTROPY_FAULTS) -repair auto $(CAMPAIGN)

READS_FAULTS ?= 2000
campaign-reads: ## break a cluster while clients read back what was acknowledged: READS_FAULTS, SEED
	$(GO) test -tags campaign -count=1 -timeout 12h -run TestReads -v ./test/reads -seed $(SEED) -faults $(READS_FAULTS) $(CAMPAIGN)

REQUESTS ?= 1000000
campaign-http: ## send a cluster REQUESTS requests that no client means to send: SEED
	$(GO) test -tags campaign -count=1 -timeout 24h -run TestHTTP -v ./test/fuzz -seed $(SEED) -requests $(REQUESTS) $(CAMPAIGN)

# The seeds have three copies and all faults of data nodes, then two copies and repairs beside a wiped node, calls that
# arrive twice and a full disk, then every way in which reads are broken. Without clocks: to move them, all of Go's
# library is compiled anew.
SHORT = short-campaign short-campaign-entropy short-campaign-reads
.PHONY: $(SHORT)
short-campaigns: ## short forms of the three campaigns of faults, at the same time: they mostly wait
	$(MAKE) --jobs=$(words $(SHORT)) --output-sync=target $(SHORT)
short-campaign:
	$(MAKE) campaign SEED=2210684 FAULTS=14 CAMPAIGN='-deletes=false -clocks=false'
short-campaign-entropy:
	$(MAKE) campaign-entropy SEED=127011 ENTROPY_FAULTS=8 CAMPAIGN='-clocks=false'
short-campaign-reads:
	$(MAKE) campaign-reads SEED=35126 READS_FAULTS=12 CAMPAIGN='-clocks=false'

ROUNDS ?= 100
confirm: ## send a corpus of statements to one node after the other ROUNDS times with each index, and drop and create a database as often beside writers
	$(GO) test -count=1 -timeout 6h -v -run 'TestNodesAnswerOneAfterTheOther|TestDatabaseIsCreatedRightAfter' ./internal/devcluster -corpus $(ROUNDS) -recreations $(ROUNDS)

POINTS ?= 50000000
SHARDS ?= 20
trial: ## load POINTS in SHARDS into a cluster of processes, take a node away without hinted handoff, and watch it come back
	$(GO) test -tags trial -count=1 -timeout 4h -run TestTrial -v ./test/trial -points $(POINTS) -shards $(SHARDS)

compare: ## compare a cluster's answers with a single node's, through all forms and real clients
	test/compare/install.sh
	$(GO) test -tags compare -count=1 -timeout 30m ./test/compare/
	$(GO) test -count=1 -timeout 30m -run TestAggregatesAnswerAsTheEngineDoes ./internal/distquery -seeds 6 -statements 600 -engine

RACE = CGO_ENABLED=1 $(GO) test -race -short -vet=off
race: ## run the tests under the race detector (needs a C compiler)
	@if command -v cc >/dev/null 2>&1; then \
	$(RACE) $$($(GO) list ./internal/... | grep -v /devcluster) && $(RACE) ./internal/devcluster -hot 2s; \
	else echo "skipped: the race detector needs a C compiler"; fi

# Those of all test programs. No file is left out because of one, so that lint looks at all files once.
TAGS = browser,e2e,compare,bench,campaign,trial,upgrade,packages
lint: ## gofmt, go vet and staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); \
	if [ -n "$$out" ]; then echo "gofmt would change:"; echo "$$out"; exit 1; fi
	$(GO) vet -tags $(TAGS) ./...
	$(GO) vet -C tools ./...
	$(TOOL) staticcheck -tags $(TAGS) ./...

bench: ## run the benchmarks, and compare a cluster with one plain node
	$(GO) test -run '^$$' -bench . -benchmem ./internal/...
	$(GO) test -tags bench -count=1 -v -skip 'TestForeground|TestBeside|TestPeer|TestSeries' ./test/bench/
	$(MAKE) bench-entropy

bench-entropy: ## measure anti-entropy, as a table
	$(GO) test -tags bench -count=1 -timeout 30m -run TestEntropyTable -v ./internal/entropy/transport
	$(GO) test -tags bench -count=1 -timeout 30m -run 'TestForeground|TestBeside' -v ./test/bench

PEER ?=
BEFORE ?=
bench-peer: ## compare with a plain node, with influxdb-cluster (PEER is a checkout of it), with a former build (BEFORE is its commit)
	$(GO) test -tags bench -count=1 -timeout 60m -run TestPeer -v ./test/bench -peer '$(PEER)' -before '$(BEFORE)'

bench-series: ## measure a million series beside a plain node, and beside influxdb-cluster (PEER)
	$(GO) test -tags bench -count=1 -timeout 60m -run TestSeries -v ./test/bench -peer '$(PEER)'

FUZZTIME ?= 30s
fuzz: ## fuzz all that parses bytes from outside, FUZZTIME each; inputs are made smaller for a second only, or that takes most of the time
	@for p in $$($(GO) list ./internal/...); do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
			echo "$$f in $$p"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$p || exit 1; \
		done; \
	done

CHECKS ?= 1000000
nightly: ## equal data in CHECKS random layouts has equal digests, a million series are digested in bounded memory, a thousand diverged shards are repaired, ten minutes of writes raise no alarm, thousands of schedules of writes, deletes and faults end as the last write or delete says
	$(GO) test -count=1 -timeout 10h -run 'TestEqualDataHasEqualDigests' -v ./internal/entropy/digest -layouts=$(CHECKS)
	$(GO) test -count=1 -timeout 1h -run 'TestMemoryDoesNotGrowWithSeries' -v ./internal/entropy/digest -series=1000000
	$(GO) test -count=1 -timeout 10h -run 'TestUnequalShardsAreHealed|TestCacheIsWhatTheShardHolds' ./internal/entropy/digest -rapid.checks=10000
	$(GO) test -count=1 -timeout 10h -run 'TestDivergence' ./internal/entropy/transport -divergences=1000
	$(GO) test -count=1 -timeout 10h -run 'TestHotShardIsNeverListed' -v ./internal/devcluster -hot=10m
	$(GO) test -count=1 -timeout 10h -run 'TestSchedules' -v ./internal/devcluster -schedules=4000

proto: ## generate the gRPC code (needs protoc)
	protoc -I internal/rpc \
		--plugin=protoc-gen-go=$$($(TOOL) -n protoc-gen-go) --go_out=. --go_opt=module=concord \
		--plugin=protoc-gen-go-grpc=$$($(TOOL) -n protoc-gen-go-grpc) --go-grpc_out=. --go-grpc_opt=module=concord \
		$(notdir $(wildcard internal/rpc/*.proto))
