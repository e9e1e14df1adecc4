/* SPDX-License-Identifier: Apache-2.0 */
/* What the services say to those who do not listen: whoever makes them for a part of what they do
 * (a bench, the simulator, a test) gives the part, and nobody asks before saying something. */
#include "server/services/state.h"

static void no_session_end(void *ctx, uint64_t session, uint16_t pair, const char *why)
{
    (void)ctx, (void)session, (void)pair, (void)why;
}

static void no_sample(void *ctx, const struct sample_record *r)
{
    (void)ctx, (void)r;
}

static void no_action(void *ctx, const struct action_record *r)
{
    (void)ctx, (void)r;
}

static void no_event(void *ctx, const struct event_record *e)
{
    (void)ctx, (void)e;
}

static void no_target(void *ctx, const char *gateway, const char *target, const char *uri)
{
    (void)ctx, (void)gateway, (void)target, (void)uri;
}

static void no_gateway(void *ctx, const struct entity_gateway *g)
{
    (void)ctx, (void)g;
}

void sink_set(struct services *s, const struct services_sink *sink)
{
    weir_assert(sink->poll != NULL);
    weir_assert(sink->controls != NULL);
    struct services_sink *to = &s->sink;
    *to = *sink;
    to->session_end = sink->session_end ? sink->session_end : no_session_end;
    to->sample = sink->sample ? sink->sample : no_sample;
    to->action = sink->action ? sink->action : no_action;
    to->event = sink->event ? sink->event : no_event;
    to->target_seen = sink->target_seen ? sink->target_seen : no_target;
    to->targets = sink->targets ? sink->targets : no_gateway;
    to->gateway = sink->gateway ? sink->gateway : no_gateway;
}
