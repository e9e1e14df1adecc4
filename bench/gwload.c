/* SPDX-License-Identifier: Apache-2.0 */
/* gwload: plays many gateways before a server; told what to do by lines on standard input.
 *
 *   dial                 dial all that are not connected
 *   mark | report        begin counting anew | print what was counted, one line of JSON
 *   deaf N | half N      the last N stop reading | are half-open
 *   heal                 both are over
 *   hush | speak         no poll is answered | all that is owed is, and all polls are again
 *   storm N              the last N lose their connections and dial again, all at once
 *   leave N              the last N hang up and stay away until "dial"
 *   flood N FRAMES       the last N send so many heartbeats at once
 *   quit                 (or the end of the input)
 *
 * Each command but report answers "ok". See bench/monitor.py and gw_play.c. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "gw_play.h"

#define LINE_MAX_SIZE 256u

struct gwload {
    struct play play;
    struct reactor_source input;
    char line[LINE_MAX_SIZE];
    size_t line_size;
    uint64_t marked_ns;
    bool quit;
};

static _Noreturn void die(const char *what, const char *why)
{
    fprintf(stderr, "gwload: %s: %s\n", what, why);
    exit(1);
}

/* ---- what was counted */

static void print_hist(const char *name, const struct hist *h)
{
    const char *comma = "";
    printf(", \"%s\": {\"count\": %llu, \"sum_ns\": %llu, \"max_ns\": %llu, \"buckets\": [", name,
           (unsigned long long)h->count, (unsigned long long)h->sum_ns,
           (unsigned long long)h->max_ns);
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        if (h->bucket[i] == 0)
            continue;
        printf("%s[%llu, %llu]", comma, (unsigned long long)hist_bucket_high(i),
               (unsigned long long)h->bucket[i]);
        comma = ", ";
    }
    printf("]}");
}

static void report(struct gwload *l)
{
    struct play *p = &l->play;
    const struct play_counts *c = &p->counts;
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    printf("{\"seconds\": %.6f, \"gateways\": %u, \"up\": %u, \"settle_s\": %.3f, "
           "\"settle_left\": %u, \"cpu_s\": %.6f",
           (double)(clock_mono_ns() - l->marked_ns) / 1e9, p->o.gateways, p->up, p->settle_s,
           p->settle_left,
           (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
               (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
#define COUNT(name) printf(", \"%s\": %llu", #name, (unsigned long long)c->name)
    COUNT(polls);
    COUNT(answers);
    COUNT(bytes_in);
    COUNT(bytes_out);
    COUNT(controls);
    COUNT(surges);
    COUNT(surges_unanswered);
    COUNT(sessions);
    COUNT(dials);
    COUNT(dial_failures);
    COUNT(drops);
    COUNT(refusals);
    COUNT(byes);
#undef COUNT
    printf(", \"ios\": %llu", (unsigned long long)play_ios(p));
    print_hist("surge_to_control", &p->surge_to_control);
    print_hist("poll_gap", &p->poll_gap);
    print_hist("dial_to_welcome", &p->dial_to_welcome);
    printf(", \"last_refusal\": \"%s\"}\n", p->last_refusal);
}

/* ---- commands */

static bool command(struct gwload *l, const char *verb, unsigned n, unsigned frames)
{
    struct play *p = &l->play;
    if (strcmp(verb, "dial") == 0) {
        play_dial_all(p);
    } else if (strcmp(verb, "mark") == 0) {
        play_mark(p);
        l->marked_ns = clock_mono_ns();
    } else if (strcmp(verb, "deaf") == 0) {
        play_deafen(p, n);
    } else if (strcmp(verb, "half") == 0) {
        play_half(p, n);
    } else if (strcmp(verb, "heal") == 0) {
        play_heal(p);
    } else if (strcmp(verb, "hush") == 0) {
        play_hush(p);
    } else if (strcmp(verb, "speak") == 0) {
        play_speak(p);
    } else if (strcmp(verb, "storm") == 0) {
        play_storm(p, n);
    } else if (strcmp(verb, "leave") == 0) {
        play_leave(p, n);
    } else if (strcmp(verb, "flood") == 0) {
        play_flood(p, n, frames);
    } else {
        return false;
    }
    return true;
}

static void line(struct gwload *l)
{
    char verb[16] = "";
    unsigned n = 0, frames = 0;
    if (sscanf(l->line, "%15s %u %u", verb, &n, &frames) < 1)
        return;
    if (strcmp(verb, "quit") == 0)
        l->quit = true;
    else if (strcmp(verb, "report") == 0)
        report(l);
    else if (command(l, verb, n, frames))
        printf("ok\n");
    else
        die(verb, "no such command");
    fflush(stdout);
}

static void input_ready(struct reactor_source *s, uint32_t events)
{
    struct gwload *l = container_of(s, struct gwload, input);
    char byte;
    (void)events;
    for (;;) {
        ssize_t n = read(s->fd, &byte, 1);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            l->quit = true;
            return;
        }
        if (byte != '\n' && l->line_size + 1 < sizeof(l->line)) {
            l->line[l->line_size++] = byte;
            continue;
        }
        l->line[l->line_size] = '\0';
        l->line_size = 0;
        line(l);
    }
}

/* ---- options */

static uint32_t number(const char *text, uint32_t most)
{
    char *end = NULL;
    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    if (errno != 0 || *end != '\0' || text[0] == '-' || n > most)
        die(text, "not a number within its bounds");
    return (uint32_t)n;
}

static void read_key(const char *path, uint8_t key[AUTH_KEY_SIZE])
{
    char *text = NULL;
    size_t n = 0;
    if (text_read_file(path, 256, &text, NULL) < 0 ||
        sodium_hex2bin(key, AUTH_KEY_SIZE, text, strlen(text), "\n", &n, NULL) != 0 ||
        n != AUTH_KEY_SIZE)
        die(path, "expected a key of 64 hex digits");
    free(text);
}

static void read_option(struct play_options *o, int option)
{
    const char *expected = "";
    int wire;
    switch (option) {
    case 'c':
        if (addr_parse(optarg, 0, &o->server, &expected) < 0)
            die(optarg, expected);
        break;
    case 'k':
        read_key(optarg, o->key);
        break;
    case 'w':
        wire = gw_wire_parse(optarg);
        if (wire < 0)
            die(optarg, "expected weir, zmtp or sp");
        o->wire = (enum gw_wire)wire;
        break;
    case 'n':
        o->gateways = number(optarg, 20000);
        break;
    case 'f':
        o->first = number(optarg, 1000000);
        break;
    case 's':
        o->streams = number(optarg, GW_FRAME_STREAMS / 2);
        break;
    case 'a':
        o->active = number(optarg, GW_FRAME_STREAMS / 2);
        break;
    case 'S':
        o->surgers = number(optarg, 20000);
        break;
    case 'm':
        o->surge_ns = number(optarg, 60000) * NS_PER_MS;
        break;
    case 'N':
        o->source_net = number(optarg, 60000);
        break;
    case 'A':
        o->sources = number(optarg, 250);
        break;
    case 'd':
        o->dial_limit = number(optarg, 20000);
        break;
    default:
        fputs("Usage: gwload --connect ADDRESS --key FILE --gateways N [--first N] [--streams N]\n"
              "              [--active N] [--surgers N --surge-ms N] [--wire weir|zmtp|sp]\n"
              "              [--net N] [--sources N] [--dial-limit N]\n",
              stderr);
        exit(2);
    }
}

static struct play_options read_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"connect", required_argument, NULL, 'c'},  {"key", required_argument, NULL, 'k'},
        {"wire", required_argument, NULL, 'w'},     {"gateways", required_argument, NULL, 'n'},
        {"first", required_argument, NULL, 'f'},    {"streams", required_argument, NULL, 's'},
        {"active", required_argument, NULL, 'a'},   {"surgers", required_argument, NULL, 'S'},
        {"surge-ms", required_argument, NULL, 'm'}, {"net", required_argument, NULL, 'N'},
        {"sources", required_argument, NULL, 'A'},  {"dial-limit", required_argument, NULL, 'd'},
        {NULL, 0, NULL, 0},
    };
    struct play_options o = {.gateways = 1,
                             .streams = 16,
                             .active = 16,
                             .sources = 16,
                             .source_net = 1,
                             .dial_limit = 128,
                             .surge_extra = GW_FRAME_STREAMS / 2,
                             .redial = true};
    int option;
    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1)
        read_option(&o, option);
    if (o.server.len == 0 || o.gateways == 0 || o.sources == 0 || o.dial_limit == 0 ||
        o.surgers > o.gateways)
        read_option(&o, '?');
    return o;
}

int main(int argc, char **argv)
{
    struct rlimit files;
    static struct gwload l;
    setvbuf(stdout, NULL, _IOFBF, 1u << 16);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct play_options o = read_options(argc, argv);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    if (play_open(&l.play, &o) < 0)
        die("start", "no memory or no descriptors");
    l.input = (struct reactor_source){.fd = STDIN_FILENO, .ready = input_ready};
    fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
    if (reactor_add(l.play.reactor, &l.input, EPOLLIN) < 0)
        die("standard input", "expected a pipe");
    l.marked_ns = clock_mono_ns();
    printf("ok\n");
    fflush(stdout);
    while (!l.quit) {
        int r = reactor_round(l.play.reactor, UINT64_MAX);
        weir_assert(r == 0);
    }
    play_close(&l.play);
    return 0;
}
