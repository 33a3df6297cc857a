/* address: the special-purpose registries of IANA (RFC 6890 and later) as two tables. What is not plainly
 * public is refused: a range that is missing here must not become a way into the operator's network, so IPv6
 * is an allow list of 2000::/3 with exceptions, and IPv4 forms inside IPv6 are judged as IPv4. */
#include "base/net/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "base/core/mem.h"

static const struct {
    uint32_t net;
    unsigned bits;
    const char *kind;
} special_v4[] = {
    {0x00000000u, 8, "unspecified"},     /* 0.0.0.0/8: this network; 0.0.0.0 connects to ourselves */
    {0x0a000000u, 8, "private"},         /* 10.0.0.0/8 */
    {0x64400000u, 10, "shared"},         /* 100.64.0.0/10 */
    {0x7f000000u, 8, "loopback"},        /* 127.0.0.0/8 */
    {0xa83f8110u, 32, "cloud metadata"}, /* 168.63.129.16: Azure's, in the middle of the public space */
    {0xa9fe0000u, 16, "link-local"},     /* 169.254.0.0/16: metadata services */
    {0xac100000u, 12, "private"},        /* 172.16.0.0/12 */
    {0xc0000000u, 24, "reserved"},       /* 192.0.0.0/24: protocol assignments */
    {0xc0000200u, 24, "documentation"},  /* 192.0.2.0/24 */
    {0xc0586300u, 24, "reserved"},       /* 192.88.99.0/24: 6to4 relays */
    {0xc0a80000u, 16, "private"},        /* 192.168.0.0/16 */
    {0xc6120000u, 15, "benchmarking"},   /* 198.18.0.0/15 */
    {0xc6336400u, 24, "documentation"},  /* 198.51.100.0/24 */
    {0xcb007100u, 24, "documentation"},  /* 203.0.113.0/24 */
    {0xe0000000u, 4, "multicast"},       /* 224.0.0.0/4 */
    {0xf0000000u, 4, "reserved"},        /* 240.0.0.0/4, broadcast */
};

static const char *v4_special(uint32_t a)
{
    for (size_t i = 0; i < ARRAY_LEN(special_v4); i++)
        if (((a ^ special_v4[i].net) >> (32 - special_v4[i].bits)) == 0)
            return special_v4[i].kind;
    return NULL;
}

static bool starts_with(const uint8_t *a, const uint8_t *net, unsigned bits)
{
    unsigned whole = bits / 8, rest = bits % 8;
    return memcmp(a, net, whole) == 0 && (rest == 0 || ((a[whole] ^ net[whole]) >> (8 - rest)) == 0);
}

static uint32_t v4_at(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
static const uint8_t nat64[12] = {0x00, 0x64, 0xff, 0x9b};
static const uint8_t sixtofour[2] = {0x20, 0x02};
static const uint8_t teredo[4] = {0x20, 0x01, 0x00, 0x00};

/* RFC 5214: 0000:5efe or 0200:5efe in front of the IPv4 address, under any prefix. */
static bool is_isatap(const uint8_t *a)
{
    return (a[8] == 0x00 || a[8] == 0x02) && a[9] == 0x00 && a[10] == 0x5e && a[11] == 0xfe;
}

bool address_is_v4(const struct address *a)
{
    return starts_with(a->bytes, mapped, 96);
}

static void v4_set(struct address *ret, uint32_t v4)
{
    memcpy(ret->bytes, mapped, sizeof(mapped));
    for (unsigned i = 0; i < 4; i++)
        ret->bytes[12 + i] = (uint8_t)(v4 >> (24 - 8 * i));
}

bool address_inside(const struct address *a, struct address *ret)
{
    static const uint8_t compatible[12] = {0};
    const uint8_t *b = a->bytes;
    if (starts_with(b, nat64, 96) || is_isatap(b) || starts_with(b, compatible, 96))
        v4_set(ret, v4_at(b + 12));
    else if (starts_with(b, sixtofour, 16))
        v4_set(ret, v4_at(b + 2));
    else if (starts_with(b, teredo, 32))
        v4_set(ret, ~v4_at(b + 12)); /* RFC 4380: obfuscated by inversion */
    else
        return false;
    return true;
}

/* Outside of 2000::/3 and the forms that carry IPv4: never public, but people want to know why. */
static const char *v6_kind(const uint8_t *a)
{
    static const uint8_t zeros[15] = {0};
    static const struct {
        uint8_t net[6];
        unsigned bits;
        const char *kind;
    } kinds[] = {
        {{0xff}, 8, "multicast"},
        {{0xfe, 0x80}, 10, "link-local"},
        {{0xfe, 0xc0}, 10, "private"}, /* fec0::/10: site-local, of old */
        {{0xfc}, 7, "private"},
        {{0x00, 0x64, 0xff, 0x9b, 0x00, 0x01}, 48, "private"}, /* local NAT64 */
    };
    if (memcmp(a, zeros, 15) == 0 && a[15] <= 1)
        return a[15] == 1 ? "loopback" : "unspecified";
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (starts_with(a, kinds[i].net, kinds[i].bits))
            return kinds[i].kind;
    return "reserved";
}

const char *address_special(const struct address *addr)
{
    static const uint8_t global[1] = {0x20};
    static const struct {
        uint8_t net[4];
        unsigned bits;
        const char *kind;
    } special[] = {
        {{0x20, 0x01, 0x00, 0x00}, 23, "reserved"},      /* 2001::/23: protocol assignments, Teredo */
        {{0x20, 0x01, 0x0d, 0xb8}, 32, "documentation"}, /* 2001:db8::/32 */
        {{0x3f, 0xff, 0x00, 0x00}, 20, "documentation"}, /* 3fff::/20 */
    };
    const uint8_t *a = addr->bytes;
    if (starts_with(a, mapped, 96) || starts_with(a, nat64, 96))
        return v4_special(v4_at(a + 12));
    if (!starts_with(a, global, 3))
        return v6_kind(a);
    if (is_isatap(a) && v4_special(v4_at(a + 12)) != NULL)
        return v4_special(v4_at(a + 12));
    if (starts_with(a, sixtofour, 16))
        return v4_special(v4_at(a + 2));
    for (size_t i = 0; i < ARRAY_LEN(special); i++)
        if (starts_with(a, special[i].net, special[i].bits))
            return special[i].kind;
    return NULL;
}

bool address_is_metadata(const struct address *a)
{
    static const uint32_t v4[] = {
        0xa9fea9feu, /* 169.254.169.254: nearly everybody's */
        0xa9fea9fdu, /* 169.254.169.253: Amazon's resolver */
        0xa9feaa02u, /* 169.254.170.2: Amazon's task credentials */
        0xa9feaa17u, /* 169.254.170.23: Amazon's pod identities */
        0xa9fe0017u, /* 169.254.0.23: Tencent's */
        0x646464c8u, /* 100.100.100.200: Alibaba's */
        0xa83f8110u, /* 168.63.129.16: Azure's */
        0xc00000c0u, /* 192.0.0.192: Oracle's */
    };
    static const uint8_t v6[][16] = {
        {0xfd, 0x00, 0x0e, 0xc2, [14] = 0x02, [15] = 0x54}, /* fd00:ec2::254: Amazon's */
        {0xfd, 0x00, 0x0e, 0xc2, [15] = 0x23},              /* fd00:ec2::23 */
        {0xfd, 0x00, 0x0e, 0xc2, [14] = 0x02, [15] = 0x53}, /* fd00:ec2::253 */
        {0xfd, 0x20, 0x00, 0xce, [14] = 0x02, [15] = 0x54}, /* fd20:ce::254: Google's */
    };
    struct address inner = *a;
    for (size_t i = 0; i < ARRAY_LEN(v6); i++)
        if (memcmp(a->bytes, v6[i], 16) == 0)
            return true;
    if (!address_is_v4(a) && !address_inside(a, &inner))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(v4); i++)
        if (v4_at(inner.bytes + 12) == v4[i])
            return true;
    return false;
}

/* --- forms --- */

static int pton(struct slice text, int family, void *out)
{
    char copy[INET6_ADDRSTRLEN];
    if (text.n == 0 || text.n >= sizeof(copy) || memchr(text.p, '\0', text.n) != NULL)
        return E_INVALID;
    memcpy(copy, text.p, text.n);
    copy[text.n] = '\0';
    return inet_pton(family, copy, out) == 1 ? 0 : E_INVALID;
}

int address_parse(struct slice text, struct address *ret)
{
    struct in_addr in;
    struct address a;
    if (slice_find(text, ':') == SIZE_MAX) {
        if (pton(text, AF_INET, &in) != 0)
            return E_INVALID;
        v4_set(ret, ntohl(in.s_addr));
        return 0;
    }
    if (pton(text, AF_INET6, a.bytes) != 0)
        return E_INVALID;
    *ret = a;
    return 0;
}

void address_format(const struct address *a, char out[ADDRESS_TEXT_MAX])
{
    const char *made = address_is_v4(a) ? inet_ntop(AF_INET, a->bytes + 12, out, ADDRESS_TEXT_MAX)
                                        : inet_ntop(AF_INET6, a->bytes, out, ADDRESS_TEXT_MAX);
    must(made != NULL); /* the room is enough for both */
}

bool address_eq(const struct address *a, const struct address *b)
{
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

int address_from_sockaddr(const struct sockaddr *from, struct address *ret)
{
    if (from->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, from, sizeof(in));
        v4_set(ret, ntohl(in.sin_addr.s_addr));
        return 0;
    }
    if (from->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, from, sizeof(in6));
        memcpy(ret->bytes, in6.sin6_addr.s6_addr, sizeof(ret->bytes));
        return 0;
    }
    return E_INVALID;
}

/* --- ranges --- */

int address_range_parse(struct slice text, struct address_range *ret, struct err *err)
{
    struct address_range r;
    struct slice bits = text, host;
    bool has_bits = slice_cut(&bits, '/', &host);
    uint64_t n = 0;
    if (address_parse(host, &r.net) != 0)
        return err_set(err, E_INVALID, "expected an address such as `10.0.0.0` or `2001:db8::`");
    bool is_v4 = slice_find(host, ':') == SIZE_MAX;
    uint64_t most = is_v4 ? 32 : 128;
    if (has_bits && (slice_u64(bits, &n) != 0 || n > most))
        return err_set(err, E_INVALID, "expected a length from 0 to %d behind the `/`", (int)most);
    r.bits = (unsigned)(has_bits ? n : most) + (is_v4 ? 96 : 0);
    for (unsigned i = r.bits; i < 128; i++)
        if ((r.net.bytes[i / 8] >> (7 - i % 8) & 1) != 0)
            return err_set(err, E_INVALID, "the address has bits behind its first %d: that is no range",
                           (int)n);
    *ret = r;
    return 0;
}

bool address_range_has(const struct address_range *r, const struct address *a)
{
    return starts_with(a->bytes, r->net.bytes, r->bits);
}

bool address_range_covers(const struct address_range *outer, const struct address_range *inner)
{
    return outer->bits <= inner->bits && address_range_has(outer, &inner->net);
}

const char *address_range_special(const struct address_range *r)
{
    struct address last = r->net;
    for (unsigned i = r->bits; i < 128; i++)
        last.bytes[i / 8] |= (uint8_t)(1u << (7 - i % 8));
    /* Of one kind at both ends and not wider than the widest row of that kind: of one kind throughout. The
     * narrow exceptions lie in public space, which has no kind. */
    const char *first = address_special(&r->net), *end = address_special(&last);
    return first != NULL && end != NULL && strcmp(first, end) == 0 && r->bits >= 7 &&
                   (!address_is_v4(&r->net) || r->bits >= 96 + 4)
               ? first
               : NULL;
}

bool address_is_public(const struct sockaddr *a)
{
    struct address in6;
    return address_from_sockaddr(a, &in6) == 0 && address_special(&in6) == NULL;
}
