/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: what a lease left undivided is so for the workers after the one in which it ended.
 * Method: the ledger as a worker left it; links over it, one after the other, none of which has a
 * server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <sodium.h>

#include "../folder.h"
#include "base/addr.h"
#include "base/reactor.h"
#include "control/frame.h"
#include "gateway/ledger.h"
#include "gateway/link.h"
#include "gateway/relay.h"
#include "stream_stage.h"

struct worker {
    struct reactor *reactor;
    struct stream_table *streams;
    struct relay *relay;
    struct link *link;
};

static char folder[128];

static int setup(void **state)
{
    char text[192];
    const char *expected;
    if (sodium_init() < 0 || stage_setup(state) < 0 ||
        !folder_make(folder, sizeof(folder), "link-controls"))
        return -1;
    snprintf(stage_config.state_dir, sizeof(stage_config.state_dir), "%s", folder);
    snprintf(text, sizeof(text), "unix:%s/nobody.sock", folder);
    stage_config.server_count = 1;
    return addr_parse(text, 0, &stage_config.servers[0], &expected);
}

static int teardown(void **state)
{
    char path[192];
    (void)state;
    snprintf(path, sizeof(path), "%s/identity", folder);
    (void)unlink(path);
    return rmdir(folder);
}

/* A plan with slots for the first target, under a lease, as a worker leaves it that dies. */
static void leave_plan(struct ledger *ledger, uint64_t lease_until_ns)
{
    Weir__Control__TargetPlan plan = WEIR__CONTROL__TARGET_PLAN__INIT;
    Weir__Control__Control control = WEIR__CONTROL__CONTROL__INIT, *one = &control;
    Weir__Control__SetControls set = WEIR__CONTROL__SET_CONTROLS__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    struct text bytes;
    plan.target = stage_config.targets[0].name;
    plan.slots_milli = 4000;
    control.id = (char[]){"plan/array1"};
    control.planned = true;
    control.plan = &plan;
    set.epoch = 7;
    set.n_controls = 1;
    set.controls = &one;
    f.body_case = WEIR__CONTROL__FRAME__BODY_SET_CONTROLS;
    f.set_controls = &set;
    text_init(&bytes, 4096);
    assert_int_equal(frame_append(&bytes, &f), 0);
    assert_int_equal(ledger_controls_put(ledger, bytes.data, bytes.len, 7), 0);
    text_fini(&bytes);
    ledger_lease_set(ledger, lease_until_ns);
}

static void worker_begin(struct worker *w, struct ledger *ledger)
{
    const char *why = "";
    w->reactor = reactor_new(64, 64);
    assert_non_null(w->reactor);
    w->streams = stream_table_attach(&stage_config, ledger, reactor_now(w->reactor));
    assert_non_null(w->streams);
    assert_int_equal(relay_new(w->reactor, &stage_config, w->streams, &w->relay, &why), 0);
    assert_int_equal(link_new(w->reactor, &stage_config, w->streams, w->relay, &w->link, &why), 0);
}

static void worker_end(struct worker *w)
{
    link_free(w->link);
    relay_free(w->relay);
    stream_table_free(w->streams);
    reactor_free(w->reactor);
}

static uint64_t undivided(const struct worker *w)
{
    return stream_port(w->streams, 0)->undivided_until_ns;
}

static void what_a_lease_left_undivided_is_so_for_later_workers(void **state)
{
    struct ledger *ledger;
    struct worker w;
    (void)state;
    assert_int_equal(ledger_new(&stage_config, &ledger), 0);
    leave_plan(ledger, clock_mono_ns() + 20 * MS);
    worker_begin(&w, ledger);
    assert_true(stream_port(w.streams, 0)->planned);
    for (int i = 0; i < 10000 && undivided(&w) == 0; i++)
        assert_int_equal(reactor_round(w.reactor, 10 * MS), 0);
    assert_true(undivided(&w) == UINT64_MAX); /* the lease is over */
    worker_end(&w);
    for (int i = 0; i < 2; i++) {
        worker_begin(&w, ledger);
        assert_false(stream_port(w.streams, 0)->planned);
        assert_true(undivided(&w) == UINT64_MAX);
        worker_end(&w);
    }
    ledger_free(ledger);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_a_lease_left_undivided_is_so_for_later_workers, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
