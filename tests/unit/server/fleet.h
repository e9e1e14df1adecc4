/* SPDX-License-Identifier: Apache-2.0 */
/* Many made-up gateways over real sockets, turned by the test's own thread. */
#ifndef WEIR_TESTS_FLEET_H
#define WEIR_TESTS_FLEET_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"
#include "control/auth.h"
#include "control/frame.h"

/* Gateways of a fleet share this many targets at first: gateway i stands before i % this. */
#define FLEET_TARGETS 20u

struct fleet;

struct fleet_gateway {
    struct fleet *fleet;
    unsigned index;
    int fd; /* -1: not connected */
    bool up, deaf; /* deaf: does not read */
    struct auth_context auth;
    struct text in;
    unsigned also; /* 0, or one more than a second target */
    uint64_t ops;  /* of its stream, ever */
    uint64_t polls, first_ops, last_seq, epoch, limit, bytes_in, ended;
    uint64_t epochs_back; /* controls whose epoch did not grow */
    bool first_said;
};

struct fleet {
    char socket[100];
    uint8_t key[AUTH_KEY_SIZE];
    struct fleet_gateway *gateway;
    size_t count;
    struct frame_arena arena;
    struct text out;
    bool frozen; /* counters stand still */
    bool silent; /* polls are not answered */
};

void fleet_open(struct fleet *f, const char *socket, const uint8_t key[AUTH_KEY_SIZE], size_t n);
void fleet_close(struct fleet *f);
void fleet_connect(struct fleet *f, struct fleet_gateway *g);
void fleet_leave(struct fleet_gateway *g);
/* Answer what came, waiting at most @ms. */
void fleet_turn(struct fleet *f, int ms);
size_t fleet_up(const struct fleet *f);
void fleet_surge(struct fleet_gateway *g);
void fleet_send(struct fleet_gateway *g, const Weir__Control__Frame *frame);

#endif
