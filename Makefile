# Reeve. `make run` starts a controller on a fresh machine, `make test` runs every test.
# Variables: CC=gcc|clang-14, SAN=asan (ASan+UBSan) or tsan, V=1 (show commands). Objects live in build/<flavour>/.

.SUFFIXES:
.SECONDARY:
.DELETE_ON_ERROR:

CC      ?= gcc
ifeq ($(origin CC),default)
CC      := gcc
endif
SAN     ?= none
FLAVOUR := $(notdir $(CC))-$(SAN)
OUT     := build/$(FLAVOUR)
ifneq ($(V),1)
Q := @
endif

PKGS     := zlib libuv libssl libcrypto libcurl libcjson yaml-0.1 sqlite3 hiredis libcares
PKG_CFLAGS = $(shell pkg-config --cflags-only-I $(PKGS) 2>/dev/null | sed 's/-I/-isystem /g')
PKG_LIBS   = $(shell pkg-config --libs $(PKGS) 2>/dev/null)

WARN := -Wall -Wextra -Wconversion -Wshadow -Wformat=2 -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror
ifneq (,$(findstring clang,$(CC)))
WARN += -Wimplicit-fallthrough
else
WARN += -Wimplicit-fallthrough=5
endif
HARDEN := -fstack-protector-strong -fPIE -fno-strict-aliasing -ftrapv
HARDEN := $(filter-out -ftrapv,$(HARDEN))
ifeq ($(SAN),asan)
OPT := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
else ifeq ($(SAN),tsan)
OPT := -O1 -g -fno-omit-frame-pointer -fsanitize=thread
else
OPT := -O2 -g
HARDEN += -D_FORTIFY_SOURCE=2
endif
CFLAGS_ALL = -std=c11 -D_GNU_SOURCE -I. $(PKG_CFLAGS) $(OPT) $(HARDEN) $(WARN) $(CFLAGS)
LDFLAGS_ALL = $(OPT) -pie -Wl,-z,relro,-z,now $(LDFLAGS)

FLOORS  := base/core base/net base/store config billing providers scheduler controller controller/api controller/edge controller/cli
LIB_SRC := $(filter-out controller/main.c,$(wildcard $(addsuffix /*.c,$(FLOORS))))
LIB_OBJ := $(LIB_SRC:%.c=$(OUT)/%.o)
LIB     := $(OUT)/libreeve.a

.PHONY: all
all: build/reeve

build/reeve: $(OUT)/reeve $(OUT)/reeve-init build/sandbox-agent
	$(Q)ln -sfn $(FLAVOUR)/reeve $@
	$(Q)ln -sfn $(FLAVOUR)/reeve-init build/reeve-init

$(OUT)/reeve: $(OUT)/controller/main.o $(LIB)
	@echo "  LD    $@"
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(PKG_LIBS) -lpthread

$(LIB): $(LIB_OBJ)
	@echo "  AR    $@"
	$(Q)rm -f $@ && ar rcs $@ $^

# The program that runs inside: static, no library but libc, never sanitized.
$(OUT)/reeve-init: $(wildcard providers/init/*.c providers/init/*.h)
	@mkdir -p $(@D)
	@echo "  INIT  $@"
	$(Q)$(CC) -std=c11 -D_GNU_SOURCE -I. -O2 $(WARN) -fstack-protector-strong -static -o $@ $(wildcard providers/init/*.c)

$(OUT)/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC    $<"
	$(Q)$(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

-include $(LIB_OBJ:.o=.d) $(OUT)/controller/main.d

# --- what a fresh machine lacks -----------------------------------------------------------------------------------------
.PHONY: setup setup-test
setup:
	$(Q)scripts/setup run
setup-test:
	$(Q)scripts/setup test

build/sandbox-agent: scripts/fetch-agent
	@mkdir -p build
	$(Q)scripts/fetch-agent $@ && touch $@

# --- run ----------------------------------------------------------------------------------------------------------------
# `make` again inside: pkg-config answers only after setup.
.PHONY: run
run: setup
	$(Q)$(MAKE) --no-print-directory build/reeve
	$(Q)exec scripts/run

# --- tests --------------------------------------------------------------------------------------------------------------
UNIT_SRC := $(wildcard tests/unit/test_*.c)
UNIT_BIN := $(UNIT_SRC:tests/unit/%.c=$(OUT)/tests/%)

$(OUT)/tests/%: tests/unit/%.c $(LIB)
	@mkdir -p $(@D)
	@echo "  TEST  $@"
	$(Q)$(CC) $(CFLAGS_ALL) -MMD -MP -o $@ $< $(LDFLAGS_ALL) $(LIB) $(PKG_LIBS) -lcmocka -lpthread
-include $(UNIT_BIN:=.d)

BENCH_SRC := $(wildcard tests/bench/bench_*.c)
BENCH_BIN := $(BENCH_SRC:tests/bench/%.c=$(OUT)/bench/%)
$(OUT)/bench/%: tests/bench/%.c $(LIB)
	@mkdir -p $(@D)
	@echo "  BENCH $@"
	$(Q)$(CC) $(CFLAGS_ALL) -MMD -MP -o $@ $< $(LDFLAGS_ALL) $(LIB) $(PKG_LIBS) -lpthread
-include $(BENCH_BIN:=.d)

# Everything that the test runner starts, of one flavour.
.PHONY: testbins
testbins: $(UNIT_BIN) $(OUT)/reeve $(OUT)/reeve-init build/sandbox-agent

.PHONY: test test-long
test: setup-test
	$(Q)$(MAKE) --no-print-directory build/reeve
	$(Q)scripts/test
test-long: setup-test
	$(Q)$(MAKE) --no-print-directory build/reeve
	$(Q)REEVE_LONG=1 scripts/test

.PHONY: bench
bench: setup-test
	$(Q)$(MAKE) --no-print-directory build/reeve benchbins
	$(Q)scripts/bench
.PHONY: benchbins
benchbins: $(BENCH_BIN)

# --- fuzzing: clang's libFuzzer with ASan and UBSan -----------------------------------------------------------------------
FUZZ_OUT     := build/fuzz
FUZZ_SRC     := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_BIN     := $(FUZZ_SRC:tests/fuzz/%.c=$(FUZZ_OUT)/%)
FUZZ_SECONDS ?= 60
FUZZ_LIB_SRC  = $(wildcard base/core/*.c base/net/http*.c base/net/url.c base/net/address.c base/net/client_hello.c \
	config/*.c controller/edge/envelope.c controller/edge/target.c \
	billing/amount.c billing/event.c billing/litellm.c billing/price*.c \
	providers/docker_reply.c providers/host.c)
FUZZ_FLAGS    = -std=c11 -D_GNU_SOURCE -I. $(PKG_CFLAGS) -O1 -g -fno-omit-frame-pointer \
	-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
FUZZ_LIB_OBJ  = $(FUZZ_LIB_SRC:%.c=$(FUZZ_OUT)/%.o)
$(FUZZ_OUT)/%.o: %.c
	@mkdir -p $(@D)
	$(Q)clang-14 $(FUZZ_FLAGS) -MMD -MP -c -o $@ $<
$(FUZZ_OUT)/fuzz_%: tests/fuzz/fuzz_%.c $(FUZZ_LIB_OBJ)
	@echo "  FUZZ  $@"
	$(Q)clang-14 $(FUZZ_FLAGS) -fsanitize=fuzzer -o $@ $< $(FUZZ_LIB_OBJ) $(PKG_LIBS)
-include $(FUZZ_LIB_OBJ:.o=.d)
.PHONY: fuzzbins fuzz-smoke
fuzzbins: $(FUZZ_BIN)
fuzz-smoke: setup-test
	$(Q)$(MAKE) --no-print-directory fuzzbins
	$(Q)FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz-smoke

# --- lint ---------------------------------------------------------------------------------------------------------------
.PHONY: lint
lint: setup-test
	$(Q)scripts/lint
	$(Q)$(MAKE) --no-print-directory CC=clang-14 build/clang-14-none/reeve
	$(Q)$(MAKE) --no-print-directory CC=clang-14 build/clang-14-none/reeve-init

# --- install: the binaries stay together, so that they find each other -----------------------------------------------------
PREFIX ?= /usr/local
.PHONY: install
install: build/reeve
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/reeve
	install -m 755 $(OUT)/reeve $(OUT)/reeve-init build/sandbox-agent $(DESTDIR)$(PREFIX)/lib/reeve/
	ln -sfn ../lib/reeve/reeve $(DESTDIR)$(PREFIX)/bin/reeve

.PHONY: clean
clean:
	rm -rf build
