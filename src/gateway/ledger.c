/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger.
 *
 * Problem: a worker may be killed between any two instructions, and the next one must go on from
 * where it stood: no counter may fall or jump, no bucket be full again, no control be forgotten.
 *
 * Model: one memfd, laid out by what the configuration bounds, mapped by the manager and by each
 * worker. A killed process has carried out every instruction before the one it died at, in the
 * order of the program, and none behind; stores of an aligned word are whole. So everything here is
 * one of these:
 *   - a single word (gauges, sizes, heartbeats, the lease and what it left undivided): whole by
 *     itself;
 *   - a meter or a bucket: whole by its own means (qos/meter.c, qos/bucket.c);
 *   - a record behind a flag: written while the flag says that nothing is there, then published by
 *     storing the flag (a slot's `live`, a cell's hash);
 *   - two copies and a word that says which is in force (a tenant's name, the controls): the other
 *     one is written, then the word.
 * Between two such steps stands a fence for the compiler; the processor needs none.
 *
 * Banks. Each worker counts in one of two banks, a worker that takes over from a dead one in the
 * same. So with two alive (an upgrade) no word has two writers, but for the cells of rules, which
 * both charge: those are touched under the lock of ledger_share.h, which costs nothing while one is
 * alive. Slots are given to streams by one worker only: the one that retires takes no more hosts.
 *
 * Invariants:
 *   1. A slot that is not live has nothing to tell; its meters are zeroed before it is live again.
 *   2. A cell with hash 0 is free. One whose `used` are all 0 waits for its rule to come again
 *     after a death, until ledger_cells_sweep.
 *   3. Of relay_counts and target_stats the gauges follow from the counters: active = accepted -
 *     closed, connections = connects - disconnects; after a death both gauges are 0 and the
 *     counters are brought up to say so.
 *
 * Memory: address space for both banks of all slots and all cells; pages are taken as they are
 * touched: some 80 KiB a stream that does I/O, 2 KiB a rule. */
#include "gateway/ledger.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/rng.h"
#include "gateway/rule.h"

#define LEDGER_MAGIC UINT64_C(0x324c414e524a4f57)
#define LEDGER_ALIGN 4096u

struct ledger_controls_head {
    uint64_t epoch, size;
};

struct ledger_head {
    uint64_t magic, layout;
    uint8_t boot_id[LEDGER_BOOT_ID_SIZE];
    uint32_t next_index;
    uint32_t controls_now; /* 0: nothing kept, else 1 + which of the two */
    uint64_t controls_generation, lease_until;
    _Atomic uint64_t drain_since, drain_deadline;
    _Atomic uint32_t drain_known;
    struct ledger_controls_head controls[2];
    struct ledger_life life;
    struct ledger_share share;
    struct relay_counts counts[LEDGER_BANKS];
    struct ledger_target target[CONFIG_MAX_TARGETS];
};

struct ledger {
    struct ledger_head *head;
    struct ledger_stream *streams;
    struct meter *meters[LEDGER_BANKS];
    uint64_t *cell_hash;
    struct ledger_cell *cells;
    char *controls[2];
    size_t slots, cell_count, target_count, size;
    uint32_t bank;
    int fd;
};

static void ledger_fence(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

/* ---- layout ---------------------------------------------------------------------------------- */

static size_t ledger_place(size_t *at, size_t bytes)
{
    size_t here = *at;
    *at += (bytes + LEDGER_ALIGN - 1) / LEDGER_ALIGN * LEDGER_ALIGN;
    return here;
}

/* Work out where everything is; with @base NULL only how large it is. */
static void ledger_lay_out(struct ledger *l, const struct gateway_config *config, char *base)
{
    size_t at = 0;
    l->target_count = config->target_count;
    l->slots = (size_t)config->max_streams + config->target_count;
    l->cell_count = rule_book_rules_max(config->max_streams, config->target_count);
    size_t head = ledger_place(&at, sizeof(struct ledger_head));
    size_t streams = ledger_place(&at, l->slots * sizeof(struct ledger_stream));
    size_t meters[LEDGER_BANKS];
    for (uint32_t b = 0; b < LEDGER_BANKS; b++)
        meters[b] = ledger_place(&at, l->slots * sizeof(struct meter));
    size_t hash = ledger_place(&at, l->cell_count * sizeof(uint64_t));
    size_t cells = ledger_place(&at, l->cell_count * sizeof(struct ledger_cell));
    size_t controls[2] = {ledger_place(&at, LEDGER_CONTROLS_MAX),
                          ledger_place(&at, LEDGER_CONTROLS_MAX)};
    l->size = at;
    if (!base)
        return;
    l->head = (void *)(base + head);
    l->streams = (void *)(base + streams);
    for (uint32_t b = 0; b < LEDGER_BANKS; b++)
        l->meters[b] = (void *)(base + meters[b]);
    l->cell_hash = (void *)(base + hash);
    l->cells = (void *)(base + cells);
    l->controls[0] = base + controls[0];
    l->controls[1] = base + controls[1];
}

/* Two programs that agree on this agree on every field. */
static uint64_t ledger_layout(const struct ledger *l)
{
    const size_t parts[] = {
        sizeof(struct ledger_head), sizeof(struct ledger_stream), sizeof(struct meter),
        sizeof(struct ledger_cell), sizeof(struct relay_counts),  sizeof(struct target_stats),
        sizeof(struct bucket),      l->slots,                     l->cell_count,
        l->target_count,            RELAY_CLOSE_COUNT,            IO_OP_COUNT,
        GATE_KIND_COUNT,            LEDGER_CONTROLS_MAX,
    };
    uint64_t h = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        h = (h ^ parts[i]) * UINT64_C(1099511628211);
    return h;
}

static int ledger_map(struct ledger *l, const struct gateway_config *config)
{
    ledger_lay_out(l, config, NULL);
    struct stat st;
    if (fstat(l->fd, &st) < 0)
        return -errno;
    if (st.st_size == 0 && ftruncate(l->fd, (off_t)l->size) < 0)
        return -errno;
    if (st.st_size != 0 && st.st_size != (off_t)l->size)
        return WEIR_E_VERSION;
    void *base = mmap(NULL, l->size, PROT_READ | PROT_WRITE, MAP_SHARED, l->fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    ledger_lay_out(l, config, base);
    return 0;
}

static struct ledger *ledger_alloc(int fd)
{
    struct ledger *l = calloc(1, sizeof(*l));
    if (l)
        l->fd = fd;
    else if (fd >= 0)
        close(fd);
    return l;
}

int ledger_new(const struct gateway_config *config, struct ledger **ret)
{
    int fd = memfd_create("weir-ledger", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    struct ledger *l = ledger_alloc(fd);
    int err = l ? ledger_map(l, config) : -ENOMEM;
    if (err < 0) {
        ledger_free(l);
        return err;
    }
    l->head->layout = ledger_layout(l);
    rng_system(l->head->boot_id, sizeof(l->head->boot_id));
    for (size_t i = 0; i < l->target_count; i++)
        memcpy(l->head->target[i].name, config->targets[i].name, NAME_SIZE);
    ledger_fence();
    l->head->magic = LEDGER_MAGIC;
    *ret = l;
    return 0;
}

int ledger_open(const struct gateway_config *config, int fd, struct ledger **ret)
{
    struct ledger *l = ledger_alloc(fd);
    if (!l)
        return -ENOMEM;
    int err = ledger_map(l, config);
    if (err == 0 && (l->head->magic != LEDGER_MAGIC || l->head->layout != ledger_layout(l)))
        err = WEIR_E_VERSION;
    for (size_t i = 0; err == 0 && i < l->target_count; i++)
        if (strncmp(l->head->target[i].name, config->targets[i].name, NAME_SIZE) != 0)
            err = WEIR_E_VERSION;
    if (err < 0) {
        ledger_free(l);
        return err;
    }
    *ret = l;
    return 0;
}

void ledger_free(struct ledger *l)
{
    if (!l)
        return;
    if (l->head)
        munmap(l->head, l->size);
    if (l->fd >= 0)
        close(l->fd);
    free(l);
}

int ledger_fd(const struct ledger *l)
{
    return l->fd;
}

/* ---- after a death --------------------------------------------------------------------------- */

static void target_repair(struct target_stats *s)
{
    s->connections = s->inflight = 0;
    s->disconnects = s->connects;
}

static void counts_repair(struct relay_counts *c)
{
    uint64_t closed = 0;
    for (int i = 0; i < RELAY_CLOSE_COUNT; i++)
        closed += i != RELAY_CLOSE_WORKER_LOST ? c->closed[i] : 0;
    c->active = 0;
    c->closed[RELAY_CLOSE_WORKER_LOST] = c->accepted > closed ? c->accepted - closed : 0;
}

void ledger_take_bank(struct ledger *l, uint32_t bank)
{
    weir_assert(bank < LEDGER_BANKS);
    l->bank = bank;
}

void ledger_repair_bank(struct ledger *l, uint32_t bank)
{
    weir_assert(bank < LEDGER_BANKS);
    uint32_t owner = bank + 1;
    (void)atomic_compare_exchange_strong(&l->head->share.owner, &owner, 0);
    for (size_t i = 0; i < l->slots; i++) {
        l->streams[i].connections[bank] = 0;
        if (l->streams[i].live)
            meter_repair(&l->meters[bank][i]);
    }
    for (size_t i = 0; i < l->target_count; i++)
        target_repair(&l->head->target[i].stats[bank]);
    counts_repair(&l->head->counts[bank]);
    for (size_t i = 0; i < l->cell_count; i++)
        if (l->cell_hash[i] != 0)
            l->cells[i].used[bank] = 0;
}

uint32_t ledger_bank(const struct ledger *l)
{
    return l->bank;
}

struct ledger_share *ledger_share(struct ledger *l)
{
    return &l->head->share;
}

void ledger_lock(struct ledger_share *s, uint32_t bank)
{
    for (uint32_t tries = 1;; tries++) {
        uint32_t free = 0;
        if (atomic_compare_exchange_weak_explicit(&s->owner, &free, bank + 1,
                                                  memory_order_acquire, memory_order_relaxed))
            return;
        if (tries % 64 == 0)
            sched_yield();
    }
}

const uint8_t *ledger_boot_id(const struct ledger *l)
{
    return l->head->boot_id;
}

struct ledger_life *ledger_life(struct ledger *l)
{
    return &l->head->life;
}

/* ---- streams --------------------------------------------------------------------------------- */

size_t ledger_slots(const struct ledger *l)
{
    return l->slots;
}

struct ledger_stream *ledger_stream(struct ledger *l, size_t slot)
{
    weir_assert(slot < l->slots);
    return &l->streams[slot];
}

struct meter *ledger_meter(struct ledger *l, size_t slot)
{
    weir_assert(slot < l->slots);
    return &l->meters[l->bank][slot];
}

const struct meter *ledger_meter_other(struct ledger *l, size_t slot)
{
    weir_assert(slot < l->slots);
    const struct meter *m = &l->meters[l->bank ^ 1u][slot];
    return meter_used(m) ? m : NULL;
}

static void ledger_copy_name(char to[NAME_SIZE], const char *from)
{
    size_t n = strnlen(from, NAME_SIZE);
    weir_assert(n < NAME_SIZE);
    memcpy(to, from, n + 1);
}

void ledger_stream_begin(struct ledger *l, size_t slot, const char *host, const char *volume,
                         const char *target, const char *tenant, uint64_t now_ns)
{
    struct ledger_stream *s = ledger_stream(l, slot);
    weir_assert(!s->live);
    ledger_fence();
    for (uint32_t b = 0; b < LEDGER_BANKS && s->ever_used; b++)
        if (b == l->bank || meter_used(&l->meters[b][slot]))
            memset(&l->meters[b][slot], 0, sizeof(struct meter));
    s->ever_used = 1;
    s->index = l->head->next_index++;
    s->size = 0;
    s->created_ns = now_ns;
    s->tenant_now = 0;
    ledger_copy_name(s->host, host);
    ledger_copy_name(s->volume, volume);
    ledger_copy_name(s->target, target);
    ledger_copy_name(s->tenant[0], tenant);
    ledger_fence();
    s->live = 1;
    ledger_fence();
}

void ledger_stream_end(struct ledger *l, size_t slot)
{
    ledger_fence();
    ledger_stream(l, slot)->live = 0;
    ledger_fence();
}

void ledger_stream_set_tenant(struct ledger *l, size_t slot, const char *tenant)
{
    struct ledger_stream *s = ledger_stream(l, slot);
    uint32_t other = (s->tenant_now & 1u) ^ 1u;
    ledger_copy_name(s->tenant[other], tenant);
    ledger_fence();
    s->tenant_now = other;
    ledger_fence();
}

const char *ledger_stream_tenant(const struct ledger_stream *s)
{
    return s->tenant[s->tenant_now & 1u];
}

uint32_t ledger_connections_other(struct ledger *l, size_t slot)
{
    return ledger_stream(l, slot)->connections[l->bank ^ 1u];
}

/* ---- targets and connections ----------------------------------------------------------------- */

struct target_stats *ledger_target(struct ledger *l, size_t index)
{
    weir_assert(index < l->target_count);
    return &l->head->target[index].stats[l->bank];
}

void ledger_target_total(struct ledger *l, size_t index, struct target_stats *ret)
{
    *ret = *ledger_target(l, index);
    const struct target_stats *o = &l->head->target[index].stats[l->bank ^ 1u];
    ret->connections += o->connections;
    ret->connects += o->connects;
    ret->connect_failures += o->connect_failures;
    ret->disconnects += o->disconnects;
    ret->inflight += o->inflight;
    ret->errors += o->errors;
}

struct relay_counts *ledger_counts(struct ledger *l)
{
    return &l->head->counts[l->bank];
}

void ledger_counts_total(struct ledger *l, struct relay_counts *ret)
{
    *ret = l->head->counts[l->bank];
    const struct relay_counts *o = &l->head->counts[l->bank ^ 1u];
    ret->accepted += o->accepted;
    ret->active += o->active;
    for (int i = 0; i < RELAY_CLOSE_COUNT; i++)
        ret->closed[i] += o->closed[i];
    ret->hold_full += o->hold_full;
}

/* ---- credit ---------------------------------------------------------------------------------- */

static uint64_t cell_hash(const char *id, uint32_t owner)
{
    uint64_t h = (rule_hash(id) ^ owner) * UINT64_C(1099511628211);
    return h != 0 ? h : 1;
}

/* At most one look at each cell's hash: 21,504 with the default bounds, 168 KiB. Rules come and go
 * rarely. */
struct ledger_cell *ledger_cell_take(struct ledger *l, const char *id, uint32_t owner)
{
    uint64_t hash = cell_hash(id, owner);
    size_t vacant = l->cell_count;
    for (size_t i = 0; i < l->cell_count; i++) {
        struct ledger_cell *c = &l->cells[i];
        if (l->cell_hash[i] == 0 && vacant == l->cell_count)
            vacant = i;
        if (l->cell_hash[i] != hash || c->owner != owner || strncmp(c->id, id, sizeof(c->id)) != 0)
            continue;
        if (c->used[l->bank])
            return NULL; /* two rules of one name; never so, and no credit for the second */
        c->used[l->bank] = 1;
        return c;
    }
    if (vacant == l->cell_count)
        return NULL;
    struct ledger_cell *c = &l->cells[vacant];
    memset(c, 0, sizeof(*c));
    size_t n = strnlen(id, sizeof(c->id) - 1);
    memcpy(c->id, id, n);
    c->owner = owner;
    c->used[l->bank] = 1;
    ledger_fence();
    l->cell_hash[vacant] = hash;
    ledger_fence();
    return c;
}

void ledger_cell_give(struct ledger *l, struct ledger_cell *c)
{
    if (!c)
        return;
    size_t i = (size_t)(c - l->cells);
    weir_assert(i < l->cell_count);
    c->used[l->bank] = 0;
    ledger_fence();
    if (c->used[l->bank ^ 1u] == 0)
        l->cell_hash[i] = 0;
    ledger_fence();
}

void ledger_cells_sweep(struct ledger *l)
{
    for (size_t i = 0; i < l->cell_count; i++)
        if (l->cell_hash[i] != 0 && !l->cells[i].used[0] && !l->cells[i].used[1])
            l->cell_hash[i] = 0;
}

/* ---- controls -------------------------------------------------------------------------------- */

int ledger_controls_put(struct ledger *l, const void *bytes, size_t n, uint64_t epoch)
{
    struct ledger_head *h = l->head;
    if (n > LEDGER_CONTROLS_MAX) {
        h->controls_now = 0;
        return WEIR_E_FULL;
    }
    uint32_t other = h->controls_now == 1 ? 1 : 0;
    h->controls[other] = (struct ledger_controls_head){.epoch = epoch, .size = n};
    if (n > 0)
        memcpy(l->controls[other], bytes, n);
    ledger_fence();
    h->controls_now = other + 1;
    h->controls_generation++;
    ledger_fence();
    return 0;
}

bool ledger_controls_get(struct ledger *l, const void **ret, size_t *ret_n, uint64_t *ret_epoch,
                         uint64_t *ret_generation)
{
    const struct ledger_head *h = l->head;
    *ret_generation = h->controls_generation;
    if (h->controls_now < 1 || h->controls_now > 2)
        return false;
    const struct ledger_controls_head *c = &h->controls[h->controls_now - 1];
    if (c->size > LEDGER_CONTROLS_MAX)
        return false;
    *ret = l->controls[h->controls_now - 1];
    *ret_n = c->size;
    *ret_epoch = c->epoch;
    return true;
}

void ledger_lease_set(struct ledger *l, uint64_t until_ns)
{
    l->head->lease_until = until_ns;
}

uint64_t ledger_lease(const struct ledger *l)
{
    return l->head->lease_until;
}

void ledger_undivided_set(struct ledger *l, size_t target, uint64_t until_ns)
{
    weir_assert(target < l->target_count);
    l->head->target[target].undivided_until = until_ns;
}

uint64_t ledger_undivided(const struct ledger *l, size_t target)
{
    weir_assert(target < l->target_count);
    return l->head->target[target].undivided_until;
}

/* ---- draining -------------------------------------------------------------------------------- */

/* Who reads between two stores finds one draining without its deadline, never the deadline of
 * another. */
void ledger_drain_set(struct ledger *l, uint64_t since, uint64_t deadline_ns)
{
    weir_assert(since != 0 || deadline_ns == 0);
    atomic_store(&l->head->drain_deadline, 0);
    atomic_store(&l->head->drain_since, since);
    atomic_store(&l->head->drain_deadline, deadline_ns);
    atomic_store(&l->head->drain_known, 1);
}

bool ledger_drain_known(const struct ledger *l)
{
    return atomic_load(&l->head->drain_known) != 0;
}

uint64_t ledger_drain(const struct ledger *l, uint64_t *ret_deadline_ns)
{
    uint64_t since = atomic_load(&l->head->drain_since);
    *ret_deadline_ns = atomic_load(&l->head->drain_deadline);
    if (since != atomic_load(&l->head->drain_since))
        *ret_deadline_ns = 0; /* being changed: the next look knows */
    return since;
}
