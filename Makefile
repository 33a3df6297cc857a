# Reeve. `make run` starts a controller on a fresh machine, `make test` runs every test.
# Variables: CC=gcc|clang-14, SAN=asan (ASan+UBSan) or tsan, V=1 (show commands). Objects live in build/<flavour>/.

.SUFFIXES:
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

PKGS     := libuv libssl libcrypto libcurl libcjson yaml-0.1 sqlite3 hiredis
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

# --- tests -----------------------------------------------------------------------------------------------------------
UNIT_SRC := $(wildcard tests/unit/test_*.c)
UNIT_BIN := $(UNIT_SRC:tests/unit/%.c=$(OUT)/tests/%)

$(OUT)/tests/%: tests/unit/%.c $(LIB)
	@mkdir -p $(@D)
	@echo "  TEST  $@"
	$(Q)$(CC) $(CFLAGS_ALL) -MMD -MP -o $@ $< $(LDFLAGS_ALL) $(LIB) $(PKG_LIBS) -lcmocka -lpthread
-include $(UNIT_BIN:=.d)

.PHONY: unit
unit: $(UNIT_BIN) $(OUT)/reeve-init
.PHONY: clean
clean:
	rm -rf build
