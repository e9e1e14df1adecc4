/* SPDX-License-Identifier: Apache-2.0 */
/* A byte stream over a socket, with TLS in between or without: what the control protocol runs on.
 *
 * Owns descriptor and session. One thread may read while another sends (tls_files.shared). */
#ifndef WEIR_TLS_WIRE_H
#define WEIR_TLS_WIRE_H
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "tls/session.h"

struct wire {
    int fd;
    struct tls_session *tls; /* NULL: plain */
};

/* Bytes (> 0); 0: the peer has ended; -EAGAIN: nothing is here and an edge will tell; -errno or
 * WEIR_E_PROTO: it failed. */
ssize_t wire_read(const struct wire *w, void *to, size_t room);
/* Bytes taken (> 0); -EAGAIN: none now, offer the same again at the front when it is writable;
 * -errno or WEIR_E_PROTO. */
ssize_t wire_send(const struct wire *w, const void *bytes, size_t n);
/* No more in either direction; whoever reads sees the end. Any thread. */
void wire_shut(const struct wire *w);
/* Close and free; no thread uses it any more. */
void wire_close(struct wire *w);

#endif
