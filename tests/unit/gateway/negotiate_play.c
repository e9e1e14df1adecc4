/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "negotiate_play.h"

/* --- the stage ----------------------------------------------------------------------------- */

static void wires_init(struct play *p)
{
    text_init(&p->from_host, ROOM);
    text_init(&p->to_target, ROOM);
    text_init(&p->from_target, ROOM);
    text_init(&p->to_host, ROOM);
}

static void wires_fini(struct play *p)
{
    text_fini(&p->from_host);
    text_fini(&p->to_target);
    text_fini(&p->from_target);
    text_fini(&p->to_host);
}

void play_new(void **state, size_t volume_count, const char *default_export)
{
    struct play *p = calloc(1, sizeof *p);
    static const char *const ours[] = {"alpha", "beta", "gamma"};
    static const char *const theirs[] = {"lun-1", "lun-2", "lun-2"};

    assert_non_null(p);
    for (size_t i = 0; i < 3; i++) {
        strcpy(p->volumes[i].name, ours[i]);
        strcpy(p->volumes[i].export_name, theirs[i]);
        p->volume_list[i] = &p->volumes[i];
    }
    p->target.volumes = p->volume_list;
    p->target.volume_count = volume_count;
    strcpy(p->target.export_name, default_export);
    wires_init(p);
    text_init(&p->tape, ROOM);
    text_init(&p->all_to_target, ROOM);
    text_init(&p->all_to_host, ROOM);
    text_init(&p->scratch, ROOM);
    p->n = negotiate_new(&p->target);
    assert_non_null(p->n);
    *state = p;
}

int setup_open(void **state)
{
    play_new(state, 0, "");
    return 0;
}

int setup_default_export(void **state)
{
    play_new(state, 0, "main");
    return 0;
}

int setup_volumes(void **state)
{
    play_new(state, 3, "");
    return 0;
}

void step(struct play *p)
{
    p->state = negotiate_step(p->n, &p->from_host, &p->to_target, &p->from_target, &p->to_host);
}

void say(struct play *p, bool host, const void *bytes, size_t n)
{
    assert_true(p->turn_count < TURNS_MAX);
    p->turns[p->turn_count++] =
        (struct turn){.host = host, .from = p->tape.len, .to = p->tape.len + n};
    text_append(&p->tape, bytes, n);
    text_append(host ? &p->from_host : &p->from_target, bytes, n);
    step(p);
}

/* What has been written by the other peer is in p->scratch. */
void host_says(struct play *p)
{
    say(p, true, p->scratch.data, p->scratch.len);
    text_clear(&p->scratch);
}

void target_says(struct play *p)
{
    say(p, false, p->scratch.data, p->scratch.len);
    text_clear(&p->scratch);
}

void drain(struct text *from, struct text *all)
{
    text_append(all, from->data, from->len);
    text_clear(from);
}

/* The host has been sent exactly what is in scratch; forget both. */
void host_hears(struct play *p)
{
    assert_int_equal(p->to_host.len, p->scratch.len);
    assert_memory_equal(p->to_host.data, p->scratch.data, p->scratch.len);
    text_clear(&p->scratch);
    drain(&p->to_host, &p->all_to_host);
}

void target_hears(struct play *p)
{
    assert_int_equal(p->to_target.len, p->scratch.len);
    assert_memory_equal(p->to_target.data, p->scratch.data, p->scratch.len);
    text_clear(&p->scratch);
    drain(&p->to_target, &p->all_to_target);
}

void assert_quiet(struct play *p)
{
    assert_int_equal(p->to_host.len, 0);
    assert_int_equal(p->to_target.len, 0);
}

void assert_failed(struct play *p, bool host, const char *reason)
{
    assert_int_equal(p->state, NEGOTIATE_FAILED);
    assert_string_equal(negotiate_reason(p->n), reason);
    assert_int_equal(negotiate_host_at_fault(p->n), host);
}

/* Play all turns again in pieces that @rng chooses, or byte by byte without it. */
void play_again(struct play *p, struct rng *rng)
{
    struct play q = {.target = p->target};

    wires_init(&q);
    q.n = negotiate_new(&p->target);
    q.state = NEGOTIATE_RUNNING;
    for (size_t i = 0; i < p->turn_count; i++) {
        struct turn t = p->turns[i];

        while (t.from < t.to) {
            size_t piece = rng ? 1 + (size_t)rng_below(rng, t.to - t.from) : 1;

            text_append(t.host ? &q.from_host : &q.from_target, p->tape.data + t.from, piece);
            step(&q);
            t.from += piece;
        }
    }
    assert_int_equal(q.state, p->state);
    assert_int_equal(q.to_host.len, p->all_to_host.len);
    assert_memory_equal(q.to_host.data, p->all_to_host.data, q.to_host.len);
    assert_int_equal(q.to_target.len, p->all_to_target.len);
    assert_memory_equal(q.to_target.data, p->all_to_target.data, q.to_target.len);
    assert_string_equal(negotiate_reason(q.n), negotiate_reason(p->n));
    assert_int_equal(negotiate_host_at_fault(q.n), negotiate_host_at_fault(p->n));
    if (q.state == NEGOTIATE_DONE) {
        const struct negotiate_result *a = negotiate_result(p->n), *b = negotiate_result(q.n);

        assert_int_equal(a->mode, b->mode);
        assert_ptr_equal(a->volume, b->volume);
        assert_string_equal(a->export_name, b->export_name);
        assert_int_equal(a->size, b->size);
        assert_int_equal(a->transmission_flags, b->transmission_flags);
        assert_int_equal(a->block_max, b->block_max);
        assert_int_equal(q.from_host.len, p->from_host.len);
        assert_int_equal(q.from_target.len, p->from_target.len);
    }
    negotiate_free(q.n);
    wires_fini(&q);
}

int teardown(void **state)
{
    struct play *p = *state;

    drain(&p->to_host, &p->all_to_host);
    drain(&p->to_target, &p->all_to_target);
    if (p->tape.len < (1 << 20))
        play_again(p, NULL);
    negotiate_free(p->n);
    wires_fini(p);
    text_fini(&p->tape);
    text_fini(&p->all_to_target);
    text_fini(&p->all_to_host);
    text_fini(&p->scratch);
    free(p);
    return 0;
}

/* --- the lines ----------------------------------------------------------------------------- */

struct nbd_bytes str(const char *s)
{
    return (struct nbd_bytes){.data = (const uint8_t *)s, .len = strlen(s)};
}

static const uint16_t INFOS[] = {NBD_INFO_NAME, NBD_INFO_BLOCK_SIZE};
const struct nbd_rep_info EXPORT = {.type = NBD_INFO_EXPORT, .size = 1 << 30, .flags = 0x5ed};
const struct nbd_rep_info BLOCKS = {
    .type = NBD_INFO_BLOCK_SIZE, .block_min = 512, .block_preferred = 4096, .block_max = 1 << 25};

void put_greeting(struct play *p, uint16_t flags)
{
    uint8_t b[NBD_GREETING_SIZE];

    text_append(&p->scratch, b, nbd_greeting_build(b, flags));
}

void put_flags(struct play *p, uint32_t flags)
{
    uint8_t b[NBD_CLIENT_FLAGS_SIZE];

    text_append(&p->scratch, b, nbd_client_flags_build(b, flags));
}

void put_option(struct play *p, uint32_t type, const void *payload, size_t n)
{
    nbd_option_write(&p->scratch, type, payload, n);
}

void put_go(struct play *p, uint32_t type, const char *name)
{
    nbd_option_write_info(&p->scratch, type, str(name), INFOS, 2);
}

void put_meta(struct play *p, uint32_t type, const char *name)
{
    struct nbd_bytes query = str("base:allocation");

    nbd_option_write_meta(&p->scratch, type, str(name), &query, 1);
}

void put_final(struct play *p, uint32_t option, uint32_t type, const char *words)
{
    nbd_reply_write_final(&p->scratch, option, type, words);
}

void put_info(struct play *p, uint32_t option, const struct nbd_rep_info *info)
{
    nbd_reply_write_info(&p->scratch, option, info);
}

void put_name(struct play *p, uint32_t option, const char *name)
{
    put_info(p, option, &(struct nbd_rep_info){.type = NBD_INFO_NAME, .text = str(name)});
}

void put_server(struct play *p, const char *name, const char *description)
{
    nbd_reply_write_server(&p->scratch, NBD_OPT_LIST, str(name), str(description));
}

/* Greeting and flags, until options may begin. */
void open_with(struct play *p, uint32_t flags)
{
    put_greeting(p, 3);
    target_says(p);
    put_greeting(p, 3);
    host_hears(p);
    put_flags(p, flags);
    host_says(p);
    put_flags(p, flags);
    target_hears(p);
    assert_int_equal(p->state, NEGOTIATE_RUNNING);
}

void go_to_the_end(struct play *p, const char *ours, const char *theirs)
{
    put_go(p, NBD_OPT_GO, ours);
    host_says(p);
    put_go(p, NBD_OPT_GO, theirs);
    target_hears(p);
    put_info(p, NBD_OPT_GO, &EXPORT);
    put_info(p, NBD_OPT_GO, &BLOCKS);
    put_final(p, NBD_OPT_GO, NBD_REP_ACK, "");
    target_says(p);
    assert_int_equal(p->state, NEGOTIATE_DONE);
    put_info(p, NBD_OPT_GO, &EXPORT);
    put_info(p, NBD_OPT_GO, &BLOCKS);
    put_final(p, NBD_OPT_GO, NBD_REP_ACK, "");
    host_hears(p);
}

/* @n bytes of an option header that promises more. */
void put_option_header(struct play *p, uint32_t type, uint32_t length)
{
    uint8_t b[NBD_OPTION_SIZE];

    nbd_option_build(b, &(struct nbd_option){.type = type, .length = length});
    text_append(&p->scratch, b, sizeof b);
}

void put_reply_header(struct play *p, uint32_t option, uint32_t type, uint32_t length)
{
    uint8_t b[NBD_OPTION_REPLY_SIZE];

    nbd_option_reply_build(b, &(struct nbd_option_reply){option, type, length});
    text_append(&p->scratch, b, sizeof b);
}

void bare_option(struct play *p, uint32_t option, uint32_t reply, const char *words)
{
    put_option(p, option, NULL, 0);
    host_says(p);
    put_option(p, option, NULL, 0);
    target_hears(p);
    put_final(p, option, reply, words);
    target_says(p);
    put_final(p, option, reply, words);
    host_hears(p);
    assert_int_equal(p->state, NEGOTIATE_RUNNING);
}

void answered_here(struct play *p, uint32_t option, uint32_t error, const char *words)
{
    host_says(p);
    assert_int_equal(p->to_target.len, 0);
    put_final(p, option, error, words);
    host_hears(p);
    assert_int_equal(p->state, NEGOTIATE_RUNNING);
}
