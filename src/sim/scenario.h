/* SPDX-License-Identifier: Apache-2.0 */
/* A scenario as people write it: documents into a description that sim_run takes. */
#ifndef WEIR_SIM_SCENARIO_H
#define WEIR_SIM_SCENARIO_H
#include <jansson.h>
#include <stddef.h>

#include "base/text.h"
#include "sim/sim.h"

#define SCENARIO_AGREEMENTS_MAX 1000u
#define SCENARIO_POLICIES_MAX   256u

struct scenario {
    struct sim_config config; /* points into what follows */
    struct sim_device_config *device;
    struct sim_load_config *load;
    struct sim_change *change;
    struct agreement *agreement;
    struct tenant *tenant;
    struct policy *policy;
    struct sim_trace_io **trace; /* one a load that replays; NULL for the others */
};

/* One document of kind Scenario, any number of Agreement, Tenant and Policy (docs/guide/simulate.md
 * has every key). Traces are read from files named relative to @folder. Every error is appended to
 * @errors as one line "loads[0].rate: ...". 0 or WEIR_E_INVALID. */
int scenario_read(struct scenario *s, json_t *const *documents, size_t count, const char *folder,
                  struct text *errors);
void scenario_fini(struct scenario *s);

#endif
