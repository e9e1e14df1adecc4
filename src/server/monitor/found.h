/* SPDX-License-Identifier: Apache-2.0 */
/* Gateways that are announced on the network, on their way from finder to acceptor. */
#ifndef WEIR_SERVER_MONITOR_FOUND_H
#define WEIR_SERVER_MONITOR_FOUND_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/name.h"

/* Announcements kept at once, and so gateways that are dialled for them. */
#define FOUND_MAX 256u

struct found {
    char name[NAME_SIZE]; /* as announced, escaped: for people only, nobody has proved it */
    char address[ADDR_TEXT_SIZE];
};

/* Body of MSG_GATEWAYS_FOUND (freed with free): all that are announced now, each address once. */
struct found_list {
    size_t count;
    struct found item[];
};

/* Write where an announced gateway is dialled, as addr_parse reads it. @bytes are the 4 or 16 of
 * the address in network order (@family AF_INET or AF_INET6). False, and nothing written, for what
 * no gateway can have: port 0, an address of nobody or of many, one that holds on one link only
 * (169.254.0.0/16, where clouds keep their metadata, and fe80::/10), or another family. */
bool found_address(int family, const void *bytes, uint16_t port, char *out, size_t size);

/* Put one into @list, which has room for FOUND_MAX, unless its address is there already. */
void found_add(struct found_list *list, const struct found *f);

#endif
