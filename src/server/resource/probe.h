/* SPDX-License-Identifier: Apache-2.0 */
/* One probe of a target: connect, by TLS where its URI says so, ask its size and block sizes, read
 * a little, say good-bye; never blocks, never writes. */
#ifndef WEIR_SERVER_RESOURCE_PROBE_H
#define WEIR_SERVER_RESOURCE_PROBE_H
#include <stdbool.h>
#include <stdint.h>

#include "tls/creds.h"

/* A probe has an answer or is given up within PROBE_DEADLINE_NS; the good-bye gets PROBE_GOODBYE_NS
 * more. */
#define PROBE_DEADLINE_NS (UINT64_C(5) * 1000000000u)
#define PROBE_GOODBYE_NS  (UINT64_C(1) * 1000000000u)

struct probe_result {
    bool reachable;
    uint64_t size, block_min, block_preferred,
        block_max;                /* block sizes: 0 where the server said none */
    uint64_t connect_us, read_us; /* read_us 0: the target is too small to read from */
    char error[160];              /* "" when reachable */
};

/* By what a target with an nbds URI is believed, and what it is shown. */
struct probe_keys {
    struct tls_creds *creds;         /* NULL: none, such a target is not looked at */
    bool keys_only;                  /* pre-shared keys and no certificates: no name is looked at */
    char verify_name[TLS_NAME_SIZE]; /* "": the host of the URI */
};

struct probe;

/* @uri is copied, and so is @keys, whose creds get one reference more. NULL: no memory. Nothing is
 * done yet. */
struct probe *probe_new(const char *uri, const struct probe_keys *keys, uint64_t now_ns,
                        uint64_t seed);
void probe_free(struct probe *p);

/* The descriptor to wait for (-1: none) and the poll(2) events; at probe_next_ns go on without. */
int probe_fd(const struct probe *p, short *ret_events);
uint64_t probe_next_ns(const struct probe *p);
/* Go on with what poll said. */
void probe_step(struct probe *p, short revents, uint64_t now_ns);

/* True once, when the result stands. */
bool probe_take_result(struct probe *p, struct probe_result *ret);
/* Nothing more to do: free it. (It may be freed at any time.) */
bool probe_ended(const struct probe *p);

#endif
