/* SPDX-License-Identifier: Apache-2.0 */
/* The other way round: the server dials, the gateway listens (docs/protocol.md, "Who dials").
 *
 * Problem. Where a gateway may not open connections outward, the server has to come to it; and then
 * anybody may come.
 *
 * Model. One listening socket; a connection that is accepted becomes the link's, as if it had just
 * been dialled: Hello goes out, and nothing is believed before the other side has proved the key.
 * One session at a time: while one stands, or is being proved for less than ADOPT_NS, a newcomer is
 * closed; a dial of our own that is still on its way gives place to it.
 *
 * What may fail: accept for want of descriptors: the connection waits in the kernel, and a later
 * one brings the next try. */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/list.h"
#include "gateway/link_parts.h"
#include "gateway/link_private.h"

#define LISTEN_BACKLOG 16
#define ACCEPT_ROUND 16u

struct link_listen {
    struct link *link;
    struct reactor_source source;
};

static void listen_ready(struct reactor_source *s, uint32_t events)
{
    struct link_listen *n = container_of(s, struct link_listen, source);
    (void)events;
    for (unsigned i = 0; i < ACCEPT_ROUND; i++) {
        int fd = accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            link_adopt(n->link, fd);
            continue;
        }
        if (errno != EINTR && errno != ECONNABORTED)
            return;
    }
}

int link_listen_new(struct link *l, struct link_listen **ret)
{
    struct link_listen *n = calloc(1, sizeof(*n));
    if (n == NULL)
        return -ENOMEM;
    n->link = l;
    n->source.ready = listen_ready;
    n->source.fd = addr_listen(&l->config->server_listen, LISTEN_BACKLOG, 0600);
    int r = n->source.fd;
    if (r >= 0)
        r = reactor_add(l->reactor, &n->source, EPOLLIN);
    if (r < 0) {
        link_listen_free(n);
        return r;
    }
    *ret = n;
    return 0;
}

int link_listen_address(const struct link_listen *n, char *out, size_t size)
{
    return addr_local_text(n->source.fd, out, size);
}

void link_listen_free(struct link_listen *n)
{
    if (n == NULL)
        return;
    reactor_remove(n->link->reactor, &n->source);
    if (n->source.fd >= 0)
        close(n->source.fd);
    free(n);
}
