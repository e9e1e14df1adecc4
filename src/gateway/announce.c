/* SPDX-License-Identifier: Apache-2.0 */
/* A process of its own: what carries I/O links no client of D-Bus and talks to nobody about it. */
#include "gateway/announce.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"

#define PROGRAM "avahi-publish-service"
#define TYPE "_weir-gateway._tcp"
#define LABEL_MAX 63 /* bytes of a name in DNS-SD (RFC 6763, section 4.1.1) */

static unsigned port_of(const struct addr *a)
{
    if (a->ss.ss_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)(const void *)&a->ss)->sin_port);
    if (a->ss.ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)(const void *)&a->ss)->sin6_port);
    return 0;
}

int announce_exec(const struct gateway_config *config)
{
    unsigned number = port_of(&config->server_listen);
    char port[8], name[LABEL_MAX + 1];
    if (config->server_listen.len == 0 || number == 0) {
        fprintf(stderr,
                "weir-gateway: nothing to announce: [server] listen: found \"%s\", expected an "
                "address with a port that is not 0\n",
                config->server_listen.text);
        return 2;
    }
    snprintf(port, sizeof(port), "%u", number);
    snprintf(name, sizeof(name), "%.*s", LABEL_MAX, config->name);
    execlp(PROGRAM, PROGRAM, "--no-fail", name, TYPE, port, (char *)NULL);
    fprintf(stderr, "weir-gateway: " PROGRAM " cannot be started: %s; install avahi-utils\n",
            weir_strerror(-errno));
    return 1;
}
