#!/usr/bin/env python3
"""Makes usage_mixed.inc: 500 usage events, and what a ledger must say after them.

An implementation of the rules of docs/billing.md apart from the one in C, with Python's own integers, decimals and time
zones. Run it in this folder after a change of the rules: python3 usage_mixed.py > usage_mixed.inc
"""
import random
from collections import Counter, defaultdict
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

SEED = 20261105
NOW = datetime(2026, 11, 5, 12, 0, 0, tzinfo=timezone.utc)
KINDS = ("input", "output", "cache_read", "cache_write")
PRICES = {
    "claude-sonnet-4-5": ("3", "15", "0.30", "3.75"),
    "openai/gpt-5": ("1.25", "10", "0.125", None),
    "tiny": ("0.000000000001", "0.002", "0.000000000003", "0.000000000007"),
    "odd, \"quoted\"": ("0.123456789012", "9.876543210987", "0.01", "0.02"),
}
# index: (tenant, namespace, workspace); None: nobody's key
KEYS = [("acme", "alice", "dev"), ("acme", "bob", "lab"), ("acme", "alice", "two"), ("beta", "zoe", "dev"), None, None]
BUDGETS = {  # tenant: (name, by namespace, window, zone)
    "acme": [("month", False, "month", "Europe/Berlin"), ("each", True, "day", "America/New_York")],
    "beta": [("week", False, "week", "UTC")],
}


def iso(t):
    return t.strftime("%Y-%m-%dT%H:%M:%SZ")


def make():
    """(key, id, model, time, tokens, failed), in the order of arrival."""
    r = random.Random(SEED)
    out = []
    for i in range(500):
        what = r.random()
        if out and what < 0.15:  # a repetition
            out.append(r.choice(out))
            continue
        if out and what < 0.25:  # an altered one
            key, ident, model, time, tokens, failed = r.choice(out)
            change = r.randrange(4)
            if change == 0:
                tokens = (tokens[0] + 1 + r.randrange(50),) + tokens[1:]
            elif change == 1:
                model = r.choice(list(PRICES) + ["mystery"])
            elif change == 2:
                time += timedelta(seconds=r.randrange(-3600, 3600))
            else:
                failed = not failed
            out.append((key, ident, model, time, tokens, failed))
            continue
        key = r.choice([0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 5])
        model = r.choice(list(PRICES) * 4 + ["mystery", "unheard/of"])
        time = NOW - timedelta(seconds=r.randrange(0, 9 * 86400))
        if r.random() < 0.03:
            time = NOW + timedelta(seconds=r.choice([3000, 3601, 40000]))
        if r.random() < 0.03:
            time = datetime(2025, r.choice([9, 10]), r.choice([1, 30]), 23, 59, 59, tzinfo=timezone.utc)
        tokens = (r.randrange(0, 200000), r.randrange(0, 9000), r.choice([0, r.randrange(10**6)]),
                  r.choice([0, 0, r.randrange(10**5)]))
        if r.random() < 0.02:
            tokens = (10**12, 10**12, 0, 0)
        out.append((key, "req-%d/%s" % (i, r.choice(["a", "=b", "ü"])), model, time, tokens, r.random() < 0.05))
    return out


def price(event):
    """The exact cost in 1e-18 of what has a price, and whether that is all of it."""
    _, _, model, _, tokens, failed = event
    if failed:
        return 0, True
    if model not in PRICES:
        return 0, False
    total, is_all = 0, True
    for unit, n in zip(PRICES[model], tokens):
        if n == 0:
            continue
        if unit is None:
            is_all = False
        else:
            total += int(Decimal(unit).scaleb(12)) * n
    return total, is_all


def window(kind, zone, t):
    """The local day's, week's or month's name: enough to tell windows apart."""
    d = t.astimezone(ZoneInfo(zone)).date()
    if kind == "week":
        d -= timedelta(days=d.weekday())
    if kind == "month":
        d = d.replace(day=1)
    return d


class Ledger:
    def __init__(self):
        self.posted, self.suspense, self.fleet = {}, {}, set()
        self.periods, self.models, self.days = Counter(), Counter(), Counter()
        self.quantities, self.workspaces = Counter(), Counter()
        self.spent, self.unsettled = Counter(), Counter()
        self.entries = Counter()

    def budgets(self, to, event, amount, at):
        tenant, namespace, _ = KEYS[event[0]]
        for name, by_namespace, kind, zone in BUDGETS[tenant]:
            to[tenant, name, namespace if by_namespace else "", window(kind, zone, at)] += amount

    def suspend(self, event, reason, cost):
        old = self.suspense.get(event)
        if old and old[0] == reason:
            return reason
        at = min(event[3], NOW)
        if old:
            self.budgets(self.unsettled, event, -old[1], at)
        self.budgets(self.unsettled, event, cost, at)
        self.suspense[event] = (reason, cost)
        return reason

    def take(self, event):
        key, ident, model, time, tokens, failed = event
        if KEYS[key] is None:
            self.fleet.add(event)
            return "unknown_key"
        cost, is_priced = price(event)
        before = self.posted.get((key, ident))
        if before == event:
            return "duplicate"
        if before:
            return self.suspend(event, "conflict", cost)
        oldest = datetime(2025, 10, 1, tzinfo=timezone.utc)
        if time > NOW + timedelta(hours=1) or time < oldest:
            return self.suspend(event, "out_of_horizon", cost)
        if not is_priced:
            return self.suspend(event, "unpriced", cost)
        self.posted[key, ident] = event
        if event in self.suspense:
            self.budgets(self.unsettled, event, -self.suspense.pop(event)[1], min(time, NOW))
        tenant, _, workspace = KEYS[key]
        self.periods[tenant, time.strftime("%Y-%m")] += cost
        self.entries[tenant, time.strftime("%Y-%m")] += 1
        self.budgets(self.spent, event, cost, time)
        if not failed:
            self.models[tenant, model] += cost
            self.days[tenant, time.strftime("%Y-%m-%d")] += cost
            self.workspaces[tenant, KEYS[key][1] + "/" + workspace] += cost
            for kind, n in zip(KINDS, tokens):
                self.quantities[tenant, kind] += n
        return "accepted"


def text(v):
    s = format(Decimal(v).scaleb(-18), "f")
    return s.rstrip("0").rstrip(".") if "." in s else s


def quoted(s):
    return '"' + s.replace("\\", "\\\\").replace('"', '\\"') + '"'


def main():
    events, ledger = make(), Ledger()
    print("/* Made by usage_mixed.py: not by hand. */")
    print("static const struct mixed_event mixed_events[] = {")
    for key, ident, model, time, tokens, failed in events:
        print("    {%d, %s, %s, %s, {%d, %d, %d, %d}, %s}," % (
            (key, quoted(ident), quoted(model), quoted(iso(time))) + tokens + ("true" if failed else "false",)))
    print("};\n")
    codes = ["accepted", "duplicate", "conflict", "unpriced", "out_of_horizon", "unknown_key"]
    for number in (1, 2):
        found = Counter(ledger.take(e) for e in events)
        assert sum(found[c] for c in codes) == len(events)
        print("static const size_t mixed_counts_%d[] = {%s}; /* %s */" % (
            number, ", ".join(str(found[c]) for c in codes), ", ".join(codes)))
        assert all(found[c] > 0 for c in codes if number == 1), found
    print("\nstatic const struct mixed_sum mixed_periods[] = {")
    for (tenant, period), v in sorted(ledger.periods.items()):
        print("    {%s, %s, %s, %d}," % (quoted(tenant), quoted(period), quoted(text(v)), ledger.entries[tenant, period]))
    print("};\n")
    for name, table in (("models", ledger.models), ("days", ledger.days), ("workspaces", ledger.workspaces)):
        print("static const struct mixed_sum mixed_%s[] = {" % name)
        for (tenant, what), v in sorted(table.items()):
            print("    {%s, %s, %s, 0}," % (quoted(tenant), quoted(what), quoted(text(v))))
        print("};\n")
    print("static const struct mixed_quantity mixed_quantities[] = {")
    for (tenant, what), v in sorted(ledger.quantities.items()):
        print("    {%s, %s, %d}," % (quoted(tenant), quoted(what), v))
    print("};\n")
    print("static const struct mixed_budget mixed_budgets[] = {")
    for tenant, rows in sorted(BUDGETS.items()):
        for name, by_namespace, kind, zone in rows:
            for namespace in ("alice", "bob") if by_namespace else ("",):
                k = (tenant, name, namespace, window(kind, zone, NOW))
                print("    {%s, %s, %s, %s, %s}," % (quoted(tenant), quoted(name), quoted(namespace),
                                                     quoted(text(ledger.spent[k])), quoted(text(ledger.unsettled[k]))))
    print("};\n")
    per_tenant = Counter(KEYS[e[0]][0] for e in ledger.suspense)
    print("static const size_t mixed_suspense_fleet = %d, mixed_suspense_acme = %d, mixed_suspense_beta = %d;" % (
        len(ledger.fleet), per_tenant["acme"], per_tenant["beta"]))


if __name__ == "__main__":
    main()
