/* SPDX-License-Identifier: Apache-2.0 */
/* Policies are obeyed.
 *
 * Problem: policy.c lets a throttle be or not; throttle.c, which asks it, could forget to ask, ask
 * with other numbers than it acts upon, or go on from one period to the next in steps that are each
 * allowed and together are not.
 *
 * Model: after each message and each tick of an SLA process its throttles are compared with what
 * they were. A *cut* is a throttle that is new, or lower than before. What policies say of it is
 * found anew here, from the documents of the scenario and the server's clock, without policy.c and
 * week.c:
 *
 *   freeze     no cut while a window is open (releases and lifts may be: docs/guide/documents.md)
 *   maxCut     a cut leaves what the strictest says of the lower of the throttle before and the
 *              rate that the services measured (check.c holds that against what the stream
 *              counted); where none says anything half of it, as policy.h has it at most
 *   period     cuts within PERIOD_PART of a period count together
 *   protect, observe    no cut
 *
 * Floors, and what a stream is owed, are held against controls as they come to the gateway
 * (check.c). A stream that is on its way between two processes keeps what is known of it. */
#include <string.h>

#include "base/assert.h"
#include "sim/private.h"

#define PERIOD_PART 0.8 /* the product has nine tenths: messages come unevenly */
#define ROUNDED     1.5 /* I/Os a second */
#define BARE_PPM    500000u
#define DAY_MIN     1440
#define WEEK_MIN    (7 * DAY_MIN)
#define THURSDAY    3 /* the first of January 1970, where Monday is 0 */

/* Whether minute @now of the week lies in the window: each day's, also across midnight. */
static bool window_holds(const struct week_window *w, int64_t now)
{
    int64_t length = (int64_t)w->to_min - (int64_t)w->from_min;
    length = length > 0 ? length : length + DAY_MIN;
    for (int64_t day = 0; day < 7; day++) {
        int64_t since = (now - day * DAY_MIN - (int64_t)w->from_min + 2 * WEEK_MIN) % WEEK_MIN;
        if ((w->day_mask >> day & 1) != 0 && since < length)
            return true;
    }
    return false;
}

static bool frozen(const struct policy *p, int64_t wall_us)
{
    weir_assert(wall_us > 0);
    int64_t minute = (wall_us / 60000000 + THURSDAY * DAY_MIN) % WEEK_MIN;
    for (size_t i = 0; i < p->freeze_count; i++)
        if (window_holds(&p->freeze[i], minute))
            return true;
    return false;
}

/* The stream of @l is cut to @to; the largest cut that is allowed starts at @from. */
static void obey_cut(struct sim *s, const struct sim_load *l, double from, double to)
{
    uint32_t most = BARE_PPM;
    const char *by = "";
    for (size_t i = 0; i < s->config->policy_count; i++) {
        const struct policy *p = &s->config->policy[i];
        if (!sim_selects(&p->applies_to, l->config, s->config->device))
            continue;
        if (frozen(p, sim_wall_us(s)))
            check_broken(s, "load %u: cut to %.0f IOPS while policy %s freezes it", l->index, to,
                         p->name);
        if (p->protect || p->observe)
            check_broken(s, "load %u: cut to %.0f IOPS against policy %s", l->index, to, p->name);
        if (p->max_cut_ppm > 0 && (by[0] == '\0' || p->max_cut_ppm < most)) {
            most = p->max_cut_ppm;
            by = p->name;
        }
    }
    if (to < from * (1.0 - (double)most / 1e6) - ROUNDED)
        check_broken(s, "load %u: cut from %.0f to %.0f IOPS in a period, policy %s allows %.1f %%",
                     l->index, from, to, by[0] != '\0' ? by : "(none)", (double)most / 1e4);
}

static void stream_look(struct sim *s, struct sim_load *l, const struct entity_stream *st)
{
    uint64_t period = s->config->period_ns > 0 ? s->config->period_ns : S;
    double measured = (double)st->window.iops;
    double now = st->throttle.active ? (double)st->throttle.iops : 0;
    if (now > 0 && (l->leash == 0 || now < l->leash)) {
        double from = l->leash > 0 && l->leash < measured ? l->leash : measured;
        if ((double)(s->now - l->cut_ns) >= PERIOD_PART * (double)period)
            l->cut_from = from;
        else if (l->cut_from < from)
            l->cut_from = from;
        l->cut_ns = s->now;
        s->result->cuts++;
        obey_cut(s, l, l->cut_from, now);
    }
    l->leash = now;
}

void obey_look(const struct sim_process *p)
{
    struct sim *s = p->sim;
    if (s->config->load_count > SIM_SMALL)
        return;
    list_for_each(it, &services_entities(p->services)->streams)
    {
        const struct entity_stream *st = container_of(it, struct entity_stream, link);
        const struct sim_node *n = sim_node_of(s, st->gateway->hello.id);
        for (size_t i = 0; i < s->config->load_count; i++) {
            struct sim_load *l = &s->load[i];
            if (l->node == n && l->stream != NULL && l->stream->index == st->index &&
                strcmp(l->stream->key, st->key) == 0)
                stream_look(s, l, st);
        }
    }
}
