/* redis_script: the Lua texts.
 *
 * A partition's keys (KEYS of the commit script, in this order):
 *   seq  the last version given (a number)
 *   rec  hash: record key -> "<version>:<expires_at_ms>:<value>"
 *   key  sorted set of record keys, all scores 0: byte order, for scans
 *   exp  sorted set of record keys by expiry; an entry may be stale, the record decides
 *   cnt  hash: counter key -> 36 hexadecimal digits: two's complement of 144 bits
 *   cix  sorted set of counter keys, as `key`
 *   chg  stream of changes, one entry per version, id "<version>-0": trimmed from the old end
 *   log:<name>  stream of a log's entries, id "<number>-0"; one per log that the commit appends to
 *
 * Lua has doubles only: exact up to 2^53. Versions and numbers of log entries stay below that for good (a
 * million commits a second for 285 years). Counters are added in six limbs of 24 bits, whose sums are exact;
 * 144 bits hold any sum of two 128-bit numbers, so that overflow is seen after the addition, by its high
 * bits.
 *
 * The commit script checks all of a commit before it writes anything: an error that Redis raises (no memory,
 * a replica) comes at the first write at the latest and leaves nothing done. */
#include "base/store/redis_script.h"

#define TEXT_OF(x)  TEXT_OF_(x)
#define TEXT_OF_(x) #x

/* `now`, and state(rec, key): version (0: absent), is it dead but still there. */
#define LUA_NOW                                                                                              \
    "local t = redis.call('TIME')\n"                                                                         \
    "local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"
#define LUA_LIVE                                                                                             \
    "local function live(v)\n"                                                                               \
    "  if not v then return 0, false end\n"                                                                  \
    "  local version, expires = string.match(v, '^(%d+):(%d+):')\n"                                          \
    "  expires = tonumber(expires)\n"                                                                        \
    "  if expires ~= 0 and expires <= now then return 0, true end\n"                                         \
    "  return tonumber(version), true\n"                                                                     \
    "end\n"

/* ARGV: four per op: kind, key, a, b.
 *   e key version -     d key - -     p key value expires_at_ms
 *   a key amount bound (36 digits each; bound may be empty)     l index-of-KEYS value -
 * Gives {0, result of each op} or {1 conflict | 2 bound | 3 overflow, index, what was found}. */
static const char commit[] =
    "if redis.replicate_commands then redis.replicate_commands() end\n" LUA_NOW LUA_LIVE
    "local seq, rec, key, exp, cnt, cix, chg = unpack(KEYS, 1, 7)\n"
    "local n = #ARGV / 4\n"
    "local results, sums = {0}, {}\n"
    "local function limb(s, j)\n" /* j = 1: the lowest */
    "  return tonumber(string.sub(s, 37 - 6 * j, 42 - 6 * j), 16)\n"
    "end\n"
    "local function add(x, y)\n"
    "  local carry, out = 0, {}\n"
    "  for j = 1, 6 do\n"
    "    local s = limb(x, j) + limb(y, j) + carry\n"
    "    carry = 0\n"
    "    if s >= 16777216 then s = s - 16777216 carry = 1 end\n"
    "    out[7 - j] = s\n"
    "  end\n"
    "  local text = string.format('%06x%06x%06x%06x%06x%06x', unpack(out))\n"
    "  local high, bit127 = string.sub(text, 1, 4), tonumber(string.sub(text, 5, 5), 16) >= 8\n"
    "  return text, not ((high == '0000' and not bit127) or (high == 'ffff' and bit127))\n"
    "end\n"
    "local function is_negative(x) return tonumber(string.sub(x, 1, 1), 16) >= 8 end\n"
    "local zero = string.rep('0', 36)\n"
    "local function is_above(x, y)\n"
    "  if is_negative(x) ~= is_negative(y) then return is_negative(y) end\n"
    "  for j = 6, 1, -1 do\n"
    "    local p, q = limb(x, j), limb(y, j)\n"
    "    if p ~= q then return p > q end\n"
    "  end\n"
    "  return false\n"
    "end\n"
    /* first all checks, in the order of the ops */
    "for i = 0, n - 1 do\n"
    "  local kind, k, a, b = ARGV[4*i+1], ARGV[4*i+2], ARGV[4*i+3], ARGV[4*i+4]\n"
    "  results[i + 2] = 0\n"
    "  if kind == 'e' then\n"
    "    local found = live(redis.call('HGET', rec, k))\n"
    "    if found ~= tonumber(a) then return {1, i, found} end\n"
    "  elseif kind == 'a' then\n"
    "    local old = sums[k] or redis.call('HGET', cnt, k) or zero\n"
    "    local sum, is_over = add(old, a)\n"
    "    if is_over then return {3, i, old} end\n"
    "    if b ~= '' and a ~= zero and not is_negative(a) and is_above(sum, b) then return {2, i, old} end\n"
    "    sums[k] = sum\n"
    "    results[i + 2] = sum\n"
    "  end\n"
    "end\n"
    /* then all writes */
    "local function change(...)\n"
    "  local version = redis.call('INCR', seq)\n"
    "  local text = string.format('%.0f', version)\n"
    "  redis.call('XADD', chg, 'MAXLEN', '~', " TEXT_OF(
        REDIS_CHANGES_KEPT) ", text .. '-0', ...)\n"
                            "  return version, text\n"
                            "end\n"
                            "for i = 0, n - 1 do\n"
                            "  local kind, k, a, b = ARGV[4*i+1], ARGV[4*i+2], ARGV[4*i+3], ARGV[4*i+4]\n"
                            "  if kind == 'p' then\n"
                            "    local version, text = change('k', k, 'v', a)\n"
                            "    redis.call('HSET', rec, k, text .. ':' .. b .. ':' .. a)\n"
                            "    redis.call('ZADD', key, 0, k)\n"
                            "    if b ~= '0' then redis.call('ZADD', exp, b, k) end\n"
                            "    results[i + 2] = version\n"
                            "  elseif kind == 'd' then\n"
                            "    local version, is_there = live(redis.call('HGET', rec, k))\n"
                            "    if version ~= 0 then results[i + 2] = change('k', k) end\n"
                            "    if is_there then\n"
                            "      redis.call('HDEL', rec, k)\n"
                            "      redis.call('ZREM', key, k)\n"
                            "    end\n"
                            "  elseif kind == 'l' then\n"
                            "    local log = KEYS[tonumber(k)]\n"
                            "    local number = redis.call('XLEN', log) + 1\n"
                            "    redis.call('XADD', log, string.format('%.0f-0', number), 'v', a)\n"
                            "    results[i + 2] = number\n"
                            "  end\n"
                            "end\n"
                            "for k, sum in pairs(sums) do\n"
                            "  redis.call('HSET', cnt, k, sum)\n"
                            "  redis.call('ZADD', cix, 0, k)\n"
                            "end\n"
                            /* and a few of the expired are swept: more than most commits make */
                            "for _, k in ipairs(redis.call('ZRANGEBYSCORE', exp, '-inf', now, 'LIMIT', 0, "
                            "16)) do\n"
                            "  local v = redis.call('HGET', rec, k)\n"
                            "  local version, is_there = live(v)\n"
                            "  if is_there and version == 0 then\n"
                            "    redis.call('HDEL', rec, k)\n"
                            "    redis.call('ZREM', key, k)\n"
                            "  end\n"
                            "  redis.call('ZREM', exp, k)\n"
                            "end\n"
                            "return results\n";

/* KEYS: rec. ARGV: the most bytes, then keys. Gives {0, value or nothing of each} or {1}: too large. */
static const char get[] =
    LUA_NOW LUA_LIVE "local out, bytes = {0}, 0\n"
                     "for i = 2, #ARGV do\n"
                     "  local v = redis.call('HGET', KEYS[1], ARGV[i])\n"
                     "  if live(v) == 0 then v = false end\n"
                     "  if v then\n"
                     "    if bytes > 0 and bytes + #v > tonumber(ARGV[1]) then return {1} end\n"
                     "    bytes = bytes + #v\n"
                     "  end\n"
                     "  out[i] = v\n"
                     "end\n"
                     "return out\n";

/* KEYS: a hash and its sorted set. ARGV: least key, first key above, limit, the most bytes, "1" for records.
 * Gives {has more, key, value, key, value…}. */
#define LUA_RANGE(is_live)                                                                                   \
    "local limit, most = tonumber(ARGV[3]), tonumber(ARGV[4])\n"                                             \
    "local out, n, bytes, from = {0}, 0, 0, '[' .. ARGV[1]\n"                                                \
    "while true do\n"                                                                                        \
    "  local want = math.min(limit - n + 1, 256)\n"                                                          \
    "  local ks = redis.call('ZRANGEBYLEX', KEYS[2], from, '(' .. ARGV[2], 'LIMIT', 0, want)\n"              \
    "  for _, k in ipairs(ks) do\n"                                                                          \
    "    local v = redis.call('HGET', KEYS[1], k)\n"                                                         \
    "    if " is_live " then\n"                                                                              \
    "      if n == limit or (n > 0 and bytes + #k + #v > most) then\n"                                       \
    "        out[1] = 1\n"                                                                                   \
    "        return out\n"                                                                                   \
    "      end\n"                                                                                            \
    "      n = n + 1\n"                                                                                      \
    "      bytes = bytes + #k + #v\n"                                                                        \
    "      out[2 * n] = k\n"                                                                                 \
    "      out[2 * n + 1] = v\n"                                                                             \
    "    end\n"                                                                                              \
    "  end\n"                                                                                                \
    "  if #ks < want then return out end\n"                                                                  \
    "  from = '(' .. ks[#ks]\n"                                                                              \
    "end\n"

static const char scan[] = LUA_NOW LUA_LIVE LUA_RANGE("live(v) ~= 0");
static const char counters[] = LUA_RANGE("v");

/* KEYS: the log. ARGV: first number, limit, the most bytes. Gives {has more, number, value, number, value…}.
 */
static const char log_read[] =
    "local limit, most = tonumber(ARGV[2]), tonumber(ARGV[3])\n"
    "local out, n, bytes, from = {0}, 0, 0, ARGV[1]\n"
    "while true do\n"
    "  local want = math.min(limit - n + 1, 64)\n"
    "  local es = redis.call('XRANGE', KEYS[1], from .. '-0', '+', 'COUNT', want)\n"
    "  for _, e in ipairs(es) do\n"
    "    local number, v = string.match(e[1], '^(%d+)'), e[2][2]\n"
    "    if n == limit or (n > 0 and bytes + #v > most) then\n"
    "      out[1] = 1\n"
    "      return out\n"
    "    end\n"
    "    n = n + 1\n"
    "    bytes = bytes + #v\n"
    "    out[2 * n] = number\n"
    "    out[2 * n + 1] = v\n"
    "    from = string.format('%.0f', tonumber(number) + 1)\n"
    "  end\n"
    "  if #es < want then return out end\n"
    "end\n";

const char *const redis_scripts[SCRIPT_COUNT] = {
    [SCRIPT_COMMIT] = commit,     [SCRIPT_GET] = get,      [SCRIPT_SCAN] = scan,
    [SCRIPT_COUNTERS] = counters, [SCRIPT_LOG] = log_read,
};
