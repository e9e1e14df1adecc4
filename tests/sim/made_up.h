/* SPDX-License-Identifier: Apache-2.0 */
/* Worlds made up from a seed: up to six gateways, three targets, a dozen loads, agreements, a
 * tenant, policies, up to four SLA processes, a store that takes its time; faults in the first
 * half, calm in the second. */
#ifndef WEIR_TESTS_SIM_MADE_UP_H
#define WEIR_TESTS_SIM_MADE_UP_H
#include "sim/sim.h"

#define MADE_UP_LOADS      12u
#define MADE_UP_CHANGES    48u
#define MADE_UP_AGREEMENTS 6u

struct made_up {
    struct sim_device_config device[3];
    struct sim_load_config load[MADE_UP_LOADS];
    struct sim_change change[MADE_UP_CHANGES];
    struct agreement agreement[MADE_UP_AGREEMENTS + 1];
    struct policy policy[4];
    struct tenant tenant;
    struct sim_config config; /* points into the others: not to be moved */
};

/* Equal seeds, equal worlds. */
void made_up_world(struct made_up *w, uint64_t seed);

#endif
