/* SPDX-License-Identifier: Apache-2.0 */
/* What one image of the program hands to the next over exec: open descriptors and who is who. */
#ifndef WEIR_GATEWAY_HANDOVER_H
#define WEIR_GATEWAY_HANDOVER_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "gateway/config.h"
#include "gateway/ledger.h"

enum handover_role {
    HANDOVER_NONE,    /* a first start */
    HANDOVER_WORKER,  /* a worker of the new image; stands by until it is told to go */
    HANDOVER_MANAGER, /* the manager's new image, in its old process */
};

#define HANDOVER_WHY 1024u /* holds a path, and more words */

struct handover_child {
    pid_t pid; /* 0: none */
    int control;
    uint64_t started_ns;
    bool retiring;
};

struct handover {
    enum handover_role role;
    pid_t manager;
    int ledger, local, control; /* control: a worker's */
    uint32_t bank;              /* a worker's; a manager's serving one */
    uint64_t stop_by_ns;
    struct handover_child child[LEDGER_BANKS];
    int listeners[CONFIG_MAX_LISTENERS];
};

/* Put @h into the environment of the next exec, its descriptors open beyond it. Between fork and
 * exec, or before exec. 0 or -errno. */
int handover_give(const struct handover *h, const struct gateway_config *config);
/* Exec failed: close the descriptors on exec again. */
void handover_keep(const struct handover *h, const struct gateway_config *config);
/* Whether this image was handed anything, before there is a configuration. */
enum handover_role handover_role(void);
/* Read what was handed, with listeners in the order of @config. 0, or a negative code with words in
 * @why: listeners that are not those of the old image; to a worker also a certificate out of date
 * in the place of one in date. Takes it out of the environment. */
int handover_take(struct handover *ret, const struct gateway_config *config,
                  char why[HANDOVER_WHY]);

#endif
