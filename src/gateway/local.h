/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway's local socket (0600): one JSON request a line, one JSON answer a line, for `weir top
 * --gateway` and `weir gateway undrain --gateway`.
 *
 * Requests: {"get":"streams"}, {"get":"targets"}, {"get":"controls"}, {"get":"status"}; streams
 * take "histograms":true; and {"do":"undrain"}. Answers are documented in
 * docs/guide/local-socket.md. Bounds: 16 clients, 4 KiB a request, answers of at most 16 MiB, a
 * client that does not read for 10 s is closed. */
#ifndef WEIR_GATEWAY_LOCAL_H
#define WEIR_GATEWAY_LOCAL_H
#include "base/reactor.h"
#include "gateway/config.h"
#include "gateway/link.h"
#include "gateway/relay.h"
#include "gateway/stream.h"

struct local;

/* @fd: the listening socket (taken, its file is left alone in the end), or -1: open one. */
int local_new(struct reactor *r, const struct gateway_config *config, struct stream_table *streams,
              struct relay *relay, struct link *link, int fd, struct local **ret);
/* Open the listening socket: the descriptor or -errno; and remove its file. */
int local_open(const struct gateway_config *config);
void local_unlink(const struct gateway_config *config);
void local_free(struct local *l);

#endif
