/* SPDX-License-Identifier: Apache-2.0 */
/* Whether what an agreement reserves fits beside what is promised already; see admission.c. */
#ifndef WEIR_SERVER_SERVICES_ADMISSION_H
#define WEIR_SERVER_SERVICES_ADMISSION_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/services/agreement.h"

#define ADMISSION_TARGETS 16u /* so many are told of; those that refuse first */
#define ADMISSION_HOLDERS 8u  /* the same: the largest first */

/* Device time as I/Os at once, that is, busy servers in the mean. */
struct admission_holder {
    char agreement[NAME_SIZE];
    double holds;
};

/* One target that the agreement's streams are at. */
struct admission_target {
    char name[NAME_SIZE];
    double capacity;        /* 0: nobody knows it yet, and nothing is refused */
    double held;            /* by the reservations of other agreements */
    double asked, had;      /* by this one: as it is put, and as it stands (0: it does not) */
    uint64_t asked_iops;
    uint64_t largest_iops;  /* that would fit, all its streams together */
    bool fits;
    struct admission_holder holder[ADMISSION_HOLDERS];
    size_t holder_count;
};

struct admission {
    struct admission_target target[ADMISSION_TARGETS];
    size_t count;
    size_t refused; /* targets that it does not fit; some may not be among those told of */
};

/* How much of a target may be reserved. */
#define ADMISSION_SHARE 0.85

#endif
