#!/usr/bin/env python3
"""Numbers, and calls with their costs, for test_price_import.c, by Python's decimals alone.

    python3 import_vectors.py > import_vectors.inc

The rules are those of docs/prices.md, written here a second time and otherwise: whole lists of rates instead
of steps, Decimal instead of counts."""
import json
import random
from decimal import ROUND_HALF_EVEN, Context, Decimal, getcontext

getcontext().prec = 200
random.seed(20261130)
UNIT = Decimal("1e-18")


def digits(d):
    return len(d.normalize().as_tuple().digits) if d else 0


def number(text):
    """(count of 1e-18, fate), or None when it is refused."""
    d = Decimal(text)
    fate = "EXACT"
    if digits(d) > 15:
        near = Context(prec=15, rounding=ROUND_HALF_EVEN).plus(d)
        if digits(near) <= 12:
            d, fate = near, "MENDED"
    q = d.quantize(UNIT, rounding=ROUND_HALF_EVEN)
    if q != d:
        fate = "ROUNDED"
    if d != 0 and q == 0:
        return None
    return int(q / UNIT), fate


# --- numbers ---
plain = ["0", "0.0", "0e5", "3e-06", "7.5e-08", "1.5e-7", "3E-6", "0.000015", "2", "1e3", "1e+3", "0.5", "9.99e-1",
         "1e-18", "6e-19", "5e-19", "4e-19", "1.5e-18", "2.5e-18", "1e-19", "1e-30", "123456789012345678e-18",
         "0.12345678901234567", "0.0002833333333333333", "3.3333333333333335e-05", "0.30000000000000004",
         "1.8000000000000002e-07", "2.9999900000000002e-06", "7.500003000000001e-05", "3.0001999999999996e-07",
         "9.499999999999999e-07", "9.99999999999999999e-07", "0.99999999999999999", "1.0000000000000000000000001",
         "8.333333333333334e-02", "2.0751953125e-09", "1.59263611e-07", "12345678901234567890", "1e19",
         "0.1000000000000000055511151231257827", "100000000000000000000000000000e-30"]
print("/* Made by import_vectors.py; do not edit. */")
print("static const struct {\n    const char *text, *units; /* NULL: refused */\n    enum number_fate fate;\n} numbers[] = {")


def row(text, want):
    if want is None:
        print('    {"%s", NULL, NUMBER_EXACT},' % text)
    else:
        print('    {"%s", "%d", NUMBER_%s},' % (text, want[0], want[1]))


for t in plain:
    row(t, number(t))

# What was meant is known here: the exact product or sum of two decimals that a program added up in doubles.
made = 0
while made < 120:
    a = Decimal(random.randint(1, 99999)).scaleb(-random.randint(3, 9))
    b = Decimal(random.choice([7, 55, 3, 11, 9, 125, 17])).scaleb(-2)
    exact, text = (a * b, repr(float(a) * float(b))) if made % 2 else (a + b, repr(float(a) + float(b)))
    got = Decimal(text)
    if got == exact or digits(exact) > 12 or exact.normalize().as_tuple().exponent < -18:
        continue
    row(text, (int(exact / UNIT), "MENDED"))
    made += 1
for _ in range(200):
    d = Decimal(random.randint(1, 10 ** random.randint(1, 20))).scaleb(-random.randint(5, 26))
    row(str(d) if random.random() < 0.5 else format(d, "f"), number(str(d)))
print("};\n")

# --- a list, and what calls of it cost ---
KINDS = ("input", "output", "cache_read", "cache_write")
models = {}
for i in range(24):
    def rate(scale):
        return Decimal(random.randint(1, 9999)).scaleb(-scale)

    m = {"litellm_provider": "p%d" % (i % 3), "mode": "chat", "input_cost_per_token": rate(9),
         "output_cost_per_token": rate(8)}
    if i % 2:
        m["cache_read_input_token_cost"] = rate(10)
    if i % 3 == 0:
        m["cache_creation_input_token_cost"] = rate(8)
        m["cache_creation_input_token_cost_above_1hr"] = rate(8)
    if i % 4 == 0:
        for f in list(m):
            if "cost" in f and "1hr" not in f:
                m[f + "_above_200k_tokens"] = rate(8)
    if i % 6 == 0:
        m["output_cost_per_reasoning_token"] = rate(8)
    models["m%d" % i] = m


def call_cost(m, tokens):
    """None when a kind that it uses has no rate."""
    long = tokens[0] + tokens[2] + tokens[3] > 200000

    def of(field):
        v = m.get(field + "_above_200k_tokens") if long else None
        return v if v is not None else m.get(field)

    write, hour = of("cache_creation_input_token_cost"), of("cache_creation_input_token_cost_above_1hr")
    read = of("cache_read_input_token_cost")
    rates = (of("input_cost_per_token"),
             max(of("output_cost_per_token"), m.get("output_cost_per_reasoning_token", Decimal(0))),
             read if read is not None else of("input_cost_per_token"),
             max(x for x in (write, hour) if x is not None) if write is not None else None)
    total = Decimal(0)
    for n, r in zip(tokens, rates):
        if n and r is None:
            return None
        total += n * (r or 0)
    return total


def text_of(v):
    return json.dumps({k: {f: ("@%s@" % format(x, random.choice("fe")) if isinstance(x, Decimal) else x)
                           for f, x in m.items()} for k, m in v.items()}).replace('"@', "").replace('@"', "")


print("static const char list[] =")
t = text_of(models)
for i in range(0, len(t), 90):
    print("    %s" % json.dumps(t[i:i + 90]))
print("    ;\n")
print("static const struct {\n    const char *model;\n    uint64_t tokens[TOKEN_KINDS];\n    const char *cost; /* NULL: a kind has no price */\n} calls[] = {")
for i in range(240):
    name = random.choice(list(models))
    top = 10 ** random.choice([2, 4, 5, 6, 12])
    tokens = [random.randint(0, top) if random.random() < 0.8 else 0 for _ in KINDS]
    if i % 5 == 0:
        tokens = [200000 - 7 + i // 5 % 3 * 7 // 2, 3, 4, 3 if i % 2 else 0]
    c = call_cost(models[name], tokens)
    print('    {"%s", {%s}, %s},' % (name, ", ".join(map(str, tokens)), "NULL" if c is None else '"%s"' % (format(c.normalize(), "f"))))
print("};")
