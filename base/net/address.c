/* address: the special-purpose registries of IANA (RFC 6890 and later) as two tables. What is not plainly
 * public is refused: a range that is missing here must not become a way into the operator's network, so IPv6
 * is an allow list of 2000::/3 with exceptions, and IPv4 forms inside IPv6 are judged as IPv4. */
#include "base/net/address.h"

#include <netinet/in.h>
#include <stdint.h>
#include <string.h>

#include "base/core/mem.h"

static const struct {
    uint32_t net;
    unsigned bits;
} special_v4[] = {
    {0x00000000u, 8},  /* 0.0.0.0/8: this network; 0.0.0.0 connects to ourselves */
    {0x0a000000u, 8},  /* 10.0.0.0/8: private */
    {0x64400000u, 10}, /* 100.64.0.0/10: shared */
    {0x7f000000u, 8},  /* 127.0.0.0/8: loopback */
    {0xa9fe0000u, 16}, /* 169.254.0.0/16: link-local, metadata services */
    {0xac100000u, 12}, /* 172.16.0.0/12: private */
    {0xc0000000u, 24}, /* 192.0.0.0/24: protocol assignments */
    {0xc0000200u, 24}, /* 192.0.2.0/24: documentation */
    {0xc0586300u, 24}, /* 192.88.99.0/24: 6to4 relays */
    {0xc0a80000u, 16}, /* 192.168.0.0/16: private */
    {0xc6120000u, 15}, /* 198.18.0.0/15: benchmarking */
    {0xc6336400u, 24}, /* 198.51.100.0/24: documentation */
    {0xcb007100u, 24}, /* 203.0.113.0/24: documentation */
    {0xe0000000u, 4},  /* 224.0.0.0/4: multicast */
    {0xf0000000u, 4},  /* 240.0.0.0/4: reserved, broadcast */
};

static bool v4_is_public(uint32_t a)
{
    for (size_t i = 0; i < ARRAY_LEN(special_v4); i++)
        if (((a ^ special_v4[i].net) >> (32 - special_v4[i].bits)) == 0)
            return false;
    return true;
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

static bool v6_is_public(const uint8_t *a)
{
    static const uint8_t nat64[12] = {0x00, 0x64, 0xff, 0x9b};
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    static const uint8_t global[1] = {0x20};
    static const uint8_t sixtofour[2] = {0x20, 0x02};
    static const struct {
        uint8_t net[4];
        unsigned bits;
    } special[] = {
        {{0x20, 0x01, 0x00, 0x00}, 23}, /* 2001::/23: protocol assignments, Teredo among them */
        {{0x20, 0x01, 0x0d, 0xb8}, 32}, /* 2001:db8::/32: documentation */
        {{0x3f, 0xff, 0x00, 0x00}, 20}, /* 3fff::/20: documentation */
    };
    if (starts_with(a, mapped, 96) || starts_with(a, nat64, 96))
        return v4_is_public(v4_at(a + 12));
    if (!starts_with(a, global, 3))
        return false;
    if (starts_with(a, sixtofour, 16))
        return v4_is_public(v4_at(a + 2));
    for (size_t i = 0; i < ARRAY_LEN(special); i++)
        if (starts_with(a, special[i].net, special[i].bits))
            return false;
    return true;
}

bool address_is_public(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, a, sizeof(in));
        return v4_is_public(ntohl(in.sin_addr.s_addr));
    }
    if (a->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, a, sizeof(in6));
        return v6_is_public(in6.sin6_addr.s6_addr);
    }
    return false;
}
