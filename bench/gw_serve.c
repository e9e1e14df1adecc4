/* SPDX-License-Identifier: Apache-2.0 */
/* gwserve: the servers that bench/monitor.py compares, all under the load of gwload.
 *
 *   pair      src/server/monitor as it is: acceptor, inbound and outbound threads, mailboxes; in
 *             the place of the SLA services stands a thread that folds and polls
 *   threads   a thread for each connection, which reads, unpacks, folds, packs and writes
 *   zmq       libzmq ROUTER: its I/O thread, and one that receives, unpacks, folds, packs, sends
 *   nng       nng REP (raw): its own threads, and one that does the same
 *
 * Problem. A comparison of messaging is worth something when all do the same with a message.
 *
 * Model. Each answer is checked and unpacked by control/frame.c, becomes a struct report
 * (server/monitor/report.c), every counter and every bucket of it is added up, and the gateway is
 * polled again: at once (saturation) or at its own phase of the period. Only then the round trip
 * ends. What differs is how bytes come and go, how a gateway is found, and the two mailboxes that
 * an answer and a poll pass in the pair form. In zmq and nng nobody proves a key. */
#include "gw_serve.h"

#include <errno.h>
#include <malloc.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "server/monitor/monitor.h"
#include "server/monitor/report.h"

/* ---- gateways */

int serve_init(struct serve *s, const struct serve_options *o)
{
    *s = (struct serve){.o = *o};
    pthread_mutex_init(&s->lock, NULL);
    s->gateway = calloc(o->gateways, sizeof(*s->gateway));
    return s->gateway != NULL ? 0 : -ENOMEM;
}

/* Open addressing would need deletion; the transports' keys are small and dense enough for a place
 * by remainder and a short walk. */
static uint32_t place(const struct serve *s, uint32_t key)
{
    return (key * 2654435761u) % s->o.gateways;
}

uint32_t serve_come(struct serve *s, uint32_t key)
{
    pthread_mutex_lock(&s->lock);
    uint32_t at = place(s, key), walked = 0;
    while (s->gateway[at].used) {
        at = at + 1 < s->o.gateways ? at + 1 : 0;
        weir_assert(++walked < s->o.gateways);
    }
    s->gateway[at] = (struct serve_gateway){.used = true, .key = key};
    if (s->o.period_ms > 0)
        s->gateway[at].phase_ms = (at * 2654435761u >> 8) % s->o.period_ms;
    pthread_mutex_unlock(&s->lock);
    return at;
}

int64_t serve_find(struct serve *s, uint32_t key)
{
    uint32_t at = place(s, key);
    for (uint32_t walked = 0; walked < s->o.gateways && s->gateway[at].used; walked++) {
        if (s->gateway[at].key == key)
            return at;
        at = at + 1 < s->o.gateways ? at + 1 : 0;
    }
    return -1;
}

void serve_gone(struct serve *s, uint32_t at)
{
    pthread_mutex_lock(&s->lock);
    s->gateway[at].used = false;
    pthread_mutex_unlock(&s->lock);
}

/* ---- answers and polls */

void serve_report(struct serve *s, uint32_t at, const struct report *r, uint64_t now_ns)
{
    struct serve_gateway *g = &s->gateway[at];
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < r->stream_count; i++) {
        const struct report_stream *st = &r->stream[i];
        for (size_t k = 0; k < st->op_count; k++) {
            g->arrivals += st->op[k].counts.arrivals;
            g->bytes += st->op[k].counts.bytes;
        }
        for (size_t k = 0; k < st->hist_count; k++) {
            for (size_t b = 0; b < st->hist[k].bucket_count; b++)
                g->histogram += st->hist[k].bucket[b].count;
        }
    }
    if (g->waiting && r->seq == g->seq && !r->more) {
        hist_record(&s->round_trip, now_ns - g->polled_ns);
        s->answers++;
        g->acked = r->seq;
        g->waiting = false;
    }
    pthread_mutex_unlock(&s->lock);
}

int serve_frame(struct serve *s, uint32_t at, const Weir__Control__Frame *f, uint64_t now_ns)
{
    if (f->body_case != WEIR__CONTROL__FRAME__BODY_STATISTICS)
        return WEIR_E_NOT_FOUND;
    struct report *r = report_new(f->statistics, at, NULL);
    weir_assert(r != NULL);
    serve_report(s, at, r, now_ns);
    free(r);
    return 0;
}

uint64_t serve_due(struct serve *s, uint32_t at, uint64_t now_ns)
{
    uint64_t period = s->o.period_ms * NS_PER_MS;
    if (period == 0)
        return now_ns;
    uint64_t from = now_ns + period / 2;
    uint64_t base = from - from % period + s->gateway[at].phase_ms * NS_PER_MS;
    return base >= from ? base : base + period;
}

void serve_poll(struct serve *s, uint32_t at, uint64_t now_ns, uint64_t *ret_seq,
                uint64_t *ret_acked)
{
    struct serve_gateway *g = &s->gateway[at];
    pthread_mutex_lock(&s->lock);
    g->seq++;
    g->polled_ns = now_ns;
    g->waiting = true;
    *ret_seq = g->seq;
    *ret_acked = g->acked;
    pthread_mutex_unlock(&s->lock);
}

void serve_poll_frame(struct serve *s, uint32_t at, uint64_t now_ns, struct text *out)
{
    Weir__Control__Poll p = WEIR__CONTROL__POLL__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    serve_poll(s, at, now_ns, &p.seq, &p.acked);
    f.body_case = WEIR__CONTROL__FRAME__BODY_POLL;
    f.poll = &p;
    int r = frame_append(out, &f);
    weir_assert(r == 0);
}

/* ---- the calendar */

#define NOBODY UINT32_MAX

struct calendar {
    uint32_t slots, *first, *next;
    uint64_t at_ms; /* slots before it are empty */
};

struct calendar *calendar_new(uint32_t gateways, uint32_t period_ms)
{
    struct calendar *c = calloc(1, sizeof(*c));
    weir_assert(c != NULL);
    c->slots = 2 * period_ms + 1;
    c->first = malloc(c->slots * sizeof(*c->first));
    c->next = malloc(gateways * sizeof(*c->next));
    weir_assert(c->first != NULL && c->next != NULL);
    for (uint32_t i = 0; i < c->slots; i++)
        c->first[i] = NOBODY;
    c->at_ms = clock_mono_ns() / NS_PER_MS;
    return c;
}

void calendar_put(struct calendar *c, uint32_t at, uint64_t due_ns)
{
    uint64_t ms = due_ns / NS_PER_MS;
    if (ms < c->at_ms)
        ms = c->at_ms;
    uint32_t slot = (uint32_t)(ms % c->slots);
    c->next[at] = c->first[slot];
    c->first[slot] = at;
}

int64_t calendar_take(struct calendar *c, uint64_t now_ns)
{
    uint64_t now_ms = now_ns / NS_PER_MS;
    for (; c->at_ms <= now_ms; c->at_ms++) {
        uint32_t *slot = &c->first[c->at_ms % c->slots];
        if (*slot == NOBODY)
            continue;
        uint32_t at = *slot;
        *slot = c->next[at];
        return at;
    }
    c->at_ms = now_ms; /* the slot of this millisecond may still be filled */
    return -1;
}

/* ---- commands: "mark" and "report" on standard input */

static void report_print(struct serve *s)
{
    const char *comma = "";
    pthread_mutex_lock(&s->lock);
    printf("{\"answers\": %llu, \"round_trip\": {\"count\": %llu, \"sum_ns\": %llu, "
           "\"max_ns\": %llu, \"buckets\": [",
           (unsigned long long)s->answers, (unsigned long long)s->round_trip.count,
           (unsigned long long)s->round_trip.sum_ns, (unsigned long long)s->round_trip.max_ns);
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        if (s->round_trip.bucket[i] == 0)
            continue;
        printf("%s[%llu, %llu]", comma, (unsigned long long)hist_bucket_high(i),
               (unsigned long long)s->round_trip.bucket[i]);
        comma = ", ";
    }
    pthread_mutex_unlock(&s->lock);
    struct mallinfo2 heap = mallinfo2();
    printf("]}, \"heap_bytes\": %zu, \"report_bytes\": %zu}\n", heap.uordblks + heap.hblkhd,
           s->monitor != NULL ? monitor_report_bytes(s->monitor) : 0);
}

static void *commands(void *serve)
{
    struct serve *s = serve;
    char line[64];
    while (fgets(line, sizeof(line), stdin) != NULL) {
        if (strcmp(line, "report\n") == 0) {
            report_print(s);
        } else if (strcmp(line, "mark\n") == 0) {
            pthread_mutex_lock(&s->lock);
            s->answers = 0;
            hist_clear(&s->round_trip);
            pthread_mutex_unlock(&s->lock);
            printf("ok\n");
        }
        fflush(stdout);
    }
    exit(0);
}

/* ---- start */

static _Noreturn void usage(void)
{
    fputs("Usage: gwserve --form pair|threads|zmq|nng --listen 127.0.0.1:PORT --state-dir DIR\n"
          "               --gateways MAX [--period-ms MS, 0: saturate] [--pairs N]\n"
          "               [--processes N]\n",
          stderr);
    exit(2);
}

static uint32_t number(const char *text, unsigned long most)
{
    char *end = NULL;
    unsigned long n = strtoul(text, &end, 10);
    if (*end != '\0' || text[0] == '-' || n > most)
        usage();
    return (uint32_t)n;
}

static const char *read_options(int argc, char **argv, struct serve_options *o)
{
    static const struct option names[] = {
        {"form", required_argument, NULL, 'f'},      {"listen", required_argument, NULL, 'l'},
        {"state-dir", required_argument, NULL, 's'}, {"gateways", required_argument, NULL, 'g'},
        {"period-ms", required_argument, NULL, 'p'}, {"pairs", required_argument, NULL, 'P'},
        {"processes", required_argument, NULL, 'j'}, {NULL, 0, NULL, 0},
    };
    const char *form = "";
    int option;
    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        if (option == 'f')
            form = optarg;
        else if (option == 'l')
            o->listen = optarg;
        else if (option == 's')
            o->state_dir = optarg;
        else if (option == 'g')
            o->gateways = number(optarg, 20000);
        else if (option == 'p')
            o->period_ms = number(optarg, 60000);
        else if (option == 'P')
            o->pairs = number(optarg, 16);
        else if (option == 'j')
            o->processes = number(optarg, 16);
        else
            usage();
    }
    if (o->listen == NULL || o->state_dir == NULL || o->gateways == 0)
        usage();
    return form;
}

int main(int argc, char **argv)
{
    static struct serve s;
    struct serve_options o = {.pairs = 1, .processes = 1};
    struct rlimit files;
    pthread_t thread;
    const char *form = read_options(argc, argv, &o);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    log_init("gwserve", LOG_LEVEL_ERROR);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    if (serve_init(&s, &o) < 0 || pthread_create(&thread, NULL, commands, &s) != 0)
        return 1;
    pthread_setname_np(thread, "commands");
    if (strcmp(form, "pair") == 0)
        return serve_pair(&s);
    if (strcmp(form, "threads") == 0)
        return serve_threads(&s);
#if WITH_ZMQ
    if (strcmp(form, "zmq") == 0)
        return serve_zmq(&s);
#endif
#if WITH_NNG
    if (strcmp(form, "nng") == 0)
        return serve_nng(&s);
#endif
    fprintf(stderr, "gwserve: form \"%s\": not known, or not built (tools/deps bench)\n", form);
    return 2;
}
