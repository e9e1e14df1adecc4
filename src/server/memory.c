/* SPDX-License-Identifier: Apache-2.0 */
#include "server/memory.h"

#include <malloc.h>

#include "base/log.h"

bool memory_due(struct memory *m, uint64_t unrest, uint64_t now_ns)
{
    if (unrest == m->unrest || now_ns - m->since_ns < MEMORY_REST_NS)
        return false;
    m->unrest = unrest;
    m->since_ns = now_ns;
    return true;
}

void memory_give_back(void)
{
    uint64_t began_ns = clock_mono_ns();
    int some = malloc_trim(0);
    log_debug("memory: %s given back, in %.1f ms", some != 0 ? "some is" : "nothing is",
              (double)(clock_mono_ns() - began_ns) / (double)NS_PER_MS);
}
