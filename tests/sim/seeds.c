/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: whatever happens to gateways, server, network and targets, the rules of sim/check.c,
 * sim/obey.c and sim/promise.c hold.
 * Method: a world made up from a seed (made_up.h), every event of it checked. A run that breaks a
 * rule prints the one command that replays it. A tenth of the seeds are run twice, and must come
 * out alike to the last event. Many seeds take long: each PROGRESS_S it is said how far it is, and
 * from where it can go on.
 *
 *   sim_seeds [--seeds N] [--from SEED] [--past-bugs] [--verbose] */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "made_up.h"
#include "sim/sim.h"

#define PROGRESS_S 10u

/* Of all seeds. */
struct sum {
    uint64_t held, missed, flooded, cuts;
};
/* Of seconds that promises are held to, so many in a thousand may be missed since a window is being
 * found (sim/promise.c). */
#define MISSED_MOST 20u
/* Of fewer than so many it says nothing. */
#define HELD_LEAST 300u

static void say_run(uint64_t seed, const struct made_up *w, const struct sim_result *r)
{
    printf("seed %" PRIu64 ": %u gateways, %u processes, %zu loads, %zu changes, %" PRIu64
           " events, %" PRIu64 " I/Os, %" PRIu64 " actions, %" PRIu64 " surges, %" PRIu64
           " moves, %" PRIu64 " late frames, %" PRIu64 " torn, %" PRIu64 " asked again, %" PRIu64
           " cuts, %" PRIu64 " promises, %" PRIu64 " missed, %" PRIu64 " flooded\n",
           seed, w->config.gateways, w->config.processes, w->config.load_count,
           w->config.change_count, r->events, r->ios, r->actions, r->surges, r->moves,
           r->late_frames, r->torn_frames, r->store_asked_again, r->cuts, r->promises_held,
           r->promises_missed, r->promises_flooded);
}

/* A figure that differs when anything did. */
static uint64_t run(uint64_t seed, bool verbose, bool *ret_broken, struct sum *sum)
{
    struct made_up *w = malloc(sizeof *w);
    struct sim_result result;
    struct text why;
    weir_assert(w != NULL);
    text_init(&why, 65536);
    made_up_world(w, seed);
    int r = sim_run(&w->config, &result, &why);
    uint64_t mark = result.events;
    if (r != 0)
        printf("seed %" PRIu64 ": %.*s\n", seed, (int)why.len, why.data);
    *ret_broken = r != 0 || result.broken != NULL;
    if (r == 0 && result.broken != NULL)
        printf("seed %" PRIu64 ": at %.3f s: %s\n", seed, (double)result.broken_ns / 1e9,
               result.broken);
    for (size_t i = 0; r == 0 && i < result.load_count; i++)
        mark = mark * 31 + result.load[i].served + result.load[i].latency.sum_ns;
    if (verbose && r == 0)
        say_run(seed, w, &result);
    sum->held += result.promises_held;
    sum->missed += result.promises_missed;
    sum->flooded += result.promises_flooded;
    sum->cuts += result.cuts;
    sim_result_fini(&result);
    text_fini(&why);
    free(w);
    return mark;
}

/* Seeds beyond those of each run that once found something; each is seen to fail without the mend.
 * Whoever changes how a world is made finds them anew, or leaves them out. */
static const uint64_t past_bugs[] = {
    243, /* answers to orders of shared limits bred messages without end (coordinator.c) */
    761, /* a closed loop took every turn for what it had been owed for seconds (sched_share.c) */
    1087, /* a limit that came later was not lent by those without streams (coordinator.c) */
    1431, /* a promise that no window keeps took the window from all others (knee.c) */
};

/* Two runs of a tenth of all. False: a rule was broken. */
static bool seed_holds(uint64_t seed, bool verbose, struct sum *sum, const char *self)
{
    struct sum again = {0};
    bool broken;
    uint64_t mark = run(seed, verbose, &broken, sum);
    if (!broken && seed % 10 == 0 && run(seed, false, &broken, &again) != mark) {
        printf("seed %" PRIu64 ": two runs differ\n", seed);
        broken = true;
    }
    if (broken)
        printf("  replay: %s --seeds 1 --from %" PRIu64 " --verbose\n", self, seed);
    return !broken;
}

/* A range of seeds under way. */
struct range {
    uint64_t from, count, failed;
    uint64_t began_ns, said_ns;
};

/* @seed is done. What stands there, and the next seed, is all that going on needs. */
static void progress(struct range *r, uint64_t seed)
{
    uint64_t now = clock_mono_ns(), done = seed - r->from + 1, left = r->count - done;
    if (now - r->said_ns < PROGRESS_S * NS_PER_S || left == 0)
        return;
    uint64_t seconds = (uint64_t)((double)left * (double)(now - r->began_ns) / (double)done / 1e9);
    r->said_ns = now;
    printf("seeds %" PRIu64 " to %" PRIu64 ": %" PRIu64 " failed; some %" PRIu64
           " min left; to go on from here: SEEDS=%" PRIu64 " FROM=%" PRIu64 "\n",
           r->from, seed, r->failed, (seconds + 59) / 60, left, seed + 1);
    fflush(stdout);
}

static void run_range(struct range *r, bool verbose, struct sum *sum, const char *self)
{
    r->began_ns = r->said_ns = clock_mono_ns();
    for (uint64_t seed = r->from; seed - r->from < r->count; seed++) {
        if (!seed_holds(seed, verbose, sum, self)) {
            r->failed++;
            fflush(stdout); /* whoever waits for thousands sees it now */
        }
        progress(r, seed);
    }
}

/* False: too many seconds were outside their promise. */
static bool sum_holds(const struct sum *sum)
{
    printf("%" PRIu64 " cuts; %" PRIu64 " seconds within a promise, %" PRIu64
           " outside while a window was found, %" PRIu64
           " while open loads asked for more than there was\n",
           sum->cuts, sum->held, sum->missed, sum->flooded);
    bool holds = sum->held + sum->missed < HELD_LEAST ||
                 sum->missed * 1000 <= MISSED_MOST * (sum->held + sum->missed);
    if (!holds)
        printf("of promises that can be kept too many are not\n");
    return holds;
}

int main(int argc, char **argv)
{
    struct range range = {.from = 1, .count = 200};
    bool verbose = false, past = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc)
            range.count = strtoull(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--from") == 0 && i + 1 < argc)
            range.from = strtoull(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--past-bugs") == 0)
            past = true;
        else if (strcmp(argv[i], "--verbose") == 0)
            verbose = true;
        else
            return 2;
    }
    struct sum sum = {0};
    run_range(&range, verbose, &sum, argv[0]);
    uint64_t ran = range.count, failed = range.failed;
    for (size_t i = 0; past && i < sizeof past_bugs / sizeof past_bugs[0]; i++, ran++)
        failed += !seed_holds(past_bugs[i], verbose, &sum, argv[0]);
    failed += !sum_holds(&sum);
    printf("%" PRIu64 " passed, %" PRIu64 " failed\n", ran - failed, failed);
    return failed > 0;
}
