/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: two ends agree, know each other, and get each other's bytes exactly, however few the socket
 * takes at a time; who may not come in does not.
 * Method: both ends of a socket pair with small buffers in one thread, in turns; one case with a
 * reading and a sending thread on one session; a peer straight from GnuTLS where ours would not
 * misbehave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../folder.h"
#include "base/err.h"
#include "base/text.h"
#include "tls/identity.h"
#include "tls/session.h"

#define TURNS 10000

struct ends {
    char dir[100], server_pem[128], client_pem[128], psk[128];
    struct tls_files server_files, client_files;
    struct tls_creds *server_creds, *client_creds;
    struct tls_session *server, *client;
    int fd[2];
};

static int set_up(void **state)
{
    struct ends *e = calloc(1, sizeof(*e));
    char words[256];
    assert_true(folder_make(e->dir, sizeof(e->dir), "tls"));
    snprintf(e->server_pem, sizeof(e->server_pem), "%s/server.pem", e->dir);
    snprintf(e->client_pem, sizeof(e->client_pem), "%s/client.pem", e->dir);
    snprintf(e->psk, sizeof(e->psk), "%s/psk", e->dir);
    assert_int_equal(tls_identity_ensure(e->server_pem, "the-server", words, sizeof(words)), 0);
    assert_int_equal(tls_identity_ensure(e->client_pem, "the-client", words, sizeof(words)), 0);
    static const char keys[] = "alice:00112233445566778899aabbccddeeff\n";
    assert_int_equal(text_write_file_atomic(e->psk, keys, strlen(keys), 0600), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, e->fd), 0);
    const int small = 4096;
    for (int i = 0; i < 2; i++)
        assert_int_equal(setsockopt(e->fd[i], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    *state = e;
    return 0;
}

static int tear_down(void **state)
{
    struct ends *e = *state;
    tls_session_free(e->server);
    tls_session_free(e->client);
    tls_creds_unref(e->server_creds);
    tls_creds_unref(e->client_creds);
    close(e->fd[0]);
    close(e->fd[1]);
    unlink(e->server_pem);
    unlink(e->client_pem);
    unlink(e->psk);
    rmdir(e->dir);
    free(e);
    return 0;
}

static void begin(struct ends *e)
{
    char words[512] = "";
    int r = tls_creds_new(TLS_SERVER, &e->server_files, &e->server_creds, words, sizeof(words));
    if (r == 0)
        r = tls_creds_new(TLS_CLIENT, &e->client_files, &e->client_creds, words, sizeof(words));
    if (r < 0)
        fail_msg("%s", words);
    assert_int_equal(tls_session_new(e->server_creds, e->fd[0], &e->server), 0);
    assert_int_equal(tls_session_new(e->client_creds, e->fd[1], &e->client), 0);
}

/* In turns until both are settled. */
static void shake(struct ends *e, int *ret_server, int *ret_client)
{
    *ret_server = *ret_client = 0;
    for (int i = 0; i < TURNS && (*ret_server == 0 || *ret_client == 0); i++) {
        if (*ret_client == 0)
            *ret_client = tls_session_handshake(e->client);
        if (*ret_server == 0)
            *ret_server = tls_session_handshake(e->server);
        if (*ret_server < 0 && *ret_client == 0)
            shutdown(e->fd[0], SHUT_RDWR);
        if (*ret_client < 0 && *ret_server == 0)
            shutdown(e->fd[1], SHUT_RDWR);
    }
}

static void pinned(struct ends *e)
{
    snprintf(e->server_files.certificate, TLS_PATH_SIZE, "%s", e->server_pem);
    snprintf(e->client_files.certificate, TLS_PATH_SIZE, "%s", e->client_pem);
    e->server_files.peer = e->client_files.peer = TLS_PEER_PINNED;
    e->server_files.only_tls13 = e->client_files.only_tls13 = true;
}

/* Send @n patterned bytes from @from to @to in odd pieces, and compare. */
static void carry(struct tls_session *from, struct tls_session *to, size_t n)
{
    uint8_t *bytes = malloc(n), *got = malloc(n);
    size_t sent = 0, read = 0;
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(i * 2654435761u >> 13);
    bool blocked = false;
    for (int turn = 0; turn < TURNS && read < n; turn++) {
        while (sent < n) {
            ssize_t r = tls_session_send(from, bytes + sent, n - sent);
            if (r == -EAGAIN) {
                blocked = true;
                break;
            }
            assert_true(r > 0);
            sent += (size_t)r;
        }
        for (;;) {
            size_t room = 1 + (size_t)turn * 37 % 5000;
            ssize_t r = tls_session_read(to, got + read, room < n - read ? room : n - read + 1);
            if (r == -EAGAIN)
                break;
            assert_true(r > 0);
            read += (size_t)r;
            if (read == n)
                break;
        }
    }
    assert_int_equal(read, n);
    assert_memory_equal(bytes, got, n);
    assert_true(blocked || n < 4096);
    free(bytes);
    free(got);
}

static void pinned_ends_know_each_other_and_carry_every_byte(void **state)
{
    struct ends *e = *state;
    int server, client;
    pinned(e);
    begin(e);
    shake(e, &server, &client);
    assert_int_equal(server, 1);
    assert_int_equal(client, 1);

    uint8_t want[TLS_FINGERPRINT_SIZE], got[TLS_FINGERPRINT_SIZE];
    assert_true(tls_creds_fingerprint(e->client_creds, want));
    assert_int_equal(tls_session_peer_key(e->server, got), 0);
    assert_memory_equal(want, got, sizeof(want));
    assert_true(tls_creds_fingerprint(e->server_creds, want));
    assert_int_equal(tls_session_peer_key(e->client, got), 0);
    assert_memory_equal(want, got, sizeof(want));
    char name[64];
    assert_int_equal(tls_session_peer(e->server, name, sizeof(name)), strlen("the-client"));
    assert_memory_equal(name, "the-client", strlen("the-client"));

    uint8_t one[32], other[32];
    assert_int_equal(tls_session_channel(e->server, one), 0);
    assert_int_equal(tls_session_channel(e->client, other), 0);
    assert_memory_equal(one, other, 32);

    carry(e->client, e->server, 300000);
    carry(e->server, e->client, 100001);
    carry(e->client, e->server, 1);
}

static void the_end_of_one_side_is_seen_by_the_other(void **state)
{
    struct ends *e = *state;
    int server, client;
    uint8_t byte;
    pinned(e);
    begin(e);
    shake(e, &server, &client);
    assert_int_equal(tls_session_read(e->server, &byte, 1), -EAGAIN);
    tls_session_free(e->client);
    e->client = NULL;
    assert_int_equal(tls_session_read(e->server, &byte, 1), 0);
}

static void a_client_without_a_certificate_is_refused_when_one_is_required(void **state)
{
    struct ends *e = *state;
    int server, client;
    pinned(e);
    e->client_files.certificate[0] = '\0';
    begin(e);
    shake(e, &server, &client);
    assert_int_equal(server, WEIR_E_AUTH);
    assert_string_equal(tls_session_words(e->server), "the peer shows no certificate");
}

static void a_server_that_no_authority_vouches_for_is_refused(void **state)
{
    struct ends *e = *state;
    int server, client;
    pinned(e);
    e->client_files.peer = TLS_PEER_REQUIRED;
    snprintf(e->client_files.ca, TLS_PATH_SIZE, "%s", e->client_pem);
    begin(e);
    shake(e, &server, &client);
    assert_int_equal(client, WEIR_E_AUTH);
    assert_non_null(strstr(tls_session_words(e->client), "issuer is unknown"));
    assert_true(server < 0);
}

static void a_pre_shared_key_lets_its_identity_in_and_nobody_else(void **state)
{
    struct ends *e = *state;
    int server, client;
    snprintf(e->server_files.psk, TLS_PATH_SIZE, "%s", e->psk);
    snprintf(e->client_files.psk, TLS_PATH_SIZE, "%s", e->psk);
    begin(e);
    shake(e, &server, &client);
    assert_int_equal(server, 1);
    assert_int_equal(client, 1);
    char name[64];
    assert_int_equal(tls_session_peer(e->server, name, sizeof(name)), 5);
    assert_memory_equal(name, "alice", 5);
    carry(e->client, e->server, 70000);
}

static void a_wrong_pre_shared_key_is_refused(void **state)
{
    struct ends *e = *state;
    int server, client;
    static const char *const wrong[] = {"alice:ff112233445566778899aabbccddeeff\n",
                                        "mallory:00112233445566778899aabbccddeeff\n"};
    snprintf(e->server_files.psk, TLS_PATH_SIZE, "%s", e->psk);
    snprintf(e->client_files.psk, TLS_PATH_SIZE, "%s/wrong", e->dir);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(
            text_write_file_atomic(e->client_files.psk, wrong[i], strlen(wrong[i]), 0600), 0);
        begin(e);
        shake(e, &server, &client);
        assert_true(server < 0);
        tls_session_free(e->server);
        tls_session_free(e->client);
        tls_creds_unref(e->server_creds);
        tls_creds_unref(e->client_creds);
        e->server = e->client = NULL;
        e->server_creds = e->client_creds = NULL;
        close(e->fd[0]);
        close(e->fd[1]);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, e->fd), 0);
    }
    unlink(e->client_files.psk);
}

static void plaintext_in_place_of_a_handshake_is_refused(void **state)
{
    struct ends *e = *state;
    int r = 0;
    pinned(e);
    begin(e);
    assert_int_equal(write(e->fd[1], "IHAVEOPT\0\0\0\6\0\0\0\0........", 24), 24);
    for (int i = 0; i < TURNS && r == 0; i++)
        r = tls_session_handshake(e->server);
    assert_int_equal(r, WEIR_E_PROTO);
}

static void files_that_are_something_else_are_named(void **state)
{
    struct ends *e = *state;
    struct tls_creds *c = NULL;
    char words[512];
    struct tls_files f = {0};
    snprintf(f.certificate, sizeof(f.certificate), "%s", e->psk);
    assert_int_equal(tls_creds_new(TLS_SERVER, &f, &c, words, sizeof(words)), WEIR_E_PARSE);
    assert_non_null(strstr(words, e->psk));
    snprintf(f.certificate, sizeof(f.certificate), "%s", e->server_pem);
    snprintf(f.key, sizeof(f.key), "%s", e->client_pem);
    assert_int_equal(tls_creds_new(TLS_SERVER, &f, &c, words, sizeof(words)), WEIR_E_PARSE);
    assert_non_null(strstr(words, e->client_pem));
    f.key[0] = '\0';
    snprintf(f.ca, sizeof(f.ca), "%s/nothing", e->dir);
    assert_int_equal(tls_creds_new(TLS_SERVER, &f, &c, words, sizeof(words)), -ENOENT);
    assert_non_null(strstr(words, "/nothing"));
    assert_null(c);
}

/* ---- one session, two threads ---- */

struct talker {
    struct tls_session *s;
    int fd;
    size_t n;
    bool good;
};

static void wait_for(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};
    (void)poll(&p, 1, 1000);
}

static void *talk(void *arg)
{
    struct talker *t = arg;
    uint8_t bytes[3000];
    memset(bytes, 0x5a, sizeof(bytes));
    for (size_t sent = 0; sent < t->n;) {
        size_t left = t->n - sent < sizeof(bytes) ? t->n - sent : sizeof(bytes);
        ssize_t r = tls_session_send(t->s, bytes, left);
        if (r == -EAGAIN)
            wait_for(t->fd, POLLOUT);
        else if (r <= 0)
            return NULL;
        else
            sent += (size_t)r;
    }
    t->good = true;
    return NULL;
}

static void *listen_to(void *arg)
{
    struct talker *t = arg;
    uint8_t bytes[5000];
    for (size_t got = 0; got < t->n;) {
        ssize_t r = tls_session_read(t->s, bytes, sizeof(bytes));
        if (r == -EAGAIN)
            wait_for(t->fd, POLLIN);
        else if (r <= 0)
            return NULL;
        for (ssize_t i = 0; i < r; i++)
            if (bytes[i] != 0x5a)
                return NULL;
        got += r > 0 ? (size_t)r : 0;
    }
    t->good = true;
    return NULL;
}

static void one_thread_may_read_while_another_sends(void **state)
{
    struct ends *e = *state;
    int server, client;
    enum { N = 4 << 20 };
    pinned(e);
    e->server_files.shared = e->client_files.shared = true;
    begin(e);
    shake(e, &server, &client);
    assert_int_equal(server, 1);
    assert_int_equal(client, 1);
    struct talker t[4] = {
        {e->server, e->fd[0], N, false},
        {e->server, e->fd[0], N, false},
        {e->client, e->fd[1], N, false},
        {e->client, e->fd[1], N, false},
    };
    pthread_t thread[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, i % 2 ? talk : listen_to, &t[i]), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < 4; i++)
        assert_true(t[i].good);
}

/* ---- a peer of GnuTLS's own ---- */

static void a_key_update_ends_a_shared_session_and_no_other(void **state)
{
    struct ends *e = *state;
    char words[512];
    snprintf(e->server_files.certificate, TLS_PATH_SIZE, "%s", e->server_pem);
    e->server_files.only_tls13 = true;
    for (int shared = 0; shared < 2; shared++) {
        gnutls_certificate_credentials_t cred;
        gnutls_session_t peer;
        uint8_t got[64];
        int fd[2], server = 0, client = GNUTLS_E_AGAIN;
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
        e->server_files.shared = shared == 1;
        assert_int_equal(
            tls_creds_new(TLS_SERVER, &e->server_files, &e->server_creds, words, sizeof(words)), 0);
        assert_int_equal(tls_session_new(e->server_creds, fd[0], &e->server), 0);
        gnutls_certificate_allocate_credentials(&cred);
        gnutls_init(&peer, GNUTLS_CLIENT | GNUTLS_NONBLOCK);
        gnutls_set_default_priority(peer);
        gnutls_credentials_set(peer, GNUTLS_CRD_CERTIFICATE, cred);
        gnutls_transport_set_int(peer, fd[1]);
        for (int i = 0; i < TURNS && (server == 0 || client == GNUTLS_E_AGAIN); i++) {
            if (client == GNUTLS_E_AGAIN)
                client = gnutls_handshake(peer);
            if (server == 0)
                server = tls_session_handshake(e->server);
        }
        assert_int_equal(server, 1);
        assert_int_equal(client, 0);
        assert_int_equal(gnutls_session_key_update(peer, GNUTLS_KU_PEER), 0);
        assert_int_equal(gnutls_record_send(peer, "after", 5), 5);
        ssize_t r = tls_session_read(e->server, got, sizeof(got));
        if (shared == 1) {
            assert_int_equal(r, WEIR_E_PROTO);
        } else {
            assert_int_equal(r, 5);
            assert_memory_equal(got, "after", 5);
        }
        tls_session_free(e->server);
        tls_creds_unref(e->server_creds);
        e->server = NULL;
        e->server_creds = NULL;
        gnutls_deinit(peer);
        gnutls_certificate_free_credentials(cred);
        close(fd[0]);
        close(fd[1]);
    }
}

static void tell_tickets(gnutls_session_t peer, int n)
{
    for (int i = 0; i < n; i++)
        assert_int_equal(gnutls_session_ticket_send(peer, 1, 0), 0);
}

static void a_few_session_tickets_are_passed_over_and_endless_ones_end_the_session(void **state)
{
    struct ends *e = *state;
    char words[512];
    uint8_t got[64];
    int fd[2], server = GNUTLS_E_AGAIN, client = 0;
    gnutls_certificate_credentials_t cred;
    gnutls_datum_t key;
    gnutls_session_t peer;
    e->client_files.peer = TLS_PEER_PINNED;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
    assert_int_equal(
        tls_creds_new(TLS_CLIENT, &e->client_files, &e->client_creds, words, sizeof(words)), 0);
    assert_int_equal(tls_session_new(e->client_creds, fd[1], &e->client), 0);
    gnutls_certificate_allocate_credentials(&cred);
    assert_int_equal(gnutls_certificate_set_x509_key_file(cred, e->server_pem, e->server_pem,
                                                          GNUTLS_X509_FMT_PEM), 0);
    gnutls_init(&peer, GNUTLS_SERVER | GNUTLS_NONBLOCK);
    gnutls_set_default_priority(peer);
    gnutls_credentials_set(peer, GNUTLS_CRD_CERTIFICATE, cred);
    assert_int_equal(gnutls_session_ticket_key_generate(&key), 0);
    assert_int_equal(gnutls_session_ticket_enable_server(peer, &key), 0);
    gnutls_transport_set_int(peer, fd[0]);
    for (int i = 0; i < TURNS && (client == 0 || server == GNUTLS_E_AGAIN); i++) {
        if (client == 0)
            client = tls_session_handshake(e->client);
        if (server == GNUTLS_E_AGAIN)
            server = gnutls_handshake(peer);
    }
    assert_int_equal(client, 1);
    assert_int_equal(server, 0);
    tell_tickets(peer, 8);
    assert_int_equal(gnutls_record_send(peer, "after", 5), 5);
    assert_int_equal(tls_session_read(e->client, got, sizeof(got)), 5);
    assert_memory_equal(got, "after", 5);
    tell_tickets(peer, 100);
    assert_int_equal(gnutls_record_send(peer, "after", 5), 5);
    assert_int_equal(tls_session_read(e->client, got, sizeof(got)), WEIR_E_PROTO);
    gnutls_deinit(peer);
    gnutls_certificate_free_credentials(cred);
    gnutls_free(key.data);
    close(fd[0]);
    close(fd[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            pinned_ends_know_each_other_and_carry_every_byte, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            the_end_of_one_side_is_seen_by_the_other, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_client_without_a_certificate_is_refused_when_one_is_required, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_server_that_no_authority_vouches_for_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_pre_shared_key_lets_its_identity_in_and_nobody_else, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_wrong_pre_shared_key_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            plaintext_in_place_of_a_handshake_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            files_that_are_something_else_are_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            one_thread_may_read_while_another_sends, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_key_update_ends_a_shared_session_and_no_other, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_few_session_tickets_are_passed_over_and_endless_ones_end_the_session, set_up,
            tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
