/* SPDX-License-Identifier: Apache-2.0 */
/* One rate divided over several gateways: exactly, by demand, with a stake everywhere; pure. */
#ifndef WEIR_SERVER_SERVICES_SPLIT_H
#define WEIR_SERVER_SERVICES_SPLIT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of an even part, what a gateway keeps though nobody asks there: 1 / SPLIT_STAKE. */
#define SPLIT_STAKE 50u

struct split_part {
    double demand;    /* units a second that arrived there */
    double room;      /* by which it varies: asked for on top */
    double stake;     /* times the usual: 1, or less where nobody is even connected */
    double wanting;   /* streams there that the limit holds back: they ask for all they can get */
    uint64_t rate;    /* out: at least 1 */
    double share;     /* of the work */
};

/* Divide @total (at least 1): the parts add up to it exactly (unless it is less than @n: then each
 * is 1, since 0 would be no limit). Those that are held back share what the others do not ask for,
 * by the number of their streams; when nobody is, what is left over goes by demand, so that each
 * may grow. */
void split_rate(uint64_t total, struct split_part *p, size_t n);

/* Divide @total in proportion to the shares of the last split_rate of @p, exactly, into the
 * rates. */
void split_like(uint64_t total, struct split_part *p, size_t n);

#endif
