/* SPDX-License-Identifier: Apache-2.0 */
/* The store, as far as promises depend on it: what a process reads at its start, as server/sla.c
 * reads it, and documents that people change while it runs.
 *
 * A process asks for documents and for the records of gateways, each by itself; gateways come
 * whenever they like. An answer is what the store had in the middle of the time that it took. None
 * within SIM_ASK_TIMEOUT_NS: it is asked again. A document that changes while documents are read
 * has them read again. A change goes to the store first, and to the processes when it is there; a
 * store that does not answer in time changes nothing. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "server/services/agreement_match.h"
#include "sim/private.h"

/* What the store says: body of PROCESS_LOADED. */
struct answer {
    uint64_t asked;
    enum sim_load_what what;
    bool failed;
    struct sim_document document[]; /* all of sim->document */
};

/* A document on its way. */
struct changed {
    uint32_t index;
    bool removed;
    struct agreement agreement;
};

void store_record(struct sim_node *n, const struct sim_process *p, const struct entity_gateway *g)
{
    n->record.known = true;
    n->record.process = p->index;
    n->record.admitted = n->record.admitted || g->admitted;
    n->record.first_seen_us = g->first_seen_us;
    n->record.last_seen_us = g->last_seen_us;
}

/* ---- what it says ---------------------------------------------------------------------------- */

static int read_documents(struct sim_process *p, const struct sim_document *d, struct text *why)
{
    struct sim *s = p->sim;
    const struct sim_config *c = s->config;
    char words[512];
    int r = 0;
    for (size_t i = 0; r == 0 && i < c->tenant_count; i++)
        r = services_tenant_put(p->services, &c->tenant[i], s->now, sim_wall_us(s));
    for (size_t i = 0; r == 0 && i + c->policies_unsaid < c->policy_count; i++)
        r = services_policy_put(p->services, &c->policy[i], s->now, sim_wall_us(s));
    for (size_t i = 0; r == 0 && i + c->agreements_unsaid < c->agreement_count; i++) {
        words[0] = '\0';
        if (d[i].removed)
            continue;
        r = services_agreement_put(p->services, &d[i].agreement, s->now, sim_wall_us(s), words,
                                   sizeof words);
        if (r != 0 && why != NULL)
            text_printf(why, "agreement %s: %s\n", d[i].agreement.name,
                        words[0] != '\0' ? words : weir_strerror(r));
    }
    return r;
}

static void read_gateways(struct sim_process *p)
{
    struct sim *s = p->sim;
    for (uint32_t i = 0; i < s->config->gateways; i++) {
        struct sim_node *n = &s->node[i];
        if (!n->record.known)
            continue;
        if (n->record.admitted)
            (void)services_gateway_admitted(p->services, n->hello.id, s->now, sim_wall_us(s));
        if (n->record.process % s->running != p->index)
            continue;
        if (services_gateway_recall(p->services, n->hello.id, n->hello.name, n->hello.software,
                                    n->hello.address, n->record.first_seen_us,
                                    n->record.last_seen_us, n->record.admitted, s->now) == 0)
            moves_known(n, p->index);
    }
}

static void all_here(struct sim_process *p)
{
    struct sim *s = p->sim;
    for (int i = 0; i < LOAD_COUNT; i++)
        if (p->load[i] != LOAD_DONE)
            return;
    p->loaded = true;
    promises_unsettled(s);
    services_loaded(p->services, s->now, sim_wall_us(s));
}

int store_read(struct sim_process *p, struct text *why)
{
    read_gateways(p);
    int r = read_documents(p, p->sim->document, why);
    p->load[LOAD_DOCUMENTS] = p->load[LOAD_GATEWAYS] = LOAD_DONE;
    all_here(p);
    return r;
}

/* ---- questions ------------------------------------------------------------------------------- */

static void ask_again(struct sim *s, const struct event *e)
{
    struct sim_process *p = e->what;
    enum sim_load_what what = (enum sim_load_what)(e->number % LOAD_COUNT);
    if (p->services == NULL || e->number / LOAD_COUNT != s->life || p->load[what] != LOAD_WANTED)
        return;
    s->result->store_asked_again++;
    store_ask(p, what);
}

static void looked_up(struct sim *s, const struct event *e)
{
    struct sim_process *p = e->what;
    if (p->services == NULL || s->life != e->number >> 32)
        return;
    size_t bytes = s->config->agreement_count * sizeof(struct sim_document);
    struct answer *a = calloc(1, sizeof *a + bytes);
    weir_assert(a != NULL);
    a->what = (enum sim_load_what)((e->number & UINT32_MAX) % LOAD_COUNT);
    a->asked = (e->number & UINT32_MAX) / LOAD_COUNT;
    memcpy(a->document, s->document, bytes);
    struct message m = {.kind = PROCESS_LOADED, .process = p->index, .body = a};
    server_post(s, &m, s->store_ns / 2);
}

void store_ask(struct sim_process *p, enum sim_load_what what)
{
    struct sim *s = p->sim;
    uint64_t number = s->life << 32 | (++p->asked[what] * LOAD_COUNT + what);
    p->load[what] = LOAD_ASKED;
    if (s->store_ns < SIM_ASK_TIMEOUT_NS) {
        events_add(&s->events, s->now + s->store_ns / 2 + server_hop_ns(&s->thread_rng), looked_up,
                   p, number);
        return;
    }
    /* It comes too late, if at all: a failure, when the time is over. */
    struct answer *a = calloc(1, sizeof *a);
    weir_assert(a != NULL);
    a->what = what;
    a->asked = p->asked[what];
    a->failed = true;
    struct message m = {.kind = PROCESS_LOADED, .process = p->index, .body = a};
    server_post(s, &m, SIM_ASK_TIMEOUT_NS);
}

void store_answered(struct sim_process *p, const struct message *m)
{
    struct sim *s = p->sim;
    const struct answer *a = m->body;
    if (a->asked != p->asked[a->what] || p->load[a->what] != LOAD_ASKED)
        return;
    if (a->failed || p->again[a->what]) {
        p->load[a->what] = LOAD_WANTED;
        events_add(&s->events, s->now + (p->again[a->what] ? 1 : SIM_ASK_AGAIN_NS), ask_again, p,
                   s->life * LOAD_COUNT + a->what);
        p->again[a->what] = false;
        return;
    }
    p->load[a->what] = LOAD_DONE;
    if (a->what == LOAD_GATEWAYS)
        read_gateways(p);
    else
        (void)read_documents(p, a->document, NULL);
    all_here(p);
}

/* ---- people ---------------------------------------------------------------------------------- */

void store_changed(struct sim_process *p, const struct message *m)
{
    struct sim *s = p->sim;
    const struct changed *c = m->body;
    const struct agreement *a = &c->agreement;
    char words[512] = "";
    if (c->removed)
        (void)services_document_remove(p->services, "Agreement", a->name, s->now, sim_wall_us(s));
    else
        (void)services_agreement_put(p->services, a, s->now, sim_wall_us(s), words, sizeof words);
    p->again[LOAD_DOCUMENTS] = p->load[LOAD_DOCUMENTS] == LOAD_ASKED;
}

static void written(struct sim *s, const struct event *e)
{
    struct changed *c = e->what;
    s->document[c->index] = (struct sim_document){c->removed, s->now, c->agreement};
    s->last_fault_ns = s->now; /* the change is done now */
    promises_unsettled(s);
    for (uint32_t i = 0; s->server_is_up && i < s->processes; i++) {
        struct changed *copy = malloc(sizeof *copy);
        weir_assert(copy != NULL);
        *copy = *c;
        struct message m = {.kind = PROCESS_DOCUMENT, .process = i, .body = copy};
        server_post(s, &m, s->processes > 1 ? server_hop_ns(&s->thread_rng) : 0);
    }
    free(c);
}

bool store_holds(const struct event *e)
{
    return e->fire == written;
}

/* What the server refuses is not written: with another one it promises more than it lets go. */
static bool refused(const struct sim *s, uint32_t index, const struct agreement *a)
{
    char words[512];
    for (uint32_t i = 0; i < s->config->agreement_count; i++)
        if (i != index && !s->document[i].removed &&
            agreement_clashes(a, &s->document[i].agreement, words, sizeof words))
            return true;
    return false;
}

void store_agreement_change(struct sim *s, uint32_t index, uint64_t limit_iops, bool removed)
{
    const struct sim_document *d = &s->document[index];
    if (d->removed || s->store_ns >= SIM_ASK_TIMEOUT_NS)
        return; /* people are told that it was not done */
    struct changed *c = malloc(sizeof *c);
    weir_assert(c != NULL);
    *c = (struct changed){index, removed, d->agreement};
    c->agreement.version++;
    if (!removed)
        c->agreement.limits.rate[GATE_IOPS_TOTAL].rate = limit_iops;
    if (!removed && refused(s, index, &c->agreement)) {
        free(c);
        return;
    }
    events_add(&s->events, s->now + s->store_ns, written, c, 0);
}
