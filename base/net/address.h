/* address: IP addresses and ranges, and which of them a stranger may make us talk to. */
#ifndef REEVE_BASE_NET_ADDRESS_H
#define REEVE_BASE_NET_ADDRESS_H

#include <stdint.h>
#include <sys/socket.h>

#include "base/core/err.h"
#include "base/core/slice.h"

/* Always in IPv6 form; an IPv4 address is ::ffff:a.b.c.d, so that one address has one form. */
struct address {
    uint8_t bytes[16];
};
struct address_range {
    struct address net; /* the bits behind `bits` are 0 */
    unsigned bits;      /* of the IPv6 form: IPv4 /8 is 104 */
};

#define ADDRESS_TEXT_MAX 48
/* Four decimal numbers, or IPv6 without brackets and zone. Other notations of IPv4 (hexadecimal, octal, fewer
 * parts) are E_INVALID: two programs read them differently. */
int address_parse(struct slice text, struct address *ret);
void address_format(const struct address *a, char out[ADDRESS_TEXT_MAX]); /* "127.0.0.1", "2001:db8::1" */
bool address_eq(const struct address *a, const struct address *b);
bool address_is_v4(const struct address *a);
/* 0, or E_INVALID for other families. */
int address_from_sockaddr(const struct sockaddr *from, struct address *ret);
/* The IPv4 address that an IPv6 form carries (NAT64, 6to4, Teredo, ISATAP, compatible); false: none. */
bool address_inside(const struct address *a, struct address *ret);

/* "10.0.0.0/8", "2001:db8::/32", or an address alone. 0, or E_INVALID with a sentence. */
int address_range_parse(struct slice text, struct address_range *ret, struct err *err);
bool address_range_has(const struct address_range *r, const struct address *a);
/* Every address of the inner range is in the outer one. */
bool address_range_covers(const struct address_range *outer, const struct address_range *inner);

/* What kind of address it is when it is none of the public internet: "loopback", "private", "link-local" …;
 * NULL for a public unicast address. IPv6 forms that carry an IPv4 address are what that is. */
const char *address_special(const struct address *a);
/* A range that holds no public address at all: its kind; NULL otherwise. */
const char *address_range_special(const struct address_range *r);
/* The well-known addresses where clouds hand out credentials to whoever asks, in any form. */
bool address_is_metadata(const struct address *a);

/* True for an IPv4 or IPv6 unicast address of the public internet; false for other families. */
bool address_is_public(const struct sockaddr *a);

#endif
