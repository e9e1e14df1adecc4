/* SPDX-License-Identifier: Apache-2.0 */
#include "tls/wire.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

ssize_t wire_read(const struct wire *w, void *to, size_t room)
{
    if (w->tls != NULL)
        return tls_session_read(w->tls, to, room);
    ssize_t n;
    do
        n = recv(w->fd, to, room, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

ssize_t wire_send(const struct wire *w, const void *bytes, size_t n)
{
    if (w->tls != NULL)
        return tls_session_send(w->tls, bytes, n);
    ssize_t r;
    do
        r = send(w->fd, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : r;
}

void wire_shut(const struct wire *w)
{
    shutdown(w->fd, SHUT_RDWR);
}

void wire_close(struct wire *w)
{
    tls_session_free(w->tls);
    w->tls = NULL;
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
}
