/* SPDX-License-Identifier: Apache-2.0 */
/* Turns: one request at a time changes documents, so that what was checked still holds when it is
 * written. */
#ifndef WEIR_SERVER_APP_WRITER_H
#define WEIR_SERVER_APP_WRITER_H

struct request;

/* Go on with @next when it is this request's turn (at once when nobody writes). The turn ends with
 * its answer. */
void writer_enter(struct request *r, void (*next)(struct request *r));
/* The request is answered or gone; the next in line goes on. Nothing when it neither writes nor
 * waits. */
void writer_leave(struct request *r);

#endif
