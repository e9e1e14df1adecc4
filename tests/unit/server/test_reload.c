/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: at SIGHUP what is said of the control port's key is what listens there, whatever a thread
 * has room for.
 * Method: reload.c with mailboxes that nobody empties, so that one of them is full, and a state
 * folder in which another key is made meanwhile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "server/daemon.h"
#include "server/msg.h"
#include "tls/identity.h"

static struct server server;
static char key_path[sizeof(server.config.state_dir) + 16];

int stages_start_pairs(struct server *s) /* no file, no numbers of threads */
{
    (void)s;
    fail();
    return 0;
}

static void make_key(uint8_t ret_fingerprint[32])
{
    char words[512];
    struct tls_creds *creds = NULL;
    (void)unlink(key_path);
    assert_int_equal(tls_identity_ensure(key_path, "weir-server", words, sizeof(words)), 0);
    assert_int_equal(monitor_tls_load(&server.config, NULL, &creds, words, sizeof(words)), 0);
    assert_true(tls_creds_fingerprint(creds, ret_fingerprint));
    tls_creds_unref(creds);
}

static int setup(void **state)
{
    char dir[] = "/tmp/weir-test-reload-XXXXXX";
    (void)state;
    memset(&server, 0, sizeof(server));
    server_config_init(&server.config);
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(server.config.state_dir, sizeof(server.config.state_dir), "%s", dir);
    snprintf(key_path, sizeof(key_path), "%s/tls.pem", dir);
    struct threads *t = &server.threads;
    t->set = mailbox_set_new(8);
    t->main = mailbox_new(t->set, "main", 8, 8);
    t->acceptor = mailbox_new(t->set, "acceptor", 8, 8);
    t->app = mailbox_new(t->set, "app", 8, 8);
    t->resource = mailbox_new(t->set, "resource", 8, 8);
    make_key(server.fingerprint);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mailbox_set_drain(server.threads.set);
    mailbox_set_free(server.threads.set);
    (void)unlink(key_path);
    return rmdir(server.config.state_dir);
}

static void fill(struct mailbox *box)
{
    struct msg m = {.kind = MSG_ROUTE_RESIZE};
    while (mailbox_post(server.threads.main, box, &m) == 0) {
    }
}

/* What the app was told last of the control port's key. */
static void tokens_name(const uint8_t fingerprint[32])
{
    struct msg m;
    bool told = false;
    while (mailbox_take(server.threads.app, &m)) {
        const struct app_keys *keys = m.body;
        told = m.kind == MSG_HTTP_KEYS;
        assert_true(told);
        assert_memory_equal(keys->fingerprint, fingerprint, 32);
        msg_release(&m);
    }
    assert_true(told);
    assert_memory_equal(server.fingerprint, fingerprint, 32);
}

static void a_new_key_is_named_once_the_acceptor_has_it(void **state)
{
    (void)state;
    uint8_t fresh[32];
    struct msg m;
    make_key(fresh);
    reload(&server);
    assert_true(mailbox_take(server.threads.acceptor, &m));
    assert_int_equal(m.kind, MSG_CONTROL_TLS);
    msg_release(&m);
    tokens_name(fresh);
}

static void a_new_key_that_the_acceptor_has_no_room_for_is_named_nowhere(void **state)
{
    (void)state;
    uint8_t before[32], fresh[32];
    struct msg m;
    memcpy(before, server.fingerprint, sizeof(before));
    fill(server.threads.acceptor);
    make_key(fresh);
    reload(&server);
    tokens_name(before);
    /* Said again when there is room, it is taken. */
    while (mailbox_take(server.threads.acceptor, &m))
        msg_release(&m);
    reload(&server);
    tokens_name(fresh);
}

int main(void)
{
    log_init("test", LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_new_key_is_named_once_the_acceptor_has_it, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            a_new_key_that_the_acceptor_has_no_room_for_is_named_nowhere, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
