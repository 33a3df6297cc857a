/* address: which network addresses a stranger may make us talk to. */
#ifndef REEVE_BASE_NET_ADDRESS_H
#define REEVE_BASE_NET_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>

/* True for an IPv4 or IPv6 unicast address of the public internet. False for loopback, private, link-local
 * (cloud metadata lives there), shared (RFC 6598), documentation, benchmarking, multicast and reserved
 * ranges, for IPv6 forms that carry such an IPv4 address (mapped, compatible, NAT64, 6to4, Teredo), and for
 * other families. */
bool address_is_public(const struct sockaddr *a);

#endif
